"""The one JSON text of some content, for what is hashed or signed."""

import json
from typing import Any


def canonical(content: Any) -> bytes:
    """The one JSON text of `content`: sorted keys, no spaces, ASCII. Raises ValueError for NaN.

    >>> canonical({"b": 1, "a": "é"})
    b'{"a":"\\\\u00e9","b":1}'
    """
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()
