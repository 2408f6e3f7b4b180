"""What is asked of the endless study's rounds and of its sites."""

import json
import subprocess
import sys

from server.studies.store import Stored
from tests.deploy.federation import Federation, records

ALTERED = "tests.deploy.endless.altered_site"
ROUND_DEADLINE = 40
"""Seconds. A message in the hands of a site that is shut out keeps its round so long."""


def ok(stored: Stored, site: str) -> bool:
    """Whether the last round has the site's update."""
    return bool(done := records(stored)) and done[-1]["sites"].get(site, {}).get("status") == "ok"


def check(federation: Federation, name: str, topic: str) -> tuple[str, str]:
    """What `hemofed site check` says of a topic: its verdict and its text."""
    command = [sys.executable, "-m", ALTERED, "site", "check"]
    home = str(federation.sites[name].folder)
    said = subprocess.run([*command, home, "--json"], capture_output=True, text=True, timeout=120)
    (line,) = (line for line in json.loads(said.stdout) if line["topic"] == topic)
    return line["verdict"], line["text"]
