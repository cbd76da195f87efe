"""One look at all images before training: what a person should know of them."""

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass

import numpy as np

from imgclf.config import TrainConfig
from imgclf.data.dataset import ImageDataset
from imgclf.data.splits import Split, missing_classes
from imgclf.errors import MOST_SHOWN, some_of

# Classes whose sizes differ by more are worth a note.
_UNEVEN = 3.0


@dataclass(frozen=True)
class Image:
    """One image in its split: its name, its class and its part."""

    name: str
    label: str
    part: str


@dataclass(frozen=True)
class Scan:
    """What is known of a data set and its split.

    Attributes:
        counts: class -> part -> number of images.
        sizes: (width, height) in pixels -> number of images, the most frequent first.
        copies: groups of images whose files have the same bytes.
        missing: part -> the classes that it lacks.
        unreadable: name and reason of each image that was left out.
    """

    counts: dict[str, dict[str, int]]
    sizes: dict[tuple[int, int], int]
    copies: tuple[tuple[Image, ...], ...]
    missing: dict[str, tuple[str, ...]]
    unreadable: tuple[tuple[str, str], ...]

    @property
    def leaks(self) -> tuple[tuple[Image, ...], ...]:
        """Copies that lie in different parts: what is tested on was trained on."""
        return tuple(group for group in self.copies if len({image.part for image in group}) > 1)

    @property
    def contradictions(self) -> tuple[tuple[Image, ...], ...]:
        """Copies that carry different labels."""
        return tuple(group for group in self.copies if len({image.label for image in group}) > 1)

    def to_json(self) -> str:
        """Return everything as indented JSON."""
        values = asdict(self)
        values["sizes"] = [[*size, count] for size, count in self.sizes.items()]
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def notes(self, most: int = MOST_SHOWN, config: TrainConfig | None = None) -> list[str]:
        """Return what a person should know before training.

        Args:
            most: examples at most.
            config: the run's, if it is known: what it does already is not advised.
        """
        notes = [*self._sizes(), *self._balance(config)]
        for part, classes in self.missing.items():
            more = f" and {len(classes) - most} more" if len(classes) > most else ""
            notes.append(f"the {part} images lack the classes: {', '.join(classes[:most])}{more}")
        for part, other in (("val", "train"), ("test", "train"), ("test", "val")):
            copies = [image.name for group in self.leaks for image in _copied(part, other, group)]
            if copies:
                notes.append(
                    f"{len(copies)} {part} image(s) are copies of {other} images (same bytes):\n"
                    + some_of(copies, most)
                )
        if self.contradictions:
            pairs = [
                " = ".join(f"{image.name} ({image.label})" for image in group)
                for group in self.contradictions
            ]
            notes.append("copies with different labels (same bytes):\n" + some_of(pairs, most))
        if self.unreadable:
            reasons = [f"{name}: {reason}" for name, reason in self.unreadable]
            notes.append(
                f"{len(reasons)} unreadable image(s) are left out:\n" + some_of(reasons, most)
            )
        return notes

    def _sizes(self) -> list[str]:
        if len(self.sizes) < 2:
            return []
        (widths, heights), counts = zip(*self.sizes, strict=True), list(self.sizes.values())
        median = [int(np.median(np.repeat(side, counts))) for side in (widths, heights)]
        width, height = (
            f"{min(side)}" if min(side) == max(side) else f"{min(side)} to {max(side)}"
            for side in (widths, heights)
        )
        return [
            f"the images are {width} pixels wide and {height} high, {median[0]}x{median[1]} in the"
            " middle"
        ]

    def _balance(self, config: TrainConfig | None) -> list[str]:
        counts = {name: parts["train"] for name, parts in self.counts.items() if parts["train"]}
        if not counts:
            return []
        smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        if counts[largest] <= _UNEVEN * counts[smallest]:
            return []
        note = (
            f"the classes are uneven: {counts[smallest]:,} training images of '{smallest}',"
            f" {counts[largest]:,} of '{largest}'"
        )
        if config and (config.balanced_sampling or config.class_weights == "balanced"):
            return [note]
        advice = "--class-weights balanced or --balanced-sampling true makes them count alike"
        return [f"{note}; {advice}"]


def scan_dataset(dataset: ImageDataset, split: Split) -> Scan:
    """Look at a data set's classes, sizes and copies in the parts of a split."""
    part_of = {int(i): part for part, positions in split.parts.items() for i in positions}
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for position, digest in enumerate(dataset.digests):
        groups[digest].append(position)

    def image(position: int) -> Image:
        label = dataset.classes[dataset.labels[position]]
        return Image(dataset.names[position], label, part_of[position])

    counts = {
        part: np.bincount(dataset.labels[positions], minlength=len(dataset.classes)).tolist()
        for part, positions in split.parts.items()
    }
    return Scan(
        counts={
            name: {part: counts[part][label] for part in counts}
            for label, name in enumerate(dataset.classes)
        },
        sizes=dict(Counter(dataset.sizes).most_common()),
        copies=tuple(
            tuple(map(image, positions)) for positions in groups.values() if len(positions) > 1
        ),
        missing=missing_classes(dataset, split),
        unreadable=dataset.unreadable,
    )


def _copied(part: str, other: str, group: tuple[Image, ...]) -> list[Image]:
    """Return a group's images in one part, where another part has the same image."""
    there = any(image.part == other for image in group)
    return [image for image in group if there and image.part == part]
