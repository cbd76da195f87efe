"""Exports at the very same moment: ``python simultaneous.py``, told what to do by its input.

Each line of the input is JSON: ``orders``, each of which a process of its own carries out, and
``rounds``, in each of which all of them begin when the last one is ready. Each line of the output
is a list, for each order, of its rounds: what it returned, or its ``error``, and all that the
process ``printed``. The processes are forked from one that has imported torch and mlflow, which
takes seconds.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow.onnx
import mlflow.pytorch  # noqa: F401 - once, not in each process
import numpy as np
import torch

from imgclf.pipeline.export import export
from imgclf.predict import Predictor
from imgclf.tracking.connection import connect, import_store
from imgclf.tracking.model_registry import CHAMPION, register_export, registered_name
from imgclf.tracking.runs import find_run

FORK = multiprocessing.get_context("fork")
Act = Callable[[], dict[str, Any]]


def prepare_export(run: str, exports_dir: str) -> Act:
    return lambda: asdict(export(run, exports_dir=exports_dir).registration)


def prepare_register(run: str, file: str, dataset: str, val_accuracy: float) -> Act:
    """Register a file as if it came of a run with another accuracy."""
    card = Predictor(file).card
    pretended = replace(find_run(run), dataset=dataset, val_accuracy=val_accuracy)
    size = card.preprocessing
    example = np.zeros((2, size.height, size.width, size.channels), np.uint8)
    return lambda: asdict(register_export(pretended, Path(file), card, example))


PREPARATIONS = {"export": prepare_export, "register": prepare_register}


def champion_then_none(dataset: str) -> str:
    """Return the champion's version, and take the alias away for the next round."""
    name = registered_name(dataset)
    version = str(connect().get_model_version_by_alias(name, CHAMPION).version)
    connect().delete_registered_model_alias(name, CHAMPION)
    return version


def carry_out(order: dict[str, Any], is_first: bool, rounds: int, barrier: Any) -> list[Any]:
    act = PREPARATIONS[order.pop("action")](**order)
    connect().search_experiments()  # the database is open
    answers = []
    for number in range(rounds):
        barrier.wait()
        answer: dict[str, Any] = {"error": ""}
        try:
            answer |= act()
        except Exception:  # noqa: BLE001 - whatever it is, it must be told
            answer["error"] = traceback.format_exc()
        barrier.wait()
        if is_first and number + 1 < rounds:
            answer["champion"] = champion_then_none(order["dataset"])
        answers.append(answer)
    return answers


def write_answers(
    order: dict[str, Any], is_first: bool, rounds: int, barrier: Any, file: Path
) -> None:
    with tempfile.TemporaryFile("w+") as printed:
        os.dup2(printed.fileno(), sys.stdout.fileno())
        os.dup2(printed.fileno(), sys.stderr.fileno())
        try:
            answers = carry_out(order, is_first, rounds, barrier)
        except BaseException:
            barrier.abort()  # the others must not wait for it
            raise
        printed.seek(0)
        file.write_text(json.dumps({"rounds": answers, "printed": printed.read()}))


def run_at_once(orders: list[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    barrier = FORK.Barrier(len(orders))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(place) for place in range(len(orders))]
        processes = [
            FORK.Process(target=write_answers, args=(order, not place, rounds, barrier, file))
            for place, (order, file) in enumerate(zip(orders, files, strict=True))
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return [json.loads(file.read_text()) for file in files]


def main() -> None:
    torch.set_num_threads(1)
    import_store()
    for line in sys.stdin:
        print(json.dumps(run_at_once(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
