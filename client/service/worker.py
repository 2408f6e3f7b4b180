"""The process that holds the patients' cells: the installed ClientApp, one message at a time.

The process stays loaded between messages, and has no network connection. The site's node hands it
Flower's messages over a socket pair and takes the replies. It answers only what the installed
`client.app` answers, and no code comes over the wire.
"""

import argparse
import signal
import socket
import subprocess
import time
from multiprocessing.connection import wait
from pathlib import Path
from threading import Event

from flwr.app import Context, Message, RecordDict

from client.home import SiteHome
from common.files import last_line, make_folder
from common.huge_pages import with_huge_pages
from common.identity.keys import PASSPHRASE_VARIABLE
from common.process_hardening import environment, keep_secrets, python
from common.wire.message_line import receive_message, send_message

_LOOK_SECONDS = 0.5
_STOP_SECONDS = 5.0


class RunnerDiedError(Exception):
    """The process ended, or the node ended it, before it answered."""


class Runner:
    """The node's handle on the process, which it starts on demand, and again after a death.

    site_file: the site.yaml that the process reads. log: the file that gets the process's output.
    """

    def __init__(self, site_file: Path, log: Path) -> None:
        self._site_file = site_file
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; None when no process runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def answer(self, message: Message, seconds: float, halt: Event) -> Message:
        """Return the ClientApp's reply to `message`.

        Raises:
            RunnerDiedError: the process died, gave no answer within `seconds`, or `halt` is set.
                The process does not run any more in that case.
        """
        line = self.start()
        end = time.monotonic() + seconds
        try:
            line.settimeout(seconds)  # for a process that stops in the middle of a message
            send_message(line, message)
            while not wait([line], _LOOK_SECONDS):
                if halt.is_set() or time.monotonic() > end:
                    self.stop()
                    raise RunnerDiedError(
                        "stopped" if halt.is_set() else f"no answer in {seconds:g} s"
                    )
            return receive_message(line)
        except (EOFError, OSError) as death:
            code = self.stop()
            raise RunnerDiedError(f"the runner ended with code {code}") from death

    def stop(self) -> int | None:
        """Kill the process, and return its exit code; None when there is no process."""
        process, self._process = self._process, None
        if self._line:
            self._line.close()
            self._line = None
        if process is None:
            return None
        process.kill()
        return process.wait(_STOP_SECONDS)

    def try_out(self, seconds: float) -> None:
        """Start the process, let it load its modules, and end it.

        Raises:
            RunnerDiedError: the process failed, or is not ready after `seconds`. The text has the
                last line of its log.
        """
        self.start().close()  # the process ends with code 0 once it is ready and finds no node
        assert self._process is not None
        try:
            code: int | None = self._process.wait(seconds)
            fault = f"ended with code {code}"
        except subprocess.TimeoutExpired:
            code, fault = None, f"is not ready after {seconds:g} s"
        self.stop()
        if code != 0:
            said = last_line(self._log) or "nothing"
            raise RunnerDiedError(f"the runner {fault}; the last line of {self._log}: {said}")

    def start(self) -> socket.socket:
        """Start the process unless it runs, and return the socket to it.

        The process may still be loading its modules.
        """
        if self._line is not None and self.pid is not None:
            return self._line
        self.stop()
        ours, theirs = socket.socketpair()
        command = python("-m", "client.service.worker", str(self._site_file), str(theirs.fileno()))
        make_folder(self._log.parent)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  the command is ours
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=with_huge_pages(_without_secrets()),
            )
        theirs.close()
        self._line = ours
        return ours


def _without_secrets() -> dict[str, str]:
    """The environment for a process that needs no private key."""
    return {name: value for name, value in environment().items() if name != PASSPHRASE_VARIABLE}


def serve(site_file: Path, handle: int) -> None:
    """Answer each message from the socket with descriptor `handle` until the node closes it."""
    from client.app import client_app
    from client.consent.approvals import SignedApprovals

    # The app loads before the first message, so that the first round does not wait for it.
    app = client_app(approvals=SignedApprovals(SiteHome(site_file.parent)))
    line = socket.socket(fileno=handle)
    while True:
        try:
            message = receive_message(line)
        except EOFError:
            return
        metadata = message.metadata
        context = Context(
            metadata.run_id, metadata.dst_node_id, {"site": str(site_file)}, RecordDict(), {}
        )
        send_message(line, app(message, context))


def main() -> None:
    """`python -m client.service.worker SITE.yaml FD`; the node starts it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("line", type=int)
    chosen = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_secrets()
    serve(chosen.site, chosen.line)


if __name__ == "__main__":
    main()
