"""`hemofed site init`, `request`, `join`: from an empty folder to a member of a consortium."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Home = Annotated[Path, typer.Argument(help="The site's folder.")]
_PASSPHRASE = "Encrypt the private keys; asked for, or taken from HEMOFED_PASSPHRASE."  # noqa: S105


@app.command("init")
def init(
    home: Home,
    name: Annotated[str, typer.Option(help="The lab's name in the consortium; it cannot change.")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help=_PASSPHRASE)] = False,
) -> None:
    """Make the site's folder: site.yaml, policy.yaml, and keys that never leave it."""
    from client.membership.enrolment import make_site
    from common.identity.keys import new_passphrase
    from common.text import typed

    request = make_site(home, name, datetime.now(UTC), new_passphrase(passphrase))
    typer.echo(f"{home}: made for {name}; its fingerprint is")
    typer.echo(f"  {request.fingerprint}")
    typer.echo(f"Look through {home / 'site.yaml'} and {home / 'policy.yaml'}, then send the")
    typer.echo(f"operator what `{typed('hemofed', 'site', 'request', home)}` writes.")


@app.command("request")
def request(
    home: Home,
    out: Annotated[
        Path | None, typer.Option(help="Where to write it; default NAME.request.json.")
    ] = None,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Ask for new keys; the present one agrees to them.")
    ] = False,
    passphrase: Annotated[bool, typer.Option("--passphrase", help=_PASSPHRASE)] = False,
) -> None:
    """Write the request for the operator: a name, public keys, proof of the private ones."""
    from client.membership.enrolment import read_request, rotate_keys
    from common.identity.documents import save
    from common.identity.keys import new_passphrase

    if rotate:
        asked = rotate_keys(home, datetime.now(UTC), new_passphrase(passphrase))
    else:
        asked = read_request(home)
    path = out or Path(f"{asked.claim.name}.request.json")
    save(path, asked.text())
    typer.echo(f"{path}: send it to the operator, who will ask for this fingerprint by telephone:")
    typer.echo(f"  {asked.fingerprint}")


@app.command("join")
def join_command(
    home: Home,
    kit: Annotated[Path, typer.Argument(help="NAME.kit.json, from the operator.")],
    fingerprint: Annotated[
        str | None,
        typer.Option(help="The server's, read by the operator over the telephone; else asked for."),
    ] = None,
) -> None:
    """Accept the operator's kit, if it has the fingerprint that the operator reads out."""
    from client.membership.enrolment import join, read_kit
    from client.membership.membership import Membership

    content = read_kit(kit)
    told = fingerprint or typer.prompt("The server's fingerprint, as the operator reads it out")
    registry = join(home, content, told)
    typer.echo(f"{home}: joined {Membership.load(home).address}; members:")
    for name, member in registry.active().items():
        typer.echo(f"  {name:<24} {member.fingerprint}")
