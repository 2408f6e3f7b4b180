"""Where a site's private randomness comes from: who is sampled, and the noise."""

from typing import Protocol

from common.privacy.noise_source import NoiseSource


class Entropy(Protocol):
    """Gives a source of random bits for each purpose.

    Only code can hand such an object to `client.app.client_app`. No file and no message can choose
    one, so a deployed client always draws from the operating system.
    """

    @property
    def repeats(self) -> bool:
        """Whether the same purpose gives the same bits again (simulations and tests only)."""
        ...

    def source(self, *purpose: str | int) -> NoiseSource: ...


class SystemEntropy:
    """The operating system's entropy, which never repeats."""

    repeats = False

    def source(self, *purpose: str | int) -> NoiseSource:
        return NoiseSource.secure()
