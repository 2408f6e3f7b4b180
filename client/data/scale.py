"""Which scale cannot be that of a picture of one cell."""

from client.data.decoding.formats import EXPORT, FormError
from common.field_of_view import CELL_UM, OF_A_CELL, PICTURE_UM

_MOST_PX = 1024
"""Of a picture whose scale is not known; one of a cell has a few hundred."""


NO_SCALE = (
    "each whole picture is taken for as wide as a study's field of view, so the cells are as large "
    "as the pictures are cut, and a model of other labs' may fail here; index with --um-per-px"
)
"""What a lab hears that gave no scale."""


class ScaleError(FormError):
    """A scale at which no cell could be as wide as the pictures say; it goes for all of them."""


def refuse_implausible(width: int, height: int, um_per_px: float | None) -> None:
    """Raise where a picture of so many pixels cannot be one of a cell.

    With a scale: ScaleError, where a cell in it would be under 3 or over 40 um wide. Without one:
    FormError, where it is as large as a whole field of view.
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
    """What to do: most give pixels a micrometre by mistake, or a picture of a whole field."""
    if um_per_px > 1 and PICTURE_UM[0] <= wide / um_per_px <= PICTURE_UM[1]:
        return f" {um_per_px:g} pixels a micrometre are --um-per-px {1 / um_per_px:.4g}"
    if um_per_px < 1 and wide > _MOST_PX:
        return " A whole field of view is to be cut into pictures of one cell"
    return (
        " Give the micrometres along one pixel of this lab's pictures; where it is right and this "
        "picture of another size, take it out"
    )
