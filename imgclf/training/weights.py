"""Weights on disk, as safetensors: nothing in such a file can run."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from imgclf.disk import write_whole
from imgclf.errors import ImgclfError


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights and buffers, so that the file is whole at every moment.

    Raises:
        ImgclfError: there is no room for them; the file of before stays.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    # In memory first: safetensors' own writer raises no OSError where a disk is full.
    write_whole(path, save(tensors), "the weights")


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
