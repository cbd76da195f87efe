"""scikit-learn's classification report, made from our own numbers.

Its function averages over classes that neither occur nor are predicted as well, so its macro F1 can
differ from the one that a run logs; a class named ``accuracy`` takes the place of the accuracy in
its dictionary; and a class name of two lines tears its table.
"""

from collections.abc import Sequence

import numpy as np

from imgclf.evaluation.metrics import Metrics

FIGURES = ("precision", "recall", "f1-score", "support")


def _averages(metrics: Metrics) -> dict[str, tuple[float, float, float]]:
    """Precision, recall and F1 over all classes: each counting the same, and by their images."""
    per_class = metrics.per_class
    columns = (per_class.precision, per_class.recall, per_class.f1)
    precision, recall, f1 = (
        float(np.average(column, weights=per_class.support)) for column in columns
    )
    return {
        "macro avg": (metrics.precision, metrics.recall, metrics.f1),
        "weighted avg": (precision, recall, f1),
    }


def report_values(metrics: Metrics, classes: Sequence[str]) -> dict[str, object]:
    """Return the report as JSON-ready values: ``classes``, ``accuracy`` and the two averages."""
    per_class = metrics.per_class
    columns = (per_class.precision, per_class.recall, per_class.f1, per_class.support)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    images = int(per_class.support.sum())
    return {
        "classes": {
            name: dict(zip(FIGURES, row, strict=True))
            for name, row in zip(classes, rows, strict=True)
        },
        "accuracy": metrics.accuracy,
        **{
            average: dict(zip(FIGURES, (*values, images), strict=True))
            for average, values in _averages(metrics).items()
        },
    }


def report_text(metrics: Metrics, classes: Sequence[str]) -> str:
    """Return the report as a table, laid out as scikit-learn's with four digits."""
    per_class = metrics.per_class
    names = [_on_one_line(name) for name in classes]
    width = max(len("weighted avg"), *map(len, names))
    images = int(per_class.support.sum())

    def line(name: str, figures: Sequence[float], support: int) -> str:
        return f"{name:>{width}} " + "".join(f" {x:>9.4f}" for x in figures) + f" {support:>9}"

    lines = [" " * (width + 1) + "".join(f" {heading:>9}" for heading in FIGURES), ""]
    columns = (per_class.precision, per_class.recall, per_class.f1)
    for name, support, *values in zip(names, per_class.support, *columns, strict=True):
        lines.append(line(name, values, support))
    lines += ["", f"{'accuracy':>{width}} {'':>20} {metrics.accuracy:>9.4f} {images:>9}"]
    lines += [line(average, values, images) for average, values in _averages(metrics).items()]
    return "\n".join(lines) + "\n"


def _on_one_line(name: str) -> str:
    """Write characters that break a line or hide as Python shows them."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )
