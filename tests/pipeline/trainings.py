"""Trainings in processes of their own, which are struck by signals wherever a test wants it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VALUES = {
    "epochs": 4,
    "batch_size": 50,
    "ema": True,
    "crop_padding": 1,
    "threads": 1,
    "checkpoint_minutes": 0.001,
}


class Trainings:
    """A process that starts trainings.

    Attributes:
        process: the one that starts them.
        output: receives what the last one has printed.
    """

    def __init__(self, output: Path) -> None:
        script = Path(__file__).with_name("killed_training.py")
        self.output = output
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(
        self,
        runs_dir: Path,
        moment: str = "",
        count: int = 1,
        signals: Iterable[int] = (signal.SIGKILL,),
        seconds: float = 0.0,
        resume: str = "",
    ) -> int:
        """Train, and return the exit status: -9 where it was killed.

        Args:
            runs_dir: receives the run's folder.
            moment: when it is struck, of those that ``killed_training.py`` knows.
            count: how often that moment has come by then.
            signals: what it is struck with.
            seconds: to wait before; without a moment from its start on, 0: never.
            resume: a run's id; empty: train anew.
        """
        options: dict[str, Any] = {"resume": resume} if resume else VALUES
        order = {
            "moment": moment,
            "count": count,
            "signals": list(signals),
            "seconds": seconds,
            "options": options | {"runs_dir": str(runs_dir)},
            "output": str(self.output),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
