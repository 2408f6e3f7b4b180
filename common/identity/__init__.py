"""Identities: keys, signatures, certificates, and the documents that sites and server exchange.

| key                | algorithm   | what it signs                                               |
|--------------------|-------------|-------------------------------------------------------------|
| `node.key`         | ECDSA P-384 | a site's requests to the server (Flower's node auth)        |
| a `signing.key`    | Ed25519     | documents and audit logs: studies, approvals, the registry  |
| `ca.key`           | ECDSA P-384 | the certificates of one server                              |
| `server.key`       | ECDSA P-384 | the server's TLS                                            |

A private key is written with mode 0600 in the home where it is made, and never leaves it.
"""

from common.identity.certificates import check_certificate
from common.identity.keys import (
    load_node_key,
    load_signing_key,
    load_tls_key,
    node_public_pem,
    signing_public_pem,
)
from common.identity.registry import Member, Registry
from common.identity.signatures import fingerprint, same_fingerprint, sign, verify

__all__ = [
    "Member",
    "Registry",
    "check_certificate",
    "fingerprint",
    "load_node_key",
    "load_signing_key",
    "load_tls_key",
    "node_public_pem",
    "same_fingerprint",
    "sign",
    "signing_public_pem",
    "verify",
]
