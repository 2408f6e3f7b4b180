"""Numbers with their nouns, as a reader wants them."""


def count(value: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"
