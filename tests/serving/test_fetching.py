"""A server that is told of another model by somebody else than its file."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgclf.errors import ImgclfError
from imgclf.serving import fetching
from imgclf.serving.fetching import keep_fetching
from other_models import another_model
from server_process import IMAGE, Server, until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SECONDS_BETWEEN_QUESTIONS", 0.01)


def test_it_is_asked_again_whatever_happens_and_what_is_new_is_logged(
    caplog: pytest.LogCaptureFixture,
):
    outcomes: Iterator[str | Exception] = iter(
        ["", ImgclfError("no answer"), "", ValueError("unforeseen"), "models:/digits/2", ""]
    )
    asked: list[str | Exception] = []

    def fetch() -> str:
        asked.append(next(outcomes, ""))
        if isinstance(asked[-1], Exception):
            raise asked[-1]
        return asked[-1]

    caplog.set_level(logging.INFO, "imgclf.serve")
    with keep_fetching(fetch):
        until(lambda: len(asked) > 6)
    found = [(one.levelname, one.message, vars(one).get("fields")) for one in caplog.records]
    assert found == [
        ("ERROR", "not fetched", {"reason": "no answer"}),
        ("ERROR", "not fetched", None),
        ("INFO", "fetched", {"model": "models:/digits/2"}),
    ]
    assert caplog.records[1].exc_info
    time.sleep(0.05)
    number = len(asked)
    time.sleep(0.1)
    assert len(asked) == number


@pytest.mark.slow
def test_servers_answer_with_what_an_alias_has_come_to_stand_for(workplace, tmp_path: Path):
    from mlflow import MlflowClient

    client, name = MlflowClient(), "served-by-alias"
    client.create_registered_model(name)
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        another_model(tmp_path / version / "model.onnx", version)
        client.create_model_version(name, (tmp_path / version).as_uri())
    client.set_registered_model_alias(name, "champion", "1")
    before = "from imgclf.serving import fetching; fetching.SECONDS_BETWEEN_QUESTIONS = 0.5"
    options = ("--reload", "--workers", "2")
    with Server(f"models:/{name}@champion", *options, before=before) as server:
        server.wait_for("ready", 2)
        first = server.version()
        client.set_registered_model_alias(name, "champion", "2")
        assert server.wait_for("fetched")["model"] == f"models:/{name}/2"
        second = server.wait_for("reloaded", 2)["version"]
        assert server.version() == second != first
        assert server.post("/predict", IMAGE).status_code == 200
    client.delete_registered_model(name)
