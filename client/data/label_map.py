"""A site's own names for cell types, from its YAML."""

from pathlib import Path

from common.cell_types import CODES, SKIP, check_label_map
from common.config.loading import read_yaml
from common.errors import ConfigError, DataError


def read_label_map(path: Path) -> dict[str, str]:
    """The site's names -> MLL23's names, or "skip" for images to leave out.

    The file is a mapping of names, or has one under the key label_map, as a site.yaml does; the
    latter may be empty. Raises ConfigError when the file cannot be read, is not such a mapping, or
    `check_label_map` refuses it.
    """
    content = read_yaml(path)
    names = content.get("label_map", content)
    if not isinstance(names, dict) or not content:
        raise ConfigError(
            f"{path}: expected names and cell types, like 'segs: neutrophil_segmented'"
        )
    words = {k: v for k, v in names.items() if isinstance(k, str) and isinstance(v, str)}
    try:
        check_label_map(words)
    except DataError as error:
        raise ConfigError(f"{path}: {error}") from None
    for name, target in names.items():
        if name not in words:
            raise ConfigError(
                f"{path}: {name!r}: {target!r}: both must be text (put quotes around numbers, yes "
                f"and no); cell types: {', '.join(CODES)}, or {SKIP!r}"
            )
    return words
