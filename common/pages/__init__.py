"""HTML pages that any browser opens offline: one file, no script, nothing loaded from elsewhere.

A page's template extends `base.html`. It inlines `base.css` and forbids the browser any network
access (Content-Security-Policy), so that a page about a lab's cells cannot send anything away.
"""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.untrusted_text import shown

HERE = Path(__file__).parent


def render(template: Path, **context: Any) -> str:
    """Return the HTML that the Jinja2 file `template` makes from `context`. Values are escaped.

    Raises:
        jinja2.UndefinedError: the template uses a name that `context` lacks.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The style sheet is part of hemofed and not input, so it needs no escaping.
    style = Markup((HERE / "base.css").read_text(encoding="utf-8"))  # noqa: S704
    return environment.get_template(template.name).render(style=style, **context)


def _shown(value: Any) -> Any:
    """Return text without characters that change how it is displayed; return markup unchanged."""
    return shown(value, lines=True) if type(value) is str else value


def data_uri(image: bytes, kind: str = "image/png") -> str:
    """Return a `data:` URI that contains the bytes of an image file; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"
