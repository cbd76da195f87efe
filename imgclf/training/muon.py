"""Muon, an optimiser for filters."""

from collections.abc import Callable, Sequence
from itertools import groupby
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
        if weights := [weight for weight in filters["params"] if weight.grad is not None]:
            self._update_filters(sorted(weights, key=_shape), filters, scale, left_out)
        # Loading a state replaces groups and state by new objects: they are shared at each step.
        shared = {"param_groups": others, "state": self.state}
        vars(self._adamw).update(shared, grad_scale=scale, found_inf=found_inf)
        self._adamw.step()

    def _update_filters(
        self,
        weights: Sequence[Tensor],
        group: dict[str, Any],
        scale: Tensor | None,
        left_out: Tensor | None,
    ) -> None:
        """Update filters as one long vector: a GPU waits for each operation's launch.

        Args:
            weights: with a gradient; those of one shape lie together.
            group: their settings.
            scale: what gradients are divided by.
            left_out: whether nothing is to change, a scalar on the device.
        """
        momenta = [self._momentum(weight) for weight in weights]
        gradients = [_laid_as(each, each.grad) for each in weights if each.grad is not None]
        weight, momentum, gradient = _joined(weights), _joined(momenta), _joined(gradients)
        if scale is not None:
            gradient = gradient / scale
        if left_out is not None:
            # Momentum that moves towards itself stays as it is, and so the update is finite.
            gradient = torch.where(left_out, momentum, gradient)
        average = momentum.lerp(gradient, 1 - group["momentum"])
        update = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        moved = weight * (1 - group["lr"] * group["weight_decay"])
        moved.sub_(_orthogonalised_filters(update, weights), alpha=group["lr"])
        if left_out is not None:
            moved = torch.where(left_out, weight, moved)
        _part(average, momenta)
        _part(moved, weights)

    def _momentum(self, weight: Tensor) -> Tensor:
        """Return a weight's momentum, laid out in memory as the weight is."""
        momentum = self.state[weight].get("momentum")
        momentum = torch.zeros_like(weight) if momentum is None else _laid_as(weight, momentum)
        self.state[weight]["momentum"] = momentum
        return momentum


def _shape(weight: Tensor) -> tuple[int, int]:
    """Return filters, and weights of a filter."""
    return weight.shape[0], weight.numel() // weight.shape[0]


def _laid_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """Return a tensor of a weight's shape in the order in which the weight lies in memory."""
    same = tensor.stride() == weight.stride()
    return tensor if same else torch.empty_like(weight).copy_(tensor)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Join tensors to one vector, each as it lies in memory."""
    return torch.cat([_flat(tensor) for tensor in tensors])


def _part(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the parts of a vector into the tensors that `_joined` has joined in this order."""
    parts = vector.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_([_flat(tensor) for tensor in tensors], parts)


def _flat(tensor: Tensor) -> Tensor:
    """View a tensor as it lies in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _orthogonalised_filters(update: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Make each filter's part orthogonal, of the size that an update of AdamW has."""
    parts, start = [], 0
    for shape, same in groupby(weights, key=_shape):
        end = start + len(list(same)) * shape[0] * shape[1]
        matrices = update[start:end].view(-1, *shape)
        parts.append((orthogonalised(matrices) * (0.2 * max(shape) ** 0.5)).flatten())
        start = end
    return torch.cat(parts)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring all singular values of matrices near 1, by Newton and Schulz's iteration.

    Args:
        matrices: floating point [number, m, n].

    Returns:
        [number, m, n], of the same dtype; computed in bf16 on GPUs that are built for it (compute
        capability 8), where it is fast and exact enough, else in fp32.
    """
    in_bf16 = matrices.is_cuda and torch.cuda.get_device_capability(matrices.device)[0] >= 8
    x = matrices.to(torch.bfloat16 if in_bf16 else torch.float32)
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        # x becomes a·x + (b·gram + c·gram²)·x. A GPU waits for each operation's launch: few.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)
