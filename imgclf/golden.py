"""Golden inputs: image files with the model's own answers, carried inside the model file.

Whoever serves a model replays them, from the bytes of the image to the probabilities, and so knows
that this machine's Pillow, onnxruntime and processor answer as the model did when it was proved.
"""

import base64
import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from imgclf.errors import ImgclfError

METADATA_KEY = "imgclf.golden"


@dataclass(frozen=True)
class GoldenInput:
    """An image file and what is to come of it.

    Attributes:
        image: the bytes of a PNG or JPEG file.
        pixels_sha256: of the uint8 array that it decodes and resizes to.
        label: the most probable class.
        logits: one for each class.
    """

    image: bytes
    pixels_sha256: str
    label: str
    logits: tuple[float, ...]


@dataclass(frozen=True)
class GoldenInputs:
    """What a model file carries to prove itself.

    Attributes:
        inputs: at least one image.
        scaled_tolerance: largest difference of a logit, over the largest logit of all inputs.
    """

    inputs: tuple[GoldenInput, ...]
    scaled_tolerance: float

    def to_json(self) -> str:
        """Return compact JSON, images in base64."""
        inputs = [
            {**dataclasses.asdict(one), "image": base64.b64encode(one.image).decode()}
            for one in self.inputs
        ]
        return json.dumps({"inputs": inputs, "scaled_tolerance": self.scaled_tolerance})

    @classmethod
    def from_json(cls, text: str, classes: tuple[str, ...]) -> "GoldenInputs":
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            classes: of the model; labels and logits must fit them.

        Raises:
            ImgclfError: it is something else.
        """
        try:
            values = json.loads(text)
            found = cls(
                tuple(_golden_input(value, classes) for value in values["inputs"]),
                float(values["scaled_tolerance"]),
            )
            if not found.inputs or not 0 < found.scaled_tolerance < 1:
                raise ValueError("there are no inputs, or the tolerance allows anything")
            return found
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ImgclfError(
                f"The golden inputs of the model cannot be read: {reason}.",
                "Export the model again.",
            ) from error


def _golden_input(values: dict[str, Any], classes: tuple[str, ...]) -> GoldenInput:
    logits = tuple(float(value) for value in values["logits"])
    if len(logits) != len(classes) or values["label"] not in classes:
        raise ValueError("an answer is not one of this model's")
    image = base64.b64decode(values["image"], validate=True)
    return GoldenInput(image, str(values["pixels_sha256"]), values["label"], logits)
