"""A lab with a few rendered cells, its policy and its ledger, for the client's tests."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from client.consent.approvals import Consent, SignedApprovals
from client.consent.cohort import pinned
from client.data.cache import prepare
from client.home import SiteHome
from client.ledger.binding import create_ledger
from client.membership.membership import Membership
from client.policy.policy import Policy, read_policy
from client.randomness import SystemEntropy
from client.request import Request
from client.site import open_site
from common.config.loading import dump
from common.config.study import CellSource, Participant, Site, Study
from common.models import build, trainable
from common.models.parameter_vector import flatten
from common.privacy.accounting import Event
from common.privacy.noise_source import NoiseSource
from common.wire.messages import Task, read_refusal
from common.wire.reasons import Reason
from common.wire.vector_codec import Vector, encode

TYPES = ("myeloblast", "lymphocyte")
OPEN = Policy(
    lifetime_epsilon=100,
    study_epsilon=50,
    delta=1e-3,
    min_cohort=1,
    unit="image",
    metrics="exact",
    without_privacy=True,
    min_noise_multiplier=0.1,
)
SPENT = Event(
    mechanism="poisson_discrete_gaussian",
    sample_rate=1.0,
    noise_multiplier=10.0,
    steps=1,
    unit="image",
)
"""An answer of the simplest kind, to be debited."""
PRIVACY = {"mode": "local", "epsilon": 4.0, "delta": 1e-4, "sample_rate": 0.4, "local_steps": 2}


def refused(reply: Message) -> Reason | None:
    """Why the lab refuses; None: it does not."""
    said = read_refusal(reply)
    return said.reason if said else None


def check(approvals: SignedApprovals, site: Site, of: Study) -> None:
    """Whether the study is approved, by the site's policy as it stands."""
    approvals.check(site, read_policy(site.policy), of)


def request(site: Site, task: Task) -> Request:
    """What the site is asked, by its policy as it stands."""
    return Request(site, read_policy(site.policy), task)


def study(**changes: object) -> Study:
    fields: dict[str, object] = {
        "name": "lab-test",
        "cell_types": TYPES,
        "image_side": 16,
        "rounds": 3,
        "model": {"name": "cnn", "width": 1},
        "training": {"batch_size": 8, "learning_rate": 0.1},
        "privacy": PRIVACY,
        "cohort": {"lab": Participant(units=30)},
    }
    return Study.model_validate(fields | changes)


def make_lab(folder: Path, policy: Policy | None = OPEN, cells: int = 40) -> Path:
    """The lab's site.yaml; cells of 10 patients in two classes."""
    rng = np.random.default_rng(1)
    rows = ["path,label,patient"]
    (folder / "images").mkdir(parents=True)
    for number in range(cells):
        label = TYPES[number % 2]
        pixels = rng.integers(0, 128, (16, 16, 3)) + 100 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        rows.append(f"{number}.png,{label},p{number % 10}")
    (folder / "images" / "cells.csv").write_text("\n".join(rows))
    cache = prepare(folder / "images", 16)
    site = Site(name="lab", cells=(CellSource(folder=cache),))
    (folder / "site.yaml").write_text(dump(site))
    if policy:
        (folder / "policy.yaml").write_text(dump(policy))
    create_ledger(open_site(folder / "site.yaml"))[0].close()
    return folder / "site.yaml"


def context(site: Path) -> Context:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Context(1, 2, {"site": str(site)}, RecordDict(), {})


def first_model(of: Study) -> Vector:
    return flatten(trainable(build(of.model, len(of.cell_types), of.image_side, of.seed)))


def message(
    of: Study, kind: str = "train", number: int = 1, model: Vector | None = None, **task: object
) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    vector = encode(first_model(of) if model is None else model)
    content = Task(of, number, **task).content(vector)  # type: ignore[arg-type]
    return Message(content, 2, kind)


def approve(home: SiteHome, one: Study, until: datetime | None = None) -> Path:
    """A person's yes, to the study and the members as the site's registry has them."""
    shown = pinned(one, Membership.load(home.folder).registry)
    consent = Consent("Dr. Grün", "leukaemia in children", shown, until)
    return SignedApprovals(home).approve(one, consent)


class Meanwhile(SystemEntropy):
    """The system's randomness; when it is asked first, while an answer is computed, `act` is done.

    That is after the debit and before anything leaves.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act: Callable[[], object] | None = act

    def source(self, *purpose: str | int) -> NoiseSource:
        act, self._act = self._act, None
        if act:
            act()
        return super().source(*purpose)
