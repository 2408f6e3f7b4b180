"""What every test runs under: no telemetry, one torch thread, its files and its cache its own."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from click.testing import Result

gc.disable()  # until everything is imported: it would look through all modules again and again
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the product
settings.load_profile("untimed")
os.umask(0o077)  # as the command does first: a home that others may write is not gone by

_ONE_FEDERATION = "tests/deploy/endless"
_MOST_WORKERS = 8


class _ByFixture(LoadFileScheduling):
    """To each worker one file after the other, and the files that share a federation together."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_ONE_FEDERATION):
            return _ONE_FEDERATION
        return str(super()._split_scope(nodeid))


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: tests of real processes wait for those as long as they compute."""
    return min(len(os.sched_getaffinity(0)) + 1, _MOST_WORKERS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByFixture:
    return _ByFixture(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests start many processes come first, so that none is left alone at the end."""
    items.sort(key=lambda item: "deploy" not in item.path.parts)


def pytest_collection_finish() -> None:
    """Everything is imported: what lives now lives to the end, and is not looked through again."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of cells and features go to a temporary folder, shared by the tests of a process.

    Of the session, so that it is there before any fixture of a module.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEMOFED_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def hemofed_data(monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Result"]:
    """Run `hemofed data ...` in this process, in a terminal of 200 columns."""
    monkeypatch.setenv("COLUMNS", "200")
    with warnings.catch_warnings():
        # Typer imports names that Click 8.2 and later will give up.
        warnings.simplefilter("ignore", DeprecationWarning)
        from typer.testing import CliRunner

        from hemofed import data as app
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])
