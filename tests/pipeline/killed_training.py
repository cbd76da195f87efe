"""Trains in processes that are killed: ``python killed_training.py``, told what to do by its input.

Each line of the input is JSON: the ``moment`` at which a process is struck, ``count`` for how often
that moment has come by then, the ``signals`` that it sends itself there, ``seconds`` to wait before
(from its start where there is no moment), the ``options`` of `imgclf train`, and the file that
receives its ``output``. Each line of the output is how that process ended. The processes are forked
from one that has imported torch, which takes seconds.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from imgclf.cli import main as imgclf
from imgclf.pipeline import fit, outcome
from imgclf.tracking.journal import Journal
from imgclf.tracking.tracker import Tracker
from imgclf.training import checkpoint, loop


def on_call(owner: Any, name: str, count: int, act: Callable[..., None]) -> None:
    """Act before the so-many-th call of a function."""
    original, calls = getattr(owner, name), 0

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            act(*arguments)
        return original(*arguments, **named)

    setattr(owner, name, counting)


def write_half(path: Path, content: bytes, *_: str) -> None:
    path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])


def write_without_name(path: Path, content: bytes, *_: str) -> None:
    path.with_name(path.name + ".part").write_bytes(content)


def say_half(journal: Journal, *_: Any) -> None:
    journal._file.write(b'{"sequence": 12, "time_ms": 17')


def fail(*_: Any) -> None:
    raise RuntimeError("a mistake of ours")


def nothing(*_: Any) -> None:
    pass


MOMENTS: dict[str, tuple[Any, str, Callable[..., None]]] = {
    "step": (loop, "_step", nothing),
    "failing step": (loop, "_step", fail),
    # The first two are the split and what is known of the images.
    "third artifact": (Tracker, "artifact", nothing),
    "half of a checkpoint": (checkpoint, "write_whole", write_half),
    "before a checkpoint has its name": (checkpoint, "write_whole", write_without_name),
    "between checkpoint and journal": (fit, "_tell", nothing),
    "validation": (fit, "predict_logits", nothing),
    "half of a record": (Journal, "append", say_half),
    "best weights": (fit, "save_weights", nothing),
    "evaluation at the end": (outcome, "write_evaluation", nothing),
    "sending the rest": (Tracker, "finish", nothing),
}


def strike(order: dict[str, Any]) -> None:
    """Send this process its signals, now or while it goes on."""

    def send() -> None:
        time.sleep(order["seconds"])
        for number in order["signals"]:
            os.kill(os.getpid(), number)
            time.sleep(0.2)  # two at once would be one

    if order["seconds"]:
        threading.Thread(target=send, daemon=True).start()
    else:
        send()


def run(order: dict[str, Any]) -> None:
    with open(order["output"], "wb") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
    # Small epochs: so that there are moments between two checkpoints of one.
    loop.SECONDS_BETWEEN_SNAPSHOTS = 0.0
    if order["moment"]:
        owner, name, act = MOMENTS[order["moment"]]

        def act_and_strike(*arguments: Any) -> None:
            act(*arguments)
            strike(order)

        on_call(owner, name, order["count"], act_and_strike)
    elif order["seconds"]:
        strike(order)
    options = [f"--{name}={value}" for name, value in order["options"].items()]
    imgclf(["train", *options], prog_name="imgclf")


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                run(json.loads(line))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:  # noqa: BLE001 - whatever it is, its parent must go on
                traceback.print_exc()
            finally:
                from imgclf.tracking.sender import stop_kept_senders

                sys.stdout.flush()
                stop_kept_senders()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
