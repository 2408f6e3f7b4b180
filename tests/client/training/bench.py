"""A made lab's cells beside a study's first model, for the tests of training."""

from pathlib import Path

from client.site import open_site
from client.training.workspace import Workspace, workspace
from common.config.study import Study
from common.models.parameter_vector import load
from tests.client.lab import first_model

RATE = 0.1
UNITS = 25
"""What the study declares for the lab; it has other numbers of images and of patients."""


def bench(lab: Path, of: Study) -> Workspace:
    """With the model as the study begins, whatever other tests left of it."""
    made = workspace(open_site(lab), of)
    load(made.parameters, first_model(of))
    return made
