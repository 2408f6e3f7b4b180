"""The version of hemofed that a site names with each request: the operator sees who lags behind."""

import importlib.metadata

HEADER = "hemofed-version"


def version() -> str:
    """The installed version; "unknown" where only a source tree is there."""
    try:
        return importlib.metadata.version("hemofed")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
