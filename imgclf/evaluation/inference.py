"""A model's logits for a whole split."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imgclf.data.dataset import SelectedImages
from imgclf.training.failures import enough_memory_to

_MOST_IMAGES = 512
# Where images are larger than 128x128, fewer: what a network makes of them grows with their pixels.
_MOST_PIXELS = _MOST_IMAGES * 128**2


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: "NDArray[np.uint8] | SelectedImages",
    device: torch.device,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Run a model in evaluation mode, in fp32.

    Args:
        model: lies on ``device``; left in evaluation mode.
        images: uint8 [n, height, width, channels].
        device: where the batches go.
        batch_size: images at a time; None: many, fewer where they are large.

    Returns:
        logits, float32 [n, classes].

    Raises:
        ImgclfError: there is not enough memory.
    """
    model.eval()
    batch_size = batch_size or _batch_size(images[:1].shape)
    logits, on_gpu = torch.empty(0), device.type == "cuda"
    # By default, convolutions on NVIDIA GPUs keep 10 bits of each factor (TF32).
    with (
        enough_memory_to(f"evaluate {batch_size} images at a time"),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
    ):
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))
            # From pinned memory a copy is queued: the next batch is gathered while a GPU computes.
            pixels = pixels.pin_memory() if on_gpu else pixels
            answers = model(pixels.to(device, non_blocking=on_gpu))
            if start == 0:
                # One place for all. Pieces kept from each batch lie between what the batch has
                # freed: the next one does not fit there, and memory grows with the images.
                logits = answers.new_empty((len(images), answers.shape[1]))
            logits[start : start + len(pixels)] = answers
    return logits.cpu().numpy()


def _batch_size(shape: tuple[int, ...]) -> int:
    """Return how many images of [n, height, width, channels] are answered together."""
    return max(1, min(_MOST_IMAGES, _MOST_PIXELS // (shape[1] * shape[2])))
