"""Limits of control groups, read from files laid out as the kernel lays them out."""

import os
from pathlib import Path

import pytest

from imgclf.container import cores_within_quota, memory_within_limit

GIB = 2**30


def lay_out(root: Path, of_this_process: str, files: dict[str, str]) -> None:
    """Write ``/proc/self/cgroup`` and files below ``/sys/fs/cgroup``."""
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": of_this_process, **written}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


# What a container of 4 GiB and two and a half cores shows inside: of 3 GiB in use, one is files.
VERSION_2 = {
    "memory.max": str(4 * GIB),
    "memory.current": str(3 * GIB),
    "memory.stat": f"anon {2 * GIB}\nfile {GIB}\ninactive_file {GIB - 100}\nactive_file 100",
    "cpu.max": "250000 100000",
}
VERSION_1 = {
    "memory/memory.limit_in_bytes": str(4 * GIB),
    "memory/memory.usage_in_bytes": str(3 * GIB),
    "memory/memory.stat": (
        f"inactive_file 7\nactive_file 7\ntotal_inactive_file {GIB - 100}\ntotal_active_file 100"
    ),
    "cpu/cpu.cfs_quota_us": "250000",
    "cpu/cpu.cfs_period_us": "100000",
}
GROUPS_1 = "4:memory:{path}\n3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/"


@pytest.mark.parametrize(
    ("of_this_process", "files"),
    [
        ("0::/", VERSION_2),
        (GROUPS_1.format(path="/"), VERSION_1),
        # The path as the host knows it, which is not there inside.
        ("0::/system.slice/docker-1f.scope", VERSION_2),
        (GROUPS_1.format(path="/docker/1f"), VERSION_1),
    ],
    ids=["version 2", "version 1", "version 2, the host's path", "version 1, the host's path"],
)
def test_a_container_leaves_its_share_of_memory_and_cores(of_this_process, files, tmp_path: Path):
    lay_out(tmp_path, of_this_process, files)
    assert memory_within_limit(100 * GIB, tmp_path) == 2 * GIB
    assert memory_within_limit(GIB, tmp_path) == GIB  # the machine itself has less
    assert cores_within_quota(64, tmp_path) == 3
    assert cores_within_quota(2, tmp_path) == 2


def test_a_quota_below_one_core_leaves_one(tmp_path: Path):
    lay_out(tmp_path, "0::/", {"cpu.max": "10000 100000"})
    assert cores_within_quota(64, tmp_path) == 1


def test_a_full_container_leaves_nothing(tmp_path: Path):
    full = {"memory.max": str(GIB), "memory.current": str(GIB + 4096), "memory.stat": "anon 1"}
    lay_out(tmp_path, "0::/", full)
    assert memory_within_limit(100 * GIB, tmp_path) == 0


def test_the_narrowest_of_the_groups_around_a_process_counts(tmp_path: Path):
    """As in a job of a batch system, or a service: the limit stands on a group outside."""
    lay_out(
        tmp_path,
        "0::/jobs/job-7/step-0",
        {
            "jobs/job-7/step-0/memory.max": "max",
            "jobs/job-7/step-0/memory.current": "1000",
            "jobs/job-7/step-0/cpu.max": "max 100000",
            "jobs/job-7/memory.max": "8000",
            "jobs/job-7/memory.current": "3000",
            "jobs/job-7/cpu.max": "400000 100000",
            "jobs/memory.max": "100000",
            "jobs/memory.current": "90000",
            "jobs/cpu.max": "800000 100000",
            "other/memory.max": "1",
            "other/memory.current": "1",
        },
    )
    assert memory_within_limit(GIB, tmp_path) == 5000
    assert cores_within_quota(64, tmp_path) == 4


@pytest.mark.parametrize(
    ("of_this_process", "files"),
    [
        ("0::/", {"memory.max": "max", "memory.current": "5", "cpu.max": "max 100000"}),
        (
            GROUPS_1.format(path="/"),
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "5",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
        ),
        ("0::/", {}),
        ("", {}),
    ],
    ids=["version 2", "version 1", "no files", "in no group"],
)
def test_without_a_limit_the_machine_counts(of_this_process, files, tmp_path: Path):
    lay_out(tmp_path, of_this_process, files)
    assert memory_within_limit(100 * GIB, tmp_path) == 100 * GIB
    assert cores_within_quota(64, tmp_path) == 64


def test_a_system_without_control_groups_limits_nothing(tmp_path: Path):
    assert memory_within_limit(5, tmp_path) == 5
    assert cores_within_quota(5, tmp_path) == 5


def test_the_real_files_of_this_machine_are_understood():
    cores = os.cpu_count() or 1
    assert 1 <= cores_within_quota(cores) <= cores
    # A test that runs at all has a MiB left.
    assert 2**20 <= memory_within_limit(2**50) <= 2**50
