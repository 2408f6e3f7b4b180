"""The errors that hemofed raises on purpose.

HemofedError
    ConfigError       a YAML file or an option: which file, key, value, and what is allowed
    DataError         an image, a label, an index, a cache
    ModelError        an architecture, a weights file, a payload that does not fit
    PrivacyError      a mechanism, a budget or a ledger; training does not go on
    FederationError   a quorum, a deadline, a peer

Each message says what is wrong, where, with which value, and what to do. The command line prints
the message alone and exits with the class's `exit_code`; any other exception is a bug in hemofed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from common.wire.reasons import Reason


class HemofedError(Exception):
    """Root of the tree: something that the person at the keyboard can act on."""

    exit_code = 1

    def __init__(self, message: str = "", reason: Reason = Reason.INTERNAL) -> None:
        """reason: all that the server may know of it, where a lab meets the error in answering."""
        super().__init__(message)
        self.reason = reason


class ConfigError(HemofedError):
    """A configuration file or option is wrong."""

    exit_code = 2


class DataError(HemofedError):
    """Images, labels, or what was made from them cannot be used."""

    exit_code = 3


class ModelError(HemofedError):
    """A model, its weights, or a payload does not fit."""

    exit_code = 4


class PrivacyError(HemofedError):
    """The privacy guarantee asked for cannot be given; nothing was released."""

    exit_code = 5


class FederationError(HemofedError):
    """The federation could not go on: too few sites, a deadline, a bad peer."""

    exit_code = 6


@contextmanager
def because_of(reason: Reason) -> Iterator[None]:
    """Whatever error of ours leaves the block has this reason, unless it names one itself."""
    try:
        yield
    except HemofedError as error:
        if error.reason is Reason.INTERNAL:
            error.reason = reason
        raise
