"""A released model is read back as it was written, or refused by name."""

from pathlib import Path

import pytest
import torch

from common.errors import ModelError
from common.models import build
from common.models.released import read_model, write_model
from tests.client.lab import study


def test_a_model_comes_back_whole_and_the_file_is_the_same_again(tmp_path: Path) -> None:
    one = study()
    model = build(one.model, len(one.cell_types), one.image_side, 3)
    for name in ("a", "b"):
        write_model(model, one, tmp_path / name)
    found, state = read_model(tmp_path / "a"), model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read as a released"):
        read_model(tmp_path / "model.safetensors")
