"""Cores that a process may use, as the system hands them out."""

import os

import pytest

from imgclf.cores import available_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_only_cores_that_this_process_may_use_are_counted():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)


def test_where_the_system_does_not_say_all_cores_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()
