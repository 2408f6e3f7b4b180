#!/bin/sh
# Flower 1.41.0: a SuperLink whose process ends while it makes the tables of its database, at its
# very first start, can never be started on that database again: the migration begins anew and trips
# over the table that is there. Under a supervisor it restarts for ever.
#
# Seen: the second opening ends in "table task already exists"; a fresh path opens.
# hemofed makes a database anew that holds nothing it can go on with (server/flower/link_state.py).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flwr==1.41.0
cat > "$folder/start.py" <<'PYTHON'
import os
import sys

from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy import event
from sqlalchemy.engine import Engine


def end(connection, cursor, statement, *rest):
    """What a power cut does, right after the first table."""
    if statement.lstrip().upper().startswith("CREATE TABLE TASK"):
        os._exit(9)


if sys.argv[2] == "dies":
    event.listen(Engine, "after_cursor_execute", end)
_, factory = get_objectstore_linkstate_factories(sys.argv[1], NoOpFederationManager())
factory.state()
print("opened")
PYTHON
export FLWR_HOME="$folder/flwr"
run() { "$folder/venv/bin/python" "$folder/start.py" "$@"; }
run "$folder/state.db" dies && { echo "changed: no table of that name is made"; exit 1; }
run "$folder/other.db" lives
if run "$folder/state.db" lives 2> "$folder/said"; then
    echo "changed: a half-made database is opened"
    exit 1
fi
grep -m 1 "table task already exists" "$folder/said"
