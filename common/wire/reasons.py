"""Why a lab does not take part, as far as the server may know: a closed list.

No reason depends on what a cell shows. The reasons refer to what people decided and wrote down
(approvals, the policy), to public numbers (a budget follows from the studies' plans), to whether a
file exists, and to the machine: with more cells, memory may run out earlier. The text of an error
stays at the lab, under a reference.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Each value is the text that people read and that travels.

    >>> print(Reason.read("budget"), Reason.read("what no version says"), sep=", ")
    budget, internal
    """

    NOT_APPROVED = "not approved yet"
    DECLINED = "declined"
    WITHDRAWN = "approval withdrawn"
    EXPIRED = "approval expired"
    MEMBERS = "other members than were approved"

    NO_POLICY = "policy missing or wrong"
    MIN_COHORT = "policy: min_cohort"
    MAX_ROUNDS = "policy: max_rounds"
    WITHOUT_PRIVACY = "policy: without_privacy"
    UNIT = "policy: unit"
    DELTA = "policy: delta"
    STUDY_EPSILON = "policy: study_epsilon"
    MIN_NOISE = "policy: min_noise_multiplier"
    MAX_NORM = "policy: max_grad_norm"
    MAX_WEIGHT = "policy: max_weight"
    METRICS = "policy: metrics"
    SHARED_NOISE = "policy: shared_noise"
    COLLUDERS = "policy: min_colluders"
    STATISTICS = "policy: statistics"
    CHANGED_POLICY = "policy changed meanwhile"

    NO_LEDGER = "ledger missing"
    OTHER_LEDGER = "ledger of other cells, or damaged"
    BUDGET = "budget"
    ANSWERED = "answered before"

    COMPANY = "masked with others than the study allows"
    LOST_KEY = "masking key lost"
    MASKING_KEY = "masking key not signed by its site"

    NO_CELLS = "cells missing or damaged"
    OTHER_SIDE = "cells of another side"
    OTHER_FIELD = "cells of another field of view"

    PAUSED = "paused"
    HOURS = "outside its hours"

    NO_MEMORY = "out of memory"
    NO_ROOM = "disk full"
    ENDED = "its process was ended"
    DEVICE = "device"
    WEIGHTS = "weights missing or other"
    HOME = "home not in order"
    NOT_ORDERED = "not ordered by the server"
    OTHER_VERSION = "another version of hemofed"
    BAD_QUESTION = "asked what it cannot answer"
    INTERNAL = "internal"

    @classmethod
    def read(cls, text: str) -> Self:
        """The reason whose value is `text`; INTERNAL for text that this version does not know."""
        return cls(text) if text in cls._value2member_map_ else cls(cls.INTERNAL)


@dataclass(frozen=True)
class Fault:
    """An obstacle, as each side may know it."""

    reason: Reason
    """What the server may know."""
    text: str
    """What the people of the lab read."""

    def __str__(self) -> str:
        return self.text
