"""The Open Inference Protocol v2, with its extension for binary tensors: bytes in, bytes out.

A tensor ``image`` is either UINT8 pixels as the network reads them, or BYTES, whole image files.
The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgclf.card import ModelCard
from imgclf.model_file import INPUT, OUTPUTS
from imgclf.serving.body import too_large
from imgclf.serving.errors import RequestError
from imgclf.serving.json_pixels import as_pixels, max_json_bytes, read_json

EXTENSIONS = ("binary_tensor_data",)
HEADER_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class InferRequest:
    """A request for inference.

    Attributes:
        images: uint8 [n, height, width, channels], or the bytes of n image files.
        outputs: name -> whether it goes back as binary data, in the order that was asked for.
        id: what the client calls the request; None where it does not.
    """

    images: NDArray[np.uint8] | list[bytes]
    outputs: Mapping[str, bool]
    id: str | None


def describe_model(name: str, version: str, card: ModelCard) -> dict[str, Any]:
    """Return the model's metadata as the protocol has it."""
    size = card.preprocessing
    outputs = [
        {"name": output, "datatype": "FP32", "shape": [-1, len(card.classes)]} for output in OUTPUTS
    ]
    return {
        "name": name,
        "versions": [version],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {
                "name": INPUT,
                "datatype": "UINT8",
                "shape": [-1, size.height, size.width, size.channels],
            }
        ],
        "outputs": outputs,
        "parameters": {"labels": list(card.classes)},
    }


def check_number(images: int, most: int) -> None:
    """Check how many images a request has.

    Raises:
        RequestError: they are too many.
    """
    if images > most:
        raise RequestError(413, f"{images} images in one request; the limit is {most}")


def parse_request(
    body: bytes, header_length: str | None, card: ModelCard, max_images: int
) -> InferRequest:
    """Read a request.

    Args:
        body: JSON, or JSON followed by binary data.
        header_length: the header `HEADER_LENGTH`: how long the JSON is; None: all of the body.
        card: of the model; says what shape pixels must have.
        max_images: in one request.

    Raises:
        RequestError: it is no such request.
    """
    length = _header_length(header_length, len(body))
    limit = max_json_bytes(card, max_images)
    if length > limit:
        raise too_large("the JSON", limit)
    header = _json_object(body[:length])
    tensor = _only_input(header)
    parameters = _object(tensor.get("parameters", {}), "the parameters of the input")
    shape = _shape(tensor.get("shape"))
    check_number(shape[0], max_images)
    binary = _binary_data(parameters, memoryview(body)[length:])
    datatype = tensor.get("datatype")
    images: NDArray[np.uint8] | list[bytes]
    if datatype == "UINT8":
        images = _pixels(tensor, shape, binary, card)
    elif datatype == "BYTES":
        images = _files(tensor, shape, binary)
    else:
        raise RequestError(
            400,
            "the input's datatype must be UINT8 (pixels) or BYTES (image files), not"
            f" {datatype!r:.40}",
        )
    request_id = header.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(400, "'id' must be a string")
    return InferRequest(images, _outputs(header), request_id)


def build_response(
    model: str,
    version: str,
    request: InferRequest,
    answers: Mapping[str, NDArray[np.float32]],
) -> tuple[bytes, int | None]:
    """Write a response.

    Args:
        model, version: of the model that has answered.
        request: what was asked.
        answers: name of an output -> float32 [n, classes].

    Returns:
        the body, and the length of its JSON where binary data follow.
    """
    outputs, binary = [], []
    for name, as_binary in request.outputs.items():
        values = answers[name]
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if as_binary:
            content = values.astype("<f4").tobytes()
            output["parameters"] = {"binary_data_size": len(content)}
            binary.append(content)
        else:
            output["data"] = values.flatten().tolist()
        outputs.append(output)
    response: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        response["id"] = request.id
    header = json.dumps(response).encode()
    return b"".join([header, *binary]), len(header) if binary else None


