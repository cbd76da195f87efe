"""What to say when the numbers of a training run go wrong, and what may help."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError, some_of

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
# How torch, CUDA's libraries and the CPU's allocator say that there is no memory left.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|STATUS_ALLOC_FAILED|can't allocate memory|not enough memory", re.IGNORECASE
)
# How torch says that a batch normalisation sees a single value of each channel.
_SINGLE_VALUE = "Expected more than 1 value per channel"


def step_error(error: Exception, config: TrainConfig) -> ImgclfError | None:
    """Say in plain words what a step has failed of, where a person can mend it; else None.

    Args:
        error: raised by a step.
        config: of the run.
    """
    if _SINGLE_VALUE in str(error):
        return ImgclfError(
            "Batch normalisation cannot train on a batch of one image here: the network has"
            " shrunk it to a single position, and one value has no spread.",
            "Choose --batch-size 2 or more (with two training images at least), larger images, or"
            " --norm-layer none.",
        )
    return out_of_memory_error(error, config) or _gpu_error(error)


def _gpu_error(error: Exception) -> ImgclfError | None:
    """Say what CUDA reports, after which the process cannot use the GPU; None where it does not."""
    found = re.search(r"CUDA error: (.+)", str(error))
    if not found:
        return None
    return ImgclfError(
        f"The GPU reports an error: {found[1].rstrip('.')}.",
        "Resume the run: it goes on from its last checkpoint. Where the error comes again, look at"
        " the GPU's log ('dmesg', 'nvidia-smi -q') and its driver.",
    )


def out_of_memory_error(error: Exception, config: TrainConfig) -> ImgclfError | None:
    """Say which batch size did not fit into memory, and which one may.

    It proposes half of the batch, or less where the one allocation that failed would still take
    more than half of the GPU's memory; and as many more batches a step, so that a step averages
    over as many images as before.

    Args:
        error: raised by a step: a `torch.OutOfMemoryError`, or what the CPU's allocator and CUDA's
            libraries raise in its place.
        config: of the run: ``batch_size`` and ``gradient_accumulation_steps``.

    Returns:
        what a person reads; None where memory was not what the step lacked.
    """
    if not _is_of_memory(error):
        return None
    size, text = config.batch_size, str(error)
    tried, capacity = _gib_after("allocate", text), _gib_after("total capacity of", text)
    message = f"A step of --batch-size {size} does not fit into memory{_memory_figures(text)}."
    if size == 1:
        return ImgclfError(
            message, "Choose a smaller --model or --image-size, or a device with more memory."
        )
    fitting = size // 2
    while fitting > 1 and capacity and tried * fitting / size > capacity / 2:
        fitting //= 2
    steps = config.gradient_accumulation_steps * round(size / fitting)
    return ImgclfError(
        message,
        f"--batch-size {fitting} --gradient-accumulation-steps {steps} may fit, and averages over"
        " as many images a step.",
    )


@contextmanager
def enough_memory_to(do: str) -> Iterator[None]:
    """Say in plain words that memory was what a block lacked.

    Args:
        do: what the block does, such as ``evaluate 512 images at a time``.

    Raises:
        ImgclfError: there was not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_of_memory(error):
            raise
        raise ImgclfError(
            f"There is not enough memory to {do}{_memory_figures(str(error))}.",
            "End other programs that use that memory, or take a device with more of it; a smaller"
            " network (--model) or smaller images (--image-size) need less.",
        ) from error


def _is_of_memory(error: Exception) -> bool:
    of_memory = torch.OutOfMemoryError, MemoryError
    return isinstance(error, of_memory) or bool(_OUT_OF_MEMORY.search(str(error)))


def _memory_figures(text: str) -> str:
    """Return what torch's message says of sizes, behind a colon; empty where it says nothing."""
    tried, capacity = _gib_after("allocate", text), _gib_after("total capacity of", text)
    figures = [f"{tried:,.2f} GiB more were asked for"] if tried else []
    figures += [f"the GPU has {capacity:,.2f} GiB"] if capacity else []
    own, free = _gib_after("this process has", text), _gib_after("of which", text)
    if tried and own and (others := capacity - free - own) > tried:
        figures.append(f"other programs hold {others:,.2f} GiB of it")
    return f": {', '.join(figures)}" if figures else ""


def _gib_after(words: str, text: str) -> float:
    """Read a size such as ``2.50 GiB`` behind some words of torch's message; 0: it has none."""
    found = re.search(rf"{words} ([\d.]+) (bytes|KiB|MiB|GiB)", text)
    return float(found[1]) * _UNITS[found[2]] / 2**30 if found else 0.0


@dataclass(frozen=True)
class BadStep:
    """A step whose loss was no number, or infinite.

    Attributes:
        epoch, step: when, counted from 1; the step over all epochs.
        images: what identifies each image of the batch: its path below the data set's folder, or
            its position in the data set.
        learning_rate: of the step.
        weights_are_finite: whether all weights were finite before the step; None: not looked at.
    """

    epoch: int
    step: int
    images: Sequence[str]
    learning_rate: float
    weights_are_finite: bool | None = None


def diverged_error(bad: BadStep, bad_steps: int, config: TrainConfig) -> ImgclfError:
    """Say that training diverged: in which step, on which images, and what the likely causes are.

    Args:
        bad: the first step of those that went wrong.
        bad_steps: how many there were in a row, `bad` included.
        config: of the run.
    """
    rest = f" and in {bad_steps - 1:,} after it" if bad_steps > 1 else ""
    weights = "were still finite" if bad.weights_are_finite else "diverged"
    shown = [f"#{name}" if name.isdigit() else name for name in bad.images]
    return ImgclfError(
        f"The training loss is not finite in step {bad.step:,} (epoch {bad.epoch:,}){rest}: the"
        f" weights {weights}. The images of that step:\n{some_of(shown)}",
        "Likely causes, the likeliest first:\n" + some_of(likely_causes(bad, config)),
    )


def likely_causes(bad: BadStep, config: TrainConfig) -> list[str]:
    """Return what can have made a loss that is no number, each with what helps; likeliest first."""
    rate = f"the learning rate, {bad.learning_rate:.3g} in that step"
    rate_helps = "lower --learning-rate, raise --warmup-ratio"
    if not config.gradient_clip_norm:
        rate_helps += ", or limit gradients: --gradient-clip-norm 1"
    causes = [f"{rate}: {rate_helps}"]
    if config.precision == "fp16":
        overflow = "fp16, which ends at 65,504: --precision bf16 or fp32"
        # Weights that have overflowed are the learning rate's doing: their updates are in fp32.
        causes.insert(0 if bad.weights_are_finite else 1, overflow)
    if config.class_weights == "balanced":
        causes.append(
            "a class with very few images, whose loss counts many times: --class-weights none or"
            " --balanced-sampling true"
        )
    if config.loss != "cross-entropy":
        causes.append(f"--loss {config.loss}: --loss cross-entropy")
    causes.append(
        "images or labels of that step that belong to no other: look at them, or leave them out"
    )
    return causes
