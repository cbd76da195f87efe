"""Models that a training run has logged in MLflow: none is logged twice."""

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus

from imgclf.tracking.identity import SHA256_TAG
from imgclf.tracking.runs import TrainRun


def find_logged_model(
    client: MlflowClient, run: TrainRun, name: str, sha256: str
) -> LoggedModel | None:
    """Return the model that an earlier export has logged; remove what is left of one that failed.

    Args:
        client: the store.
        run: the training run that the model comes from.
        name: of the logged model.
        sha256: of the file that the model was made from.
    """
    experiment_id = client.get_run(run.mlflow_run_id).info.experiment_id
    query = f"source_run_id = '{run.mlflow_run_id}' AND tags.`{SHA256_TAG}` = '{sha256}'"
    whole = None
    for found in client.search_logged_models([experiment_id], query):
        if found.name != name:
            continue
        if found.status == LoggedModelStatus.READY:
            whole = found
        else:
            client.delete_logged_model(found.model_id)
    return whole
