"""How long to wait for what fails: longer each time."""

from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Seconds to wait: `first`, then twice as many each time, at most `longest`.

    >>> pause = Backoff(1.0, 5.0)
    >>> [pause.next() for _ in range(4)]
    [1.0, 2.0, 4.0, 5.0]
    """

    first: float
    longest: float
    seconds: float = field(init=False)
    """The wait that comes next."""

    def __post_init__(self) -> None:
        self.reset()

    def next(self) -> float:
        """Seconds to wait now; the next time it is more."""
        now = self.seconds
        self.grow()
        return now

    def grow(self) -> None:
        self.seconds = min(2 * self.seconds, self.longest)

    def reset(self) -> None:
        """What failed succeeded: the next wait is the first again."""
        self.seconds = self.first
