"""Which hemofed this is."""

from typer.testing import CliRunner

import hemofed
from common.version import version


def test_the_command_says_its_version() -> None:
    said = CliRunner().invoke(hemofed.app, ["--version"])
    assert said.exit_code == 0 and said.output == f"hemofed {version()}\n"
