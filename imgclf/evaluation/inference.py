"""A model's logits for a whole split."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imgclf.data.dataset import SelectedImages


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    images: "NDArray[np.uint8] | SelectedImages",
    device: torch.device,
    batch_size: int = 512,
) -> NDArray[np.float32]:
    """Run a model in evaluation mode, in fp32.

    Args:
        model: lies on ``device``; left in evaluation mode.
        images: uint8 [n, height, width, channels].
        device: where the batches go.
        batch_size: images at a time.

    Returns:
        logits, float32 [n, classes].
    """
    model.eval()
    batches = (
        torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))
        for start in range(0, len(images), batch_size)
    )
    # By default, convolutions on NVIDIA GPUs keep 10 bits of each factor (TF32).
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits = [model(batch.to(device)) for batch in batches]
    return torch.cat(logits).cpu().numpy()
