"""Where and with which arithmetic a run is computed."""

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from imgclf.config import AUTO, TrainConfig
from imgclf.cores import available_cores
from imgclf.errors import UsageError
from imgclf.training.compilation import check_compiler


@dataclass(frozen=True)
class Compute:
    """The hardware settings in use.

    Attributes:
        device: where the tensors live.
        precision: dtype of the forward pass: float32, bfloat16 or float16.
        threads: CPU threads. One thread and two give different weights: it is recorded.
        device_name: the device as its maker calls it.
        note: why ``--device auto`` did not take a GPU that is there; empty otherwise.
    """

    device: torch.device
    precision: torch.dtype
    threads: int
    device_name: str
    note: str = ""

    @property
    def precision_name(self) -> str:
        """The precision as ``--precision`` spells it."""
        return next(name for name, dtype in _DTYPES.items() if dtype is self.precision)

    def autocast(self) -> torch.autocast:
        """Return what a forward pass runs within to be computed in the precision."""
        enabled = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=self.precision, enabled=enabled)


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_compute(config: TrainConfig) -> Compute:
    """Choose the device, the precision and the number of threads, and prepare torch for them.

    Raises:
        UsageError: the device that was asked for is not available, lacks the precision, or cannot
            be compiled for.
    """
    threads = config.threads or available_cores()
    torch.set_num_threads(threads)
    device, note = _choose_device(config.device)
    precision = _choose_precision(config, device)
    if device.type == "cpu":
        _keep_freed_memory()
    if device.type == "cuda":
        # All batches but the last of an epoch have one shape: the fastest convolution is looked for
        # once. Which one it is may differ from run to run, and with it the last digits.
        torch.backends.cudnn.benchmark = True
    if config.compile:
        check_compiler(device)
    return Compute(device, precision, threads, _name(device), note)


# Numbers of glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _keep_freed_memory() -> None:
    """Let the process keep what a step frees, up to 2 GiB, for the next one.

    The C library gives large tensors back to the operating system as they are freed, and each step
    then waits for every page of theirs to be zeroed anew: up to a third of the time
    (benchmarks/kept_memory.py). Others than glibc have no such setting.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed what is drawn on a device; `torch.manual_seed` seeds all devices, in 0.2 ms."""
    seed_of = {
        "cpu": torch.default_generator.manual_seed,
        "cuda": torch.cuda.manual_seed,
        "mps": torch.mps.manual_seed,
    }
    seed_of[device.type](seed)


def _choose_device(wanted: str) -> tuple[torch.device, str]:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if wanted == AUTO:
        found = next(name for name in ("cuda", "mps", "cpu") if available[name])
        return torch.device(found), _why_no_cuda() if found == "cpu" else ""
    if not available[wanted]:
        found = ", ".join(name for name, there in available.items() if there)
        reason = _why_no_cuda() if wanted == "cuda" else ""
        raise UsageError(
            f"--device {wanted} is not available here.{' ' + reason if reason else ''}",
            f"Available: {found}. --device auto takes the best of them.",
        )
    return torch.device(wanted), ""


def _why_no_cuda() -> str:
    """Say why an NVIDIA card that is there cannot be used; empty where there is none."""
    if not Path("/proc/driver/nvidia").exists() and not Path("/dev/nvidia0").exists():
        return ""
    if torch.version.cuda is None:
        return "An NVIDIA card is there, but this PyTorch was built without CUDA."
    return (
        f"An NVIDIA card is there, but PyTorch's CUDA {torch.version.cuda} cannot use it: the"
        " driver may be too old ('nvidia-smi' tells its version) or the device hidden"
        " (CUDA_VISIBLE_DEVICES)."
    )


def _choose_precision(config: TrainConfig, device: torch.device) -> torch.dtype:
    if config.precision != AUTO:
        if config.precision == "fp16" and device.type == "cpu":
            raise UsageError("--precision fp16 needs a GPU.", "Use fp32 or bf16 on the CPU.")
        return _DTYPES[config.precision]
    if device.type == "cpu":
        # Steps of the networks here took 0.5 to 0.8 of the time of fp32 on an AMD CPU with
        # AVX512-BF16, but mostly 1.1 to 1.5 on an Intel one (benchmarks/precisions.py); a CPU
        # without it imitates bf16, which is slower still.
        is_fast = torch.cpu._is_avx512_bf16_supported() and _of_cpu("vendor_id") == "AuthenticAMD"
        return torch.bfloat16 if is_fast else torch.float32
    if device.type != "cuda":
        return torch.float32
    # Compute capability 8 (Ampere) brought bf16 arithmetic, 7 (Volta) fp16; before, both are slow.
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (device.type == "cpu" and _of_cpu("model name")) or device.type


def _of_cpu(field: str) -> str:
    """Return what Linux knows of the CPU under a name; elsewhere, and of others, nothing."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return ""
