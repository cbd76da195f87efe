"""The published MNIST notebook's way to train, for others to be measured beside.

The network of the recipe mnist-cnn, Adam, batches of 64; each image is converted and normalised on
its own (torchvision's ToTensor and Normalize behind a DataLoader).
"""

import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from imgclf.models import InputShape, NetworkSettings, create_network

EPOCHS = 10
TRAIN_IMAGES = 60_000


class _PillowImages(Dataset[Any]):
    """As torchvision's MNIST: an array behind, a Pillow image in front."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self._images, self._labels = images, labels
        self._transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Any:
        image = Image.fromarray(self._images[index, :, :, 0])
        return self._transform(image), int(self._labels[index])


def train_epoch(
    images: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device, workers: int = 0
) -> float:
    """Train an epoch on images of [n, 28, 28, 1] and return the seconds it took."""
    network = create_network("mnist-cnn", InputShape(1, 28, 28), NetworkSettings(10, 0.0, "none"))
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    loader = DataLoader(_PillowImages(images, labels), 64, shuffle=True, num_workers=workers)
    start = time.perf_counter()
    for pixels, targets in loader:
        loss = cross_entropy(network(pixels.to(device)), targets.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds_of_ten_epochs(device: torch.device) -> float:
    """Estimate the notebook's ten epochs over 60,000 images from one over 3,000.

    In a process of its own, as a notebook is: it has nothing of how imgclf prepares one.
    """
    command = [sys.executable, __file__, device.type]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _estimate(device: torch.device, sample: int = 3000) -> float:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (sample, 28, 28, 1), dtype=np.uint8)
    labels = generator.integers(0, 10, sample)
    # The first steps of a process load libraries, which would be extrapolated with the rest.
    train_epoch(images[:128], labels[:128], device)
    return train_epoch(images, labels, device) * EPOCHS * TRAIN_IMAGES / sample


if __name__ == "__main__":
    print(_estimate(torch.device(sys.argv[1])))
