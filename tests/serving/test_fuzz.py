"""Random and damaged requests and images: refused or answered, never a failure of the server."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from image_files import encode, textured_photo
from imgclf.predict import Predictor
from imgclf.preprocess import to_array
from imgclf.serving.protocol import HEADER_LENGTH
from server_process import Server

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
AS_DESCRIBED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Flipped bits can leave an image that is one still; the rest is refused by one of these.
EXPECTED = {200, 413, 415, 422}


def test_no_request_made_from_the_description_fails_the_server(server: Server):
    description = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: defaultdict[str, Counter[int]] = defaultdict(Counter)
    version = server.version()
    for result in description.get_all_operations():
        assert isinstance(result, Ok), "the description says what it means"
        operation = result.ok()

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Case) -> None:
            if "name" in case.path_parameters:
                # Of made-up models, versions and shapes nothing more would be asked.
                case.path_parameters["name"] = "digits"
            if "version" in case.path_parameters:
                case.path_parameters["version"] = version
            body: Any = case.body
            if isinstance(body, dict):
                for tensor in body.get("inputs", []):
                    tensor["shape"] = [1, 8, 8, 1]
            response = case.call()
            case.validate_response(response, checks=AS_DESCRIBED)
            asked[f"{case.method} {case.path}"][response.status_code] += 1
            if response.status_code >= 400:
                assert list(response.json()) == ["error"]

        ask()
    for path in ("/model", "/v2/health/ready", "/v2/models/{name}/versions/{version}"):
        assert set(asked[f"GET {path}"]) == {200}
    # What is refused for its pixels has been read up to there.
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        assert set(asked[f"POST {path}"]) >= {400, 422}
    assert 415 in asked["POST /predict"]
    assert 400 in asked["POST /invocations"]


def damaged_images(number: int, seed: int):
    """Yield image files of every kind with flipped bits, cut off, or with parts put elsewhere."""
    chance = random.Random(seed)
    photo = textured_photo()
    whole = [encode(photo, kind) for kind in KINDS]
    for position in range(number):
        content = bytearray(whole[position % len(whole)])
        for _ in range(chance.choice((1, 3, 30))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        # Half of the damage in the headers, where sizes and offsets stand.
        for _ in range(chance.choice((0, 2))):
            content[chance.randrange(min(64, len(content)))] = chance.randrange(256)
        if chance.random() < 0.3:
            del content[chance.randrange(len(content)) :]
        if chance.random() < 0.1:
            content += content[chance.randrange(len(content) + 1) :]
        yield bytes(content)


def statuses(server: Server, number: int, seed: int) -> Counter[int]:
    found: Counter[int] = Counter()
    with requests.Session() as session:
        for content in damaged_images(number, seed):
            response = session.post(f"{server.url}/predict", content, timeout=60)
            assert response.status_code in EXPECTED
            found[response.status_code] += 1
    assert server.get("/v2/health/ready").status_code == 200
    return found


def test_damaged_images_are_answered_or_refused(server: Server):
    found = statuses(server, 300, seed=0)
    # The damage is neither harmless nor always at the start of the file.
    assert all(found[status] > 10 for status in (200, 415, 422))
    assert server.other_lines == []


def damaged_inferences(pixels: NDArray[np.uint8], number: int) -> Iterator[tuple[bytes, int]]:
    """Yield requests for inference with some characters changed, and the length of their JSON."""
    chance = random.Random(0)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    as_json = json.dumps({"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}).encode()
    size = {"parameters": {"binary_data_size": pixels.size}}
    header = json.dumps({"inputs": [{**tensor, **size}]}).encode()
    for position in range(number):
        content, length = (as_json, len(as_json)) if position % 2 else (header, len(header))
        changed = bytearray(content)
        for _ in range(chance.choice((0, 1, 1, 3))):
            changed[chance.randrange(length)] = chance.choice(b'0123456789",:[]{} x')
        yield bytes(changed) + (b"" if position % 2 else pixels.tobytes()), length


def test_damaged_inference_is_answered_or_refused(
    server: Server, reference: Predictor, files: list[bytes]
):
    pixels = np.stack([to_array(file, reference.card.preprocessing) for file in files])
    found: Counter[int] = Counter()
    for content, length in damaged_inferences(pixels, 300):
        headers = {HEADER_LENGTH: str(length)}
        response = server.post("/v2/models/digits/infer", content, headers=headers)
        assert response.status_code in (200, 400, 413, 422)
        found[response.status_code] += 1
        if response.status_code == 200:
            shapes = [output["shape"] for output in response.json()["outputs"]]
            assert shapes == [[len(files), 10]] * 2
    assert all(found[status] > 10 for status in (200, 400, 422))
    assert server.other_lines == []


@pytest.mark.slow
def test_ten_thousand_damaged_images_take_no_memory(server: Server):
    statuses(server, 2_000, seed=1)
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    statuses(server, 10_000, seed=2)
    assert process.memory_info().rss - before < 20 * 2**20
