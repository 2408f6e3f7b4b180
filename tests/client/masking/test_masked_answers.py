"""What a lab answers in mode distributed: the sum comes out exactly, and nothing else does."""

from pathlib import Path

import numpy as np
import pytest

from client.ledger.ledger import Ledger
from client.site import open_site
from client.training import masked_sum as computing
from common.config.study import Participant
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import MaskedUpdate
from common.wire.packed_integers import Words, unpack
from common.wire.reasons import Reason
from server.aggregation.masked_sum import MaskedSum
from simulations.engine.seeded import SeededEntropy
from tests.client.lab import OPEN, first_model, refused
from tests.client.masking.company import NAMES, PRIVACY, Company, masked_study, plan_of

STUDY = masked_study()
PLAN = plan_of(STUDY)


@pytest.fixture
def labs(tmp_path: Path) -> Company:
    return Company(tmp_path)


def sent(reply: object) -> Words:
    update = MaskedUpdate.read(reply, PLAN.size, PLAN.bits)  # type: ignore[arg-type]
    return unpack(update.packed, PLAN.size, PLAN.bits)


def summed(replies: list[object]) -> Words:
    total = MaskedSum(PLAN.size, PLAN.bits)
    for reply in replies:
        total.add(MaskedUpdate.read(reply, PLAN.size, PLAN.bits).packed)  # type: ignore[arg-type]
    return total.total()


def debits(labs: Company, name: str) -> int:
    with Ledger.read(open_site(labs.sites[name]).ledger) as ledger:
        return len(ledger.rows("debit"))


def test_the_sum_is_the_sum_of_what_the_labs_drew_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labs = Company(tmp_path, entropy=lambda: SeededEntropy(1))
    agreement = labs.agree(STUDY)
    masked = [labs.train(name, STUDY, agreement) for name in NAMES]
    monkeypatch.setattr(computing, "add_mask", lambda *_: None)
    bare = [labs.train(name, STUDY, agreement) for name in NAMES]
    for one, other in zip(masked, bare, strict=True):
        assert not np.array_equal(sent(one), sent(other))
    expected = sum(sent(reply).astype(object) for reply in bare) % 2**PLAN.bits
    assert np.array_equal(summed(list(masked)), expected.astype(PLAN.dtype))
    assert np.isfinite(PLAN.decode(summed(list(masked)))).all()


def test_the_noise_in_the_sum_is_that_of_the_honest_shares(tmp_path: Path) -> None:
    """Without a unit in the sum what comes out is the noise of three shares alone."""
    of = masked_study(
        privacy=PRIVACY | {"sample_rate": 1e-6},
        cohort={name: Participant(units=30) for name in NAMES},
        model={"name": "cnn", "width": 8},
    )
    plan = plan_of(of)
    labs = Company(tmp_path, OPEN.model_copy(update={"min_noise_multiplier": 1e-9}))
    agreement, total = labs.agree(of), MaskedSum(plan.size, plan.bits)
    for name in NAMES:
        reply = labs.train(name, of, agreement)
        total.add(MaskedUpdate.read(reply, plan.size, plan.bits).packed)
    found = plan.decode(total.total()).astype(np.float64) * plan.grid
    # The variance of P squares is 2 sigma^4 P: 6 standard deviations of the mean square.
    expected, spread = 3 * plan.sigma**2, 6 * np.sqrt(2 / plan.size)
    assert abs(found.var() / expected - 1) < spread


def test_each_answer_is_paid_for_once_and_given_once(labs: Company) -> None:
    agreement = labs.agree(STUDY)
    assert debits(labs, "lab") == 0
    assert refused(labs.train("lab", STUDY, agreement)) is None
    assert refused(labs.train("lab", STUDY, agreement)) is Reason.ANSWERED
    assert debits(labs, "lab") == 1
    with Ledger.read(open_site(labs.sites["lab"]).ledger) as ledger:
        (event,) = ledger.events()
    assert event.mode == "distributed" and event.steps == 1


