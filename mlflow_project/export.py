"""``mlflow run . -e export``: export the best run, or the one that ``-P run=ID`` names.

The runner's own run is tagged as an export and linked to the training run, which receives the proof
and the model.
"""

from mlflow_project.step import run_step

if __name__ == "__main__":
    run_step("export")
