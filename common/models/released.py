"""A study's released model: one safetensors file, written by the server and read by everybody."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.config.study import Study
from common.errors import ModelError
from common.files import replacing
from common.models.classifier import Classifier

MODEL = "model.safetensors"
"""What the file is called in a run's folder."""


def write_model(model: Classifier, study: Study, path: Path) -> None:
    """All of the model's tensors, with the study in the file's metadata; the same bytes again.

    One metadata key: safetensors writes several in a random order.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"study": study.model_dump_json()})


def read_model(path: Path) -> dict[str, Tensor]:
    """The tensors of `write_model`, on the CPU, by their names in the model's `state_dict`.

    Raises ModelError: there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as a released model ({error})") from error
