"""Renders blood smears, as data for tests and for machines that have no real cells.

Names are loaded at their first use (PEP 562), because `hemofed --help` imports this package's
`cli`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulations.synthetic.dataset import synthesize
    from simulations.synthetic.patient import Patient
    from simulations.synthetic.plan import SiteSpec, class_mix
    from simulations.synthetic.render import contact_sheet, render_cell
    from simulations.synthetic.rendered_marker import RECORD, VERSION, is_rendered
    from simulations.synthetic.site_style import STYLES, SiteStyle

__all__ = [
    "RECORD",
    "STYLES",
    "VERSION",
    "Patient",
    "SiteSpec",
    "SiteStyle",
    "class_mix",
    "contact_sheet",
    "is_rendered",
    "render_cell",
    "synthesize",
]

_HOMES = {
    "synthesize": "dataset",
    **dict.fromkeys(("RECORD", "VERSION", "is_rendered"), "rendered_marker"),
    **dict.fromkeys(("SiteSpec", "class_mix"), "plan"),
    **dict.fromkeys(("contact_sheet", "render_cell"), "render"),
    **dict.fromkeys(("STYLES", "SiteStyle"), "site_style"),
    "Patient": "patient",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
