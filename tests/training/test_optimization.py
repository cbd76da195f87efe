import math

import pytest
import torch
from torch import nn

from imgclf.config import TrainConfig
from imgclf.training.optimization import create_optimizer, update_average


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_decay_is_for_filters_and_matrices_only(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    optimizer = create_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.25))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    by_name = {key: decay[id(parameter)] for key, parameter in model.named_parameters()}
    assert by_name == {
        "0.weight": 0.25,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "3.weight": 0.25,
        "3.bias": 0.0,
    }


@pytest.mark.parametrize(
    ("name", "reference", "options"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_steps_are_those_of_torchs_own_optimizers(name, reference, options) -> None:
    ours, theirs = (nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    config = TrainConfig(optimizer=name, learning_rate=0.1, weight_decay=0.3)
    groups = [
        {"params": [theirs.weight], "weight_decay": 0.3},
        {"params": [theirs.bias], "weight_decay": 0.0},
    ]
    pairs = (create_optimizer(ours, config), ours), (reference(groups, lr=0.1, **options), theirs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        images = torch.randn(4, 5, generator=generator)
        for optimizer, model in pairs:
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)
    states = [optimizer.state_dict()["state"] for optimizer, _ in pairs]
    torch.testing.assert_close(states[0], states[1])


def test_an_optimizer_goes_on_where_another_one_was_saved() -> None:
    model = nn.Linear(3, 2)
    first = create_optimizer(model, TrainConfig())
    model(torch.ones(4, 3)).square().sum().backward()
    first.step()
    second = create_optimizer(model, TrainConfig())
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.state_dict(), first.state_dict())


def test_frozen_weights_are_not_optimised() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = create_optimizer(model, TrainConfig())
    chosen = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert chosen == {id(weight) for weight in model[1].parameters()}


def test_average_follows_its_formula_with_statistics_and_counters() -> None:
    torch.manual_seed(0)
    averaged, model = (nn.BatchNorm2d(3).double() for _ in range(2))
    values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for update in range(200):
        with torch.no_grad():
            for name in values:
                model.state_dict()[name].fill_(math.sin(update + len(name)))
            model.state_dict()["num_batches_tracked"].fill_(update + 1)
        update_average(averaged, model, update, decay=0.9)
        decay = min(0.9, (1 + update) / (10 + update))
        for name in values:
            values[name] = decay * values[name] + (1 - decay) * math.sin(update + len(name))
    for name, value in values.items():
        assert averaged.state_dict()[name].tolist() == pytest.approx([value] * 3, rel=1e-12)
    assert averaged.num_batches_tracked.item() == 200  # pyrefly: ignore


def test_average_leaves_the_model_alone() -> None:
    averaged, model = nn.Linear(3, 2), nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    update_average(averaged, model, 0, 0.999)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(weight.requires_grad for weight in averaged.parameters())


def test_decay_of_zero_is_the_model_itself() -> None:
    averaged, model = nn.Linear(3, 2), nn.Linear(3, 2)
    update_average(averaged, model, 50, 0.0)
    assert torch.equal(averaged.weight, model.weight)
