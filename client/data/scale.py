"""Refuses scales that a picture of one cell cannot have."""

from client.data.decoding.formats import EXPORT, FormError
from common.field_of_view import CELL_UM, OF_A_CELL, PICTURE_UM

_MOST_PX = 1024
"""Most pixels along a picture whose scale is not known; a picture of one cell has a few hundred."""


NO_SCALE = (
    "each whole picture is taken for as wide as a study's field of view, so the cells are as large "
    "as the pictures are cut, and a model of other labs' may fail here; index with --um-per-px"
)
"""What a lab that gave no scale is told."""


class ScaleError(FormError):
    """At the given scale no cell is as wide as the pictures imply; this concerns all pictures."""


def refuse_implausible(width: int, height: int, um_per_px: float | None) -> None:
    """Raise where a picture of width x height pixels cannot be one of a single cell.

    With a scale in micrometres per pixel, raises ScaleError where a cell in the picture would be
    under 3 or over 40 um wide. Without one, raises FormError where the picture is as large as a
    whole field of view.

    >>> refuse_implausible(288, 288, um_per_px=0.0868)
    >>> refuse_implausible(288, 288, um_per_px=11.5)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    client.data.scale.ScaleError: at um_per_px 11.5 its 288 x 288 px span 3,312.0 um, ...
    """
    wide = max(width, height)
    if um_per_px is None:
        if wide > _MOST_PX:
            raise FormError(
                f"is {width} x {height} px, a whole field of view and not one cell; cut the cells "
                f"out, or where it is one, give --um-per-px; {EXPORT}"
            )
        return
    if not PICTURE_UM[0] <= wide * um_per_px <= PICTURE_UM[1]:
        span = wide * um_per_px
        raise ScaleError(
            f"at um_per_px {um_per_px:g} its {width} x {height} px span {span:,.1f} um, and a cell "
            f"in it about {span / OF_A_CELL:,.1f}; cells are {CELL_UM[0]:g} to {CELL_UM[1]:g} um: "
            f"is um_per_px right?{_hint(wide, um_per_px)}"
        )


def _hint(wide: int, um_per_px: float) -> str:
    """What to do: mostly the scale is in pixels per micrometre, or the picture a whole field."""
    if um_per_px > 1 and PICTURE_UM[0] <= wide / um_per_px <= PICTURE_UM[1]:
        return f" {um_per_px:g} pixels a micrometre are --um-per-px {1 / um_per_px:.4g}"
    if um_per_px < 1 and wide > _MOST_PX:
        return " A whole field of view is to be cut into pictures of one cell"
    return (
        " Give the micrometres along one pixel of this lab's pictures; where it is right and this "
        "picture of another size, take it out"
    )
