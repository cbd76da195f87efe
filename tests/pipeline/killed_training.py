"""Trains in processes that are killed: ``python killed_training.py``, told what to do by its input.

Each line of the input is JSON: the ``moment`` at which the process kills itself, ``count`` for how
often that moment has come by then, ``seconds`` after which it is killed whatever it does (0:
never), the parameters and the run to ``resume``. Each line of the output is how that process ended.
The processes are forked from one that has imported torch, which takes seconds.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from imgclf.config import TrainConfig
from imgclf.pipeline import fit, outcome, train
from imgclf.tracking.journal import Journal
from imgclf.tracking.tracker import Tracker
from imgclf.training import checkpoint, loop


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: Any, name: str, count: int, act: Callable[..., None]) -> None:
    """Act instead of, or before, the so-many-th call of a function."""
    original, calls = getattr(owner, name), 0

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            act(*arguments)
            kill()
        return original(*arguments, **named)

    setattr(owner, name, counting)


def write_half(path: Path, content: bytes, *_: str) -> None:
    path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])


def write_without_name(path: Path, content: bytes, *_: str) -> None:
    path.with_name(path.name + ".part").write_bytes(content)


def say_half(journal: Journal, *_: Any) -> None:
    journal._file.write(b'{"sequence": 12, "time_ms": 17')


def nothing(*_: Any) -> None:
    pass


MOMENTS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "step": (loop, "_step", nothing),
    "half of a checkpoint": (checkpoint, "write_whole", write_half),
    "before a checkpoint has its name": (checkpoint, "write_whole", write_without_name),
    "between checkpoint and journal": (fit, "_tell", nothing),
    "validation": (fit, "predict_logits", nothing),
    "half of a record": (Journal, "append", say_half),
    "best weights": (fit, "save_weights", nothing),
    "evaluation at the end": (outcome, "write_evaluation", nothing),
    "sending the rest": (Tracker, "finish", nothing),
}


def run(order: dict[str, Any]) -> None:
    # Small epochs: so that there are moments between two checkpoints of one.
    loop.SECONDS_BETWEEN_SNAPSHOTS = 0.0
    if order["moment"] != "never":
        owner, name, act = MOMENTS[order["moment"]]
        on_call(owner, name, order["count"], act)
    if order["seconds"]:
        threading.Thread(target=lambda: (time.sleep(order["seconds"]), kill()), daemon=True).start()
    if order["resume"]:
        train.resume(order["resume"], order["values"]["runs_dir"])
    else:
        train.train(TrainConfig.from_dict(order["values"]))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                # What it prints must not get between the answers.
                os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
                run(json.loads(line))
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, its parent must go on
                traceback.print_exc()
            finally:
                from imgclf.tracking.sender import stop_kept_senders

                stop_kept_senders()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
