"""Numbers and lists as a reader wants them; a missing number is an en dash."""

from collections.abc import Sequence

from common.text import count

__all__ = [
    "NONE",
    "between",
    "cell",
    "count",
    "duration",
    "listing",
    "number",
    "percent",
    "points",
    "short",
    "size",
    "tiny",
]

NONE = "\N{EN DASH}"


def percent(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def number(value: int) -> str:
    """A count at the start of a sentence."""
    names = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return names[value] if value < len(names) else f"{value:,}"


def tiny(value: float) -> str:
    """A probability such as delta: `1e-5`."""
    return f"{value:g}".replace("e-0", "e-")


def points(value: float) -> str:
    """A difference of two shares, in percentage points, without its sign."""
    size = f"{abs(100 * value):.1f}"
    return f"{size} point" if size == "1.0" else f"{size} points"


def between(bounds: tuple[float, float] | None) -> str:
    """An interval of shares: `68.2 to 73.9 %`."""
    return NONE if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def listing(items: Sequence[str], limit: int = 4) -> str:
    """`a, b and c`; what exceeds `limit` is counted."""
    shown = list(items[:limit])
    if len(items) > limit:
        shown.append(f"{len(items) - limit} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def cell(name: str) -> str:
    """A cell type's name in running text."""
    return name.replace("_", " ")


def short(name: str, length: int = 18) -> str:
    """A name that fits beside a chart."""
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{int(minutes // 60)} h {int(minutes % 60):02d} min"


def size(octets: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1000:
            return (
                f"{octets:.0f} {unit}" if unit == "B" or octets >= 100 else f"{octets:.1f} {unit}"
            )
        octets /= 1000
    return f"{octets:.1f} TB"
