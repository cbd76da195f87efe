"""What the steps share: the command line of imgclf, inside the run that the runner has opened."""

import sys

from imgclf.cli import main
from imgclf.errors import ImgclfError


def run_step(command: str) -> None:
    """Run a command of imgclf with this process's arguments, and exit with its exit code."""
    try:
        if command != "train":
            _tag_own_run(command)
    except ImgclfError as error:
        sys.exit(f"Error: {error}")
    main([command, *sys.argv[1:]], prog_name="imgclf")


def _tag_own_run(kind: str) -> None:
    """Say that the runner's run is no training run, before anything can fail."""
    from imgclf.tracking.identity import KIND_TAG, adopted_run
    from imgclf.tracking.model_registry import tag_runner_run

    if adopted_run():
        tag_runner_run(adopted_run(), {KIND_TAG: kind})
