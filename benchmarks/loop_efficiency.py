"""What an epoch costs beside its bare arithmetic, and beside a notebook's DataLoader.

Run:   python benchmarks/loop_efficiency.py [--recipe mnist-cnn] [--images 20000] [--repeats 5]
Cost:  about five minutes on two CPU cores.

All train on the same random images of 28x28 grey pixels. "bare" is forward, backward and step, as
the recipe computes them, on one augmented batch that stays where it is, with random labels;
imgclf's epoch does all else that the recipe asks for: gathering, augmentation, sums, averages. The
notebook's way stands beside the recipe mnist-cnn, whose network, Adam and batches of 64 are its
own: it converts and normalises one Pillow image after the other (torchvision's ToTensor and
Normalize behind a DataLoader), with the network in torch's default memory format and torch's
default Adam; "bare" and imgclf have both as imgclf trains: channels-last, and fused. The ways take
turns, so that a machine that slows down slows all.
"""

import dataclasses
from functools import partial

import click
import numpy as np
import torch
from notebook import train_epoch
from rounds import machine, print_ratios, take_turns
from torch import nn

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.models import create_classifier, designed_norm_layer
from imgclf.training.device import choose_compute
from imgclf.training.loop import TrainState, train_epochs
from imgclf.training.losses import create_loss


def _classifier(config: TrainConfig) -> nn.Module:
    return create_classifier(config, Preprocessing.identity(28, 28, 1), 10, [127.5], [127.5])


@click.command()
@click.option("--recipe", default="mnist-cnn", help="What is trained.")
@click.option("--images", "number", default=20_000, help="Images in an epoch.")
@click.option("--repeats", default=5, help="Epochs of each way.")
@click.option("--device", default="auto", help="Where to train.")
def main(recipe: str, number: int, repeats: int, device: str) -> None:
    """Time an epoch in every way and print a table."""
    config = TrainConfig.from_dict({"recipe": recipe, "device": device, "epochs": 1})
    config = dataclasses.replace(config, norm_layer=designed_norm_layer(config.model))
    compute = choose_compute(config)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (number, 28, 28, 1), dtype=np.uint8)
    labels = generator.integers(0, 10, number)
    loader = TrainLoader(
        images, np.arange(number), labels, 10, Augmentation.from_config(config, 28, 28), config,
        compute.device,
    )  # fmt: skip
    steps = loader.steps_per_epoch
    loss_of = create_loss(config, loader.class_counts)

    def ours() -> None:
        state = TrainState.start(_classifier(config), config, compute)
        list(train_epochs(state, loader, config, compute))

    def bare() -> None:
        state = TrainState.start(_classifier(config), config, compute)
        batch = next(loader.epoch(1))[0]
        # A network that has learnt one batch by heart computes with denormal numbers, slowly.
        targets = torch.randint(10, (steps, len(batch)), device=compute.device)
        for step in range(steps):
            with compute.autocast():
                logits = state.model(batch.images)
            loss = loss_of(logits, targets[step])
            state.optimizer.zero_grad()
            loss.backward()
            state.optimizer.step()

    bare_name = "bare arithmetic, one resident batch"
    ways = {bare_name: bare, "imgclf": ours}
    if recipe == "mnist-cnn":
        notebook = partial(train_epoch, images, labels, compute.device)
        ways |= {
            "notebook, DataLoader": notebook,
            "notebook, DataLoader with 2 workers": partial(notebook, workers=2),
        }
    print_ratios(take_turns(ways, repeats), bare_name, number)
    print(
        f"\n{recipe}: {compute.device_name}, {compute.precision_name}, {compute.threads} threads;"
        f" {machine()}; {repeats} rounds"
    )


if __name__ == "__main__":
    main()
