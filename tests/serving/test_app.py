"""What every answer carries, what the page may do, and what happens before a model is there."""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests

from asgi import Exchange, ask, never, running, until_ready
from imgclf.serving.app import create_app
from imgclf.serving.served_model import LoadedModel, ServedModel
from imgclf.serving.settings import ServerSettings
from server_process import EXAMPLE, REFERENCE, Server

ORIGIN = "https://pages.example"


@pytest.fixture(scope="module")
def named_origin() -> Iterator[Server]:
    with Server(REFERENCE, "--cors-origin", ORIGIN, "--name", "mine") as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/model", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/nothing", 404),
        ("GET", "/predict", 405),
        ("POST", "/predict", 422),
        ("POST", "/predict/", 404),
    ],
)
def test_every_answer_carries_safe_headers(server: Server, method: str, path: str, status: int):
    response = requests.request(method, server.url + path, timeout=30, allow_redirects=False)
    assert response.status_code == status
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Request-ID"]
    assert "Server" not in response.headers
    assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "/nothing", 404, "Not Found"),
        ("POST", "/predict/", 404, "Not Found"),
        ("GET", "/v2/models/digits/", 404, "Not Found"),
        ("GET", "/predict", 405, "Method Not Allowed"),
        ("DELETE", "/v2/health/live", 405, "Method Not Allowed"),
    ],
)
def test_what_is_no_route_is_answered_as_every_error(
    server: Server, method: str, path: str, status: int, error: str
):
    response = requests.request(method, server.url + path, timeout=30, allow_redirects=False)
    assert response.status_code == status
    assert response.json() == {"error": error}
    assert "Location" not in response.headers
    assert ("Allow" in response.headers) == (status == 405)


