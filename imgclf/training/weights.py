"""Weights on disk, as safetensors: nothing in such a file can run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from imgclf.disk import write_whole
from imgclf.errors import ImgclfError


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's weights and buffers, on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write what `weights_of` returned, so that the file is whole at every moment.

    Raises:
        ImgclfError: it cannot be written.
    """
    write_whole(path, save(dict(weights)), "the weights")


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights that `save_weights` wrote into a model of the same architecture.

    Raises:
        ImgclfError: the file is damaged, or belongs to another architecture.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ImgclfError(
            f"The weights in '{path}' cannot be used: {' '.join(str(error).split())[:300]}",
            "The file is damaged or belongs to another network; train again.",
        ) from error
