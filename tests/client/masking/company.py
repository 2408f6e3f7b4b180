"""Three labs with cells of their own that mask one sum together, in this process."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.clientapp import ClientApp

from client.app import client_app
from client.policy.policy import Policy
from client.randomness import Entropy
from common.config.study import Participant, Study
from common.privacy.masking.integer_sum import IntegerSum
from common.privacy.masking.study_sum import study_sum
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import KEYS
from common.wire.vector_codec import Vector
from tests.client.lab import OPEN, context, first_model, make_lab, message, study

NAMES = ("lab", "one", "two")
PRIVACY = {
    "mode": "distributed",
    "epsilon": 4.0,
    "delta": 1e-4,
    "sample_rate": 0.4,
    "local_steps": 1,
    "spare_rounds": 3,
}

SHARED = OPEN.model_copy(update={"shared_noise": True})
"""A policy that lets sites share their noise."""


def masked_study(**changes: Any) -> Study:
    """A study of the three labs in mode distributed."""
    cohort = {name: Participant(units=30) for name in NAMES}
    return study(**({"privacy": PRIVACY, "cohort": cohort} | changes))


def plan_of(of: Study) -> IntegerSum:
    return study_sum(of, len(first_model(of)))


@dataclass
class Company:
    """The labs' homes and their running ClientApps."""

    folder: Path
    policy: Policy = SHARED
    entropy: Callable[[], Entropy | None] = lambda: None
    sites: dict[str, Path] = field(default_factory=dict)
    apps: dict[str, ClientApp] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in NAMES:
            self.sites[name] = make_lab(self.folder / name, self.policy)
            text = self.sites[name].read_text().replace("name: lab", f"name: {name}")
            self.sites[name].write_text(text)
            self.restart(name)

    def restart(self, name: str) -> None:
        """Start the lab's process anew: it forgets what it held in memory."""
        self.apps[name] = client_app(self.entropy())

    def ask(self, name: str, sent: Message) -> Message:
        return self.apps[name](sent, context(self.sites[name]))

    def agree_on(self, of: Study, asked: Agreement) -> Agreement:
        """The agreement with the keys that the labs give."""
        keys = {name: MaskingKey.read(self.key(name, of, asked)) for name in asked.sites}
        return replace(asked, keys={name: key for name, key in keys.items() if key})

    def key(self, name: str, of: Study, asked: Agreement) -> Message:
        """A lab's answer to the question for its key."""
        return self.ask(
            name, message(of, KEYS, asked.round, attempt=asked.attempt, agreement=asked)
        )

    def agree(
        self, of: Study, sites: tuple[str, ...] = NAMES, number: int = 1, attempt: int = 0
    ) -> Agreement:
        """The agreement of these labs, made as an honest server makes it."""
        return self.agree_on(of, Agreement(number, attempt, sites))

    def train(
        self, name: str, of: Study, agreement: Agreement | None, model: Vector | None = None
    ) -> Message:
        """A lab's answer to train, in the round and attempt of the agreement."""
        number, attempt = (agreement.round, agreement.attempt) if agreement else (1, 0)
        told = message(of, "train", number, model, attempt=attempt, agreement=agreement)
        return self.ask(name, told)
