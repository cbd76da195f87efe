"""Augmentation of whole batches: each image with its own row of the epoch's table of draws."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgclf.config import TrainConfig
from imgclf.data.colour import jitter_colours
from imgclf.data.geometry import crop, draw_inception_windows, resized_crop, rotate
from imgclf.data.mixing import (
    cutmix,
    cutout,
    draw_cutmix_boxes,
    draw_cutout_boxes,
    kept_area,
    mixed_targets,
    mixup,
)
from imgclf.errors import UsageError

# The streams of random numbers of an epoch, so that no option changes another one's draws.
# 0 is the order's, 3 dropout's.
_CROPS, _FLIPS = 1, 2
_WINDOWS, _ROTATION, _COLOUR, _HUE, _CUTOUT, _MIXUP, _CUTMIX, _MIXUP_OR_CUTMIX = range(11, 19)

_Stream = Callable[[int], np.random.Generator]
_Tables = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Draws:
    """What is done to each image in one epoch; None where nothing is.

    Attributes:
        top, left: int64 [n], the corner of the window that is cut out, in pixels; None: the centre.
        flip: bool [n], whether the window is mirrored left to right.
        window: int64 [n, 2], height and width of the windows that are resized to the input.
        degrees: float32 [n], the angle of rotation, anticlockwise.
        colour: float32 [n, 3], factors of brightness, contrast and saturation.
        hue: float32 [n], the shift of hue, in turns of the colour circle.
        cutout: int64 [n, 4], the box that is blackened: top, left, bottom, right.
        mixup: float32 [n], the image's own share where it is blended with another.
        cutmix: int64 [n, 4], the box that another image is pasted into.
    """

    top: Tensor | None = None
    left: Tensor | None = None
    flip: Tensor | None = None
    window: Tensor | None = None
    degrees: Tensor | None = None
    colour: Tensor | None = None
    hue: Tensor | None = None
    cutout: Tensor | None = None
    mixup: Tensor | None = None
    cutmix: Tensor | None = None

    def rows(self, rows: Tensor) -> "Draws":
        """Return some rows of the table; ``rows`` is int64 [n]."""
        return replace(self, **{name: table[rows] for name, table in self._tables()})

    def part(self, start: int, end: int) -> "Draws":
        """Return the rows from one to another, without copying any."""
        return replace(self, **{name: table[start:end] for name, table in self._tables()})

    def _tables(self) -> list[tuple[str, Tensor]]:
        tables = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, table) for name, table in tables if table is not None]


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of a run, in the order in which they are done.

    Attributes:
        height, width: the network's input, in pixels.
        random_crop: cut random windows instead of the centre.
        crop_padding: pixels of black added on each side beforehand.
        horizontal_flip: mirror every row of the table in every other epoch, half of them in each.
            A row is an image, but for balanced sampling, where it is a place in the epoch's order:
            there, images are mirrored at random.
        random_resized_crop: smallest share of the stored image's area that is resized to the
            input, instead of a window of the input's size; 0: off.
        color_jitter: brightness, contrast and saturation change by factors within 1 ± this.
        hue: largest shift of hue, in turns of the colour circle.
        rotation: largest angle, in degrees. It comes after colours so that its corners stay black.
        cutout: side of the square that is blackened, in pixels.
        mixup, cutmix: parameter of the Beta distribution of shares; 0: off. Of both, each image
            gets one, with equal chances.
    """

    height: int
    width: int
    random_crop: bool
    crop_padding: int
    horizontal_flip: bool
    random_resized_crop: float = 0.0
    color_jitter: float = 0.0
    hue: float = 0.0
    rotation: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def from_config(cls, config: TrainConfig, height: int, width: int) -> "Augmentation":
        """Take what a configuration asks for, at the network's input size.

        Raises:
            UsageError: Cutout's square is larger than the input.
        """
        if config.cutout > min(height, width):
            raise UsageError(
                f"--cutout {config.cutout} is larger than the network's input of"
                f" {height}x{width} pixels.",
                "Half of the input's shorter side is a start.",
            )
        return cls(
            height,
            width,
            random_crop=config.random_crop,
            crop_padding=config.crop_padding,
            horizontal_flip=config.horizontal_flip,
            random_resized_crop=config.random_resized_crop,
            color_jitter=config.color_jitter,
            hue=config.hue,
            rotation=config.rotation,
            cutout=config.cutout,
            mixup=config.mixup,
            cutmix=config.cutmix,
        )

    @property
    def reads_beyond_the_centre(self) -> bool:
        """Whether more of a stored image is seen than the centre that the network's input is."""
        return self.random_crop or self.random_resized_crop > 0

    def pad(self, images: Tensor) -> Tensor:
        """Add the black border to uint8 [n, height, width, channels]."""
        border = self.crop_padding
        if not border:
            return images
        return torch.nn.functional.pad(images, (0, 0, border, border, border, border))

    def draw(self, padded: Tensor, seed: int, epoch: int) -> Draws:
        """Draw an epoch's table, indexed by image: the same for the same seed and epoch.

        Args:
            padded: uint8 [n, padded height, padded width, channels]; only its shape is used.
            seed, epoch: where the random numbers start.
        """
        number, stored = len(padded), (padded.shape[1], padded.shape[2])
        stream = partial(_generator, seed, epoch)
        tables = self._draw_windows(stream, number, stored)
        if self.horizontal_flip:
            # One draw for the whole run, then in turns: each image is seen once each way in every
            # two epochs (Jordan, 94% on CIFAR-10 in 3.29 seconds, arXiv:2404.00498).
            flip = _generator(seed, 0, _FLIPS).random(number) < 0.5
            tables["flip"] = flip ^ bool(epoch % 2)
        if self.color_jitter:
            lowest, highest = 1.0 - self.color_jitter, 1.0 + self.color_jitter
            tables["colour"] = stream(_COLOUR).uniform(lowest, highest, (number, 3))
        if self.hue:
            tables["hue"] = stream(_HUE).uniform(-self.hue, self.hue, number)
        if self.rotation:
            tables["degrees"] = stream(_ROTATION).uniform(-self.rotation, self.rotation, number)
        if self.cutout:
            tables["cutout"] = draw_cutout_boxes(
                stream(_CUTOUT), number, self.cutout, self.height, self.width
            )
        tables |= self._draw_mixing(stream, number)
        return Draws(**{name: _on_device(table, padded.device) for name, table in tables.items()})

    def _draw_windows(self, stream: _Stream, number: int, stored: tuple[int, int]) -> _Tables:
        if self.random_resized_crop:
            top, left, window = draw_inception_windows(
                stream(_WINDOWS), number, stored, self.random_resized_crop
            )
            return {"top": top, "left": left, "window": window}
        room = stored[0] - self.height, stored[1] - self.width
        if not self.random_crop or room == (0, 0):
            return {}
        generator = stream(_CROPS)
        top, left = (generator.integers(0, size + 1, number) for size in room)
        return {"top": top, "left": left}

    def _draw_mixing(self, stream: _Stream, number: int) -> _Tables:
        tables: _Tables = {}
        if self.mixup:
            tables["mixup"] = stream(_MIXUP).beta(self.mixup, self.mixup, number)
        if self.cutmix:
            generator = stream(_CUTMIX)
            shares = generator.beta(self.cutmix, self.cutmix, number)
            tables["cutmix"] = draw_cutmix_boxes(generator, shares, self.height, self.width)
        if self.mixup and self.cutmix:
            is_blended = stream(_MIXUP_OR_CUTMIX).random(number) < 0.5
            tables["mixup"][~is_blended] = 1.0
            tables["cutmix"][is_blended] = 0
        return tables

    def apply(self, padded: Tensor, indices: Tensor, draws: Draws) -> Tensor:
        """Cut a batch out of the images and change each image on its own.

        Args:
            padded: uint8 [n, padded height, padded width, channels].
            indices: int64 [batch], the images wanted.
            draws: their rows of the epoch's table.

        Returns:
            uint8 [batch, height, width, channels].
        """
        images = self._cut_out(padded, indices, draws)
        if draws.colour is not None or draws.hue is not None:
            images = jitter_colours(images, draws.colour, draws.hue)
        if draws.degrees is not None:
            images = rotate(images, draws.degrees)
        if draws.cutout is not None:
            images = cutout(images, draws.cutout)
        return images

    def _cut_out(self, padded: Tensor, indices: Tensor, draws: Draws) -> Tensor:
        top, left, size = draws.top, draws.left, (self.height, self.width)
        if top is None or left is None:
            centres = self._centres(padded)
            if draws.flip is None:
                return centres[indices]
            return crop(centres, indices, None, None, draws.flip, size)
        if draws.window is None:
            return crop(padded, indices, top, left, draws.flip, size)
        return resized_crop(padded[indices], top, left, draws.window, draws.flip, size)

    def _centres(self, padded: Tensor) -> Tensor:
        """Return the middle of all images, without copying any."""
        top, left = (padded.shape[1] - self.height) // 2, (padded.shape[2] - self.width) // 2
        return padded[:, top : top + self.height, left : left + self.width]

    def mix(
        self, images: Tensor, labels: Tensor, draws: Draws, num_classes: int
    ) -> tuple[Tensor, Tensor]:
        """Mix each image of a batch and its label with the one before; the first with the last.

        Args:
            images: uint8 [batch, height, width, channels], as `apply` gives them.
            labels: int64 [batch].
            draws: their rows of the epoch's table.
            num_classes: columns of the targets.

        Returns:
            The images, and the targets of the loss: float32 [batch, num_classes], probabilities;
            where nothing is mixed, the labels themselves.
        """
        if draws.mixup is None and draws.cutmix is None:
            return images, labels
        partners = images.roll(1, 0)
        share = torch.ones(len(images), device=images.device)
        if draws.cutmix is not None:
            images = cutmix(images, partners, draws.cutmix)
            share = kept_area(draws.cutmix, self.height, self.width)
        if draws.mixup is not None:
            # Of both, one does nothing to an image: all of it is kept.
            images = mixup(images, partners, draws.mixup)
            share = share * draws.mixup
        return images, mixed_targets(labels, labels.roll(1, 0), share, num_classes)


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, stream])


def _on_device(table: NDArray[Any], device: torch.device) -> Tensor:
    # float32: half of what float64 takes, enough for a share, and all that Apple's GPUs know.
    values = table.astype(np.float32) if table.dtype == np.float64 else table
    return torch.from_numpy(values).to(device)
