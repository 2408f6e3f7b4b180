"""The constant that stands in for the hash of a Flower app bundle, since hemofed ships none.

Flower's servers send code to the sites. hemofed's sites run only what is installed there: a run
carries this constant in place of a bundle's hash. A site refuses a run that carries another, and
never downloads, unpacks or imports a bundle.
"""

import hashlib

PROTOCOL = 2
"""Increases when server and sites of two versions could misunderstand each other."""

BUNDLE_HASH = hashlib.sha256(f"hemofed ships no code; protocol {PROTOCOL}".encode()).hexdigest()
