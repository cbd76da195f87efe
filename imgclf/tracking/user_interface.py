"""Where a person looks at runs: addresses and commands of MLflow's user interface."""

from pathlib import Path
from urllib.parse import unquote

from imgclf.tracking import SERVER_SCHEMES


def run_url(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page; for a local store, where ``mlflow ui`` will show it."""
    local = "http://127.0.0.1:5000"
    host = tracking_uri.rstrip("/") if tracking_uri.startswith(SERVER_SCHEMES) else local
    # Without its argument the UI opens with its pages for language models.
    page = f"experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{host}/#/{page}"


def ui_arguments(tracking_uri: str) -> list[str] | None:
    """Return mlflow's arguments that show the runs; None where a server shows them already."""
    if tracking_uri.startswith(SERVER_SCHEMES):
        return None
    database = Path(unquote(tracking_uri.removeprefix("sqlite:///")))
    if tracking_uri.startswith("sqlite:///") and database.resolve() == Path("mlflow.db").resolve():
        return ["ui"]
    return ["ui", "--backend-store-uri", tracking_uri]
