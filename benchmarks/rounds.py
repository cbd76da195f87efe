"""What benchmarks share: ways that take turns, their ratios as a table, and the machine."""

import os
import platform
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every way once in each round, so that a machine that slows down slows all.

    Every second round goes backwards: what comes first, or behind a heavier way, has no advantage.

    Returns:
        way -> seconds in each round; a first round, which warms up, is left out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in list(ways.items())[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def print_ratios(seconds: Mapping[str, list[float]], reference: str, num_images: int) -> None:
    """Print images a second and the time beside that of a reference in the same round."""
    print(f"| way | images/s, median | time over {reference}, median (lowest to highest) |")
    print("|---|---|---|")
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds[reference])
        print(
            f"| {name} | {num_images / np.median(times):,.0f} | {np.median(ratios):.2f}"
            f" ({ratios.min():.2f} to {ratios.max():.2f}) |"
        )


def machine() -> str:
    """Return what the figures were taken on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()},"
        f" torch {torch.__version__}"
    )
