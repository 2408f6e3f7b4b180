"""HTML pages that open anywhere: one file, no script, nothing fetched.

A page's template extends `base.html`, which inlines `base.css` and forbids the browser any
network access (Content-Security-Policy), so that a page about a lab's cells cannot leak.
"""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.untrusted_text import shown

HERE = Path(__file__).parent


def render(template: Path, **context: Any) -> str:
    """The page that the Jinja2 file `template` makes of `context`; values are escaped."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The style sheet is ours, not input: it may stand in the page as it is.
    style = Markup((HERE / "base.css").read_text(encoding="utf-8"))  # noqa: S704
    return environment.get_template(template.name).render(style=style, **context)


def _shown(value: Any) -> Any:
    """Words of others without what turns text round; markup that is ours as it is."""
    return shown(value, lines=True) if type(value) is str else value


def data_uri(image: bytes, kind: str = "image/png") -> str:
    """The bytes of an image file as a URI that holds them."""
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
