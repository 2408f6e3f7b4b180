"""A study's released model: one safetensors file, which the server writes and everybody reads."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.config.study import Study
from common.errors import ModelError
from common.files import replacing
from common.models.classifier import Classifier

MODEL = "model.safetensors"
"""The file's name in a run's folder."""


def write_model(model: Classifier, study: Study, path: Path) -> None:
    """Write all of the model's tensors to `path`, with the study in the file's metadata.

    The same model and study give the same bytes. The metadata has a single key, since safetensors
    writes several in a random order.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"study": study.model_dump_json()})


def read_model(path: Path) -> dict[str, Tensor]:
    """The tensors that `write_model` wrote, on the CPU, by their names in the model's `state_dict`.

    Raises ModelError when the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as a released model ({error})") from error
