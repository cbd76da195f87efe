"""What benchmarks share: ways that take turns, their ratios as a table, and the machine."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch

_Way = TypeVar("_Way")


def orders(ways: Sequence[_Way], rounds: int) -> Iterator[Sequence[_Way]]:
    """Yield the ways in the order in which each round takes them.

    Every second round goes backwards: what comes first, or behind a heavier way, has no advantage.
    """
    for number in range(rounds):
        yield ways[:: -1 if number % 2 else 1]


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every way once in each round, so that a machine that slows down slows all.

    Returns:
        way -> seconds in each round; a first round, which warms up, is left out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number, order in enumerate(orders(list(ways.items()), rounds + 1)):
        for name, run in order:
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Write the median, and in brackets the lowest and the highest.

    Args:
        values: one of each round.
        form: how a number is written, as `format` takes it.
    """
    median, lowest, highest = np.median(values), min(values), max(values)
    return f"{median:{form}} ({lowest:{form}} to {highest:{form}})"


def mean_percentage(percentages: Sequence[float]) -> str:
    """Write the mean and, of more than one, the standard deviation."""
    deviation = f" ± {np.std(percentages, ddof=1):.2f}" if len(percentages) > 1 else ""
    return f"{np.mean(percentages):.2f}%{deviation}"


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Divide what was measured in each round by the reference of the same round."""
    return [value / one for value, one in zip(values, reference, strict=True)]


def print_ratios(seconds: Mapping[str, list[float]], reference: str, num_images: int) -> None:
    """Print images a second and the time beside that of a reference in the same round."""
    print(f"| way | images/s, median | time over {reference}, median (lowest to highest) |")
    print("|---|---|---|")
    for name, times in seconds.items():
        beside = spread(ratios(times, seconds[reference]))
        print(f"| {name} | {num_images / np.median(times):,.0f} | {beside} |")


def machine() -> str:
    """Return what the figures were taken on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()},"
        f" torch {torch.__version__}"
    )
