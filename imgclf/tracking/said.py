"""What a run's journal holds already, so that nothing is said again, now or by a resumed run."""

from collections.abc import Iterable, Mapping
from typing import Any

from imgclf.tracking.identity import ERROR_TAG
from imgclf.tracking.journal import Record

# Each epoch's record holds it.
_OF_AN_EPOCH = "train/loss"
_OF_THE_MACHINE = "system/"


class Said:
    """What records have said of parameters, tags, data and metrics.

    Attributes:
        samples: how many samples of the machine there are.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._values: dict[str, dict[str, Any]] = {"parameters": {}, "tags": {}, "summary": {}}
        self._datasets: list[dict[str, Any]] = []
        self._epochs: set[int] = set()
        self.samples = 0
        for record in records:
            self.take(record)
        # A run that is resumed has not failed yet, and may fail again.
        self._values["tags"].pop(ERROR_TAG, None)

    def new_values(self, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that differ from what was said last.

        Args:
            kind: ``parameters``, ``tags`` or ``summary``.
            values: by name.
        """
        said = self._values[kind]
        return {k: v for k, v in values.items() if k not in said or said[k] != v}

    def has_dataset(self, content: Mapping[str, Any]) -> bool:
        """Tell whether this data set was logged."""
        return content in self._datasets

    def has_epoch(self, values: Mapping[str, float], step: int) -> bool:
        """Tell whether these are the metrics of an epoch that was logged."""
        return _OF_AN_EPOCH in values and step in self._epochs

    def take(self, record: Record) -> None:
        """Add what was said just now."""
        content = record.content
        if record.kind in ("parameters", "tags"):
            self._values[record.kind] |= content["values"]
        elif record.kind == "dataset":
            self._datasets.append(content)
        elif record.kind == "metrics":
            self._values["summary"] |= content["summary"]
            if _OF_AN_EPOCH in content["values"]:
                self._epochs.add(content["step"])
            if any(name.startswith(_OF_THE_MACHINE) for name in content["values"]):
                self.samples = content["step"] + 1
