"""One run of tests in a process of its own, forked from one that has the libraries imported."""

import gc
import importlib
import os
import resource
import select
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_LIBRARIES = """
    torch torch.func numpy scipy.stats hypothesis.extra.numpy pytest xdist pydantic PIL.Image
    cryptography.hazmat.primitives.ciphers cryptography.x509 flwr.app flwr.clientapp flwr.serverapp
    flwr.supernode.fleet_http_client dp_accounting dp_accounting.pld.privacy_loss_distribution
    opacus sklearn.linear_model safetensors.torch yaml sqlite3 fastapi requests httpx typer.testing
    multiprocessing.managers anyio.pytest_plugin _hypothesis_pytestplugin
"""
_MEMORY = 24 << 30
"""Bytes of addresses: a slip that never stops allocating ends here."""


def warm_up() -> None:
    """Import what the tests import, but nothing of ours: each child reads that from its copy."""
    for name in _LIBRARIES.split():
        importlib.import_module(name)
    # Else each child's garbage collections go over all of them.
    gc.collect()
    gc.freeze()


def trial(copy: Path, tests: Sequence[str], seconds: float) -> str:
    """ "passed", "failed" or "too slow": what came of `tests` in the working copy."""
    child = os.fork()
    if child == 0:
        _run(copy, tests)
    # Here as there, so that it is so before either goes on.
    with suppress(OSError):
        os.setpgid(child, child)
    if not _ended(child, seconds):
        os.waitpid(child, 0)
        return "too slow"
    return "passed" if os.waitpid(child, 0)[1] == 0 else "failed"


def _ended(child: int, seconds: float) -> bool:
    """Whether the child ends in time; if not, or when we are stopped, it and its own are killed."""
    handle, ended = os.pidfd_open(child), False
    try:
        ended = bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)
        if not ended:
            os.killpg(child, signal.SIGKILL)
    return ended


def _run(copy: Path, tests: Sequence[str]) -> None:
    """Never returns. What it says stands in `output` of the copy."""
    os.setpgid(0, 0)
    os.chdir(copy)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # A slip may be as long as what it takes the place of and written in the same second.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[0] = str(copy)
        status = _pytest(tests)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _pytest(tests: Sequence[str]) -> int:
    import pytest
    from hypothesis import Phase, settings

    # The first example that fails is enough, and the same examples are tried for every slip.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile(
        "trial", phases=phases, derandomize=True, database=None, deadline=None
    )
    settings.load_profile("trial")
    known = "ignore::pytest.PytestAssertRewriteWarning"
    """Of libraries that are imported already."""
    quick = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider"]
    return int(pytest.main([*quick, "-W", known, *tests]))
