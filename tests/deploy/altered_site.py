"""A site whose clock is off by the seconds in HOME/clock, that is missed and gives up sooner."""

import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

from flwr.supercore.date import now
from flwr.supernode import node_auth_http_interceptor

from client import link, patience

_right = time.time
_file = Path(sys.argv[3]) / "clock"


def _off() -> float:
    return float(_file.read_text()) if _file.exists() else 0.0


def _now() -> datetime:
    return now() + timedelta(seconds=_off())


time.time = lambda: _right() + _off()
node_auth_http_interceptor.now = _now
link.HEARTBEAT_SECONDS = 10.0  # the least that Flower accepts
link._LONGEST_PAUSE = 1.0
patience.SECONDS = 20.0

if __name__ == "__main__":
    from tests.deploy.command import main

    main()
