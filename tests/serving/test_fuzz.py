"""Random requests and damaged images: refused or answered, never a failure of the server."""

import random
from collections import Counter

import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from image_files import encode, textured_photo
from server_process import Server

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
# Flipped bits can leave an image that is one still; the rest is refused by one of these.
EXPECTED = {200, 413, 415, 422}


def test_no_request_made_from_the_description_fails_the_server(server: Server):
    description = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: Counter[str] = Counter()
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
                # Of made-up models nothing more would be asked.
                case.path_parameters["name"] = "digits"
            response = case.call()
            case.validate_response(response, checks=[not_a_server_error])
            asked[f"{case.method} {case.path}"] += 1
            if response.status_code >= 400:
                assert list(response.json()) == ["error"]

        ask()
    assert set(asked) >= {
        "POST /predict",
        "POST /invocations",
        "POST /v2/models/{name}/infer",
        "POST /v2/models/{name}/versions/{version}/infer",
        "GET /v2/models/{name}",
        "GET /model",
        "GET /v2/health/ready",
    }


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


@pytest.mark.slow
def test_ten_thousand_damaged_images_take_no_memory(server: Server):
    statuses(server, 2_000, seed=1)
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    statuses(server, 10_000, seed=2)
    assert process.memory_info().rss - before < 20 * 2**20
