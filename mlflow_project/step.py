"""What the steps share: the command line of imgclf, inside the run that the runner has opened."""

import os
import signal
import sys
import threading
import time

from imgclf.cli import main
from imgclf.errors import ImgclfError
from imgclf.interruption import is_interrupted
from imgclf.tracking.identity import KIND_TAG, adopted_run


def run_step(command: str) -> None:
    """Run a command of imgclf with this process's arguments, and exit with its exit code."""
    try:
        if adopted_run():
            _end_with_runner()
            if command != "train":
                _tag_own_run(command)
    except ImgclfError as error:
        sys.exit(f"Error: {error}")
    main([command, *sys.argv[1:]], prog_name="imgclf")


def _end_with_runner() -> None:
    """Ask this process to end, as SIGTERM does, once the runner is gone.

    A runner that is killed, or told alone to end, leaves the step that it runs behind. Where all of
    its processes were told, the step has its signal already: a second one would end it at once.
    """
    runner = os.getppid()

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(1)
        if not is_interrupted():
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="imgclf-runner", daemon=True).start()


def _tag_own_run(kind: str) -> None:
    """Say that the runner's run is no training run, before anything can fail."""
    from imgclf.tracking.model_registry import tag_runner_run

    tag_runner_run(adopted_run(), {KIND_TAG: kind})
