"""The predictor beside bare onnxruntime.

Run:   python benchmarks/prediction.py [--processes 25] [--rounds 9] [--seconds 2]
Cost:  about three minutes on two CPU cores.

"One image": a process of `imgclf predict MODEL IMAGE` over a process of Python that imports
onnxruntime, NumPy and Pillow, opens a session, decodes the image and runs it; on the reference
export. "Batches": `Predictor.run`, and the predictor called with an array, over
`InferenceSession.run` on the same batches of 32, in a session of onnxruntime's own settings; each
round takes about --seconds. "Its session" is the predictor's session alone: two sessions of one
file differ by their settings, and by where their memory happens to lie. The ways take turns, every
second round backwards, and a ratio is of two times in one round.
"""

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import onnxruntime
from rounds import machine, take_turns
from served_models import SERVED, Served, inputs, write_model

from imgclf.predict import Predictor

REFERENCE = Path(__file__).parents[1] / "exports" / "reference"
BARE = """
import sys
import numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
with Image.open(sys.argv[2]) as image:
    pixels = numpy.asarray(image)[None, :, :, None]
print(session.run(None, {"image": pixels})[1].argmax())
"""


@click.command()
@click.option("--processes", default=25, help="Processes of each kind.")
@click.option("--rounds", default=9, help="Rounds of batches.")
@click.option("--seconds", default=2.0, help="Of a way in a round of batches.")
def main(processes: int, rounds: int, seconds: float) -> None:
    """Time both and print a table."""
    files = [str(REFERENCE / "model.onnx"), str(REFERENCE / "example.png")]

    def start(*command: str) -> None:
        subprocess.run([sys.executable, *command, *files], check=True, stdout=subprocess.PIPE)

    ways = {"bare": lambda: start("-c", BARE), "imgclf": lambda: start("-m", "imgclf", "predict")}
    found = take_turns(ways, processes)
    print("| what | time over that of bare onnxruntime | bare |\n|---|---|---|")
    milliseconds = 1000 * np.median(found["bare"])
    _print("a process for one image", found, "imgclf", f"{milliseconds:,.0f} ms")
    for served in SERVED:
        batches, found = _batches(served, rounds, seconds)
        rate = f"{32 * batches / np.median(found['bare']):,.0f} images/s"
        for way in list(found)[1:]:
            _print(f"{way}, {served.network} at {served.size}x{served.size}", found, way, rate)
    print(
        f"\nMedian (lowest to highest) of {processes} processes, of {rounds} rounds; {machine()},"
        f" onnxruntime {onnxruntime.__version__}"
    )


def _batches(served: Served, rounds: int, seconds: float) -> tuple[int, dict[str, list[float]]]:
    """Return the number of batches in a round, and each way's seconds in each round."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(served, path)
        predictor = Predictor(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    own, batch = predictor._session, inputs(32, served)

    def bare() -> None:
        session.run(None, {"image": batch})

    bare()
    start = time.perf_counter()
    for _ in range(3):
        bare()
    number = math.ceil(seconds / ((time.perf_counter() - start) / 3))
    ways = {
        "bare": lambda: [bare() for _ in range(number)],
        "its session": lambda: [own.run(None, {"image": batch}) for _ in range(number)],
        "Predictor.run": lambda: [predictor.run(batch) for _ in range(number)],
        "Predictor of an array": lambda: [predictor(batch) for _ in range(number)],
    }
    return number, take_turns(ways, rounds)


def _print(what: str, seconds: dict[str, list[float]], way: str, bare: str) -> None:
    ratios = np.array(seconds[way]) / np.array(seconds["bare"])
    print(
        f"| {what} | {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f}) | {bare} |"
    )


if __name__ == "__main__":
    main()
