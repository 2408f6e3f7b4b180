"""`hemofed server`: a server's home and its members."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from server.membership.provisioning import Member

app = typer.Typer(no_args_is_help=True, help="The aggregator: its keys, its sites, its studies.")

Home = Annotated[Path, typer.Argument(help="The server's folder.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="How long the membership lasts.")]
PASSPHRASE = "Encrypt the private keys; asked for, or taken from HEMOFED_PASSPHRASE."  # noqa: S105


def init(home: Path, address: str | None, passphrase: bool) -> None:
    """Make a server's home and print its fingerprint, for the command in `simulations.demo.cli`.

    Raises:
        ConfigError: there is no address.
    """
    from common.errors import ConfigError
    from common.identity.keys import new_passphrase
    from server.membership.provisioning import make_server

    if address is None:
        raise ConfigError("--address: give the host:port at which the sites reach the server")
    make_server(home, address, _now(), new_passphrase(passphrase))
    typer.echo(f"{home}: made for {address}; its fingerprint, to read to the sites, is")
    typer.echo(f"  {_server_fingerprint(home)}")
    typer.echo("Back up ca.key and signing.key; without them every site must join again.")


@app.command("add-site")
def add_site(
    home: Home,
    request: Annotated[Path, typer.Argument(help="NAME.request.json, from the site.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the kit. Default: NAME.kit.json.")
    ] = None,
    days: Days = 365,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask: the fingerprints have been compared.")
    ] = False,
) -> None:
    """Admit a site, or give a member new keys, after you have compared its fingerprint."""
    from common.identity.admission_request import AdmissionRequest
    from common.identity.documents import read_document
    from server.membership.provisioning import admit, check_request

    asked = read_document(AdmissionRequest, request)
    check_request(home, asked)
    typer.echo(f"{asked.claim.name} asks with the fingerprint")
    typer.echo(f"  {asked.fingerprint}")
    if not yes:
        typer.confirm("Did the site read the same over the telephone?", abort=True)
    admission = admit(home, asked, _now(), days=days)
    typer.echo(f"{asked.claim.name}: {admission.outcome.replace('_', ' ')}")
    _write_kit(home, asked.claim.name, out)


@app.command("revoke-site")
def revoke_site(
    home: Home,
    name: Annotated[str, typer.Argument(help="The member to exclude for good.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Exclude a member for good. A running server disconnects it within seconds.

    The command first names the studies that would then have fewer sites than they need.
    """
    from server.membership.provisioning import Registry, find_member, revoke
    from server.studies.store import below_minimum

    registry = Registry.load(home)
    find_member(registry, name)
    for line in below_minimum(home, set(registry.active(_now())) - {name}):
        typer.echo(line)
    if not yes:
        typer.confirm(f"Revoke {name}? It can only come back under another name.", abort=True)
    registry = revoke(home, name, _now())
    typer.echo(f"{name}: revoked; {len(registry.active())} members are left")


@app.command("list-sites")
def list_sites(
    home: Home, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """List the members, and what has expired or expires soon."""
    import json

    from server.membership.provisioning import Registry, expiries

    registry = Registry.load(home)
    warnings = expiries(home, registry, _now())
    if as_json:
        sites = {name: _row(member) for name, member in registry.sites.items()}
        content = {"version": registry.version, "address": registry.address, "sites": sites}
        typer.echo(json.dumps(content | {"warnings": list(warnings)}))
        return
    _print(registry.sites, f"Members at {registry.address}, version {registry.version}")
    typer.echo(f"server {_server_fingerprint(home)}")
    for warning in warnings:
        typer.echo(f"warning: {warning}")


@app.command("renew")
def renew(
    home: Home,
    site: Annotated[
        str | None, typer.Option(help="Renew this site's membership, not the certificate.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A new host:port. Every site then joins with a new kit.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=3650, help="Default: 397, or for a membership 365.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the site's kit.")] = None,
) -> None:
    """Renew the server's TLS certificate, or a site's membership."""
    from common.errors import ConfigError
    from common.identity.certificates import SERVER_DAYS
    from server.membership.provisioning import MEMBER_DAYS, prolong, renew_server

    if site and address:
        raise ConfigError("--site and --address: renew one at a time")
    if site:
        member = prolong(home, site, _now(), days=days or MEMBER_DAYS)
        typer.echo(f"{site}: a member until {member.not_after:%Y-%m-%d}")
        _write_kit(home, site, out)
        return
    renew_server(home, _now(), address=address, days=days or SERVER_DAYS)
    typer.echo(f"{home / 'server.crt'}: renewed; a running server takes it up by itself")
    if address:
        typer.echo("Send every site its kit again: `hemofed server renew --site NAME`")


def _write_kit(home: Path, name: str, out: Path | None) -> None:
    from common.identity.documents import write_document
    from server.membership.provisioning import make_kit

    path = out or Path(f"{name}.kit.json")
    kit = make_kit(home, name)
    write_document(path, kit.model_dump(mode="json"))
    typer.echo(f"{path}: send it to {name}, and read this fingerprint to them by telephone:")
    typer.echo(f"  {kit.fingerprint}")


def _server_fingerprint(home: Path) -> str:
    from common.identity.site_kit import server_fingerprint
    from server.home import ServerHome

    files = ServerHome(home)
    return server_fingerprint(
        files.authority.read_text(encoding="utf-8"),
        files.signing_public.read_text(encoding="utf-8"),
    )


def _row(member: "Member") -> dict[str, str]:
    return {
        "status": member.status,
        "not_after": f"{member.not_after:%Y-%m-%d}",
        "keys": str(len(member.requests)),
        "fingerprint": member.fingerprint,
    }


def _print(members: "dict[str, Member]", title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("site", "status", "until", title=title)
    table.add_column("fingerprint", no_wrap=True)
    for name, member in sorted(members.items()):
        row = _row(member)
        table.add_row(name, row["status"], row["not_after"], row["fingerprint"])
    Console().print(table)


def _now() -> datetime:
    return datetime.now(UTC)
