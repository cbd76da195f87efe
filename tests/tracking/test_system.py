"""What is sampled, against MLflow's own monitors; when, and what a broken reading does."""

import mmap
import threading
from collections.abc import Mapping

import numpy as np
import psutil
import pynvml
import pytest
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from imgclf.errors import ImgclfError
from imgclf.tracking.system import SystemSampler


def has_nvidia_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


class Recorder:
    """Keeps samples, and lets a test wait for the first."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, dict[str, float]]] = []
        self.begun = threading.Event()

    def __call__(self, values: Mapping[str, float], step: int) -> None:
        self.samples.append((step, dict(values)))
        self.begun.set()


@pytest.fixture
def sample():
    """Start a sampler, wait for its first sample, stop it: the samples."""

    def take(meanwhile=lambda: None) -> list[tuple[int, dict[str, float]]]:
        recorder = Recorder()
        sampler = SystemSampler(recorder)
        sampler.start()
        assert recorder.begun.wait(timeout=30)
        meanwhile()
        sampler.stop()
        return recorder.samples

    return take


def test_names_and_values_are_those_of_mlflows_own_system_metrics(sample):
    monitor = CPUMonitor()
    monitor.collect_metrics()
    expected = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
    for _, values in sample():
        assert set(expected) <= set(values)
        share = values["system/system_memory_usage_percentage"]
        assert share == pytest.approx(expected["system/system_memory_usage_percentage"], abs=10)
        assert 0 <= values["system/cpu_utilization_percentage"] <= 100


def test_samples_are_numbered_from_the_start_to_the_end_and_no_further(sample):
    samples = sample()
    count = len(samples)
    assert count >= 2
    assert [step for step, _ in samples] == list(range(count))
    assert not [thread for thread in threading.enumerate() if thread.name == "imgclf-system"]


def test_samples_of_a_resumed_run_go_on_counting():
    recorder = Recorder()
    sampler = SystemSampler(recorder, first=7)
    sampler.start()
    assert recorder.begun.wait(timeout=30)
    sampler.stop()
    steps = [step for step, _ in recorder.samples]
    assert steps == list(range(7, 7 + len(steps)))


@pytest.mark.faults
def test_samples_that_cannot_be_recorded_end_the_sampling_with_a_reason():
    def full_disk(*_: object) -> None:
        raise ImgclfError("the disk is full")

    sampler = SystemSampler(full_disk)
    sampler.start()
    sampler.stop()
    assert sampler.failure == "the disk is full"


@pytest.mark.faults
def test_a_reading_that_hangs_holds_up_no_end_and_is_recorded_never(monkeypatch):
    hanging, released = threading.Event(), threading.Event()

    def hangs():
        hanging.set()
        released.wait()
        raise RuntimeError("the driver has given up")

    monkeypatch.setattr(psutil, "virtual_memory", hangs)
    monkeypatch.setattr("imgclf.tracking.system._LONGEST_READING_SECONDS", 0.05)
    recorder = Recorder()
    sampler = SystemSampler(recorder)
    sampler.start()
    # The first look hangs already.
    assert hanging.wait(timeout=30)
    sampler.stop()
    assert "too long" in sampler.failure
    released.set()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "imgclf-system")
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert recorder.samples == []


def test_the_memory_of_the_process_is_its_own(sample):
    # Not from what this process has freed before and kept.
    pages = mmap.mmap(-1, 300_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(pages, np.uint8)
    samples = sample(meanwhile=lambda: memory.fill(1))
    before, after = (
        values["system/process_memory_usage_megabytes"] for _, values in (samples[0], samples[-1])
    )
    assert 250 < after - before < 400
    assert after == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.2)


@pytest.mark.faults
def test_a_broken_reading_takes_no_other_with_it(sample, monkeypatch):
    def broken():
        raise RuntimeError("no /proc/meminfo here")

    monkeypatch.setattr(psutil, "virtual_memory", broken)
    for _, values in sample():
        assert "system/system_memory_usage_megabytes" not in values
        assert {
            "system/cpu_utilization_percentage",
            "system/process_memory_usage_megabytes",
        } <= set(values)


@pytest.mark.skipif(has_nvidia_driver(), reason="there is an NVIDIA driver")
def test_without_an_nvidia_driver_nothing_is_said_of_gpus(sample, capfd):
    assert not [name for _, values in sample() for name in values if "gpu" in name]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not has_nvidia_driver(), reason="needs an NVIDIA driver")
def test_gpus_are_read_as_mlflow_reads_them(sample):
    monitor = GPUMonitor()
    monitor.collect_metrics()
    expected = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
    (_, values), *_ = sample()
    assert expected
    assert {name for name in values if "gpu" in name} == set(expected)
    for name in (name for name in expected if name.endswith("memory_usage_percentage")):
        assert values[name] == pytest.approx(expected[name], abs=5)
