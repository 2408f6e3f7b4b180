"""What Flower calls an app bundle, of which hemofed ships none.

Flower's servers send code to the sites. hemofed's sites run only what is installed there: a run
carries, in place of a bundle's hash, this constant. A site refuses a run that carries another,
and never downloads, unpacks or imports a bundle.
"""

import hashlib

PROTOCOL = 2
"""Goes up when server and sites of two versions could misunderstand each other."""

BUNDLE_HASH = hashlib.sha256(f"hemofed ships no code; protocol {PROTOCOL}".encode()).hexdigest()
