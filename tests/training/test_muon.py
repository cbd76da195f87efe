import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from imgclf.config import TrainConfig
from imgclf.training.muon import orthogonalised
from imgclf.training.optimization import create_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(6 * 4 * 4, 5)).to(memory_format=torch.channels_last)


def network_of_equal_filters() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)]
    layers = *convolutions, nn.Flatten(), nn.Linear(6 * 2 * 2, 5)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def optimizer_of(model: nn.Module, **options: object) -> Optimizer:
    values = {"optimizer": "muon", "learning_rate": 0.02, "weight_decay": 0.1, **options}
    return create_optimizer(model, TrainConfig.from_dict(values))


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(16, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(16) % 5).backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(8, 27), (64, 64), (96, 12)])
def test_an_update_keeps_its_directions_and_loses_its_sizes(shape: tuple[int, int]) -> None:
    """Singular vectors stay those that NumPy finds; singular values come near 1."""
    matrix = np.random.default_rng(0).normal(size=shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    ours = orthogonalised(torch.from_numpy(matrix)[None])[0].numpy()
    rotated = left.T @ ours @ right.T
    sizes = np.diag(rotated)
    # The smallest values of a matrix have not arrived after five iterations.
    large = values > 0.1 * values.max()
    assert sizes[large].min() > 0.6
    assert sizes.max() < 1.3
    assert np.abs(rotated - np.diag(sizes)).max() < 1e-4


@pytest.mark.parametrize("nesterov", [True, False])
def test_filters_move_as_with_pytorchs_muon(nesterov: bool) -> None:
    """PyTorch's takes matrices only, and computes in bfloat16."""
    model = network()
    filters = list(model.parameters())[4]
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    ours = optimizer_of(model, momentum=0.8, nesterov=nesterov)
    theirs = torch.optim.Muon(
        [matrix],
        lr=0.02,
        weight_decay=0.1,
        momentum=0.8,
        nesterov=nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    for step in range(5):
        before = filters.detach().flatten(1).clone()
        train(model, ours, range(step, step + 1))
        previous = matrix.detach().clone()
        assert filters.grad is not None
        matrix.grad = filters.grad.flatten(1).clone()
        theirs.step()
        moved = (filters.detach().flatten(1) - before).flatten()
        expected = (matrix.detach() - previous).flatten()
        assert torch.cosine_similarity(moved, expected, dim=0) > 0.999
        assert moved.norm() == pytest.approx(expected.norm().item(), rel=0.02)


def test_filters_of_one_shape_move_as_each_alone() -> None:
    """And one that is not in use, which has no gradient, stays as it is."""
    together = network_of_equal_filters()
    unused = nn.Parameter(torch.ones(6, 6, 3, 3))
    together.register_parameter("unused", unused)
    all_of_them = optimizer_of(together)
    train(together, all_of_them, range(3))
    alone = network_of_equal_filters()
    optimizers = [optimizer_of(alone[place]) for place in (0, 1, 2, 4)]
    for step in range(3):
        images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        alone.zero_grad()
        nn.functional.cross_entropy(alone(images), torch.arange(16) % 5).backward()
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(together.parameters(), [unused, *alone.parameters()], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(unused, torch.ones(6, 6, 3, 3))


def test_all_but_filters_move_as_with_adamw() -> None:
    model, reference = network(), network()
    ours = optimizer_of(model, adam_beta1=0.8, adam_beta2=0.95)
    dense = [weight for weight in reference.parameters() if weight.ndim == 2]
    rest = [weight for weight in reference.parameters() if weight.ndim == 1]
    groups = [{"params": dense, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    theirs = AdamW(groups, lr=0.02, betas=(0.8, 0.95), fused=True)
    for step in range(5):
        train(model, ours, range(step, step + 1))
        for weight, other in zip(model.parameters(), reference.parameters(), strict=True):
            other.grad = weight.grad
        theirs.step()
    for weight, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(weight, other) == (weight.ndim < 4)


def test_the_learning_rate_of_the_step_is_used_by_both() -> None:
    model = network()
    optimizer = optimizer_of(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [weight.detach().clone() for weight in model.parameters()]
    train(model, optimizer, range(2))
    assert all(map(torch.equal, before, model.parameters()))


def test_a_loaded_state_goes_on_as_if_it_had_not_stopped() -> None:
    model = network()
    optimizer = optimizer_of(model)
    train(model, optimizer, range(3))
    again = network()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = optimizer_of(again, learning_rate=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, range(3, 6))
    train(again, resumed, range(3, 6))
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_a_step_that_is_left_out_is_as_if_it_had_not_been() -> None:
    """With gradients that are not numbers, at the beginning and later."""
    model, reference = network(), network()
    ours, theirs = optimizer_of(model), optimizer_of(reference)

    def step_without_numbers() -> None:
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, torch.nan)
        vars(ours)["found_inf"] = torch.ones(())
        ours.step()
        vars(ours)["found_inf"] = torch.zeros(())

    step_without_numbers()
    train(model, ours, range(3))
    step_without_numbers()
    train(model, ours, range(3, 6))
    train(reference, theirs, range(6))
    assert all(map(torch.equal, model.parameters(), reference.parameters()))


def test_scaled_gradients_move_weights_as_plain_ones_do() -> None:
    """Scales are powers of two: no digit is lost. One step overflows, and is left out."""
    model, reference = network(), network()
    ours, theirs = optimizer_of(model), optimizer_of(reference)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    train(reference, theirs, range(3))
    for step in (0, 1, 1, 2):
        images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        ours.zero_grad()
        loss = nn.functional.cross_entropy(model(images), torch.arange(16) % 5)
        scaler.scale(loss).backward()
        if scaler.get_scale() == 2.0**10 and step == 1:
            next(model.parameters()).grad[0] = torch.inf  # pyrefly: ignore
        scaler.step(ours)
        scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(map(torch.equal, model.parameters(), reference.parameters()))
