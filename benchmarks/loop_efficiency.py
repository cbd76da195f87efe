"""What an epoch costs beside its bare arithmetic, and beside a notebook's DataLoader.

Run:   python benchmarks/loop_efficiency.py [--images 20000] [--repeats 5]
Cost:  about five minutes on two CPU cores.

All train the network of the recipe mnist-cnn with Adam and batches of 64 on the same random images
of 28x28 grey pixels. "bare" is forward, backward and step on one batch that stays where it is; the
notebook's way converts and normalises one Pillow image after the other (torchvision's ToTensor and
Normalize behind a DataLoader), with the network in torch's default memory format and torch's
default Adam; "bare" and imgclf have both as imgclf trains: channels-last, and fused. The ways take
turns, so that a machine that slows down slows all.
"""

from functools import partial

import click
import numpy as np
from notebook import train_epoch
from rounds import machine, print_ratios, take_turns
from torch import nn
from torch.nn.functional import cross_entropy

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.models import create_classifier
from imgclf.training.device import choose_compute
from imgclf.training.loop import TrainState, train_epochs


def _classifier(config: TrainConfig) -> nn.Module:
    return create_classifier(config, Preprocessing.identity(28, 28, 1), 10, [127.5], [127.5])


@click.command()
@click.option("--images", "number", default=20_000, help="Images in an epoch.")
@click.option("--repeats", default=5, help="Epochs of each way.")
@click.option("--device", default="auto", help="Where to train.")
def main(number: int, repeats: int, device: str) -> None:
    """Time an epoch in every way and print a table."""
    values = {"recipe": "mnist-cnn", "device": device, "precision": "fp32", "epochs": 1}
    config = TrainConfig.from_dict({**values, "norm_layer": "none"})
    compute = choose_compute(config)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, 28, 28, 1), dtype=np.uint8)
    labels = generator.integers(0, 10, number)
    loader = TrainLoader(
        images, np.arange(number), labels, 10, Augmentation.from_config(config, 28, 28), config,
        compute.device,
    )  # fmt: skip
    steps = loader.steps_per_epoch

    def ours() -> None:
        state = TrainState.start(_classifier(config), config, compute)
        list(train_epochs(state, loader, config, compute))

    def bare() -> None:
        state = TrainState.start(_classifier(config), config, compute)
        batch = next(loader.epoch(1))[0]
        for _ in range(steps):
            loss = cross_entropy(state.model(batch.images), batch.labels)
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()

    bare_name = "bare arithmetic, one resident batch"
    ways = {
        bare_name: bare,
        "imgclf": ours,
        "notebook, DataLoader": partial(train_epoch, images, labels, compute.device),
        "notebook, DataLoader with 2 workers": partial(
            train_epoch, images, labels, compute.device, 2
        ),
    }
    print_ratios(take_turns(ways, repeats), bare_name, number)
    print(f"\n{compute.device_name}, {compute.threads} threads; {machine()}; {repeats} rounds")


if __name__ == "__main__":
    main()
