from pathlib import Path

import pytest

from imgclf.tracking.user_interface import run_url, ui_arguments


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("http://tracking.example:5001/", "http://tracking.example:5001"),
        ("https://tracking.example/mlflow", "https://tracking.example/mlflow"),
        ("sqlite:////tmp/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql://user@host/runs", "http://127.0.0.1:5000"),
    ],
)
def test_a_runs_page_is_on_the_server_or_where_mlflow_ui_will_show_it(uri: str, host: str) -> None:
    expected = f"{host}/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert run_url(uri, "7", "abc") == expected


def test_mlflow_ui_is_told_which_store_where_it_would_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert ui_arguments(f"sqlite:///{folder}/mlflow.db".replace(" ", "%20")) == ["ui"]
    assert ui_arguments("sqlite:///mlflow.db") == ["ui"]
    other = f"sqlite:///{tmp_path}/mlflow.db"
    assert ui_arguments(other) == ["ui", "--backend-store-uri", other]
    assert ui_arguments("http://tracking.example") is None
