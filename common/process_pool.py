"""Child processes that share out work, and end with the process that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from unittest.mock import patch

from common.process_hardening import environment, keep_to_itself


@contextmanager
def process_pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """`number` processes of the standard library's pool, started afresh: a fork would take along
    the locks that torch's threads hold.

    They take no module from the folder that they are started in, leave Ctrl-C to this process, and
    end with it however it ends: the standard library's stay behind when their parent is killed.
    What has not begun when the block is left is dropped.
    """
    context = multiprocessing.get_context("spawn")
    # As long as it is open: processes start as tasks come, and one that keeps books with the pool.
    with patch.dict(os.environ, environment()):
        pool = ProcessPoolExecutor(number, mp_context=context, initializer=_begin)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_to_itself()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
