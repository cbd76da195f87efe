"""The predictor beside bare onnxruntime.

Run:   python benchmarks/prediction.py
Cost:  about two minutes on two CPU cores.

"One image": a process of `imgclf predict MODEL IMAGE` over a process of Python that imports
onnxruntime, NumPy and Pillow, opens a session, decodes the image and runs it; on the reference
export. "Batches": images a second of `Predictor.run`, and of the predictor called with an array,
over those of `InferenceSession.run` on the same decoded batches of 32.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import onnxruntime
from rounds import machine, take_turns
from served_models import NETWORKS, photographs, write_model

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
@click.option("--processes", default=9, help="Processes of each kind.")
@click.option("--repeats", default=9, help="Rounds of batches.")
@click.option("--images", "num_images", default=640, help="Images of a round.")
def main(processes: int, repeats: int, num_images: int) -> None:
    """Time both and print a table."""
    files = [str(REFERENCE / "model.onnx"), str(REFERENCE / "example.png")]

    def start(*command: str) -> None:
        subprocess.run([sys.executable, *command, *files], check=True, stdout=subprocess.PIPE)

    ways = {"bare": lambda: start("-c", BARE), "imgclf": lambda: start("-m", "imgclf", "predict")}
    seconds = take_turns(ways, processes)
    ratios = np.array(seconds["imgclf"]) / np.array(seconds["bare"])
    print("| what | ratio to bare onnxruntime, median (lowest to highest) |\n|---|---|")
    _print("one image, time of a process", ratios)
    for size in NETWORKS:
        for name, found in _batches(size, repeats, num_images).items():
            _print(f"{name}, {size}x{size}, images a second", found)
    print(f"\n{machine()}, onnxruntime {onnxruntime.__version__}")


def _batches(size: int, repeats: int, num_images: int) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_model(size, path)
        predictor = Predictor(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    mode = "L" if predictor.card.preprocessing.channels == 1 else "RGB"
    some = np.stack([np.asarray(image.convert(mode)) for image in photographs(32, size)])
    batch = some.reshape(32, size, size, -1)
    rounds = range(max(1, num_images // 32 // (1 if size < 100 else 10)))
    ways = {
        "bare": lambda: [session.run(None, {"image": batch}) for _ in rounds],
        "Predictor.run": lambda: [predictor.run(batch) for _ in rounds],
        "Predictor of an array": lambda: [predictor(batch) for _ in rounds],
    }
    seconds = take_turns(ways, repeats)
    bare = np.array(seconds.pop("bare"))
    return {name: bare / np.array(times) for name, times in seconds.items()}


def _print(what: str, ratios: np.ndarray) -> None:
    print(f"| {what} | {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f}) |")


if __name__ == "__main__":
    main()
