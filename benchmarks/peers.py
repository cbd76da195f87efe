"""An epoch beside what a person could use instead: Lightning's trainer, timm's loader.

Run:   pip install lightning timm
       python benchmarks/peers.py mnist DATA_DIR [--images 20000] [--workers N] [--repeats 5]
       python benchmarks/peers.py photos FOLDER [--images 10000] [--model resnet20] [--workers N]
Cost:  about five minutes each on two CPU cores.

The same network, optimiser (Adam), batches of 64 and augmentation in every way, on the same device
in fp32. Every other setting is what a person gets: the network's memory format is torch's default
in the peers, channels-last in imgclf; Lightning runs without its logger, checkpoints and bar, and
imgclf without its tracker, so that training alone is compared. Each way keeps its loader from epoch
to epoch, with its worker processes where it can keep them: as many as there are cores, or
--workers. Lightning also runs without any. The ways take turns.

"mnist": DATA_DIR holds MNIST as torchvision lays it out; images as they are, the network of the
recipe mnist-cnn. "photos": FOLDER holds train/<class>/*.jpg of 32x32 pixels, such as a copy of
CIFAR-10; parts of at least 0.35 of the area and flips. imgclf has decoded the files before, as in
every run but the first; benchmarks/folder_data.py tells what the first costs.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rounds import machine, print_ratios, take_turns
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST, ImageFolder
from torchvision.transforms import (
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)

from imgclf.card import Preprocessing
from imgclf.config import TrainConfig
from imgclf.cores import available_cores
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader
from imgclf.data.sources import load_dataset
from imgclf.models import InputShape, NetworkSettings, create_classifier, create_network
from imgclf.training.device import Compute, choose_compute
from imgclf.training.loop import TrainState, train_epochs

_LEARNING_RATE = 0.001
_SMALLEST_AREA = 0.35
Way = Callable[[], object]

_workers = click.option(
    "--workers",
    type=int,
    default=available_cores,
    show_default="one for each core",
    help="Worker processes of the peers' loaders.",
)


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"'{error.name}' is not installed: pip install lightning timm"
        ) from error


def _imgclf(config: TrainConfig, compute: Compute, num_images: int) -> Way:
    dataset = load_dataset(config)
    size = dataset.preprocessing
    positions = np.random.default_rng(0).permutation(len(dataset))[:num_images]
    augmentation = Augmentation.from_config(config, size.height, size.width)
    classes = len(dataset.classes)
    loader = TrainLoader(dataset.images, positions, dataset.labels, classes, augmentation, config,
                         compute.device)  # fmt: skip
    half = [127.5] * size.channels

    def run() -> None:
        identity = Preprocessing.identity(size.height, size.width, size.channels)
        model = create_classifier(config, identity, classes, half, half)
        state = TrainState.start(model, config, compute)
        list(train_epochs(state, loader, config, compute))

    return run


def _lightning(network: Callable[[], nn.Module], batches: Iterable[Any], compute: Compute) -> Way:
    lightning = _imported("lightning")

    class Classifier(lightning.LightningModule):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            images, labels = batch
            return cross_entropy(self.network(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=_LEARNING_RATE)

    accelerator = "gpu" if compute.device.type == "cuda" else compute.device.type

    def run() -> None:
        trainer = lightning.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Classifier(network()), batches)

    return run


def _plain_loop(network: Callable[[], nn.Module], batches: Iterable[Any], compute: Compute) -> Way:
    def run() -> None:
        model = network().to(compute.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
        for images, labels in batches:
            loss = cross_entropy(model(images.to(compute.device)), labels.to(compute.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def _data_loader(dataset: Any, workers: int) -> DataLoader[Any]:
    persistent = workers > 0
    return DataLoader(dataset, 64, True, num_workers=workers, persistent_workers=persistent)


def _compare(
    config: TrainConfig,
    data: str,
    images: Any,
    workers: int,
    repeats: int,
    more: Callable[[Callable[[], nn.Module], Compute], dict[str, Way]] = lambda *_: {},
) -> None:
    """Time imgclf, Lightning without and with worker processes, and ``more``; print a table."""
    compute = choose_compute(config)
    channels, size = images[0][0].shape[:2]

    def network() -> nn.Module:
        settings = NetworkSettings(10, config.dropout, config.norm_layer)
        return create_network(config.model, InputShape(channels, size, size), settings)

    ways = {"imgclf": _imgclf(config, compute, len(images))}
    for number in (0, workers):
        batches = _data_loader(images, number)
        name = f"Lightning, torchvision's {data}, {number} workers"
        ways[name] = _lightning(network, batches, compute)
    ways |= more(network, compute)
    print_ratios(take_turns(ways, repeats), "imgclf", len(images))
    print(
        f"\n{compute.device_name}, {compute.threads} threads; {machine()}, lightning"
        f" {version('lightning')}; {repeats} rounds of {len(images):,} images"
    )


@click.group()
def main() -> None:
    """Time an epoch in every way and print a table."""


@main.command()
@click.argument("data_dir", type=click.Path(exists=True, path_type=Path))
@click.option("--images", "num_images", default=20_000, help="Images in an epoch.")
@click.option("--threads", default=0, help="CPU threads of the arithmetic; 0: one for each core.")
@_workers
@click.option("--repeats", default=5, help="Epochs of each way.")
def mnist(data_dir: Path, num_images: int, threads: int, workers: int, repeats: int) -> None:
    """Images in memory: MNIST."""
    config = TrainConfig.from_dict(
        {"recipe": "mnist-cnn", "norm_layer": "none", "precision": "fp32", "epochs": 1}
        | {"data_dir": str(data_dir), "threads": threads}
    )
    transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])
    images = Subset(MNIST(data_dir, transform=transform), range(num_images))
    _compare(config, "MNIST", images, workers, repeats)


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--images", "num_images", default=10_000, help="Images in an epoch.")
@click.option("--model", default="small-cnn", help="A network of imgclf's.")
@click.option("--threads", default=0, help="CPU threads of the arithmetic; 0: one for each core.")
@_workers
@click.option("--repeats", default=5, help="Epochs of each way.")
def photos(
    folder: Path, num_images: int, model: str, threads: int, workers: int, repeats: int
) -> None:
    """Image files: a folder of small photographs."""
    config = TrainConfig(
        dataset=str(folder / "train"), model=model, norm_layer="batch", optimizer="adam",
        learning_rate=_LEARNING_RATE, weight_decay=0.0, schedule="constant", warmup_ratio=0.0,
        random_resized_crop=_SMALLEST_AREA, horizontal_flip=True, precision="fp32", epochs=1,
        threads=threads,
    )  # fmt: skip
    crop = RandomResizedCrop(32, scale=(_SMALLEST_AREA, 1.0))
    half = (0.5, 0.5, 0.5)
    transform = Compose([crop, RandomHorizontalFlip(), ToTensor(), Normalize(half, half)])
    chosen = np.random.default_rng(0).permutation(len(ImageFolder(folder / "train")))[:num_images]
    images = Subset(ImageFolder(folder / "train", transform), chosen.tolist())
    timm_images = ImageFolder(folder / "train")
    timm_images.samples = [timm_images.samples[position] for position in chosen]

    def with_timm(network: Callable[[], nn.Module], compute: Compute) -> dict[str, Way]:
        loader = _imported("timm.data").create_loader(
            timm_images, (3, 32, 32), 64, is_training=True, scale=(_SMALLEST_AREA, 1.0),
            color_jitter=0.0, mean=half, std=half, num_workers=workers, device=compute.device,
            use_prefetcher=compute.device.type == "cuda",
        )  # fmt: skip
        name = f"plain loop, timm's create_loader, {workers} workers"
        return {name: _plain_loop(network, loader, compute)}

    _compare(config, "ImageFolder", images, workers, repeats, with_timm)


if __name__ == "__main__":
    main()
