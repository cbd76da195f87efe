"""Everything that is sent to MLflow or read from it; the only package that imports mlflow."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# A server that is down blocks a call for minutes with MLflow's own settings.
_PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
for _name, _value in _PATIENT.items():
    os.environ.setdefault(_name, _value)
# MLflow tells of database migrations and model flavours on standard error; nobody asked.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
# It draws bars there as well, where a server that fetches another model writes lines of JSON.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

# How the address of a model in MLflow begins.
MODEL_SCHEMES = ("models:/", "runs:/")
# How the address of a tracking server begins; others are databases.
SERVER_SCHEMES = ("http://", "https://")


@contextmanager
def brief_requests() -> Iterator[None]:
    """Let calls fail within seconds where a server hangs, for callers that try again anyway.

    What a person has set stays.
    """
    before = {name: os.environ[name] for name in _BRIEF}
    os.environ.update({k: v for k, v in _BRIEF.items() if before[k] == _PATIENT[k]})
    try:
        yield
    finally:
        os.environ.update(before)


def no_answer(tracking_uri: str, reason: str) -> str:
    """Say in words that a store takes nothing at present."""
    if tracking_uri.startswith(SERVER_SCHEMES):
        return f"the tracking server does not answer: {reason}"
    return f"the store cannot be used: {reason}"
