"""Plans what a simulation runs: the federation and its baselines, as studies with their sites."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.ledger.binding import create_simulated_ledger
from client.policy.policy import Policy
from client.site import open_site
from common.config.loading import dump, parse
from common.config.study import MOST_NORM, CellSource, Participant, Runtime, Site, Study
from common.files import replacing, write_text
from simulations.config import Simulation
from simulations.partition import POOLED, DealtSite

FEDERATED = "federated"
CENTRALISED = "centralised"
LOCAL = "local_only"

OPEN_POLICY = Policy(
    lifetime_epsilon=1e6,
    study_epsilon=1e6,
    delta=0.5,
    unit="image",
    min_noise_multiplier=1e-9,
    max_grad_norm=1e9,
    shared_noise=True,
    min_colluders=0,
    statistics=True,
    min_cohort=1,
    max_rounds=10**9,
    without_privacy=True,
    metrics="exact",
)
"""The policy of simulated sites, which refuses nothing, because their cells are public or rendered
and it is the study that is being tried."""


@dataclass(frozen=True)
class PlannedStudy:
    """One study to run. Its folder holds study.yaml, sites/<name>/site.yaml and the results."""

    name: str
    study: Study
    folder: Path

    @property
    def study_file(self) -> Path:
        """The study's YAML."""
        return self.folder / "study.yaml"

    @property
    def site_files(self) -> list[Path]:
        """The sites' YAML files, sorted by site."""
        return sorted((self.folder / "sites").glob("*/site.yaml"))


def make_plans(
    simulation: Simulation, sites: tuple[DealtSite, ...], out: Path
) -> list[PlannedStudy]:
    """Write everything that the federation and its baselines need below `out`.

    Returns:
        The federation's plan, then the baselines' plans.
    """
    study = simulation.study
    cohort = _cohort(simulation, sites)
    plans = [_plan(FEDERATED, study, cohort, sites, out, simulation.runtime)]
    if CENTRALISED in simulation.baselines:
        pooled, member = _pool(sites, cohort, study)
        everyone = (pooled, *(site for site in sites if site.held_out))
        members = {pooled.name: member} | {site.name: cohort[site.name] for site in everyone[1:]}
        folder = out / "baselines" / CENTRALISED
        plans.append(
            _plan(CENTRALISED, _alike(study, sites), members, everyone, folder, simulation.runtime)
        )
    if LOCAL in simulation.baselines:
        for name in [site.name for site in sites if _can_train_alone(site)]:
            alone = {
                other: member
                if other == name or member.role == "held_out"
                else Participant(role="test")
                for other, member in cohort.items()
            }
            folder = out / "baselines" / LOCAL / name
            plans.append(_plan(f"{LOCAL}-{name}", study, alone, sites, folder, simulation.runtime))
    return plans


def _can_train_alone(site: DealtSite) -> bool:
    """Return whether the site trains and has at least one training cell."""
    return not site.held_out and site.count("train") > 0


def declared(number: int) -> int:
    """Return a number of units as a site would publish it, with two significant digits.

    >>> declared(1234), declared(0)
    (1200, 1)
    """
    digits = max(len(str(number)) - 2, 0)
    return max(int(round(number, -digits)), 1)


def _cohort(simulation: Simulation, sites: tuple[DealtSite, ...]) -> dict[str, Participant]:
    power = {"size": 1.0, "sqrt": 0.5, "equal": 0.0}[simulation.partition.weighting]
    cohort = {}
    for site in sites:
        if site.held_out:
            cohort[site.name] = Participant(role="held_out")
            continue
        units = declared(_training_units(site, simulation.study))
        # A sum under masks is over units: each site counts by how many it has.
        weight = 1.0 if simulation.study.privacy.mode == "distributed" else float(units**power)
        cohort[site.name] = Participant(units=units, weight=weight)
    return cohort


def _training_units(site: DealtSite, study: Study) -> int:
    """Return the number of the site's training units: images or patients."""
    if not study.privacy.of_patients:
        return site.count("train")
    return len(np.unique(site.patients[site.splits == "train"]))


def _alike(study: Study, sites: tuple[DealtSite, ...]) -> Study:
    """Return the study with the steps per round limited to those of the site that takes the most.

    A private study sets the number of steps itself and stays as it is.
    """
    if study.privacy.mode != "none":
        return study
    most = max((_local_steps(site, study) for site in sites if not site.held_out), default=1)
    training = study.training.model_copy(update={"max_local_steps": max(most, 1)})
    return study.model_copy(update={"training": training})


def _local_steps(site: DealtSite, study: Study) -> int:
    """Return the number of steps that the site takes in a round without privacy."""
    training = study.training
    steps = -(-site.count("train") // training.batch_size) * training.local_epochs
    return min(steps, training.max_local_steps or steps)


def _pool(
    sites: tuple[DealtSite, ...], cohort: Mapping[str, Participant], study: Study
) -> tuple[DealtSite, Participant]:
    """Pool all training sites into one.

    Patients with the same name count as one patient, as they do at a site.
    """
    training = [site for site in sites if not site.held_out]
    shares = tuple(share for site in training for share in site.shares)
    labels = np.concatenate([site.labels for site in training])
    patients = np.concatenate([site.patients for site in training])
    pooled = DealtSite(POOLED, shares, labels, patients)
    units = sum(cohort[site.name].units for site in training)
    if study.privacy.of_patients:
        units = declared(_training_units(pooled, study))
    return pooled, Participant(units=units)


def _plan(
    name: str,
    study: Study,
    cohort: dict[str, Participant],
    sites: tuple[DealtSite, ...],
    folder: Path,
    runtime: Runtime,
) -> PlannedStudy:
    """Write the study and its sites; the results of an interrupted run are kept."""
    content = study.model_dump() | {"cohort": cohort}
    if name != FEDERATED:  # only one site trains, so it is the quorum and needs no robust rule
        content["round"] |= {"min_sites": 1, "max_update_norm": MOST_NORM}
        content["server"] |= {"aggregation": "mean", "byzantine_sites": 0}
        if study.privacy.mode == "distributed":  # alone, a site adds the whole noise itself
            content["privacy"] |= {"mode": "local", "statistics_epsilon": None}
    plan = PlannedStudy(name, parse(Study, content, f"{name}: the study of this partition"), folder)
    write_text(plan.study_file, dump(plan.study))
    for site in sites:
        if site.name in cohort:
            _write_site(site, plan, runtime)
    return plan


def _write_site(site: DealtSite, plan: PlannedStudy, runtime: Runtime) -> None:
    home = plan.folder / "sites" / site.name
    sources = []
    for number, share in enumerate(site.shares):
        selection = home / f"cells-{number}.npy"
        records = np.zeros(len(share.rows), dtype=[("row", "i8"), ("split", "U10")])
        records["row"], records["split"] = share.rows, share.splits
        with replacing(selection) as temporary, temporary.open("wb") as file:
            np.save(file, records)
        sources.append(CellSource(folder=share.folder.absolute(), selection=Path(selection.name)))
    content = Site(name=site.name, cells=tuple(sources), runtime=runtime)
    write_text(home / "site.yaml", dump(content))
    write_text(home / "policy.yaml", dump(OPEN_POLICY))
    create_simulated_ledger(open_site(home / "site.yaml"))
