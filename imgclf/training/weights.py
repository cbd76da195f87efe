"""Weights on disk, as safetensors: nothing in such a file can run."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from imgclf.errors import ImgclfError


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights and buffers, so that the file is whole at every moment."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary)
    os.replace(temporary, path)


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
