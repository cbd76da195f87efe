"""MLflow's own server serves the registered champion, and answers as the exported file."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow import MlflowClient

from imgclf.predict import Predictor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve models:/imgclf-digits@champion on a free port; everything is stopped at the end."""
    registration = exported.registration
    # Other tests of the session may have registered better ones.
    MlflowClient().set_registered_model_alias(registration.name, "champion", registration.version)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("serving") / "log.txt"
    environment = dict(os.environ)
    # The server starts its workers by names that it looks up.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
                *("-m", f"models:/{registration.name}@champion", "--port", str(port)),
                *("--host", "127.0.0.1"),
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
    wait_for_the_end(f"http://127.0.0.1:{port}/ping")


def wait_for_the_end(url: str) -> None:
    """The workers go a moment after the process that started them."""
    for _ in range(30):
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            return
        time.sleep(1)
    pytest.fail("the server still answers")


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(1)
        if process.poll() is not None:
            break
    pytest.fail(f"the server does not answer:\n{log.read_text()[-3000:]}")


@pytest.mark.parametrize("named", [True, False])
def test_invocations_answer_real_digits_as_the_predictor_does(address, exported, named):
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = np.round(bunch.images[:7] * (255 / 16)).astype(np.uint8)[..., None]
    pixels = images.tolist()

    response = requests.post(
        f"{address}/invocations",
        json={"inputs": {"image": pixels} if named else pixels},
        timeout=60,
    )

    assert response.status_code == 200, response.text
    answer = response.json()["predictions"]
    logits, probabilities = Predictor(exported.model).run(images)
    np.testing.assert_allclose(answer["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-6)


def test_an_image_of_another_size_is_refused_with_the_size_it_takes(address):
    response = requests.post(
        f"{address}/invocations", json={"inputs": np.zeros((1, 9, 9, 1), int).tolist()}, timeout=60
    )
    assert response.status_code == 400
    assert "8, 8, 1" in response.text
