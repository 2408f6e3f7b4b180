"""The local optimizer against torch's own, and what it does without."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from client.training.optimizer import LocalOptimizer
from common.config.study import TrainingSpec
from tests.client.lab import make_lab


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2), nn.Linear(9, 9))


@settings(max_examples=20)
@given(
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.01]),
    rate=st.floats(1e-3, 1.0),
)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_same_bits_as_torch(name: str, momentum: float, decay: float, rate: float) -> None:
    ours, theirs = network(), network()
    training = TrainingSpec(optimizer=name, momentum=momentum, weight_decay=decay)
    mine = LocalOptimizer(list(ours.parameters()), training)
    other: torch.optim.Optimizer
    if name == "adam":
        other = torch.optim.AdamW(theirs.parameters(), lr=rate, weight_decay=decay)
    else:
        other = torch.optim.SGD(theirs.parameters(), lr=rate, momentum=momentum, weight_decay=decay)
    for step in range(4):
        images = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
        mine.clear()
        other.zero_grad()
        for one in (ours, theirs):
            one[:3](images).square().sum().backward()  # the last layer has no gradient
        mine.step(rate)
        other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_round_loads_no_compiler(tmp_path: Path) -> None:
    """It would cost every process of a lab seconds at its start."""
    site = make_lab(tmp_path)
    code = f"""if True:
        import sys
        from pathlib import Path
        from client.app import app
        from tests.client.lab import PRIVACY, context, message, study
        for mode in ("none", "local"):
            asked = study(privacy=PRIVACY | {{"mode": mode}})
            reply = app(message(asked), context(Path({str(site)!r})))
            assert "update" in reply.content.array_records
            assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
