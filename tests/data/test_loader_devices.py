"""Batches do not depend on where the images live, and come to a GPU without being waited for."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgclf.config import TrainConfig
from imgclf.data import loader as loader_module
from imgclf.data.augment import Augmentation
from imgclf.data.loader import TrainLoader

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

EVERY_AUGMENTATION = {
    "crop_padding": 2, "horizontal_flip": True, "rotation": 20.0, "color_jitter": 0.3, "hue": 0.1,
    "cutout": 3, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("options", [{}, EVERY_AUGMENTATION, {"random_resized_crop": 0.4}])
@pytest.mark.parametrize(
    "more", [{}, {"balanced_sampling": True}, {"gradient_accumulation_steps": 3}]
)
def test_batches_are_the_same_wherever_the_images_live(
    options: dict[str, Any],
    more: dict[str, Any],
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the device, in memory or in a file that is mapped: order, draws and pixels agree."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (90, 12, 14, 3), dtype=np.uint8)
    labels = generator.integers(0, 4, 90)
    positions = generator.permutation(90)[:70]
    # Two or three batches of images on the device are augmented at once: one has 8,064 bytes or,
    # with its border, 13,824. On a GPU not with their border: its means of colours may round by the
    # number of images.
    monkeypatch.setattr(loader_module, "_BYTES_AT_ONCE", {"cpu": 30_000, "cuda": 20_000})
    images.tofile(tmp_path / "pixels.raw")
    mapped = np.memmap(tmp_path / "pixels.raw", np.uint8, "r", shape=images.shape)
    config = TrainConfig.from_dict({"batch_size": 16, "seed": 3, **options, **more})
    augmentation = Augmentation.from_config(config, 10, 10)
    where = torch.device(device)
    loaders = [
        TrainLoader(lying, positions, labels, 4, augmentation, config, where, resident=resident)
        for lying, resident in ((images, True), (images, False), (mapped, False))
    ]
    for epoch in (1, 2):
        expected, *others = (list(chain.from_iterable(loader.epoch(epoch))) for loader in loaders)
        for batches in others:
            assert len(batches) == len(expected)
            for batch, wanted in zip(batches, expected, strict=True):
                torch.testing.assert_close(batch.images, wanted.images, rtol=0, atol=0)
                assert torch.equal(batch.labels, wanted.labels)
                assert torch.equal(batch.targets, wanted.targets)
    assert [loader.resident for loader in loaders] == [True, False, False]


@needs_cuda
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("options", [{}, EVERY_AUGMENTATION, {"random_resized_crop": 0.4}])
def test_batches_come_to_a_gpu_without_waiting_for_it(
    options: dict[str, Any], resident: bool
) -> None:
    """From the second step of an epoch on; its tables are brought there before the first."""
    images = np.random.default_rng(0).integers(0, 256, (4000, 8, 8, 3), dtype=np.uint8)
    labels, positions = np.arange(4000, dtype=np.int64) % 5, np.arange(4000)
    config = TrainConfig.from_dict({"batch_size": 50, **options})
    augmentation = Augmentation.from_config(config, 8, 8)
    loader = TrainLoader(
        images, positions, labels, 5, augmentation, config, torch.device("cuda"), resident
    )
    steps = loader.epoch(1)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(steps)) == 79
    finally:
        torch.cuda.set_sync_debug_mode("default")
