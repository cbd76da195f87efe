"""Image files in, labels out, over real HTTP: every promised status, and MLflow's own form."""

import gzip
import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import requests

from image_files import encode, png, textured_photo
from imgclf.predict import Predictor
from imgclf.preprocess import to_array
from server_process import EXAMPLE, PATIENCE, REFERENCE, Server, figures

CURL = "application/x-www-form-urlencoded"


def error_of(response: requests.Response) -> str:
    """The message of an error; every one is JSON of one form."""
    assert response.headers["Content-Type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["error"]
    assert isinstance(answer["error"], str)
    assert answer["error"]
    return answer["error"]


def form(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", file) for file in files]


def check(entry: dict[str, Any], expected: Any) -> None:
    assert entry["label"] == expected.label
    assert [one["label"] for one in entry["top"]] == [label for label, _ in expected.top]
    found = [one["probability"] for one in entry["top"]]
    np.testing.assert_allclose(found, [value for _, value in expected.top], atol=1e-6)


@pytest.mark.parametrize(
    "kind", [None, "", "image/png", "image/x", "application/octet-stream", CURL]
)
def test_one_file_as_the_body_is_answered_as_the_predictor_does(
    server: Server, reference: Predictor, kind: str | None
):
    headers = {} if kind is None else {"Content-Type": kind}
    response = server.post("/predict", EXAMPLE.read_bytes(), headers=headers)
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["model", "version", "predictions", "milliseconds"]
    assert answer["model"] == "digits"
    assert 0 < answer["milliseconds"] < 30_000
    (entry,) = answer["predictions"]
    check(entry, reference(EXAMPLE)[0])
    assert len(entry["top"]) == 5


def test_several_files_are_answered_in_order_by_their_names(
    server: Server, reference: Predictor, files: list[bytes]
):
    named = [(f"{number}.png", file) for number, file in enumerate(files)]
    answer = server.post("/predict?top_k=3", files=form(*named)).json()
    assert [entry["image"] for entry in answer["predictions"]] == [name for name, _ in named]
    for entry, expected in zip(answer["predictions"], reference(files, top_k=3), strict=True):
        check(entry, expected)


def test_an_unreadable_file_does_not_hold_up_the_others(
    server: Server, reference: Predictor, files: list[bytes]
):
    named = [("a.png", files[1]), ("b.png", b"no image"), ("c.png", files[2][:60]), ("d", files[3])]
    response = server.post("/predict", files=form(*named))
    assert response.status_code == 200
    first, second, third, fourth = response.json()["predictions"]
    check(first, reference(files[1])[0])
    check(fourth, reference(files[3])[0])
    assert list(second) == ["image", "error"]
    assert second["error"].startswith("not an image")
    assert list(third) == ["image", "error"]


@pytest.mark.parametrize(("top_k", "listed"), [(1, 1), (10, 10), (1000, 10)])
def test_as_many_classes_are_listed_as_there_are(server: Server, top_k: int, listed: int):
    answer = server.post(f"/predict?top_k={top_k}", EXAMPLE.read_bytes()).json()
    assert len(answer["predictions"][0]["top"]) == listed


@pytest.mark.parametrize("top_k", ["0", "-1", "1001", "1e9", "x", "", "9" * 400])
def test_top_k_out_of_its_range_is_refused(server: Server, top_k: str):
    response = server.post(f"/predict?top_k={top_k}", EXAMPLE.read_bytes())
    assert response.status_code == 422
    assert error_of(response).startswith("query.top_k: ")


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "the body is empty"),
        (b"no image", 415, "not an image"),
        (png(100_000, 100_000, 8, 0), 413, "too many pixels; the limit is 100,000"),
        (png(317, 317, 8, 0, b""), 413, "317 x 317 pixels; the limit is 100,000"),
        (encode(textured_photo(), "PNG")[:200], 422, ""),
        (encode(textured_photo(), "JPEG")[:-200], 422, ""),
        (bytes(2**20 + 1), 413, "the body is larger than 1 MiB"),
    ],
)
def test_a_file_that_is_not_read_is_refused_by_its_status(
    server: Server, content: bytes, status: int, message: str
):
    response = server.post("/predict", content, headers={"Content-Type": "image/png"})
    assert response.status_code == status
    assert error_of(response).startswith(message)


