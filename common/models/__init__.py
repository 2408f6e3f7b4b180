"""The classifiers, built by name; each says its input side and which layers train."""

from common.models.classifier import Classifier, federated, trainable
from common.models.registry import build

__all__ = ["Classifier", "build", "federated", "trainable"]
