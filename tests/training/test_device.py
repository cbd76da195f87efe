import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imgclf.config import TrainConfig
from imgclf.errors import UsageError
from imgclf.training import device as device_module
from imgclf.training.device import choose_compute, seed_generator

HAS_GPU = torch.cuda.is_available() or torch.backends.mps.is_available()


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    compute = choose_compute(TrainConfig())
    assert compute.device == torch.device("cpu")
    assert compute.device_name


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
def test_auto_on_a_cpu_is_bf16_on_an_amd_one_with_instructions_for_it() -> None:
    words = Path("/proc/cpuinfo").read_text().split()
    compute = choose_compute(TrainConfig(device="cpu"))
    is_bf16 = "avx512_bf16" in words and "AuthenticAMD" in words
    assert compute.precision_name == ("bf16" if is_bf16 else "fp32")


@pytest.mark.parametrize("has_instructions", [True, False])
@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", ""])
def test_auto_on_a_cpu_is_what_was_measured_to_be_faster(
    has_instructions: bool, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(device_module, "_of_cpu", {"vendor_id": vendor}.get)
    is_bf16 = has_instructions and vendor == "AuthenticAMD"
    expected = torch.bfloat16 if is_bf16 else torch.float32
    assert choose_compute(TrainConfig(device="cpu", threads=1)).precision is expected


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_device_that_is_not_there_is_an_error_that_lists_the_others(device: str) -> None:
    there = torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
    if there:
        pytest.skip(f"{device} is there")
    with pytest.raises(UsageError, match=f"--device {device} is not available") as caught:
        choose_compute(TrainConfig(device=device))
    assert "Available: cpu" in caught.value.hint


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_precisions_of_the_cpu(precision: str, dtype: torch.dtype) -> None:
    compute = choose_compute(TrainConfig(device="cpu", precision=precision))
    assert compute.precision is dtype
    assert compute.precision_name == precision


def test_fp16_is_refused_on_the_cpu() -> None:
    with pytest.raises(UsageError, match="--precision fp16 needs a GPU"):
        choose_compute(TrainConfig(device="cpu", precision="fp16"))


def test_threads_are_set_and_recorded() -> None:
    assert choose_compute(TrainConfig(device="cpu", threads=1)).threads == 1
    assert torch.get_num_threads() == 1
    assert choose_compute(TrainConfig(device="cpu", threads=3)).threads == 3
    assert torch.get_num_threads() == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_no_more_threads_than_cores_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert choose_compute(TrainConfig(device="cpu")).threads == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert choose_compute(TrainConfig(device="cpu")).threads == len(allowed)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_on_a_cpu_large_tensors_come_from_memory_that_was_freed_before() -> None:
    """By itself, glibc asks the operating system anew for each of more than 32 MiB."""
    import resource

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    choose_compute(TrainConfig(device="cpu"))
    pages = 40 * 2**20 // resource.getpagesize()
    before = faults()
    for _ in range(20):
        torch.zeros(pages, resource.getpagesize(), dtype=torch.uint8)
    # The first ones find their place; by itself it is all 20.
    assert faults() - before < 10 * pages


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**64 - 1])
def test_a_seeded_device_draws_what_torch_draws_from_the_seed(seed: int) -> None:
    devices = [
        torch.device(name) for name in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
    ]
    for device in devices:
        torch.manual_seed(seed)
        expected = torch.rand(100, device=device)
        seed_generator(device, seed)
        assert torch.equal(torch.rand(100, device=device), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_on_cuda_the_fastest_convolution_is_looked_for() -> None:
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = False
        choose_compute(TrainConfig(device="cpu"))
        assert not torch.backends.cudnn.benchmark
        choose_compute(TrainConfig(device="cuda"))
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before
