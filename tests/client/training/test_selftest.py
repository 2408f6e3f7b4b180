"""A machine whose kernels compute a cell otherwise in other company takes part in no study."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from client.app import client_app
from client.data.site_cells import Rows
from client.ledger.ledger import Ledger
from client.site import open_site
from client.training import selftest
from client.training.selftest import check_alone
from common.config.loading import dump
from common.config.study import ModelSpec, Participant, Study
from common.errors import PrivacyError
from common.privacy.clipping.linear import LinearLayer
from common.wire.reasons import Reason
from tests.client.lab import OPEN, PRIVACY, context, make_lab, message, refused, study

FROZEN = {"name": "efficientnet-lite0", "weights": "imagenet", "encoder": "frozen", "centre": True}
STUDIES = {
    "images": study(),
    "views": study(
        training={"augment": True, "learning_rate": 0.1}, privacy=PRIVACY | {"augmentations": 2}
    ),
    "patients": study(privacy=PRIVACY | {"unit": "patient", "max_cells_per_patient": 3}),
    "features": study(image_side=32, model=FROZEN | {"features": "middle"}),
    "vmap": study(privacy=PRIVACY | {"engine": "vmap"}),
    "opacus": study(privacy=PRIVACY | {"engine": "opacus"}),
}


def forget() -> None:
    """What earlier tests found of this machine."""
    for asked in (selftest._fault, selftest._of_cells, selftest._of_sums):
        asked.cache_clear()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    forget()
    return make_lab(tmp_path)


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_this_machine_is_sound(site: Path, kind: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_alone(open_site(site), STUDIES[kind])
    finally:
        torch.set_num_threads(before)


class Mixing(nn.Linear):
    """A layer whose last bits depend on all of the rows."""

    def forward(self, rows: Tensor) -> Tensor:
        return super().forward(rows) * (1 + 1e-6 * rows.detach().nan_to_num(0, 0, 0).abs().sum())


def with_mixing_head(spec: object, classes: int, side: int, seed: int) -> object:
    model = BUILD(spec, classes, side, seed)
    mixing = Mixing(model.embedding_dim, classes)
    model.head = nn.Sequential(*list(model.head)[:-1], mixing) if model.frozen else mixing
    return model


BUILD = selftest.build


@pytest.mark.parametrize("of", [STUDIES["images"], STUDIES["features"]])
def test_a_kernel_that_mixes_rows_is_found(
    site: Path, monkeypatch: pytest.MonkeyPatch, of: Study
) -> None:
    monkeypatch.setattr(selftest, "build", with_mixing_head)
    with pytest.raises(PrivacyError, match=r"the probabilities of one image depend on which"):
        check_alone(open_site(site), of)


def test_a_sum_that_mixes_rows_is_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were classes sound by chance, the gradients would tell."""
    sound = LinearLayer.forward

    def mixing(self: LinearLayer, rows: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, saved = sound(self, rows)
        return output * (1 + 1e-6 * rows.abs().sum()), saved

    monkeypatch.setattr(LinearLayer, "forward", mixing)
    with pytest.raises(PrivacyError, match="the clipped gradients of one image depend on"):
        check_alone(open_site(site), study())


def test_an_encoder_whose_batches_differ_is_found(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = selftest.extract

    def careless(model: object, cells: object, rows: Rows, device: object) -> object:
        return extract(model, cells, rows, device) * (1 + 1e-6 * (len(rows) > 4))

    monkeypatch.setattr(selftest, "extract", careless)
    with pytest.raises(PrivacyError, match="the features of one image depend on"):
        check_alone(open_site(site), STUDIES["features"])


def test_a_site_is_not_ready_on_such_a_machine(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "build", with_mixing_head)
    app = client_app()
    reply = app(message(study(), "query.prepare", 0), context(site))
    assert refused(reply) is Reason.DEVICE
    assert "no bound on what one adds would hold" in (site.parent / "site.log").read_text()


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_such_a_machine_gives_and_pays_nothing_though_nobody_asked_whether_it_is_ready(
    site: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A server need not ask first; one that chooses the model to do harm does not."""
    monkeypatch.setattr(selftest, "build", with_mixing_head)
    policy = OPEN.model_copy(update={"metrics": "noised"})
    (site.parent / "policy.yaml").write_text(dump(policy))
    reply = client_app()(message(study(), kind), context(site))
    assert refused(reply) is Reason.DEVICE
    with Ledger.read(open_site(site).ledger) as ledger:
        assert not ledger.rows("debit")


@pytest.mark.parametrize("role", ["test", "held_out"])
def test_a_site_that_is_only_evaluated_asks_for_its_classes(
    site: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Noised counts rest on it as sums do; such a site declares no units."""
    mine = Participant.model_validate({"role": role})
    evaluated = study(cohort={"lab": mine, "other": Participant(units=20)})
    check_alone(open_site(site), evaluated)
    monkeypatch.setattr(selftest, "build", with_mixing_head)
    forget()
    with pytest.raises(PrivacyError, match="the probabilities of one image depend on"):
        check_alone(open_site(site), evaluated)


def test_without_privacy_nothing_hangs_on_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "build", with_mixing_head)
    check_alone(open_site(site), study(privacy={"mode": "none"}))


def test_sites_of_like_size_and_the_studies_of_a_federation_ask_once(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []

    def counted(spec: ModelSpec, classes: int, side: int, seed: int) -> object:
        built.append(spec.name)
        return BUILD(spec, classes, side, seed)

    monkeypatch.setattr(selftest, "build", counted)
    for name, units in (("lab-test", 20), ("lab-test", 21), ("baseline", 20), ("lab-test", 20)):
        check_alone(open_site(site), study(name=name, cohort={"lab": Participant(units=units)}))
    assert len(built) == 2, "for the cells, and for the sums"
    check_alone(open_site(site), study(cohort={"lab": Participant(units=20_000)}))
    assert len(built) == 3, "larger chunks are other kernels"
