"""The Open Inference Protocol, by the client that others use: NVIDIA's tritonclient."""

import asyncio
import gzip
import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from imgclf.predict import Predictor
from imgclf.preprocess import to_array
from server_process import Server


@pytest.fixture(scope="module")
def client(server: Server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def pixels(reference: Predictor, files: list[bytes]) -> NDArray[np.uint8]:
    return np.stack([to_array(file, reference.card.preprocessing) for file in files])


def pixel_input(pixels: NDArray[np.uint8], binary: bool = True, library: Any = triton) -> Any:
    tensor = library.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def check(result: Any, reference: Predictor, pixels: NDArray[np.uint8]) -> None:
    for name, expected in zip(("logits", "probabilities"), reference.run(pixels), strict=True):
        found = result.as_numpy(name)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_server_lives_is_ready_and_says_what_it_is(client: Any):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "imgclf"
    assert metadata["extensions"] == ["binary_tensor_data"]


def test_the_model_says_what_it_takes_and_gives(client: Any, server: Server, reference: Predictor):
    version = server.version()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", version)
    plain = client.get_model_metadata("digits")
    assert plain == client.get_model_metadata("digits", version)
    assert plain["versions"] == [version]
    assert plain["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
    assert plain["parameters"]["labels"] == list(reference.card.classes)


def test_defaults_of_the_client_are_answered(
    client: Any, reference: Predictor, pixels: NDArray[np.uint8]
):
    check(client.infer("digits", [pixel_input(pixels)]), reference, pixels)


def test_json_both_ways_is_answered(client: Any, reference: Predictor, pixels: NDArray[np.uint8]):
    outputs = [
        triton.InferRequestedOutput(name, binary_data=False) for name in ("logits", "probabilities")
    ]
    inputs = [pixel_input(pixels, binary=False)]
    result = client.infer("digits", inputs, outputs=outputs, request_id="mine")
    check(result, reference, pixels)
    assert result.get_response()["id"] == "mine"
    assert all("data" in output for output in result.get_response()["outputs"])


def test_only_the_asked_output_comes(client: Any, pixels: NDArray[np.uint8]):
    asked = [triton.InferRequestedOutput("probabilities", binary_data=True)]
    result = client.infer("digits", [pixel_input(pixels)], outputs=asked)
    assert result.as_numpy("logits") is None
    np.testing.assert_allclose(result.as_numpy("probabilities").sum(axis=1), 1, atol=1e-5)


def test_a_version_is_answered_when_it_is_the_one(
    client: Any, server: Server, reference: Predictor, pixels: NDArray[np.uint8]
):
    version = server.version()
    result = client.infer("digits", [pixel_input(pixels)], model_version=version)
    check(result, reference, pixels)
    assert result.get_response()["model_version"] == version


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("asked", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answered", [None, "gzip", "deflate"])
def test_compressed_requests_and_answers(
    client: Any,
    reference: Predictor,
    pixels: NDArray[np.uint8],
    asked: str | None,
    answered: str | None,
    binary: bool,
):
    result = client.infer(
        "digits",
        [pixel_input(pixels, binary)],
        request_compression_algorithm=asked,
        response_compression_algorithm=answered,
    )
    check(result, reference, pixels)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_whole_image_files_are_decoded_by_the_server(
    client: Any, reference: Predictor, files: list[bytes], pixels: NDArray[np.uint8], shape: Any
):
    tensor = np.array(files, dtype=np.object_).reshape(shape)
    request = triton.InferInput("image", list(tensor.shape), "BYTES")
    request.set_data_from_numpy(tensor)
    check(client.infer("digits", [request]), reference, pixels)


@pytest.mark.parametrize(
    ("file", "status", "message"),
    [(b"no image", "415", "image 1: not an image"), (b"\x89PNG\r\n\x1a\n", "415", "image 1: ")],
)
def test_an_unreadable_file_is_named(
    client: Any, files: list[bytes], file: bytes, status: str, message: str
):
    tensor = np.array([files[0], file], dtype=np.object_)
    request = triton.InferInput("image", [2], "BYTES")
    request.set_data_from_numpy(tensor)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [request])
    assert caught.value.status() == status
    assert caught.value.message().startswith(message)


def test_another_model_or_version_is_an_error_of_the_client(
    client: Any, server: Server, pixels: NDArray[np.uint8]
):
    inputs = [pixel_input(pixels)]
    for call, message in (
        (lambda: client.infer("cats", inputs), "there is no model 'cats'; there is: digits"),
        (lambda: client.get_model_metadata("cats"), "there is no model 'cats'; there is: digits"),
        (
            lambda: client.infer("digits", inputs, model_version="1"),
            f"there is no version '1'; there is: {server.version()}",
        ),
    ):
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert caught.value.status() == "404"
        assert caught.value.message() == message
    assert not client.is_model_ready("cats")


def test_too_many_images_are_an_error_of_the_client(client: Any, pixels: NDArray[np.uint8]):
    many = np.concatenate([pixels, pixels])
    with pytest.raises(InferenceServerException, match="22 images in one request; the limit is 16"):
        client.infer("digits", [pixel_input(many)])


def test_the_asynchronous_client_is_answered_many_times_at_once(
    server: Server, reference: Predictor, pixels: NDArray[np.uint8]
):
    async def work() -> list[Any]:
        async with triton_aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("digits"))["name"] == "digits"
            inputs = [
                [pixel_input(pixels[number : number + 1], number % 2 == 0, triton_aio)]
                for number in range(len(pixels))
            ]
            codes = (None, "gzip", "deflate")
            return await asyncio.gather(
                *(
                    client.infer(
                        "digits",
                        one,
                        request_compression_algorithm=codes[number % 3],
                        response_compression_algorithm=codes[number % 2],
                    )
                    for number, one in enumerate(inputs)
                )
            )

    for number, result in enumerate(asyncio.run(work())):
        check(result, reference, pixels[number : number + 1])


def test_a_long_answer_is_really_compressed(server: Server, pixels: NDArray[np.uint8]):
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "data": pixels.ravel().tolist(),
    }
    request = gzip.compress(json.dumps({"inputs": [tensor]}).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "deflate, gzip;q=0"}
    response = server.post("/v2/models/digits/infer", request, headers=headers)
    assert response.status_code == 200
    assert response.headers["Content-Encoding"] == "deflate"
    assert int(response.headers["Content-Length"]) < len(response.content)
