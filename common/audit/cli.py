"""`hemofed audit verify`: checks that nobody altered an audit log."""

from pathlib import Path
from typing import Annotated

import typer


def verify_command(
    file: Annotated[Path, typer.Argument(help="audit.jsonl of a site or a server.")],
    key: Annotated[
        Path,
        typer.Option(
            help="PEM of its signing key: signing.pub of a server; for a site's log also its "
            "request.json, or a kit's registry.json (with --site)."
        ),
    ],
    site: Annotated[
        str | None, typer.Option(help="Site whose key to take from a registry.json.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="A head that somebody noted; finds removed lines.")
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(help="The other side's log: every head that it recorded must be in FILE."),
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(help="With --witness: FILE's owner as the other side calls it, or server."),
    ] = None,
) -> None:
    """Check every line, the chain and the signatures. The exit code is 6 if there is a fault."""
    from common.audit.log import Witnessed, verify, witnessed
    from common.errors import ConfigError, FederationError

    if (witness is None) != (peer is None):
        raise ConfigError("--witness and --peer: give both, or neither")
    heads = witnessed(witness, peer) if witness and peer else []
    noted = [Witnessed(head)] if head else []
    public = _public_key(key, site)
    fault = verify(file, public, heads) or (verify(file, public, noted) if noted else None)
    if fault:
        raise FederationError(f"{fault}")
    lines = file.read_bytes().count(b"\n")
    typer.echo(f"{file}: {lines} lines, all as they were written")
    if heads:
        typer.echo(f"{witness}: recorded {len(heads)} heads of it, all in their order")


def _public_key(path: Path, site: str | None) -> str:
    """Return the PEM public key in a PEM file, a site's request, or a registry."""
    from common.errors import ConfigError
    from common.identity.admission_request import AdmissionRequest
    from common.identity.documents import read_document, read_json

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a public key") from error
    if text.startswith("-----BEGIN"):
        return text
    if "registry" not in read_json(path):
        return read_document(AdmissionRequest, path).claim.signing_public_key
    members = read_json(path)["registry"].get("sites", {})
    if site not in members:
        known = ", ".join(sorted(members)) or "none"
        raise ConfigError(f"--site {site}: is not in {path}; its members: {known}")
    return str(members[site]["requests"][-1]["claim"]["signing_public_key"])
