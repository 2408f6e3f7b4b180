"""Rendered blood smears: the data of a machine that has none, and of the tests."""

from simulations.synthetic.dataset import RECORD, VERSION, is_rendered, synthesize
from simulations.synthetic.patient import Patient
from simulations.synthetic.plan import SiteSpec, class_mix
from simulations.synthetic.render import contact_sheet, render_cell
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
