"""Bytes in, bytes out: what is no request is refused by its status, and nothing else happens."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgclf.card import ModelCard, Preprocessing
from imgclf.serving.errors import RequestError
from imgclf.serving.json_pixels import max_json_bytes
from imgclf.serving.protocol import build_response, describe_model, parse_request

CARD = ModelCard(
    classes=("cat", "dog", "owl"),
    preprocessing=Preprocessing.identity(2, 3, 1),
    mean=(0.0,),
    std=(255.0,),
)
MOST = 4
PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1)


def tensor(**changes: Any) -> dict[str, Any]:
    """A valid input, with some entries changed; those that are None are left out."""
    whole = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [2, 2, 3, 1],
        "data": PIXELS.tolist(),
        **changes,
    }
    return {key: value for key, value in whole.items() if value is not None}


def body(*inputs: Any, **entries: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **entries}).encode()


def binary_body(content: bytes, size: Any = None, **changes: Any) -> tuple[bytes, str]:
    """A request with binary data, and the length of its JSON."""
    parameters = {"binary_data_size": len(content) if size is None else size}
    header = body(tensor(data=None, parameters=parameters, **changes))
    return header + content, str(len(header))


def with_lengths(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def refusal(content: bytes, header_length: str | None = None) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        parse_request(content, header_length, CARD, MOST)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize("data", [PIXELS.tolist(), PIXELS.ravel().tolist()], ids=["nested", "flat"])
def test_pixels_in_json_arrive(data: list[Any]):
    asked = parse_request(body(tensor(data=data), id="7"), None, CARD, MOST)
    np.testing.assert_array_equal(np.asarray(asked.images), PIXELS)
    assert np.asarray(asked.images).dtype == np.uint8
    assert asked.id == "7"
    assert dict(asked.outputs) == {"logits": False, "probabilities": False}


def test_binary_pixels_arrive():
    content, length = binary_body(PIXELS.tobytes())
    asked = parse_request(content, length, CARD, MOST)
    np.testing.assert_array_equal(np.asarray(asked.images), PIXELS)


@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_image_files_arrive_byte_for_byte(shape: list[int]):
    files = [b"first", b"", bytes(range(256))]
    content, length = binary_body(with_lengths(*files), datatype="BYTES", shape=shape)
    assert parse_request(content, length, CARD, MOST).images == files


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"parameters": {"binary_data_output": True}}, {"logits": True, "probabilities": True}),
        ({"outputs": [{"name": "probabilities"}]}, {"probabilities": False}),
        (
            {
                "outputs": [
                    {"name": "probabilities", "parameters": {"binary_data": True}},
                    {"name": "logits"},
                ]
            },
            {"probabilities": True, "logits": False},
        ),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "logits", "parameters": {"binary_data": False}}],
            },
            {"logits": False},
        ),
    ],
)
def test_outputs_come_as_they_were_asked_for(entries: dict[str, Any], expected: dict[str, bool]):
    asked = parse_request(body(tensor(), **entries), None, CARD, MOST)
    assert list(asked.outputs.items()) == list(expected.items())


def test_the_json_of_a_binary_request_has_a_limit_of_its_own():
    limit = max_json_bytes(CARD, MOST)
    file = with_lengths(bytes(limit))
    content, length = binary_body(file, datatype="BYTES", shape=[1])
    header = content[: int(length)]
    asked = parse_request(header.ljust(limit) + file, str(limit), CARD, MOST)
    assert asked.images == [bytes(limit)]
    status, message = refusal(header.ljust(limit + 1) + file, str(limit + 1))
    assert status == 413
    assert message.startswith("the JSON is larger than 0.06")


def test_response_in_json_says_the_same_numbers():
    asked = parse_request(body(tensor(), id="a"), None, CARD, MOST)
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    content, length = build_response("m", "v", asked, {"logits": values, "probabilities": -values})
    assert length is None
    answer = json.loads(content)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("m", "v", "a")
    assert [output["name"] for output in answer["outputs"]] == ["logits", "probabilities"]
    for output, sign in zip(answer["outputs"], (1, -1), strict=True):
        assert (output["datatype"], output["shape"]) == ("FP32", [2, 3])
        found = np.array(output["data"], np.float32).reshape(2, 3)
        np.testing.assert_array_equal(found, sign * values)


def test_binary_response_holds_little_endian_floats_behind_its_json():
    asked = parse_request(body(tensor(), parameters={"binary_data_output": True}), None, CARD, MOST)
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    content, length = build_response("m", "v", asked, {"logits": values, "probabilities": -values})
    assert length is not None
    outputs = json.loads(content[:length])["outputs"]
    assert [output["parameters"]["binary_data_size"] for output in outputs] == [24, 24]
    assert struct.unpack("<6f", content[length : length + 24]) == tuple(values.ravel().tolist())
    assert struct.unpack("<6f", content[length + 24 :]) == tuple((-values).ravel().tolist())


def test_metadata_describe_the_tensors():
    found = describe_model("m", "v", CARD)
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 2, 3, 1]}]
    assert [output["shape"] for output in found["outputs"]] == [[-1, 3], [-1, 3]]
    assert found["parameters"]["labels"] == ["cat", "dog", "owl"]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the body is no JSON"),
        (b"\xff\xfe", 400, "the body is no JSON"),
        (b"[" * 50_000, 400, "the body is no JSON"),
        (b"9" * 10_000, 400, "the body is no JSON"),
        (b"[]", 400, "the request must be a JSON object"),
        (b"{}", 400, "'inputs' must be a list of one tensor"),
        (body(), 400, "'inputs' must be a list of one tensor"),
        (body(tensor(), tensor()), 400, "'inputs' must be a list of one tensor"),
        (body("image"), 400, "an input must be a JSON object"),
        (body(tensor(name="picture")), 400, "the input's name must be 'image', not 'picture'"),
        (body(tensor(datatype=None)), 400, "the input's datatype must be UINT8"),
        (body(tensor(datatype="FP32")), 400, "the input's datatype must be UINT8"),
        (body(tensor(shape=None)), 400, "'shape' must be a list of sizes"),
        (body(tensor(shape=[])), 400, "'shape' must be a list of sizes"),
        (body(tensor(shape=[0, 2, 3, 1])), 400, "'shape' must be a list of sizes"),
        (body(tensor(shape=[-1, 2, 3, 1])), 400, "'shape' must be a list of sizes"),
        (body(tensor(shape=[True, 2, 3, 1])), 400, "'shape' must be a list of sizes"),
        (body(tensor(shape=["2", 2, 3, 1])), 400, "'shape' must be a list of sizes"),
        (body(tensor(shape=[5, 2, 3, 1])), 413, "5 images in one request; the limit is 4"),
        (body(tensor(shape=[2, 3, 2, 1])), 422, "the shape must be [batch, 2, 3, 1]"),
        (body(tensor(shape=[2, 6])), 422, "the shape must be [batch, 2, 3, 1]"),
        (body(tensor(data=None)), 422, "there must be 12 numbers"),
        (body(tensor(data=[1, 2, 3])), 422, "there must be 12 numbers"),
        (body(tensor(data=[[1, 2], [3]])), 422, "there must be 12 numbers"),
        (body(tensor(parameters=[])), 400, "the parameters of the input must be a JSON object"),
        (body(tensor(parameters={"binary_data_size": 3})), 400, "'binary_data_size' is 3"),
        (body(tensor(datatype="BYTES", shape=[2])), 400, "image files (BYTES) must be sent as"),
        (body(tensor(), id=7), 400, "'id' must be a string"),
        (body(tensor(), parameters=1), 400, "'parameters' must be a JSON object"),
        (body(tensor(), outputs={}), 400, "'outputs' must be a list"),
        (body(tensor(), outputs=["logits"]), 400, "an output must be a JSON object"),
        (body(tensor(), outputs=[{"name": "labels"}]), 400, "there is no output 'labels'"),
        (body(tensor(), outputs=[{"name": ["logits"]}]), 400, "there is no output ['logits']"),
        (
            body(tensor(), outputs=[{"name": "logits", "parameters": {"classification": 3}}]),
            400,
            "the classification extension is not offered",
        ),
    ],
)
def test_what_is_no_request_is_refused(content: bytes, status: int, message: str):
    found, said = refusal(content)
    assert found == status
    assert said.startswith(message)


@pytest.mark.parametrize("length", ["", "-1", "1.5", "x", "9" * 30, "²", "100000"])
def test_length_of_the_json_that_is_none_is_refused(length: str):
    assert refusal(body(tensor()), length)[0] == 400


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (binary_body(bytes(11)), 400, "11 bytes for a shape of 12 pixels"),
        (binary_body(bytes(12), size=13), 400, "'binary_data_size' is 13, but 12 bytes follow"),
        (binary_body(bytes(12), size="12"), 400, "'binary_data_size' is '12'"),
        (
            binary_body(b"\1\0\0", datatype="BYTES", shape=[1]),
            400,
            "the last image file's length is cut off",
        ),
        (
            binary_body(b"\xff\xff\xff\xffx", datatype="BYTES", shape=[1]),
            400,
            "the last image file is cut off",
        ),
        (
            binary_body(with_lengths(b"a"), datatype="BYTES", shape=[2]),
            400,
            "1 image files for a shape of 2",
        ),
        (
            binary_body(with_lengths(b"a"), datatype="BYTES", shape=[1, 2]),
            422,
            "the shape of image files must be [batch]",
        ),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(
    content: tuple[bytes, str], status: int, message: str
):
    found, said = refusal(*content)
    assert found == status
    assert said.startswith(message)


def test_binary_data_that_are_not_announced_are_refused():
    header = body(tensor())
    assert refusal(header + b"x", str(len(header))) == (
        400,
        "there is binary data, but no 'binary_data_size'",
    )


@pytest.mark.parametrize("depth", range(850, 1000, 10))
def test_deeply_nested_values_are_refused_wherever_they_stand(depth: int):
    nested = "[" * depth + "]" * depth
    for key in ("name", "datatype", "shape", "data", "parameters"):
        whole = json.dumps({"inputs": [{**tensor(), key: "HERE"}]}).replace('"HERE"', nested)
        assert refusal(whole.encode())[0] in (400, 422)


def parses_or_refuses(content: bytes, header_length: str | None) -> None:
    refused = None
    try:
        asked = parse_request(content, header_length, CARD, MOST)
        assert 1 <= len(asked.images) <= MOST
    except RequestError as error:
        refused = error
    if refused is not None:
        assert 400 <= refused.status < 500
        assert len(refused.message) < 500
        # It can be sent: it holds no half of a surrogate pair.
        refused.message.encode()


LENGTHS = st.one_of(st.none(), st.integers(-5, 300).map(str), st.text(max_size=15))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["image", "UINT8", "BYTES", "logits", [2, 2, 3, 1], [1]]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "datatype", "shape", "data", "parameters", "x"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), LENGTHS)
def test_no_bytes_raise_anything_else(content: bytes, header_length: str | None):
    parses_or_refuses(content, header_length)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["inputs", "outputs", "id", "parameters"]), JSON))
@example({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [10**30, 2, 3, 1]}]})
def test_no_json_raises_anything_else(value: dict[str, Any]):
    parses_or_refuses(json.dumps(value).encode(), None)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["name", "datatype", "shape", "data", "parameters"]),
    JSON,
    st.lists(st.fixed_dictionaries({"name": JSON}, optional={"parameters": JSON}), max_size=2),
)
def test_no_single_wrong_entry_raises_anything_else(key: str, value: Any, outputs: list[Any]):
    parses_or_refuses(body({**tensor(), key: value}), None)
    parses_or_refuses(body(tensor(), outputs=outputs), None)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_no_damaged_binary_request_raises_anything_else(data: st.DataObject, files: bool):
    if files:
        content, length = binary_body(with_lengths(b"a", b"bc"), datatype="BYTES", shape=[2])
    else:
        content, length = binary_body(PIXELS.tobytes())
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    parses_or_refuses(bytes(damaged[:end]), length)
