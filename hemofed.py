"""The command: it only joins the groups of the three who use it."""

import os
import sys
from typing import Annotated

# `python -m` puts the folder that it is typed in first, and an empty entry of PYTHONPATH or a "."
# means it too. What lies there, a home called `server` say, is not ours to run, unless its person
# named it in full or this very file is there.
_NAMED = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(one)]
if os.getcwd() not in (*_NAMED, os.path.dirname(os.path.abspath(__file__))):
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != os.getcwd()]

import typer

from client.consent.cli import app as consent
from client.data.cli import app as data
from client.ledger.cli import app as ledger
from client.membership.cli import app as membership
from client.service.cli import app as lab_service
from common.audit.cli import verify_command
from common.errors import HemofedError
from common.privacy.planning.cli import app as privacy
from common.process_hardening import keep_secrets, keep_to_itself
from common.untrusted_text import print_anywhere, shown
from common.version import version
from server.membership.cli import app as provisioning
from server.service.cli import app as server_service
from simulations.bench.cli import bench
from simulations.cli import simulate
from simulations.datasets.cli import fetch_command
from simulations.demo.cli import init_command
from simulations.encoders.cli import app as model
from simulations.privacy_audit.cli import audit_command
from simulations.synthetic.cli import synthesize_command

# Flower reads these at import: no telemetry, no update check, no installing at run time.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")

app = typer.Typer(
    help="Federated, differentially private training of blood-cell classifiers between hospitals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hemofed {version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None: ...


app.command()(simulate)
app.command()(bench)
data.command("fetch")(fetch_command)
data.command("synthesize")(synthesize_command)
privacy.command("audit")(audit_command)
site = typer.Typer(no_args_is_help=True, help="A lab: join, approve, run, pause; its ledger.")
server = typer.Typer(no_args_is_help=True, help="The aggregator: sites, service, studies.")
server.command("init")(init_command)
audit = typer.Typer(no_args_is_help=True, help="The audit logs that both sides write.")
site.add_typer(ledger, name="ledger")
audit.command("verify")(verify_command)
for group, parts in (
    (site, (membership, consent, lab_service)),
    (server, (provisioning, server_service)),
):
    for part in parts:
        group.add_typer(part)
for name, group in (
    ("site", site),
    ("server", server),
    ("data", data),
    ("model", model),
    ("privacy", privacy),
    ("audit", audit),
):
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command; an error of ours is a message and its class's exit code."""
    if sys.argv[1:2] in (["site"], ["server"]):
        keep_secrets()
    else:
        keep_to_itself()
    print_anywhere()
    try:
        app()
    except HemofedError as error:
        typer.echo(f"error: {shown(str(error), lines=True)}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
