"""What a lab answers in mode distributed: the sum comes out exactly, and nothing else does."""

from dataclasses import replace
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
from tests.client.lab import OPEN, first_model, message, refused
from tests.client.masking.company import NAMES, PRIVACY, SHARED, Company, masked_study, plan_of

STUDY = masked_study()
PLAN = plan_of(STUDY)


@pytest.fixture
def labs(tmp_path: Path) -> Company:
    return Company(tmp_path)


def sent(reply: object) -> Words:
    update = MaskedUpdate.read(reply, PLAN.size, PLAN.form)  # type: ignore[arg-type]
    return unpack(update.packed, PLAN.size, PLAN.bits)


def summed(replies: list[object]) -> Words:
    total = MaskedSum(PLAN.size, PLAN.bits)
    for reply in replies:
        total.add(MaskedUpdate.read(reply, PLAN.size, PLAN.form).packed)  # type: ignore[arg-type]
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
    labs = Company(tmp_path, SHARED.model_copy(update={"min_noise_multiplier": 1e-9}))
    agreement, total = labs.agree(of), MaskedSum(plan.size, plan.bits)
    for name in NAMES:
        reply = labs.train(name, of, agreement)
        total.add(MaskedUpdate.read(reply, plan.size, plan.form).packed)
    found = plan.decode(total.total()).astype(np.float64) * plan.grid
    # The variance of P squares is 2 sigma^4 P: 6 standard deviations of the mean square.
    expected, spread = 3 * plan.sigma**2, 6 * np.sqrt(2 / plan.size)
    assert abs(found.var() / expected - 1) < spread


def test_each_answer_is_paid_for_once_and_given_once(labs: Company) -> None:
    agreement = labs.agree(STUDY)
    assert debits(labs, "lab") == 0
    assert refused(labs.train("lab", STUDY, agreement)) is None
    assert refused(labs.train("lab", STUDY, agreement)) is Reason.LOST_KEY
    assert refused(labs.key("lab", STUDY, Agreement(1, 0, NAMES))) is Reason.ANSWERED
    assert debits(labs, "lab") == 1
    with Ledger.read(open_site(labs.sites["lab"]).ledger) as ledger:
        (event,) = ledger.events()
    assert event.mode == "distributed" and event.steps == 1


def test_no_mask_is_used_twice_where_an_older_ledger_was_put_back(labs: Company) -> None:
    """The key went with the answer: the same question is no question for a second vector."""
    ledger = open_site(labs.sites["lab"]).ledger
    before, agreement = ledger.read_bytes(), labs.agree(STUDY)
    assert refused(labs.train("lab", STUDY, agreement)) is None
    for beside in ("-wal", "-shm"):
        ledger.with_name(ledger.name + beside).unlink(missing_ok=True)
    ledger.write_bytes(before)
    assert refused(labs.train("lab", STUDY, agreement)) is Reason.LOST_KEY


@pytest.mark.parametrize("what", ["model", "keys"])
def test_labs_that_were_told_different_things_give_a_sum_that_says_nothing(
    labs: Company, what: str
) -> None:
    agreement = labs.agree(STUDY)
    other, model = agreement, None
    if what == "model":
        model = first_model(STUDY) + np.float32(1e-6)
    else:
        swapped = Company(labs.folder / "others").agree(STUDY).keys["lab"]
        other = replace(agreement, keys=dict(agreement.keys) | {"lab": swapped})
    replies = [labs.train(name, STUDY, agreement) for name in NAMES[:2]]
    replies.append(labs.train("two", STUDY, other, model))
    steps = PLAN.decode(summed(list(replies))).astype(np.float64) * PLAN.grid
    # Uniform over the modulus: a twelfth of its square. The honest sum is far smaller.
    assert steps.std() > 0.25 * 2**PLAN.bits


def test_a_lab_that_is_shown_other_sites_or_another_sum_has_no_key_for_it(labs: Company) -> None:
    of = masked_study(
        privacy=PRIVACY | {"dropouts": 1},
        cohort={name: Participant(units=30) for name in (*NAMES, "zoo")},
    )
    agreement = labs.agree(of)
    more = Agreement(1, 0, (*NAMES, "zoo"), {"zoo": MaskingKey(b"z" * 32), **agreement.keys})
    assert refused(labs.train("two", of, more)) is Reason.LOST_KEY
    later = replace(labs.agree(of), attempt=1)
    assert refused(labs.train("two", of, later)) is Reason.LOST_KEY
    asked = message(of, "train", 2, agreement=labs.agree(of))
    assert refused(labs.ask("two", asked)) is Reason.BAD_QUESTION
    assert debits(labs, "two") == 0


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
    labs = Company(tmp_path, SHARED.model_copy(update={"min_cohort": 4}))
    assert refused(labs.key("lab", of, Agreement(1, 0, NAMES))) is Reason.COMPANY


def test_a_policy_that_was_written_for_noise_of_its_own_allows_no_shared_one(
    tmp_path: Path,
) -> None:
    labs = Company(tmp_path, OPEN)
    assert refused(labs.key("lab", STUDY, Agreement(1, 0, NAMES))) is Reason.SHARED_NOISE


def test_a_policy_asks_for_more_colluders_than_the_study_bears(tmp_path: Path) -> None:
    labs = Company(tmp_path, SHARED.model_copy(update={"min_colluders": 2}))
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
    assert fresh.keys["one"] == agreement.keys["one"]  # not used yet
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
