"""``--compile``: generated code for a network's forward and backward pass (TorchInductor).

A CPU gains little: most of the time goes into convolutions, which are library calls either way. On
an H200, where steps of small networks wait for their kernels' launches, it was tried once: they
became shorter. No command here measures it. The mode is torch's default, without CUDA graphs.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from imgclf.errors import UsageError


def check_compiler(device: torch.device) -> None:
    """Compile one line for the device: what is missing is known before anything starts.

    Raises:
        UsageError: it fails, mostly for want of a C++ compiler.
    """
    try:
        torch.compile(_line)(torch.zeros(8, device=device))
    except RuntimeError as error:  # of torch.compile itself, and of each of its stages
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"--compile true does not work here: {reason}",
            "Install a C++ compiler (on Debian and Ubuntu: apt install g++), or leave --compile"
            " out: it changes results by rounding only.",
        ) from error


def _line(numbers: Tensor) -> Tensor:
    return numbers.sin() + 1


def compiled_forward(model: nn.Module, batch_size: int) -> Callable[[Tensor], Tensor]:
    """Return the model's forward pass, compiled when it is first called with such a batch.

    The model itself stays as it is: its evaluation, its weights' names and its copies know nothing
    of this. Code is generated once, for one size of batches. A batch of another size, as the last
    of an epoch may be, goes through the model itself: code for all sizes would have to be generated
    beside the first, which takes longer than such batches ever do.

    Args:
        model: reads a batch of images.
        batch_size: images in the batches that code is generated for.
    """
    # Dropout then draws what it draws without compiling.
    compiled = torch.compile(model, dynamic=False, options={"fallback_random": True})

    def forward(images: Tensor) -> Tensor:
        return compiled(images) if len(images) == batch_size else model(images)

    return forward
