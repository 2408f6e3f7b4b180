"""The scale that picture files state themselves, for a comparison with the given one."""

import html
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from PIL import Image

from client.data.decoding.formats import HEAD, kind
from client.data.decoding.image import quiet, read_rgb
from common.errors import DataError

_LOOKED_AT = 21
_RANGE_UM = (1e-3, 2.0)
"""Range of a plausible scale, micrometres a pixel. A coarser one (12,700 dpi and less) is that of a
printer."""
_NEAR = 0.02
"""The share by which two scales may differ and count as the same, because of rounding."""
_INCH_UM = 25_400.0
_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "nm": 1e-3}
_UM |= {"microns": 1.0, "\\u00b5m": 1.0, "inch": _INCH_UM}


def look(paths: Sequence[Path], um_per_px: float | None) -> list[str]:
    """Return remarks on the scale, a sentence each, from at most 21 of the pictures.

    One remark tells the median width of the pictures at the given scale. Another tells the scale
    that the files state, if no scale is given or it differs. A file that cannot be read does not
    count.

    um_per_px: the given scale, micrometres a pixel; None: not given.
    """
    some = paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT]
    looked = [found for path in some if (found := _wide_and_stated(path))]
    said = []
    if looked and um_per_px:
        span = median(wide for wide, _ in looked) * um_per_px
        said.append(f"the middle one of {len(looked)} pictures spans {span:,.3g} um")
    if stated := sorted(scale for _, scale in looked if scale):
        said.extend(_against(stated, len(looked), um_per_px))
    return said


def _against(stated: Sequence[float], looked: int, given: float | None) -> list[str]:
    least, most = stated[0], stated[-1]
    words = f"{least:.4g}" if _same(least, most) else f"{least:.4g} to {most:.4g}"
    files = f"the files of {len(stated)} of {looked} pictures state {words} um a pixel"
    if given is None:
        return [f"{files}: where that is right, index with --um-per-px"]
    if all(_same(given, scale) for scale in stated):
        return []
    return [f"{files}, and {given:g} was given: which is right?"]


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= _NEAR * max(one, other)


def _wide_and_stated(path: Path) -> tuple[int, float | None] | None:
    try:
        with quiet():
            wide = max(read_rgb(path).size)
        return wide, stated_um_per_px(path)
    except DataError:
        return None


def stated_um_per_px(path: Path) -> float | None:
    """Return the scale that a readable picture's file states, in micrometres a pixel.

    The sources are OME's PhysicalSizeX, ImageJ's unit, the resolution of TIFF, PNG and JPEG, and
    DICOM's PixelSpacing. Returns None for a file that states none, an unreadable one, or one
    outside `_RANGE_UM`, like a printer's resolution.
    """
    try:
        with open(path, "rb") as file:
            form = kind(file.read(HEAD))
        scale = {"tiff": _of_tiff, "dicom": _of_dicom, "bitmap": _of_bitmap}[form](path)
    except Exception:
        # Such a field may hold anything, so its reader may raise anything.
        return None
    return scale if scale and _RANGE_UM[0] <= scale <= _RANGE_UM[1] else None


def _of_tiff(path: Path) -> float | None:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        text = page.description or ""
        if ome := _attribute("PhysicalSizeX", text):
            return _um(float(ome), _attribute("PhysicalSizeXUnit", text) or "um")
        across, pixels = page.tags.valueof("XResolution", (0, 1))[::-1]
        unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 1)), "")
        if text.startswith("ImageJ=") and (own := re.search(r"(?m)^unit=(.+)$", text)):
            unit = own[1].strip()
    return _um(across / pixels, unit) if pixels else None


def _attribute(name: str, xml: str) -> str:
    found = re.search(rf"""\b{name}\s*=\s*(["'])(.*?)\1""", xml)
    return html.unescape(found[2]).strip() if found else ""


def _um(size: float, unit: str) -> float | None:
    factor = _UM.get(unit.lower())
    return size * factor if factor else None


def _of_dicom(path: Path) -> float | None:
    import pydicom

    names = ["PixelSpacing", "SharedFunctionalGroupsSequence"]
    found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=names)
    for groups in found.get("SharedFunctionalGroupsSequence", ()):
        for measures in groups.get("PixelMeasuresSequence", ()):
            found = measures
    spacing = found.get("PixelSpacing")
    return _um(float(spacing[1]), "mm") if spacing else None


def _of_bitmap(path: Path) -> float | None:
    with Image.open(path) as image:
        dpi = float(image.info.get("dpi", (0, 0))[0])
    return _INCH_UM / dpi if dpi else None