class Page(HTMLParser):
    """Collects what stands in style and script, and what a page takes from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: dict[str, list[str]] = {"style": [], "script": []}
        self.addresses: list[str] = []
        self.event_handlers: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value or "")
            if name.startswith("on") or name == "style":
                self.event_handlers.append(name)

    def handle_data(self, data: str) -> None:
        if self._inside in self.inline:
            self.inline[self._inside].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def test_the_page_may_run_exactly_what_stands_in_it(server: Server):
    response = server.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(response.content.decode())
    policy = {}
    for part in response.headers["Content-Security-Policy"].split(";"):
        name, _, value = part.strip().partition(" ")
        policy[name] = value
    for tag, (text,) in page.inline.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    # These would need 'unsafe-inline', or another server.
    assert page.event_handlers == []
    assert page.addresses == ["data:,"]
    assert not re.search(r"https?://", response.text)


def test_the_model_tells_where_it_comes_from_and_how_it_was_proved(server: Server):
    model = server.get("/model").json()
    content = REFERENCE.read_bytes()
    assert model["sha256"] == hashlib.sha256(content).hexdigest()
    assert model["version"] == model["sha256"][:12]
    assert model["input"] == {"height": 8, "width": 8, "channels": 1}
    assert model["classes"] == [str(digit) for digit in range(10)]
    assert model["golden_inputs"] == 11
    assert model["parity"] == json.loads(REFERENCE.with_name("parity.json").read_text())


def test_only_a_named_origin_may_call_from_its_pages(named_origin: Server):
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for origin, allowed in ((ORIGIN, ORIGIN), ("https://others.example", None)):
        asked = requests.options(
            named_origin.url + "/predict", headers={"Origin": origin, **preflight}, timeout=30
        )
        assert asked.headers.get("Access-Control-Allow-Origin") == allowed
        assert (asked.status_code == 200) == (allowed is not None)
        headers = {"Origin": origin}
        done = named_origin.post("/predict", EXAMPLE.read_bytes(), headers=headers)
        assert done.status_code == 200
        assert done.headers.get("Access-Control-Allow-Origin") == allowed
        failed = named_origin.post("/predict", b"x", headers=headers)
        assert failed.headers.get("Access-Control-Allow-Origin") == allowed


def test_no_origin_may_call_by_default(server: Server):
    response = requests.options(
        server.url + "/predict",
        headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"},
        timeout=30,
    )
    assert response.status_code == 405
    assert "Access-Control-Allow-Origin" not in response.headers


def test_a_given_name_is_the_models(named_origin: Server):
    assert named_origin.get("/v2/models/mine").json()["name"] == "mine"
    assert named_origin.get("/v2/models/digits").status_code == 404


# --- Inside one process: what a client cannot bring about from outside


def test_before_the_model_is_loaded_nothing_is_answered_but_the_health(
    monkeypatch: pytest.MonkeyPatch,
):
    loading, load = threading.Event(), ServedModel.load

    def load_late(served: ServedModel) -> LoadedModel:
        assert loading.wait(30)
        return load(served)

    async def work() -> None:
        monkeypatch.setattr(ServedModel, "load", load_late)
        app = create_app(ServerSettings(str(REFERENCE)), never)
        async with running(app):
            for method, path in (
                ("GET", "/v2/health/ready"),
                ("GET", "/v2/models/digits"),
                ("GET", "/v2/models/digits/ready"),
                ("POST", "/v2/models/digits/infer"),
                ("POST", "/predict"),
                ("GET", "/model"),
            ):
                status, headers, answer = await ask(app, method, path, EXAMPLE.read_bytes())
                assert status == 503
                assert headers["retry-after"] == "1"
                assert answer == {"error": "the model is not loaded yet"}
            assert (await ask(app, "GET", "/v2/health/live"))[0] == 200
            loading.set()
            await until_ready(app)
            assert (await ask(app, "GET", "/v2/models/digits"))[0] == 200

    asyncio.run(work())


def test_a_model_that_does_not_prove_itself_is_given_up(tmp_path: Path):
    reasons: list[str] = []

    async def work() -> None:
        app = create_app(ServerSettings(str(tmp_path / "absent.onnx")), reasons.append)
        async with running(app):
            while not reasons:
                await asyncio.sleep(0.01)
            assert (await ask(app, "GET", "/v2/health/ready"))[0] == 503

    asyncio.run(asyncio.wait_for(work(), 30))
    assert reasons[0].startswith("Cannot open the model")


def test_a_named_origin_may_read_every_error_and_the_headers_that_explain_it(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: object) -> None:
        raise ValueError

    async def work() -> None:
        settings = ServerSettings(str(REFERENCE), cors_origins=(ORIGIN,), timeout=2)
        app = create_app(settings, never)
        async with running(app):
            await until_ready(app)
            slow = Exchange(app, "POST", "/predict", {"Origin": ORIGIN})
            answers = [
                await ask(app, method, path, b"x", {"Origin": ORIGIN})
                for method, path in (("POST", "/predict"), ("GET", "/nothing"), ("HEAD", "/model"))
            ]
            monkeypatch.setattr("imgclf.serving.engine.to_array", fail)
            answers.append(await ask(app, "POST", "/predict", b"x", {"Origin": ORIGIN}))
            await slow.task
            answers.append((slow.status, slow.headers, slow.json()))
        assert [status for status, _, _ in answers] == [415, 404, 405, 500, 503]
        for _, headers, _ in answers:
            assert headers["access-control-allow-origin"] == ORIGIN
            exposed = headers["access-control-expose-headers"].split(", ")
            assert {"X-Request-ID", "Retry-After", "Inference-Header-Content-Length"} == {*exposed}
            assert headers["x-request-id"]
            assert headers["x-frame-options"] == "DENY"

    asyncio.run(work())


@pytest.mark.parametrize("error", [ValueError("a secret"), RuntimeError("another secret")])
def test_an_error_of_ours_is_told_without_its_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(*_: object) -> None:
        raise error

    async def work() -> None:
        app = create_app(ServerSettings(str(REFERENCE)), never)
        async with running(app):
            await until_ready(app)
            monkeypatch.setattr("imgclf.serving.engine.to_array", fail)
            status, headers, answer = await ask(app, "POST", "/predict", EXAMPLE.read_bytes())
            assert status == 500
            assert headers["x-request-id"]
            assert list(answer) == ["error"]
            assert "secret" not in answer["error"]
            monkeypatch.undo()
            assert (await ask(app, "POST", "/predict", EXAMPLE.read_bytes()))[0] == 200

    asyncio.run(work())
