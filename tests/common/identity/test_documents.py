"""The files that travel between sites and server: read within bounds, written whole, named."""

import json
import os
from pathlib import Path

import pytest

from common.config.study import Strict
from common.errors import FederationError
from common.identity import documents
from common.identity.documents import LARGEST_BYTES, read_document, read_json, save, write_document


class Note(Strict):
    text: str
    number: int = 0


def test_what_was_written_is_read_and_people_can_read_it_too(tmp_path: Path) -> None:
    write_document(tmp_path / "note.json", {"text": "x", "number": 7})
    assert (tmp_path / "note.json").read_text() == '{\n "number": 7,\n "text": "x"\n}\n'
    assert read_json(tmp_path / "note.json") == {"text": "x", "number": 7}
    assert read_document(Note, tmp_path / "note.json") == Note(text="x", number=7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not valid JSON; ask for the file again"),
        ('{"text": ', "is not valid JSON; ask for the file again"),
        ("[" * 100_000, "is not valid JSON; ask for the file again"),
        ("\udcff", "is not valid JSON; ask for the file again"),
        ("[1]", "expected a JSON object, found list"),
        ("null", "expected a JSON object, found NoneType"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for read in (read_json, lambda path: read_document(Note, path)):
        with pytest.raises(FederationError, match=f"{path}: {said}"):
            read(path)


def test_what_is_of_another_kind_is_named(tmp_path: Path) -> None:
    write_document(tmp_path / "note.json", {"text": 3, "more": ""})
    with pytest.raises(FederationError, match=r"note.json: 2 wrong(.|\n)*text(.|\n)*more"):
        read_document(Note, tmp_path / "note.json")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"none.json: cannot be read \(No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(FederationError, match=r"cannot be read \(Is a directory"):
        read_json(tmp_path)


def test_a_file_is_read_to_its_largest_and_no_byte_further(tmp_path: Path) -> None:
    assert LARGEST_BYTES == 16_777_216
    path, text = tmp_path / "note.json", json.dumps({"text": "x"})
    path.write_text(text + " " * (LARGEST_BYTES - len(text)))
    assert read_json(path) == {"text": "x"}
    with path.open("a") as file:
        file.write(" ")
    with pytest.raises(FederationError, match="is larger than 16777216 bytes; not a file of ours"):
        read_json(path)


def test_what_cannot_be_written_is_named_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.json"
    save(path, "before")

    def full(path: Path, text: str) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(documents, "write_text", full)
    for write in (lambda: save(path, "after"), lambda: write_document(path, {})):
        with pytest.raises(FederationError, match=r"cannot be written \(No space left on device\)"):
            write()
    assert path.read_text() == "before"
