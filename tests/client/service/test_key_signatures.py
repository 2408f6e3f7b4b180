"""The server carries the sites' masking keys, and can neither swap one nor add a site."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from flwr.app import Message, RecordDict

from client.membership.enrolment import join, make_site
from client.membership.membership import Membership
from client.service.key_signatures import check_keys, sign_key
from common.errors import PrivacyError
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import KEYS, refusal_content
from common.wire.reasons import Reason
from server.membership.provisioning import admit, make_kit, make_server
from tests.client.lab import message
from tests.client.masking.company import masked_study

NAMES = ("bern", "oslo", "rome")
STUDY = masked_study(
    cohort={name: {"units": 30} for name in NAMES},
)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Membership]:
    """Three labs that joined a server, and a fourth beside them."""
    folder, now = tmp_path_factory.mktemp("members"), datetime.now(UTC)
    server = folder / "server"
    make_server(server, "127.0.0.1:9", now, None)
    for name in (*NAMES, "york"):
        admit(server, make_site(folder / name, name, now), now)
    for name in (*NAMES, "york"):
        kit = make_kit(server, name)
        join(folder / name, kit, kit.fingerprint)
    return {name: Membership.load(folder / name) for name in (*NAMES, "york")}


def signed(member: Membership, asked: Agreement, public: bytes) -> MaskingKey:
    """What leaves the member's node when its runner answers with this key."""
    question = message(STUDY, KEYS, agreement=asked)
    reply = Message(MaskingKey(public).content(), reply_to=question)
    sign_key(question, reply, member)
    found = MaskingKey.read(reply)
    assert found is not None and found.public == public
    return found


def agreed(members: dict[str, Membership], asked: Agreement) -> Agreement:
    keys = {name: signed(members[name], asked, name.encode() * 8) for name in asked.sites}
    return replace(asked, keys=keys)


ASKED = Agreement(2, 1, NAMES)


def test_what_the_labs_signed_is_accepted_by_all(
    members: dict[str, Membership],
) -> None:
    agreement = agreed(members, ASKED)
    for name in NAMES:
        check_keys(message(STUDY, "train", 2, attempt=1, agreement=agreement), members[name])


def swapped(one: Agreement) -> Agreement:
    return replace(
        one, keys=dict(one.keys) | {"oslo": MaskingKey(b"s" * 32, one.keys["oslo"].signature)}
    )


def unsigned(one: Agreement) -> Agreement:
    return replace(one, keys=dict(one.keys) | {"oslo": MaskingKey(one.keys["oslo"].public)})


def anothers(one: Agreement) -> Agreement:
    return replace(one, keys=dict(one.keys) | {"oslo": one.keys["rome"]})


def of_other_sites(one: Agreement) -> Agreement:
    sites = ("bern", "oslo", "york")
    return Agreement(
        one.round, one.attempt, sites, {s: one.keys.get(s, one.keys["rome"]) for s in sites}
    )


def of_another_round(one: Agreement) -> Agreement:
    return replace(one, round=one.round + 1)


def of_another_attempt(one: Agreement) -> Agreement:
    return replace(one, attempt=one.attempt + 1)


def of_a_stranger(one: Agreement) -> Agreement:
    sites = ("bern", "none", "oslo")
    return Agreement(
        one.round, one.attempt, sites, {s: one.keys.get(s, one.keys["rome"]) for s in sites}
    )


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        unsigned,
        anothers,
        of_other_sites,
        of_another_round,
        of_another_attempt,
        of_a_stranger,
    ],
)
def test_a_server_that_changes_anything_is_found_out(
    members: dict[str, Membership], change: Callable[[Agreement], Agreement]
) -> None:
    told = message(STUDY, "train", 2, attempt=1, agreement=change(agreed(members, ASKED)))
    with pytest.raises(PrivacyError, match="this answer is not paid for") as caught:
        check_keys(told, members["bern"])
    assert caught.value.reason is Reason.MASKING_KEY


def test_a_key_for_one_study_is_none_for_another(members: dict[str, Membership]) -> None:
    other = STUDY.model_copy(update={"rounds": 2})
    told = message(other, "train", 2, agreement=agreed(members, ASKED))
    with pytest.raises(PrivacyError, match="the signature does not fit"):
        check_keys(told, members["bern"])


def test_nobody_signs_for_a_company_with_strangers(members: dict[str, Membership]) -> None:
    with pytest.raises(PrivacyError, match="nobody: is no active member") as caught:
        signed(members["bern"], Agreement(1, 0, ("bern", "nobody", "oslo")), b"k" * 32)
    assert caught.value.reason is Reason.MASKING_KEY


def test_a_refusal_and_a_message_without_keys_stay_as_they_are(
    members: dict[str, Membership],
) -> None:
    question = message(STUDY, KEYS, agreement=ASKED)
    refusal = Message(refusal_content(Reason.COMPANY, "0123abcd"), reply_to=question)
    before = str(refusal.content)
    sign_key(question, refusal, members["bern"])
    assert str(refusal.content) == before
    train = message(STUDY, "train", 2)
    answer = Message(RecordDict({}), reply_to=train)
    sign_key(train, answer, members["bern"])
    assert not answer.content
    check_keys(question, members["bern"])
    check_keys(train, members["bern"])


def test_a_lab_that_was_revoked_is_masked_with_no_more(
    members: dict[str, Membership],
) -> None:
    agreement = agreed(members, ASKED)
    bern = members["bern"]
    sites = dict(bern.registry.sites)
    sites["rome"] = sites["rome"].model_copy(update={"status": "revoked"})
    registry = bern.registry.model_copy(update={"sites": sites})
    with pytest.raises(PrivacyError, match="rome: is no active member"):
        check_keys(
            message(STUDY, "train", 2, agreement=agreement), replace(bern, registry=registry)
        )
