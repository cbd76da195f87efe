"""``mlflow run .``: train in the run that the runner has opened."""

from mlflow_project.step import run_step

if __name__ == "__main__":
    run_step("train")