def _header_length(text: str | None, body_length: int) -> int:
    if text is None:
        return body_length
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > body_length:
        raise RequestError(400, f"{HEADER_LENGTH} must be the length of the JSON, not {text!r:.40}")
    return int(text)


def _json_object(content: bytes) -> dict[str, Any]:
    return _object(read_json(content), "the request")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(400, f"{what} must be a JSON object")
    return value


def _only_input(header: dict[str, Any]) -> dict[str, Any]:
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise RequestError(400, f"'inputs' must be a list of one tensor, '{INPUT}'")
    tensor = _object(inputs[0], "an input")
    if tensor.get("name") != INPUT:
        raise RequestError(
            400, f"the input's name must be '{INPUT}', not {tensor.get('name')!r:.40}"
        )
    return tensor


def _shape(value: Any) -> list[int]:
    whole = isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
    if not whole or not value or value[0] < 1:
        raise RequestError(400, "'shape' must be a list of sizes, the first one at least 1")
    return value


def _binary_data(parameters: dict[str, Any], rest: memoryview) -> memoryview | None:
    size = parameters.get("binary_data_size")
    if size is None:
        if len(rest):
            raise RequestError(400, "there is binary data, but no 'binary_data_size'")
        return None
    if type(size) is not int or size != len(rest):
        raise RequestError(
            400, f"'binary_data_size' is {size!r:.40}, but {len(rest)} bytes follow the JSON"
        )
    return rest


def _pixels(
    tensor: dict[str, Any], shape: list[int], binary: memoryview | None, card: ModelCard
) -> NDArray[np.uint8]:
    size = card.preprocessing
    expected = [shape[0], size.height, size.width, size.channels]
    if shape != expected:
        sizes = ", ".join(map(str, expected[1:]))
        raise RequestError(422, f"the shape must be [batch, {sizes}], not {shape!r:.80}")
    if binary is not None:
        if len(binary) != np.prod(shape):
            raise RequestError(400, f"{len(binary)} bytes for a shape of {np.prod(shape)} pixels")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    return as_pixels(tensor.get("data"), shape)


def _files(tensor: dict[str, Any], shape: list[int], binary: memoryview | None) -> list[bytes]:
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise RequestError(422, f"the shape of image files must be [batch], not {shape!r:.80}")
    if binary is None:
        raise RequestError(400, "image files (BYTES) must be sent as binary data")
    files = []
    while len(binary):
        if len(binary) < 4:
            raise RequestError(400, "the last image file's length is cut off")
        (length,) = struct.unpack("<I", binary[:4])
        if length > len(binary) - 4:
            raise RequestError(400, "the last image file is cut off")
        files.append(bytes(binary[4 : 4 + length]))
        binary = binary[4 + length :]
    if len(files) != shape[0]:
        raise RequestError(400, f"{len(files)} image files for a shape of {shape[0]}")
    return files


def _outputs(header: dict[str, Any]) -> dict[str, bool]:
    parameters = _object(header.get("parameters", {}), "'parameters'")
    binary_by_default = parameters.get("binary_data_output", False) is True
    wanted = header.get("outputs")
    if wanted is None:
        return dict.fromkeys(OUTPUTS, binary_by_default)
    if not isinstance(wanted, list):
        raise RequestError(400, "'outputs' must be a list")
    outputs = {}
    for entry in wanted:
        output = _object(entry, "an output")
        name = output.get("name")
        if name not in OUTPUTS:
            raise RequestError(
                400, f"there is no output {name!r:.40}; there are: {', '.join(OUTPUTS)}"
            )
        own = _object(output.get("parameters", {}), "the parameters of an output")
        if own.get("classification"):
            raise RequestError(400, "the classification extension is not offered")
        outputs[name] = own.get("binary_data", binary_by_default) is True
    return outputs or dict.fromkeys(OUTPUTS, binary_by_default)
