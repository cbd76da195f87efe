"""What a training step takes in bf16 beside fp32, for the networks of the recipes.

Run:   python benchmarks/precisions.py [--device auto] [--rounds 5]
Cost:  about two minutes on two CPU cores.

A step is forward, backward and the recipe's optimiser on one batch that stays where it is, in the
layout in which imgclf trains. It shows whether `--precision auto` chooses well on this machine:
bf16 on AMD's CPUs with AVX512-BF16, bf16 or fp16 on a GPU that is built for them, else fp32. Both
precisions take turns, half a second each. What it does to the accuracy, `recipes.py --precision`
tells.
"""

import dataclasses
import time
from collections.abc import Mapping

import click
import numpy as np
import torch
from rounds import machine, orders, ratios, spread
from torch.nn.functional import cross_entropy

from imgclf.config import TrainConfig
from imgclf.models import InputShape, NetworkSettings, create_network, designed_norm_layer
from imgclf.training.device import Compute, choose_compute
from imgclf.training.optimization import create_optimizer

# What is trained, beside the images' channels and size.
_CASES: tuple[tuple[Mapping[str, object], int, int], ...] = (
    ({"model": "digits-cnn"}, 1, 8),
    ({"recipe": "mnist-cnn"}, 1, 28),
    ({"recipe": "mnist-fast"}, 1, 28),
    ({"recipe": "mnist-best"}, 1, 28),
    ({"recipe": "fashion-cnn"}, 1, 28),
    ({"recipe": "fashion-fast"}, 1, 28),
    ({"recipe": "cifar10-cnn"}, 3, 32),
    ({"recipe": "cifar10-cpu"}, 3, 32),
    ({"model": "resnet20"}, 3, 32),
    ({"model": "small-cnn"}, 3, 128),
)
_SECONDS = 0.5


class _Training:
    """One network that trains on one batch of noise."""

    def __init__(self, config: TrainConfig, shape: InputShape, compute: Compute) -> None:
        self._compute, device = compute, compute.device
        settings = NetworkSettings(10, config.dropout, designed_norm_layer(config.model))
        network = create_network(config.model, shape, settings).to(device)
        self._network = network.to(memory_format=torch.channels_last)
        self._optimizer = create_optimizer(network, config)
        size = (config.batch_size, shape.channels, shape.height, shape.width)
        images = torch.randn(size, device=device)
        self._images = images.to(memory_format=torch.channels_last)
        self._labels = torch.randint(10, (config.batch_size,), device=device)

    def images_per_second(self, dtype: torch.dtype) -> float:
        """Train for a while, after a step that warms up."""
        self._step(dtype)
        self._wait()
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < _SECONDS:
            self._step(dtype)
            steps += 1
        self._wait()
        return steps * len(self._images) / (time.perf_counter() - start)

    def _step(self, dtype: torch.dtype) -> None:
        with dataclasses.replace(self._compute, precision=dtype).autocast():
            logits = self._network(self._images)
        loss = cross_entropy(logits.float(), self._labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def _wait(self) -> None:
        if self._images.is_cuda:
            torch.cuda.synchronize()


@click.command()
@click.option("--device", default="auto", help="Where to train.")
@click.option("--rounds", default=5, help="Measurements of each precision.")
def main(device: str, rounds: int) -> None:
    """Time the steps and print a table."""
    compute = choose_compute(TrainConfig(device=device))
    print("| trained | images | batch | fp32, images/s | bf16, images/s | bf16 over fp32, speed |")
    print("|---|---|---|---|---|---|")
    for values, channels, size in _CASES:
        config = TrainConfig.from_dict(values)
        training = _Training(config, InputShape(channels, size, size), compute)
        speeds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
        for order in orders(list(speeds), rounds):
            for dtype in order:
                speeds[dtype].append(training.images_per_second(dtype))
        cells = [f"{np.median(measured):,.0f}" for measured in speeds.values()]
        beside = spread(ratios(speeds[torch.bfloat16], speeds[torch.float32]))
        print(
            f"| `{config.recipe or config.model}` | {size}x{size}x{channels} | {config.batch_size}"
            f" | {' | '.join(cells)} | {beside} |",
            flush=True,
        )
    print(
        f"\n{compute.device_name}, {compute.threads} threads; {machine()}; {rounds} rounds: median"
        f" (lowest to highest). --precision auto takes {compute.precision_name} here."
    )


if __name__ == "__main__":
    main()
