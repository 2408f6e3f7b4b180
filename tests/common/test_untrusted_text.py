"""Words of others steer no terminal and turn no text round, wherever a person reads them."""

import io
import logging
import unicodedata
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import hemofed
from common.config.loading import parse
from common.config.study import Site, Study
from common.errors import ConfigError
from common.pages import render
from common.untrusted_text import PlainFormatter, log_plainly, one_line, shown
from common.wire.messages import LONGEST_STUDY, Task, read_absence, read_refusal
from common.wire.reasons import Reason
from tests.client.lab import message, study

STEERING = ("\x1b[2J", "\x9b31m", "\x07", "\r", "\x00", "\u202e", "\u2066", "\u200f", "\ufeff")
"""Clears a screen, colours, rings, goes back to the line's start, ends a C text, turns round."""
WORDS = ("Große Zelle, Ödem: 15 %", "白血球", "كريات الدم")


@given(st.text())
def test_nothing_shown_steers_anything(text: str) -> None:
    for said in (shown(text), one_line(text)):
        assert not any(unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" for c in said)


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_plain_words_are_shown_as_they_are(text: str) -> None:
    assert shown(text) == text


def test_what_steers_is_shown_by_its_code_point() -> None:
    assert shown("a\x1b[2J\u202eb") == "a<U+001B>[2J<U+202E>b"
    assert shown("a\nb\tc") == "a<U+000A>b<U+0009>c"
    assert shown("a\nb\x9b", lines=True) == "a\nb<U+009B>"
    assert one_line("a\n   privacy  none\r\n") == "a privacy none"
    assert shown("abcdef", 3) == "abc..." and shown("abc", 3) == "abc"


@pytest.mark.parametrize("mark", STEERING)
def test_a_study_whose_words_steer_is_refused(mark: str) -> None:
    for words in WORDS:
        study(description=words + "\n\tsecond line")
    for place in (
        {"name": f"a{mark}"},
        {"description": f"a{mark}b"},
        {"cell_types": ("myeloblast", f"lymphocyte{mark}")},
        {"cohort": {f"lab{mark}": {"units": 20}}},
        {"model": {"name": "cnn", "weights": f"a{mark}", "weights_sha256": "0" * 64}},
        {"training": {"class_prior": {f"a{mark}": 1.0}}},
        {f"a{mark}": 1},
    ):
        content = study().model_dump(mode="json") | place
        with pytest.raises(ConfigError) as refused:
            parse(Study, content, "study in the message")
        assert not any(one in str(refused.value) for one in STEERING)


@pytest.mark.parametrize(
    "place",
    [
        {"description": "x" * 4001},
        {"cell_types": ["x" * 65, "myeloblast"]},
        {"cell_types": ["myeloblast"] * 19},
        {"training": {"class_prior": {"x" * 65: 1.0}}},
        {"cohort": {f"lab{number}": {"units": 20} for number in range(10_001)}},
        {"model": {"name": "cnn", "weights": "x" * 1025}},
    ],
    ids=lambda place: next(iter(place)),
)
def test_no_text_of_a_study_is_longer_than_a_person_reads(place: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"at most \d+"):
        Study.model_validate(study().model_dump(mode="json") | place)


def test_a_message_with_a_study_of_many_characters_is_refused_unread() -> None:
    long = message(study(), "query.prepare")
    long.content.config_records["task"]["study"] = " " * LONGEST_STUDY + "{}"
    with pytest.raises(ConfigError, match="characters; 2097152 at most"):
        Task.read(long)


@pytest.mark.parametrize("name", ["server", "Server", "SERVER"])
def test_no_site_is_called_as_the_server_is_in_audit_logs(name: str) -> None:
    with pytest.raises(ValidationError, match="is what audit logs call the server"):
        Site.model_validate({"name": name, "cells": [{"folder": "cells"}]})
    with pytest.raises(ValidationError, match="is what audit logs call the server"):
        study(cohort={name: {"units": 20}})


def test_what_a_member_says_is_shown_plainly() -> None:
    asked = message(study())
    words = "gone\x1b[2J\u202e" + "x" * 100
    for kind, read in (("absence", read_absence), ("refusal", read_refusal)):
        record = ConfigRecord({"reason": words, "reference": words})
        said = read(Message(RecordDict({kind: record}), reply_to=asked))
        assert said is not None and said.reason is Reason.INTERNAL and "gone" not in str(said)


def test_a_log_line_bears_no_control_character_and_a_traceback_keeps_its_lines() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.error("said %s", "a\x1b[2J\n2026-01-01 a line of its own")
    try:
        raise ValueError("b\x9b31m")
    except ValueError:
        log.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first == "said a<U+001B>[2J<U+000A>2026-01-01 a line of its own"
    assert rest[0] == "failed" and rest[1].startswith("Traceback") and len(rest) > 3
    assert rest[-1] == "ValueError: b<U+009B>31m"


def test_the_processes_log_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[logging.Handler] = []
    monkeypatch.setattr(logging, "basicConfig", lambda handlers, level: taken.extend(handlers))
    log_plainly()
    assert isinstance(taken[0].formatter, PlainFormatter)


def test_a_page_shows_code_points_and_keeps_its_own_markup(tmp_path: Path) -> None:
    template = tmp_path / "page.html"
    template.write_text("{{ words }}|{{ number }}|{{ style[:0] }}")
    page = render(template, words="a\u202e<b>\x1b", number=3)
    assert page == "a&lt;U+202E&gt;&lt;b&gt;&lt;U+001B&gt;|3|"


def test_an_error_is_printed_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise ConfigError("two\nlines \x1b[2J")

    monkeypatch.setattr(hemofed, "app", fails)
    monkeypatch.setattr(hemofed, "keep_to_itself", lambda: None)
    with pytest.raises(SystemExit):
        hemofed.main()
    assert capsys.readouterr().err == "error: two\nlines <U+001B>[2J\n"
