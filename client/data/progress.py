"""Progress on the terminal: how much is done, of how much, the rate and the time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts things; gives the function to call with (number done, total number)."""
    with _bar(console, what, MofNCompleteColumn(), _RateColumn()) as report:
        yield report


@contextmanager
def transferring(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts bytes; gives the function to call with (bytes done, total bytes)."""
    with _bar(console, what, DownloadColumn(), TransferSpeedColumn()) as report:
        yield report


@contextmanager
def _bar(
    console: Console, what: str, *columns: ProgressColumn
) -> Iterator[Callable[[int, int], None]]:
    text = TextColumn("[progress.description]{task.description}")
    progress = Progress(
        text, BarColumn(), *columns, TimeRemainingColumn(), console=console, transient=True
    )
    with progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
