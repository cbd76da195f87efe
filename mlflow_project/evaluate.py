"""``mlflow run . -e evaluate``: measure a model on labelled images, in the run of the runner."""

from mlflow_project.step import run_step

if __name__ == "__main__":
    run_step("evaluate")
