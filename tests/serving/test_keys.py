"""With a file of keys, only who has one is answered; a file without good keys is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from click.testing import Result

from server_process import EXAMPLE, REFERENCE, Server

FIRST, SECOND = "a-key-of-sixteen-or-more", "schlüssel-mit-umlaut-à"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_bytes(f"\ufeff{FIRST}\n  # a comment that is no key\n\n  {SECOND}  \n".encode())
    with Server(REFERENCE, "--api-key-file", path) as server:
        yield server


GUARDED = [
    ("GET", "/model"),
    ("GET", "/metrics"),
    ("POST", "/predict"),
    ("POST", "/invocations"),
    ("GET", "/v2"),
    ("GET", "/v2/models/digits"),
    ("GET", "/v2/models/digits/ready"),
    ("POST", "/v2/models/digits/infer"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {FIRST}",
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}x",
        f"Bearer {FIRST.upper()}",
        "Bearer # a comment that is no key",
        FIRST,
    ],
)
def test_without_a_key_nothing_is_told(guarded: Server, method: str, path: str, given: str | None):
    headers = {} if given is None else {"Authorization": given}
    ask = guarded.get if method == "GET" else guarded.post
    response = ask(path, headers=headers)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json() == {"error": "send a key: Authorization: Bearer KEY"}


@pytest.mark.parametrize("key", [FIRST, SECOND])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_each_key_is_taken(guarded: Server, key: str, scheme: str):
    headers = {"Authorization": f"{scheme} {key}".encode()}
    answer = guarded.post("/predict", EXAMPLE.read_bytes(), headers=headers)
    assert answer.status_code == 200
    for method, path in GUARDED:
        if method == "GET":
            assert guarded.get(path, headers=headers).status_code == 200


def test_the_client_of_triton_can_give_a_key(guarded: Server):
    request = triton.InferInput("image", [1, 8, 8, 1], "UINT8")
    request.set_data_from_numpy(np.zeros((1, 8, 8, 1), np.uint8))
    with triton.InferenceServerClient(guarded.address) as client:
        assert client.is_server_ready()
        headers = {"Authorization": f"Bearer {FIRST}"}
        result = client.infer("digits", [request], headers=headers)
        assert result.as_numpy("logits").shape == (1, 10)


def test_the_description_says_where_a_key_is_asked_for(guarded: Server, server: Server):
    described = guarded.get("/openapi.json").json()
    (scheme,) = described["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, route in described["paths"].items():
        for operation in route.values():
            assert ("security" in operation) == ("/health/" not in path), path
            assert ("401" in operation["responses"]) == ("/health/" not in path), path
    assert "securitySchemes" not in server.get("/openapi.json").json()["components"]


@pytest.mark.parametrize("path", ["/", "/v2/health/live", "/v2/health/ready"])
def test_page_and_health_are_open(guarded: Server, path: str):
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Cannot read the keys in '{path}': No such file or directory."),
        (b"\xff\xfe\x00", "Cannot read the keys in '{path}': it is no text."),
        (b"", "'{path}' must hold keys of at least 16 characters"),
        (b"# only a comment\n", "'{path}' must hold keys of at least 16 characters"),
        (b"long-enough-to-be-a-key\nshort\n", "'{path}' must hold keys of at least 16 characters"),
    ],
)
def test_a_file_without_good_keys_starts_no_server(
    refused_serve: Callable[..., Result], tmp_path: Path, content: bytes | None, message: str
):
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_bytes(content)
    result = refused_serve("--port", "0", "--api-key-file", path)
    assert result.exit_code == 1
    said = f"Error: {message.format(path=path)}"
    assert [line[: len(said)] for line in result.stderr.splitlines()].count(said) == 1