def test_a_body_of_unsaid_length_is_read_up_to_the_limit(server: Server, reference: Predictor):
    content = EXAMPLE.read_bytes()
    whole = server.post("/predict", iter([content[:40], content[40:]]))
    check(whole.json()["predictions"][0], reference(EXAMPLE)[0])
    endless = server.post("/predict", (bytes(100_000) for _ in range(300)))
    assert endless.status_code == 413
    error_of(endless)


def test_when_no_file_of_a_form_is_read_the_first_one_says_why(server: Server):
    response = server.post("/predict", files=form(("a.png", b"x"), ("b.png", b"y")))
    assert response.status_code == 415
    assert error_of(response).startswith("a.png: not an image")


def test_more_images_than_allowed_are_refused(server: Server, files: list[bytes]):
    for number in (17, 40):
        response = server.post("/predict", files=form(*[("a.png", files[0])] * number))
        assert response.status_code == 413
        error_of(response)
    allowed = server.post("/predict", files=form(*[("a.png", files[0])] * 16))
    assert allowed.status_code == 200


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=", b"x", 400),
        ("multipart/form-data; boundary=b", b"x", 400),
        ("multipart/form-data; boundary=b", b"", 422),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n\r\n--b--\r\n", 400),
        (
            "multipart/form-data; boundary=b; charset=none",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nfield\r\n--b--\r\n',
            422,
        ),
        (
            "multipart/form-data; boundary=b; charset=undefined",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nfield\r\n--b--\r\n',
            400,
        ),
        (
            # Half of a pair: a name that is no text. What it names is no image.
            "multipart/form-data; boundary=b; charset=utf-7",
            b'--b\r\nContent-Disposition: form-data; name="a"; filename="+2AA-"\r\n\r\nx'
            b"\r\n--b--\r\n",
            415,
        ),
        ("text/plain", b"x", 415),
        ("application/json", b"{}", 415),
        ("multipart/mixed; boundary=b", b"x", 415),
    ],
)
def test_forms_and_types_that_are_not_read_are_refused(
    server: Server, kind: str, content: bytes, status: int
):
    response = server.post("/predict", content, headers={"Content-Type": kind})
    assert response.status_code == status
    error_of(response)


def test_a_compressed_file_is_read_and_a_bomb_is_not(server: Server, reference: Predictor):
    headers = {"Content-Encoding": "gzip"}
    answer = server.post("/predict", gzip.compress(EXAMPLE.read_bytes()), headers=headers)
    check(answer.json()["predictions"][0], reference(EXAMPLE)[0])
    bomb = server.post("/predict", gzip.compress(bytes(20_000_000)), headers=headers)
    assert bomb.status_code == 413
    error_of(bomb)
    assert server.post("/predict", b"x", headers={"Content-Encoding": "br"}).status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("PUT", "/predict", 405),
        ("POST", "/model", 405),
        ("POST", "/v2/health/ready", 405),
        ("GET", "/v2/models/digits/infer", 405),
        ("GET", "/nothing", 404),
        ("POST", "/predict/more", 404),
        ("GET", "/docs", 404),
        ("GET", "/%ff%00", 404),
        ("GET", "/../etc/passwd", 404),
    ],
)
def test_what_is_not_there_is_said_in_the_same_form(
    server: Server, method: str, path: str, status: int
):
    response = requests.request(method, server.url + path, timeout=30)
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize(
    ("path", "others"),
    [("/predict", "POST"), ("/v2/models/digits/infer", "POST"), ("/v2/health/live", "GET")],
)
def test_head_is_refused_where_there_is_none(server: Server, path: str, others: str):
    response = requests.head(server.url + path, timeout=30)
    assert response.status_code == 405
    assert response.headers["Allow"] == others
    assert response.headers["X-Request-ID"]
    assert response.content == b""


def test_too_large_images_together_are_refused(server: Server):
    image = encode(np.zeros((300, 300), np.uint8), "PNG")
    allowed = server.post("/predict", files=form(*[("a.png", image)] * 4))
    assert allowed.status_code == 200
    response = server.post("/predict", files=form(*[("a.png", image)] * 5))
    assert response.status_code == 413
    assert error_of(response) == "450,000 pixels in one request; the limit is 400,000"


