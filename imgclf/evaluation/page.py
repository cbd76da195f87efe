"""``report.html``: one self-contained page about a training run or an evaluation."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from imgclf.disk import write_whole
from imgclf.evaluation.drawing import DOTS_PER_INCH
from imgclf.evaluation.evaluation import Evaluation
from imgclf.evaluation.pictures import registered_pictures
from imgclf.evaluation.report import (
    CONFUSION,
    PER_CLASS,
    PREDICTIONS,
    REPORT_JSON,
    REPORT_TEXT,
)

TEMPLATE = "report.html.jinja"
# Pictures above this size hold photographs, which JPEG stores in a tenth of the space.
MOST_PNG_BYTES = 400_000
CSS_PIXELS_PER_INCH = 96


@dataclass(frozen=True)
class Parameter:
    """A parameter of a run.

    Attributes:
        name: the option, such as ``--batch-size``.
        value, default: as text.
        origin: who chose it: ``default``, ``recipe`` or ``run``.
    """

    name: str
    value: str
    default: str
    origin: str


@dataclass(frozen=True)
class Page:
    """What the page says. Only a title and an evaluation are needed; what is empty is left out.

    Attributes:
        title: the heading.
        evaluations: where `write_evaluation` has written each, relative to the page -> the
            evaluation; the first is shown first.
        headline: label -> value of the figures that matter most.
        facts: label -> value: what was evaluated, on what, with what.
        classes: class names, the rows of ``counts``.
        counts: part of the split -> its images of each class.
        notes: what a person should know of the data.
        curves, samples: pictures of the course of training, and of its first batch.
        parameters: of the run.
        files: path relative to the page -> what it holds: files beside those of the evaluations.
    """

    title: str
    evaluations: Mapping[Path, Evaluation]
    headline: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    curves: Path | None = None
    samples: Path | None = None
    parameters: Sequence[Parameter] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def write_html(path: Path, page: Page) -> None:
    """Write the page with its pictures inside; it needs no other file, no network and no script.

    Names of classes and files are shown as they are and never become part of the page's code; file
    names that are not UTF-8 are written as Python shows them.

    Raises:
        ImgclfError: there is no room for it.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    text = environment.get_template(TEMPLATE).render(
        page=page,
        sections=[_section(path.parent, *item) for item in page.evaluations.items()],
        count_rows=list(zip(page.classes, zip(*page.counts.values(), strict=True), strict=False)),
    )
    write_whole(path, text.encode("utf-8", "backslashreplace"), "the page")


def _section(page_folder: Path, place: Path, evaluation: Evaluation) -> dict[str, object]:
    """Return what the template shows of an evaluation."""
    metrics, folder = evaluation.metrics, page_folder / place
    figures = {
        "Accuracy": f"{metrics.accuracy:.2%}",
        "F1, macro": f"{metrics.f1:.4f}",
        "Precision, macro": f"{metrics.precision:.4f}",
        "Recall, macro": f"{metrics.recall:.4f}",
        "Loss": f"{metrics.loss:.4f}",
    }
    if metrics.top5 is not None:
        figures["Top-5 accuracy"] = f"{metrics.top5:.2%}"
    return {
        "title": evaluation.title,
        "images": len(evaluation.labels),
        "right": int(np.trace(metrics.confusion)),
        "figures": figures,
        "rows": _class_rows(evaluation),
        "pictures": [
            (name.replace("_", " ").capitalize(), folder / f"{name}.png", picture.caption)
            for name, picture in registered_pictures().items()
        ],
        "files": {
            (place / name).as_posix(): meaning
            for name, meaning in (
                (PREDICTIONS, "a line for each image: label, prediction, confidence"),
                (PER_CLASS, "the table above, in full precision"),
                (CONFUSION, "the confusion matrix as a table"),
                (REPORT_TEXT, "the classification report to read"),
                (REPORT_JSON, "the classification report for programs"),
            )
        },
    }


def _class_rows(evaluation: Evaluation) -> list[dict[str, object]]:
    """Return a row of the table for each class, with the class that it is mistaken for most."""
    per_class = evaluation.metrics.per_class
    mistakes = evaluation.metrics.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    rows = []
    for label, name in enumerate(evaluation.classes):
        other = int(mistakes[label].argmax())
        rows.append(
            {
                "name": name,
                "precision": per_class.precision[label],
                "recall": per_class.recall[label],
                "f1": per_class.f1[label],
                "support": int(per_class.support[label]),
                "mistaken_for": evaluation.classes[other],
                "mistakes": int(mistakes[label, other]),
            }
        )
    return rows


def _picture(path: Path) -> dict[str, object]:
    """Return a picture's ``data:`` address and the size it was drawn for, in CSS pixels."""
    data, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(data)) as image:
        if len(data) > MOST_PNG_BYTES:
            buffer = io.BytesIO()
            # Without subsampling, coloured text stays sharp.
            image.convert("RGB").save(buffer, "JPEG", quality=85, subsampling=0)
            data, kind = buffer.getvalue(), "jpeg"
        width, height = (round(side * CSS_PIXELS_PER_INCH / DOTS_PER_INCH) for side in image.size)
    address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"address": address, "width": width, "height": height}
