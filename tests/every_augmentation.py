"""Every augmentation at once, and the random numbers that it draws, by their names."""

import dataclasses

import torch

from imgclf.data.augment import Augmentation, Draws

EVERYTHING = Augmentation(
    12,
    14,
    random_crop=False,
    crop_padding=0,
    horizontal_flip=True,
    random_resized_crop=0.3,
    color_jitter=0.4,
    hue=0.2,
    rotation=25.0,
    cutout=5,
    mixup=0.7,
    cutmix=1.3,
)
TABLES = [field.name for field in dataclasses.fields(Draws)]


def tables_of(draws: Draws) -> dict[str, torch.Tensor]:
    tables = {name: getattr(draws, name) for name in TABLES}
    return {name: table for name, table in tables.items() if table is not None}
