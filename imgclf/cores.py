"""What there is to compute on: devices, and how many processor cores."""

import os

from imgclf.container import cores_within_quota

# Where onnxruntime computes.
SERVING_DEVICES = ("cpu", "cuda")


def available_cores() -> int:
    """Return how many cores this process may use.

    Batch systems hand out some of a machine's cores, containers a share of their time.
    """
    if hasattr(os, "sched_getaffinity"):
        return cores_within_quota(len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1  # not Linux
