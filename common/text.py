"""Numbers with their nouns, and shell commands, written for a reader."""

import shlex


def count(value: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun; `plural` is for nouns that do not take an s.

    >>> count(1, "image"), count(2000, "image"), count(0, "study", "studies")
    ('1 image', '2,000 images', '0 studies')
    """
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def typed(*words: object) -> str:
    """A command as a person types it in a shell.

    >>> typed("rm", "my file")
    "rm 'my file'"
    """
    return shlex.join(map(str, words))
