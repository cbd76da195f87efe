"""Muon, an optimiser for filters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgclf.training.uncompiled import AdamW, uncompiled

# The quintic's coefficients and the number of iterations are those of Jordan et al.; singular
# values come out between about 0.7 and 1.2, which is orthogonal enough.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


@uncompiled
class Muon(Optimizer):
    """Muon for convolution filters, AdamW for all else, under one learning rate.

    A filter's update is its momentum, made orthogonal as a matrix [filters, weights of a filter]
    (Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024), and scaled to
    the size that an update of AdamW has (Liu et al., Muon is Scalable for LLM Training,
    arXiv:2502.16982): so both share the learning rate and the decoupled weight decay.

    A step that is found not to be finite changes nothing. As PyTorch's fused optimisers, it reads
    that on the device, from the attribute ``found_inf`` (float32, a scalar; not 0: leave the step
    out), and divides gradients by the attribute ``grad_scale``, where `torch.amp.GradScaler` or the
    training loop has set them.

    Args:
        filters: a group of weights whose first dimension counts filters, maybe empty.
        others: groups for AdamW.
        lr: the learning rate of both.
        momentum: of the filters' updates.
        nesterov: whether the filters' momentum looks ahead.
        betas, fused: of AdamW. Only the fused one leaves steps out.
    """

    def __init__(
        self,
        filters: dict[str, Any],
        others: list[dict[str, Any]],
        lr: float,
        momentum: float,
        nesterov: bool,
        betas: tuple[float, float],
        fused: bool,
    ) -> None:
        self._adamw = AdamW(others, lr=lr, betas=betas, fused=fused)
        own = {**filters, "momentum": momentum, "nesterov": nesterov}
        super().__init__([own, *self._adamw.param_groups], {"lr": lr})
        self._step_supports_amp_scaling = fused

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyrefly: ignore
        """Update all weights that have a gradient."""
        assert closure is None
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        left_out = None if found_inf is None else found_inf > 0
        filters, *others = self.param_groups
        for weight in filters["params"]:
            if weight.grad is not None:
                gradient = weight.grad if scale is None else weight.grad / scale
                self._update_filters(weight, gradient, filters, left_out)
        # Loading a state replaces groups and state by new objects: they are shared at each step.
        shared = {"param_groups": others, "state": self.state}
        vars(self._adamw).update(shared, grad_scale=scale, found_inf=found_inf)
        self._adamw.step()

    def _update_filters(
        self, weight: Tensor, gradient: Tensor, group: dict[str, Any], left_out: Tensor | None
    ) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"]
        if left_out is not None:
            # Momentum that moves towards itself stays as it is, and so the update is finite.
            gradient = torch.where(left_out, momentum, gradient)
        average = momentum.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        matrix = orthogonalised(update.flatten(1))
        size = 0.2 * max(matrix.shape) ** 0.5
        moved = weight * (1 - group["lr"] * group["weight_decay"])
        moved.add_(matrix.view_as(weight), alpha=-group["lr"] * size)
        weight.copy_(moved if left_out is None else torch.where(left_out, weight, moved))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix near 1, by Newton and Schulz's iteration.

    Args:
        matrix: floating point [m, n].

    Returns:
        [m, n], of the same dtype; computed in bf16 on GPUs that are built for it (compute
        capability 8), where it is fast and exact enough, else in fp32.
    """
    in_bf16 = matrix.is_cuda and torch.cuda.get_device_capability(matrix.device)[0] >= 8
    x = matrix.to(torch.bfloat16 if in_bf16 else torch.float32)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        # x becomes a·x + (b·gram + c·gram²)·x. A GPU waits for each operation's launch: few.
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)
