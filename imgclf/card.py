"""The model card: all that is needed to use a model, carried inside the ONNX file itself."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imgclf.errors import ImgclfError

CARD_VERSION = 1
METADATA_KEY = "imgclf.card"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the uint8 array [height, width, channels] that the network reads.

    The largest centred part of the image with the aspect ratio ``resize_width : resize_height`` is
    resized to that size by Pillow's (antialiased) bilinear filter; the centre of the result is the
    input. An image that already has the size is not touched.

    Attributes:
        height, width: the network's input, in pixels.
        channels: 1 (grey) or 3 (RGB). Transparent images are laid over white first.
        resize_height, resize_width: the size before the centre is cut out, in pixels.
    """

    height: int
    width: int
    channels: int
    resize_height: int
    resize_width: int

    @classmethod
    def identity(cls, height: int, width: int, channels: int) -> "Preprocessing":
        """For images that already have the input's size."""
        return cls(height, width, channels, height, width)

    def __str__(self) -> str:
        return f"{self.height}x{self.width} {'grey' if self.channels == 1 else 'colour'}"

    def __post_init__(self) -> None:
        sizes = (self.height, self.width, self.resize_height, self.resize_width)
        if any(type(size) is not int or not 1 <= size <= 8192 for size in sizes):
            raise ValueError(f"sizes must be whole numbers from 1 to 8192, not {sizes}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, not {self.channels!r}")
        if self.resize_height < self.height or self.resize_width < self.width:
            raise ValueError("the resized image is smaller than the input")


@dataclass(frozen=True)
class ModelCard:
    """What a model is: enough to use it, and to know where it comes from.

    Attributes:
        classes: label names, in the order of the outputs.
        preprocessing: from image to input array.
        mean, std: per channel, in pixel values 0 to 255. They are already part of the graph.
        temperature: what the logits are divided by before the softmax, for the probabilities to be
            as right as they say; already part of the graph. 1 where none was fitted.
        provenance: where the model comes from: run ids, data set and digests, versions.
        metrics: of the selected weights, such as ``test/accuracy``.
        parity: figures of the export's proof; empty before it.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    parity: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        named = all(isinstance(name, str) and name for name in self.classes)
        if len(self.classes) < 2 or not named:
            raise ValueError("there must be two or more classes with a name each")
        for name in self.classes:
            # A folder's name need not be valid text; ONNX metadata must be.
            name.encode()
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names repeat")
        channels = self.preprocessing.channels
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError("mean and std need one number per channel")
        # With another pair, every answer of a network is no number.
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not finite or not all(value > 0 for value in self.std):
            raise ValueError("mean and std must be finite, and std positive")
        if not all(isinstance(text, str) for text in self.provenance.values()):
            raise ValueError("where the model comes from must be text")
        figures = self.metrics.values()
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in figures):
            raise ValueError("metrics must be finite numbers")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"the temperature must be positive, not {self.temperature!r}")

    def to_json(self) -> str:
        """Return the card as compact JSON."""
        return json.dumps({"version": CARD_VERSION, **dataclasses.asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Read a card that `to_json` wrote.

        Raises:
            ImgclfError: the text is no card, or one of a newer version.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
            if values.get("version") != CARD_VERSION:
                raise ImgclfError(
                    f"The model card has version {values.get('version')!r}; this imgclf reads"
                    f" version {CARD_VERSION}.",
                    "Upgrade imgclf, or export the model again.",
                )
            return cls(
                classes=tuple(_list(values["classes"])),
                preprocessing=Preprocessing(**values["preprocessing"]),
                mean=tuple(float(value) for value in _list(values["mean"])),
                std=tuple(float(value) for value in _list(values["std"])),
                # Runs of before have none.
                temperature=float(values.get("temperature", 1.0)),
                provenance=dict(values["provenance"]),
                metrics=dict(values["metrics"]),
                parity=dict(values["parity"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ImgclfError(
                f"The model card cannot be read: {reason}.", "Export the model again."
            ) from error


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} is no list")
    return value