@pytest.mark.parametrize("what", ["model", "round", "attempt", "sites", "keys"])
def test_labs_that_were_told_different_things_give_a_sum_that_says_nothing(
    labs: Company, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    of = masked_study(
        privacy=PRIVACY | {"dropouts": 1},
        cohort={name: Participant(units=30) for name in (*NAMES, "zoo")},
    )
    plan = plan_of(of)
    agreement, other = labs.agree(of), {}
    told: dict[str, object] = {}
    match what:
        case "model":
            told = {"model": first_model(of) + np.float32(1e-6)}
        case "round":
            told = {"number": 2}
        case "attempt":
            told = {"attempt": 1}
        case "sites":
            other = dict(agreement.keys) | {"zoo": agreement.keys["two"]}
            seen = Agreement(1, 0, (*NAMES, "zoo"), other)
        case "keys":
            swapped = Company(labs.folder / "others").agree(of).keys["lab"]
            seen = Agreement(1, 0, NAMES, dict(agreement.keys) | {"lab": swapped})
    views = dict.fromkeys(NAMES, agreement)
    if what == "keys":
        views["two"] = seen
    replies = [labs.train(name, of, views[name]) for name in NAMES[:2]]
    if what == "sites":
        assert refused(labs.train("two", of, seen)) is Reason.LOST_KEY
        return
    replies.append(labs.train("two", of, views["two"], **told))  # type: ignore[arg-type]
    total = MaskedSum(plan.size, plan.bits)
    for reply in replies:
        total.add(MaskedUpdate.read(reply, plan.size, plan.bits).packed)
    steps = plan.decode(total.total()).astype(np.float64) * plan.grid
    # Uniform over the modulus: some twelfth of its square; the honest sum is far smaller.
    assert steps.std() > 0.25 * 2**plan.bits


@pytest.mark.parametrize(
    "sites", [("lab", "one"), ("lab", "one", "zoo"), ("one", "two", "zoo"), ("lab", "one", "six")]
)
def test_a_lab_masks_in_no_other_company_than_the_study_allows(
    labs: Company, sites: tuple[str, ...]
) -> None:
    of = masked_study(cohort={name: Participant(units=30) for name in (*NAMES, "zoo")})
    if len(sites) == 2:
        with pytest.raises(Exception, match="an agreement of 2 sites"):
            Agreement(1, 0, sites)
        return
    asked = Agreement(1, 0, tuple(sorted(sites)))
    assert refused(labs.key("lab", of, asked)) is Reason.COMPANY
    keys = {name: MaskingKey(bytes([number]) * 32) for number, name in enumerate(asked.sites)}
    told = Agreement(1, 0, asked.sites, keys)
    assert refused(labs.train("lab", of, told)) is Reason.COMPANY
    assert debits(labs, "lab") == 0


def test_a_policy_asks_for_more_company_than_the_study(tmp_path: Path) -> None:
    of = masked_study(
        privacy=PRIVACY | {"dropouts": 1},
        cohort={name: Participant(units=30) for name in (*NAMES, "zoo")},
    )
    labs = Company(tmp_path, OPEN.model_copy(update={"min_cohort": 4}))
    assert refused(labs.key("lab", of, Agreement(1, 0, NAMES))) is Reason.COMPANY


def test_a_policy_asks_for_more_colluders_than_the_study_bears(tmp_path: Path) -> None:
    labs = Company(tmp_path, OPEN.model_copy(update={"min_colluders": 2}))
    assert refused(labs.key("lab", STUDY, Agreement(1, 0, NAMES))) is Reason.COLLUDERS


def test_a_process_that_was_started_anew_says_that_its_key_is_lost_and_pays_nothing(
    labs: Company,
) -> None:
    agreement = labs.agree(STUDY)
    labs.restart("lab")
    assert refused(labs.train("lab", STUDY, agreement)) is Reason.LOST_KEY
    assert debits(labs, "lab") == 0
    fresh = labs.agree(STUDY)
    assert fresh.keys["lab"] != agreement.keys["lab"]
    assert fresh.keys["one"] == agreement.keys["one"]  # asked for the same, it has the same
    assert refused(labs.train("lab", STUDY, fresh)) is None


def test_an_agreement_of_other_sites_or_another_round_has_keys_of_its_own(labs: Company) -> None:
    of = masked_study(cohort={name: Participant(units=30) for name in NAMES})
    first, later = labs.agree(of), labs.agree(of, number=2)
    assert not {key.public for key in first.keys.values()} & {
        key.public for key in later.keys.values()
    }
    assert refused(labs.train("lab", of, first)) is Reason.LOST_KEY


@pytest.mark.parametrize("agreement", [None, Agreement(1, 0, NAMES)])
def test_a_round_without_an_agreement_or_its_keys_is_refused(
    labs: Company, agreement: Agreement | None
) -> None:
    wanted = Reason.BAD_QUESTION if agreement is None else Reason.LOST_KEY
    assert refused(labs.train("lab", STUDY, agreement)) is wanted
    assert debits(labs, "lab") == 0


def test_a_study_in_another_mode_asks_for_no_keys(labs: Company) -> None:
    local = masked_study(privacy=PRIVACY | {"mode": "local"})
    assert refused(labs.key("lab", local, Agreement(1, 0, NAMES))) is Reason.BAD_QUESTION
