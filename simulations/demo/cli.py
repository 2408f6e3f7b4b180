"""`hemofed server init`: makes a server's home, or with `--demo` a whole deployment to try.

The command is in this room because a demonstration has rendered cells and ledgers, which the
server's rooms do not know.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.text import typed
from server.membership.cli import PASSPHRASE, Home, init

_LOOPBACK = "127.0.0.1:9092"


def init_command(
    home: Home,
    address: Annotated[
        str | None, typer.Option(help="host:port at which the sites reach the server.")
    ] = None,
    demo: Annotated[
        int | None,
        typer.Option(
            min=3,
            max=100,
            help="Make a demonstration for this machine: so many labs with cells, and a study.",
        ),
    ] = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help=PASSPHRASE)] = False,
) -> None:
    """Make the server's folder: certificate authority, TLS certificate, signing key, registry."""
    if demo is None:
        init(home, address, passphrase)
    else:
        _demonstrate(home, address or _LOOPBACK, demo, passphrase)


def _demonstrate(folder: Path, address: str, sites: int, passphrase: bool) -> None:
    from rich.console import Console

    from client.data.progress import counting
    from common.identity.keys import new_passphrase
    from simulations.demo.homes import CELLS, make_demo

    secret, now = new_passphrase(passphrase), datetime.now(UTC)
    with counting(Console(), "rendering") as bar:
        study = make_demo(folder, address, sites, now, lambda _, *done: bar(*done), secret)
    typer.echo(
        f"{folder}: a server for {address} and {sites} joined labs of {CELLS} rendered cells"
    )
    typer.echo("each, for trying out: all keys lie here. From here to a model:")
    typer.echo(_next_steps(folder, list(study.cohort), study.name))


def _next_steps(folder: Path, sites: list[str], study: str) -> str:
    """Return the next steps as comments and commands, ready to copy into a shell."""
    program = sys.argv[0] if Path(sys.argv[0]).name == "hemofed" else "hemofed"
    server, homes = folder / "server", [folder / site for site in sites]
    steps: dict[str, list[tuple[object, ...]]] = {
        "each in a terminal of its own; Ctrl-C ends it": [
            ("server", "start", server),
            *(("site", "start", home) for home in homes),
        ],
        "in another terminal, once they run: is each lab ready?": [
            ("site", "check", home) for home in homes
        ],
        "the study is proposed; each lab gets it within seconds, reads what it asks, says yes": [
            ("server", "run", server, folder / "study.yaml"),
            *(("site", "approve", home, study) for home in homes),
        ],
        "how far is it? a minute or two until it is completed": [("server", "status", server)],
    }
    lines = []
    for why, commands in steps.items():
        lines += ["", f"# {why}", *(typed(program, *command) for command in commands)]
    models = f"{typed(server / 'studies' / study)}-*/run/model.safetensors"
    return "\n".join([*lines, "", "# the model", f"ls {models}"])
