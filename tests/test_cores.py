"""Cores that a process may use, as the system hands them out."""

import os

import pytest

from imgclf.container import cores_within_quota
from imgclf.cores import available_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_only_cores_that_this_process_may_use_are_counted():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == cores_within_quota(len(allowed))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_a_quota_of_processor_time_counts_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("imgclf.cores.cores_within_quota", lambda _: 1)
    assert available_cores() == 1


def test_where_the_system_does_not_say_all_cores_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()
