"""Formats numbers and lists for readers; a missing number is an en dash."""

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
    """Format a share (0 to 1) in per cent.

    >>> percent(0.1234), percent(None) == NONE
    ('12.3 %', True)
    """
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def number(value: int) -> str:
    """Format a count at the start of a sentence.

    >>> number(3), number(1234)
    ('Three', '1,234')
    """
    names = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return names[value] if value < len(names) else f"{value:,}"


def tiny(value: float) -> str:
    """Format a small probability such as delta.

    >>> tiny(0.00001)
    '1e-5'
    """
    return f"{value:g}".replace("e-0", "e-")


def points(value: float) -> str:
    """Format a difference of two shares, without its sign, in percentage points.

    >>> points(-0.021), points(0.01)
    ('2.1 points', '1.0 point')
    """
    size = f"{abs(100 * value):.1f}"
    return f"{size} point" if size == "1.0" else f"{size} points"


def between(bounds: tuple[float, float] | None) -> str:
    """Format an interval of shares.

    >>> between((0.682, 0.739))
    '68.2 to 73.9 %'
    """
    return NONE if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def listing(items: Sequence[str], limit: int = 4) -> str:
    """Join one or more items; those beyond `limit` are only counted.

    >>> listing(["a", "b", "c"]), listing(["a", "b", "c"], limit=1)
    ('a, b and c', 'a and 2 more')
    """
    shown = list(items[:limit])
    if len(items) > limit:
        shown.append(f"{len(items) - limit} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def cell(name: str) -> str:
    """Format a cell type's name for running text.

    >>> cell("smudge_cell")
    'smudge cell'
    """
    return name.replace("_", " ")


def short(name: str, length: int = 18) -> str:
    """Shorten a name to `length` letters, so that it fits beside a chart.

    >>> short("university_hospital", length=6)
    'unive…'
    """
    return name if len(name) <= length else f"{name[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: float) -> str:
    """Format a time in seconds, minutes or hours.

    >>> duration(4.2), duration(300), duration(7500)
    ('4.2 s', '5 min', '2 h 05 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{int(minutes // 60)} h {int(minutes % 60):02d} min"


def size(octets: float) -> str:
    """Format a number of bytes in decimal units.

    >>> size(999), size(44_700_000)
    ('999 B', '44.7 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1000:
            return (
                f"{octets:.0f} {unit}" if unit == "B" or octets >= 100 else f"{octets:.1f} {unit}"
            )
        octets /= 1000
    return f"{octets:.1f} TB"
