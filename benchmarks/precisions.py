"""What a training step takes in bf16 beside fp32, for each network.

Run:   python benchmarks/precisions.py [--device auto] [--rounds 5]
Cost:  about two minutes on two CPU cores.

A step is forward, backward and AdamW on one batch that stays where it is, in the layout in which
imgclf trains. It shows whether `--precision auto` chooses well on this machine: bf16 where the CPU
has instructions for it (AVX512-BF16, AMX), bf16 or fp16 on a GPU that has them, else fp32. Both
precisions take turns, half a second each.
"""

import time

import click
import numpy as np
import torch
from rounds import machine, orders, ratios, spread
from torch.nn.functional import cross_entropy

from imgclf.config import TrainConfig
from imgclf.models import InputShape, NetworkSettings, create_network
from imgclf.training.device import choose_compute
from imgclf.training.optimization import create_optimizer

# Network, channels, size, batch: as the recipes have them.
_CASES = (
    ("digits-cnn", 1, 8, 64),
    ("fast-cnn", 1, 28, 128),
    ("mnist-cnn", 1, 28, 64),
    ("fashion-cnn", 1, 28, 36),
    ("cifar10-cnn", 3, 32, 64),
    ("resnet20", 3, 32, 128),
    ("small-cnn", 3, 128, 64),
    ("speed-cnn-16", 1, 28, 256),
    ("speed-cnn-32", 1, 28, 256),
    ("speed-cnn-32", 3, 32, 256),
    ("speed-cnn-64", 3, 32, 256),
)
_SECONDS = 0.5


class _Training:
    """One network that trains on one batch of noise."""

    def __init__(self, name: str, channels: int, size: int, batch: int, device: torch.device):
        settings = NetworkSettings(10, 0.0, "batch")
        network = create_network(name, InputShape(channels, size, size), settings).to(device)
        self._network = network.to(memory_format=torch.channels_last)
        self._optimizer = create_optimizer(network, TrainConfig(optimizer="adamw"))
        images = torch.randn(batch, channels, size, size, device=device)
        self._images = images.to(memory_format=torch.channels_last)
        self._labels = torch.randint(10, (batch,), device=device)

    def images_per_second(self, dtype: torch.dtype) -> float:
        """Train for a while, after a step that warms up."""
        self._step(dtype)
        steps, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < _SECONDS:
            self._step(dtype)
            steps += 1
        return steps * len(self._images) / seconds

    def _step(self, dtype: torch.dtype) -> None:
        device = self._images.device.type
        with torch.autocast(device, dtype=dtype, enabled=dtype is not torch.float32):
            logits = self._network(self._images)
        loss = cross_entropy(logits.float(), self._labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()


@click.command()
@click.option("--device", default="auto", help="Where to train.")
@click.option("--rounds", default=5, help="Measurements of each precision.")
def main(device: str, rounds: int) -> None:
    """Time the steps and print a table."""
    compute = choose_compute(TrainConfig(device=device))
    print("| network | images | batch | fp32, images/s | bf16, images/s | bf16 over fp32 |")
    print("|---|---|---|---|---|---|")
    for name, channels, size, batch in _CASES:
        training = _Training(name, channels, size, batch, compute.device)
        speeds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
        for order in orders(list(speeds), rounds):
            for dtype in order:
                speeds[dtype].append(training.images_per_second(dtype))
        cells = [f"{np.median(values):,.0f}" for values in speeds.values()]
        times = spread(ratios(speeds[torch.bfloat16], speeds[torch.float32]))
        print(
            f"| `{name}` | {size}x{size}x{channels} | {batch} | {' | '.join(cells)} |"
            f" {times} times as fast |",
            flush=True,
        )
    print(
        f"\n{compute.device_name}, {compute.threads} threads; {machine()}; {rounds} rounds: median"
        f" (lowest to highest). --precision auto takes {compute.precision_name} here."
    )


if __name__ == "__main__":
    main()
