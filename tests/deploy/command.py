"""The service commands, as hemofed.py mounts them."""

import sys

import typer

from client.service.cli import app as site
from common.errors import HemofedError
from server.service.cli import app as server

app = typer.Typer()
app.add_typer(server, name="server")
app.add_typer(site, name="site")


def main() -> None:
    try:
        app()
    except HemofedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
