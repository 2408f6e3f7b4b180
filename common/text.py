"""Numbers with their nouns, and commands, as a reader wants them."""

import shlex


def count(value: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def typed(*words: object) -> str:
    """A command as it is typed in a shell: `rm 'my file'`."""
    return shlex.join(map(str, words))
