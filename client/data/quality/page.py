"""The findings as an HTML page with thumbnails, which needs no network."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.data.decoding.image import quiet, read_rgb
from client.data.quality.colour import rgb
from client.data.quality.findings import CheckResult, Instance
from client.data.quality.stain import ALL
from client.data.quality.terminal import distance
from common import pages
from common.errors import DataError
from common.text import count

CASES = 12
"""Most instances of a finding that the page shows; the JSON has all of them."""
PICTURES = 4
"""Most pictures of one instance."""
_SIDE = 112


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A thumbnail on the page."""

    name: str
    """The file's name, as the source has it."""
    uri: str
    """The thumbnail as a data URI; "" for a file that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Swatch:
    """A cell type's median colours, as six hexadecimal digits RRGGBB."""

    nucleus: str
    background: str


def html(result: CheckResult) -> str:
    """Render the page. It reads the files of the shown instances again, for their thumbnails."""
    with quiet():
        shown = [
            [(case, _pictures(result, case)) for case in finding.cases[:CASES]]
            for finding in result.findings
        ]
    return pages.render(
        Path(__file__).with_name("page.html"),
        result=result,
        findings=list(zip(result.findings, shown, strict=True)),
        failures=sum(finding.severity.name == "FAILURE" for finding in result.findings),
        swatches=swatches(result),
        drift=distance(result.drift) if result.drift else "",
        count=count,
        pictures=PICTURES,
    )


def swatches(result: CheckResult) -> dict[str, Swatch]:
    """Map each cell type in the profile to its colours."""
    found = {}
    for label, part in result.profile.colours.items():
        if label != ALL:
            nucleus, background = rgb(np.array([part.nucleus, part.background]))
            found[label] = Swatch(nucleus=bytes(nucleus).hex(), background=bytes(background).hex())
    return found


def _pictures(result: CheckResult, case: Instance) -> list[Picture]:
    return [
        Picture(name=name, uri=_thumbnail(result.paths[name]) if name in result.paths else "")
        for name in case.files[:PICTURES]
    ]


def _thumbnail(path: Path) -> str:
    try:
        image = read_rgb(path, draft=_SIDE)
    except DataError:
        return ""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return pages.data_uri(buffer.getvalue(), "image/jpeg")
