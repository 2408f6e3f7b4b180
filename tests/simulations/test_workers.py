"""The pool's processes end once, whoever ends them."""

import time
from concurrent.futures import ThreadPoolExecutor

from simulations.seeded import make_client
from simulations.workers import WorkerPool


class Line:
    """Refuses to be closed by two at once, as a file descriptor does."""

    def __init__(self) -> None:
        self.closing = False

    def close(self) -> None:
        assert not self.closing
        self.closing = True
        time.sleep(0.05)
        self.closing = False


def test_a_worker_that_dies_while_the_pool_ends_is_closed_by_one_at_a_time() -> None:
    with WorkerPool(1, make_client, 0) as pool:
        worker = pool._hire()
        worker._line.close()
        worker._line = Line()  # type: ignore[assignment]
        with ThreadPoolExecutor(4) as threads:
            codes = set(threads.map(lambda _: worker.stop(), range(4)))
    assert len(codes) == 1
