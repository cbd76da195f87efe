"""How busy the machine is while a run lasts: processors, memory, NVIDIA GPUs.

Names and units are those of MLflow's own system metrics, which its UI shows on a page of their own;
a megabyte has 1,000,000 bytes. In a container the figures of the system are those of the whole
machine that it runs on; those of the process are the run's own.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import psutil
import pynvml

from imgclf.errors import ImgclfError

Values = dict[str, float]
Reader = Callable[[], Values]

# Short runs are to be seen as well: the first pauses are short.
_FIRST_PAUSES_SECONDS = (1.0,) * 5
_PAUSE_SECONDS = 10.0
# The use of a processor is measured between two looks.
_FIRST_LOOK_SECONDS = 0.1
# A driver may hang, and a run must end.
_LONGEST_READING_SECONDS = 2.0


class SystemSampler:
    """Samples the machine in a thread: at the start, every few seconds and at the end.

    Args:
        record: takes metrics by name and the sample's number; called in the thread.
        first: number of the first sample.

    Attributes:
        failure: why it stopped early, where ``record`` raised `ImgclfError` or a reading did not
            come to its end; else empty.
    """

    def __init__(self, record: Callable[[Mapping[str, float], int], None], first: int = 0) -> None:
        self._record = record
        self._first = first
        self.failure = ""
        self._stopping = threading.Event()
        self._recording = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="imgclf-system", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Take the last sample and end: nothing is recorded afterwards."""
        self._stopping.set()
        self._thread.join(_LONGEST_READING_SECONDS)
        with self._recording:
            self._stopped = True
        if self._thread.is_alive():
            self.failure = "a reading takes too long"

    def _run(self) -> None:
        devices = _open_gpus()
        process = psutil.Process()
        readers = [_read_processors, _read_memory, partial(_read_process, process)]
        readers += [
            reader for index, device in enumerate(devices) for reader in _gpu(index, device)
        ]
        _sample(readers)  # the first look
        self._stopping.wait(_FIRST_LOOK_SECONDS)
        try:
            self._sample_until_stopped(readers)
        except ImgclfError as error:  # the disk is full: training, too, will hear of it
            self.failure = error.message
        if devices:
            pynvml.nvmlShutdown()

    def _sample_until_stopped(self, readers: list[Reader]) -> None:
        for step, pause in enumerate(_pauses(), self._first):
            # Asked before the sample: a stop that comes during it is followed by one more.
            last = self._stopping.is_set()
            values = _sample(readers)
            with self._recording:
                if not self._stopped:
                    self._record(values, step)
            if last or self._stopped:
                break
            self._stopping.wait(pause)


def _pauses() -> Iterator[float]:
    yield from _FIRST_PAUSES_SECONDS
    while True:
        yield _PAUSE_SECONDS


def _sample(readers: list[Reader]) -> Values:
    """Read all that can be read: one reading that fails takes no other with it."""
    values: Values = {}
    for read in readers:
        try:
            values |= read()
        except Exception:  # noqa: BLE001 - operating systems and drivers raise what they like
            continue
    return {f"system/{name}": round(value, 1) for name, value in values.items()}


def _read_processors() -> Values:
    return {"cpu_utilization_percentage": psutil.cpu_percent()}


def _read_memory() -> Values:
    memory = psutil.virtual_memory()
    return {
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
    }


def _read_process(process: psutil.Process) -> Values:
    """Read this process's share; 100% is one processor at work all the time."""
    with process.oneshot():
        return {
            "process_cpu_utilization_percentage": process.cpu_percent(),
            "process_memory_usage_megabytes": process.memory_info().rss / 1e6,
        }


def _open_gpus() -> list[pynvml.c_nvmlDevice_t]:
    """Return the machine's NVIDIA GPUs in the order of ``nvidia-smi``; none without a driver."""
    try:
        pynvml.nvmlInit()
        return [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError:
        return []


def _gpu(index: int, device: pynvml.c_nvmlDevice_t) -> list[Reader]:
    """Return the readings of one GPU; a part of a GPU (MIG) knows its memory alone."""

    def read_memory() -> Values:
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        used, total = int(memory.used), int(memory.total)
        return {
            f"gpu_{index}_memory_usage_megabytes": used / 1e6,
            f"gpu_{index}_memory_usage_percentage": used / total * 100,
        }

    def read_utilization() -> Values:
        rates = pynvml.nvmlDeviceGetUtilizationRates(device)
        return {f"gpu_{index}_utilization_percentage": float(rates.gpu)}

    def read_power() -> Values:
        watts = pynvml.nvmlDeviceGetPowerUsage(device) / 1000
        limit = pynvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000
        return {
            f"gpu_{index}_power_usage_watts": watts,
            f"gpu_{index}_power_usage_percentage": watts / limit * 100,
        }

    return [read_memory, read_utilization, read_power]
