"""``mlflow run . -e predict``: classify an image or a folder with an exported model."""

from mlflow_project.step import run_step

if __name__ == "__main__":
    run_step("predict")