def test_a_form_with_more_images_than_a_batch_is_answered_in_order(
    reference: Predictor, files: list[bytes]
):
    with Server(REFERENCE, "--max-batch", "3") as server:
        answer = server.post("/predict", files=form(*[("a.png", file) for file in files])).json()
        for entry, expected in zip(answer["predictions"], reference(files), strict=True):
            check(entry, expected)
        found = figures(server)
        assert found["imgclf_batch_images_sum",] == len(files) == 11
        assert found["imgclf_batch_images_count",] == 4
        assert found["imgclf_batch_images_bucket", "4.0"] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="limits the files of another process")
def test_a_form_needs_no_disk(reference: Predictor):
    """However large: nothing can be written to a file while it is read."""
    large = encode(np.random.default_rng(0).integers(0, 256, (1500, 1500), np.uint8), "PNG")
    assert len(large) > 2 * 2**20
    with Server(REFERENCE) as server:
        psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_FSIZE, (0, 0))
        response = server.post("/predict", files=form(("large.png", large)))
        assert response.status_code == 200, response.text
        (entry,) = response.json()["predictions"]
        (expected,) = reference([large])
        check(entry, expected)


def test_too_many_waiting_images_are_refused_for_a_while(files: list[bytes]):
    with Server(REFERENCE, "--max-queue", "1", "--max-batch", "1") as server:
        many = form(*[("a.png", files[0])] * 200)
        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(lambda _: server.post("/predict", files=many), range(48)))
        refused = [response for response in responses if response.status_code == 429]
        answered = [response for response in responses if response.status_code == 200]
        assert refused
        assert answered
        assert len(refused) + len(answered) == len(responses)
        for response in refused:
            assert response.headers["Retry-After"] == "1"
            error_of(response)
        assert server.post("/predict", files=many).status_code == 200


# --- MLflow's form


@pytest.fixture(scope="module")
def pixels(reference: Predictor, files: list[bytes]) -> Any:
    return np.stack([to_array(file, reference.card.preprocessing) for file in files])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: {"inputs": rows},
        lambda rows: {"inputs": {"image": rows}},
        lambda rows: {"instances": rows},
        lambda rows: {"instances": [{"image": row} for row in rows]},
    ],
    ids=["inputs", "named inputs", "instances", "named instances"],
)
def test_invocations_answer_as_the_predictor_does(
    server: Server, reference: Predictor, pixels: Any, wrap: Any
):
    response = server.post("/invocations", json=wrap(pixels.tolist()))
    assert response.status_code == 200
    predictions = response.json()["predictions"]
    assert list(predictions) == ["logits", "probabilities"]
    for found, expected in zip(predictions.values(), reference.run(pixels), strict=True):
        np.testing.assert_allclose(np.array(found, np.float32), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"no JSON", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"inputs": [], "instances": []}', 400),
        (b'{"inputs": {"picture": []}}', 400),
        (b'{"inputs": [{"picture": []}]}', 400),
        (b'{"inputs": []}', 422),
        (b'{"inputs": 7}', 422),
        (b'{"inputs": null}', 422),
        (b'{"inputs": [1, 2]}', 422),
        (b'{"inputs": ["a"]}', 422),
        (json.dumps({"inputs": [[[[256]] * 8] * 8]}).encode(), 422),
        (json.dumps({"inputs": [[[[float("nan")]] * 8] * 8]}).encode(), 422),
        (json.dumps({"inputs": [0] * 17}).encode(), 413),
    ],
)
def test_invocations_that_are_none_are_refused(server: Server, content: bytes, status: int):
    headers = {"Content-Type": "application/json"}
    response = server.post("/invocations", content, headers=headers)
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize("path", ["/invocations", "/v2/models/digits/infer"])
def test_json_is_read_as_far_as_the_model_can_take_its_images(server: Server, path: str):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [16, 8, 8, 1], "data": [255.0] * 1024}
    whole = {
        "/invocations": {"inputs": np.full((16, 8, 8, 1), 255.0).tolist()},
        "/v2/models/digits/infer": {"inputs": [tensor]},
    }
    content = json.dumps(whole[path]).encode()
    # 12 bytes for each pixel of 16 images, and 64 KiB for all else; the body may have a MiB.
    for length, status in ((12 * 1024 + 65_536, 200), (12 * 1024 + 65_537, 413)):
        assert server.post(path, content.ljust(length)).status_code == status


def test_a_body_that_says_it_is_too_large_is_not_waited_for(server: Server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(2**30))
    connection.putheader("Content-Type", "image/png")
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert b"larger than" in response.read()
    connection.close()
