"""What a container leaves to this process of the machine's memory and cores (Linux cgroups).

Containers, batch systems and systemd limit processes by control groups, of version 1 or 2. Neither
the number of cores nor the free memory that the operating system reports knows of such limits.
Where there are none, or no control groups, nothing is limited.
"""

from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import NamedTuple

_ROOT = Path("/")


class _Files(NamedTuple):
    """The names that a version has for what is asked of a control group's memory.

    Attributes:
        limit, used: hold bytes.
        reclaimable: keys of ``memory.stat``: what the group has read from files and can read again.
    """

    limit: str
    used: str
    reclaimable: tuple[str, ...]


_MEMORY = _Files("memory.max", "memory.current", ("active_file", "inactive_file"))
_MEMORY_V1 = _Files(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def cores_within_quota(cores: int, root: Path = _ROOT) -> int:
    """Return how many cores a quota of processor time leaves, rounded up.

    Args:
        cores: what there is otherwise.
        root: the folder in which ``proc`` and ``sys`` are.

    Returns:
        from 1 to ``cores``.
    """
    for group in _groups("", root):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        cores = min(cores, _quota(quota, period, cores))
    for group in _groups("cpu", root):
        quota, period = (_text(group / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
        cores = min(cores, _quota(quota, period, cores))
    return cores


def memory_within_limit(num_bytes: int, root: Path = _ROOT) -> int:
    """Return how much memory this process can still take before it would be killed for it.

    What the group keeps of files counts as free: the kernel drops it first.

    Args:
        num_bytes: what the machine has free.
        root: the folder in which ``proc`` and ``sys`` are.

    Returns:
        bytes, from 0 to ``num_bytes``.
    """
    for controller, files in (("", _MEMORY), ("memory", _MEMORY_V1)):
        for group in _groups(controller, root):
            limit, used = _text(group / files.limit), _text(group / files.used)
            if limit.isdigit() and used.isdigit():
                left = int(limit) - int(used) + _reclaimable(group, files)
                num_bytes = min(num_bytes, max(0, left))
    return num_bytes


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it.

    Every one of them limits. Inside a container the outermost is often the only one to be seen, and
    a path may be given as the host knows it; folders that are not there have no files.

    Args:
        controller: of version 1; empty for version 2, where all are one.
        root: the folder in which ``proc`` and ``sys`` are.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            inside = Path(path.lstrip("/"))
            for part in (inside, *inside.parents):
                yield root / "sys/fs/cgroup" / controller / part


def _quota(quota: str, period: str, cores: int) -> int:
    """Return a quota in cores; ``cores`` where it is ``max``, -1 or absent."""
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return cores
    return max(1, ceil(int(quota) / int(period)))


def _reclaimable(group: Path, files: _Files) -> int:
    pairs = (line.split() for line in _text(group / "memory.stat").splitlines())
    return sum(int(value) for name, value in pairs if name in files.reclaimable)


def _text(path: Path) -> str:
    """Return a file's text; empty where there is no such file, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
