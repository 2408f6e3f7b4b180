"""hemofed as contestant of `hemofed bench deploy`: `server start`, and `site start` per site."""

from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from client.consent.approvals import Consent, SignedApprovals
from client.consent.cohort import pinned
from client.home import SiteHome
from client.membership.enrolment import join, make_site
from client.membership.membership import Membership
from common.audit.entry import parse_line
from common.audit.reader import log_files, log_lines
from common.config.study import Study
from common.process_hardening import python
from server.membership.provisioning import admit, make_kit, make_server
from server.studies.store import propose
from simulations.bench.processes import SERVER, Processes
from simulations.demo.own_cells import make_own


def start(folder: Path, study: Study, port: int, relay: int, processes: Processes) -> Path:
    """Start the server on `port`, its sites through `relay`, and the study.

    `folder` holds sites/NAME with each site's cells. Returns the file that gets a line per round.
    """
    server, now = folder / "server", datetime.now(UTC)
    make_server(server, f"127.0.0.1:{relay}", now)
    sites = {name: SiteHome(folder / "sites" / name) for name in study.cohort}
    for name, home in sites.items():
        make_own(home.site_file)
        admit(server, make_site(home.folder, name, now), now)
    for name, home in sites.items():
        kit = make_kit(server, name)
        join(home.folder, kit, kit.fingerprint)
        shown = pinned(study, Membership.load(home.folder).registry)
        consent = Consent("the bench", "measuring", shown)
        SignedApprovals(home).approve(study, consent)
    command = python("-m", "hemofed")
    listen = ["--listen", f"127.0.0.1:{port}"]
    processes.start(SERVER, [*command, "server", "start", str(server), *listen], {})
    for name, home in sites.items():
        processes.start(name, [*command, "site", "start", str(home.folder)], {})
    stored = propose(server, study)
    stored.want("run")
    return stored.out / "rounds.jsonl"


def good(line: dict[str, dict[str, dict[str, str]]]) -> int:
    """Return the number of replies that counted, from a line of the file."""
    return sum(entry["status"] == "ok" for entry in line["sites"].values())


def figures(folder: Path, study: Study) -> dict[str, float]:
    """Return the median seconds between two rounds in which no site computes, from the audit logs.

    They begin when the last site has its update ready, and end when the first site has the next
    task. They include the transport of the update and the model, and all of the server's work.
    """
    ready: dict[int, float] = {}
    begun: dict[int, float] = {}
    for name in study.cohort:
        files = log_files(SiteHome(folder / "sites" / name).audit)
        for _, line in (numbered for file in files for numbered in log_lines(file)):
            row = parse_line(line.removesuffix(b"\n"))
            time, about = datetime.fromisoformat(row["time"]).timestamp(), row["facts"]
            if row["event"] == "released":
                ready[about["round"]] = max(time, ready.get(about["round"], time))
            elif row["event"] == "witness" and about["kind"] == "train":
                begun[about["round"]] = min(time, begun.get(about["round"], time))
    pauses = [begun[n + 1] - ready[n] for n in ready if n + 1 in begun]
    return {"between rounds": median(pauses)}
