"""What is measured and logged of every request."""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LOG = logging.getLogger("imgclf.serve")


class Measures:
    """Figures for Prometheus.

    Args:
        shared: whether several processes add up; they share the folder that the environment
            variable ``PROMETHEUS_MULTIPROC_DIR`` names.
    """

    def __init__(self, shared: bool) -> None:
        self._registry = CollectorRegistry()
        if shared:
            multiprocess.MultiProcessCollector(self._registry)
        own = None if shared else self._registry
        self.requests = Counter(
            "imgclf_requests", "Requests by path and status.", ["path", "code"], registry=own
        )
        self.request_seconds = Histogram(
            "imgclf_request_seconds", "From the first byte to the last.", ["path"],
            buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.batch_images = Histogram(
            "imgclf_batch_images", "Images answered together.", buckets=_BATCHES, registry=own
        )
        self.queue_seconds = Histogram(
            "imgclf_queue_seconds",
            "How long each request has waited for the model; a large one again for each batch.",
            buckets=_SECONDS, registry=own,
        )  # fmt: skip

    def text(self) -> bytes:
        """Return all figures in Prometheus' own format."""
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """Writes a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        entry: MutableMapping[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with its fields."""
    LOG.log(level, event, extra={"fields": fields})


def set_up_logging() -> None:
    """Write what is logged to standard error, as lines of JSON: libraries' warnings as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    # It says at each start what `imgclf serve` has said.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
