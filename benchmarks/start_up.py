"""From the command to the first training step, beside the import of torch and mlflow.

Run:   python benchmarks/start_up.py [--dataset digits] [--data-dir FOLDER] [--repeats 5]
Cost:  about three minutes on two CPU cores.

"command" is `python -m imgclf train` in a fresh process, from its start to the moment at which the
first epoch begins: the run's journal tells when the epoch had ended and how long it took. By then
the data is loaded, the first batch is drawn, and MLflow has opened the run in a SQLite database
that is there already. "import" is `python -c "import torch, mlflow"`. Both take turns, files in the
cache of the operating system.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from rounds import machine, orders, ratios, spread

from imgclf.tracking.journal import JOURNAL_FILE, read_records


def _seconds_to_import() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, mlflow"], check=True)
    return time.perf_counter() - start


def _seconds_to_first_step(runs: Path, options: list[str]) -> float:
    arguments = ["train", "--epochs", "1", "--runs-dir", str(runs), *options]
    start = time.time()
    command = [sys.executable, "-m", "imgclf", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (journal,) = runs.glob(f"*/{JOURNAL_FILE}")
    metrics = [record for record in read_records(journal) if record.kind == "metrics"]
    ended = next(record for record in metrics if "epoch_seconds" in record.content["values"])
    return ended.time_ms / 1000 - ended.content["values"]["epoch_seconds"] - start


@click.command()
@click.option("--dataset", default="digits", help="As `imgclf train` takes it.")
@click.option("--data-dir", default="", help="As `imgclf train` takes it.")
@click.option("--repeats", default=5, help="Starts of each kind.")
def main(dataset: str, data_dir: str, repeats: int) -> None:
    """Time the starts and print a table."""
    options = ["--dataset", dataset, *(["--data-dir", data_dir] if data_dir else [])]
    seconds: dict[str, list[float]] = {"import": [], "command": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        for number, order in enumerate(orders(list(seconds), repeats + 1)):
            runs = Path(folder) / str(number)
            for way in order:
                if way == "import":
                    taken = _seconds_to_import()
                else:
                    taken = _seconds_to_first_step(runs, options)
                if number:  # the first round fills the caches and creates the database
                    seconds[way].append(taken)
    beside = spread(ratios(seconds["command"], seconds["import"]))
    imported, started = (np.median(taken) for taken in seconds.values())
    print("| data set | import, s | command, s | command over import, median (lowest to highest) |")
    print("|---|---|---|---|")
    print(f"| {dataset} | {imported:.1f} | {started:.1f} | {beside} |")
    print(f"\n{machine()}; {repeats} rounds")


if __name__ == "__main__":
    main()
