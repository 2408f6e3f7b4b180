"""A site writes the line of an answer before the answer leaves."""

from pathlib import Path
from threading import Event

from flwr.app import Message

from client.service.node import SuperNode
from tests.client.lab import make_lab
from tests.client.service.test_message_audit import Setting
from tests.client.service.test_node import Asked, Link


def test_the_line_of_a_release_is_in_the_log_when_the_answer_leaves(tmp_path: Path) -> None:
    setting, halt = Setting(make_lab(tmp_path / "lab").parent, tmp_path / "server"), Event()
    setting.home.state.mkdir()
    stood: list[int] = []

    class Watching(Link):
        def push(self, reply: Message) -> None:
            stood.append(len(setting.lines("released")))
            super().push(reply)

    link = Watching(setting.asked("train"), halt)
    runner = Asked(setting.home.site_file, lambda: None)
    SuperNode(setting.home, link, runner, setting.record, halt).serve()
    assert stood == [1]
    setting.log.close()
    setting.server_log.close()
