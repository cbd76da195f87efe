"""Images a second of each augmentation, on the CPU, in batches as the training loader makes them.

Run:   python benchmarks/augmentation_speed.py [--size 32] [--batch 256] [--threads 2]
Cost:  half a minute.

The time holds the gathering of the batch and, where images are mixed, its targets; the median of 50
batches of noise in colour. "none" only gathers.
"""

import time
from typing import Any

import click
import numpy as np

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "crop, padding of 4, and flip": {"crop_padding": 4, "horizontal_flip": True},
    "random resized crop": {"random_resized_crop": 0.35},
    "rotation": {"rotation": 15.0},
    "colour jitter": {"color_jitter": 0.4},
    "hue": {"hue": 0.1},
    "cutout": {"cutout": 16},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}
TOGETHER = {
    name: value
    for options in OPTIONS.values()
    for name, value in options.items()
    if name != "crop_padding"
}


@click.command()
@click.option("--size", default=32, help="Sides of the images and of the input, in pixels.")
@click.option("--batch", default=256, help="Images in a batch.")
@click.option("--threads", default=2, help="CPU threads.")
def main(size: int, batch: int, threads: int) -> None:
    """Time every augmentation alone, then all together, and print a table."""
    import torch
    from rounds import machine

    from imgclf import TrainConfig
    from imgclf.data.augment import Augmentation

    torch.set_num_threads(threads)
    number = 4 * batch
    noise = np.random.default_rng(0).integers(0, 256, (number, size, size, 3), dtype=np.uint8)
    labels = torch.arange(batch) % 10
    print("| augmentation | images a second | ms a batch |\n|---|---|---|")
    for name, options in {**OPTIONS, "all but the first crop": TOGETHER}.items():
        augmentation = Augmentation.from_config(TrainConfig(**options), size, size)
        padded = augmentation.pad(torch.from_numpy(noise))
        draws = augmentation.draw(padded, 0, 1)
        chosen = torch.from_numpy(np.random.default_rng(1).permutation(number)[:batch])
        seconds = []
        for _ in range(50):
            start = time.perf_counter()
            images = augmentation.apply(padded, chosen, draws.rows(chosen))
            augmentation.mix(images, labels, draws.rows(chosen), 10)
            seconds.append(time.perf_counter() - start)
        median = float(np.median(seconds))
        print(f"| {name} | {batch / median:,.0f} | {1000 * median:.1f} |", flush=True)
    print(f"\n{size}x{size}x3, batches of {batch}, {threads} threads; {machine()}")


if __name__ == "__main__":
    main()
