import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclf.errors import ImgclfError
from imgclf.evaluation.evaluation import Evaluation
from imgclf.evaluation.page import MOST_PNG_BYTES, Page, Parameter, write_html
from imgclf.evaluation.pictures import registered_pictures
from imgclf.evaluation.report import write_evaluation
from small_disk import files_up_to

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "\" onload='alert(1)' \\",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {% raw %}",
    "قطة \u202e reversed",
    "two\nlines",
    "犬 🐕",
]
VOID = {"meta", "link", "img"}


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, its visible text, the cells of its tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data
        if {"h1", "h2", "h3"} & set(self._open):
            self.headings[-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.tags if name == tag]


def evaluation(classes: list[str], split: str = "test", number: int = 60) -> Evaluation:
    generator = np.random.default_rng(0)
    labels = np.arange(number, dtype=np.int64) % len(classes)
    logits = generator.normal(size=(number, len(classes))).astype(np.float32)
    logits[np.arange(number), labels] += 2
    images = generator.integers(0, 256, (number, 8, 8, 1), dtype=np.uint8)
    names = [f"{position}.png" for position in range(number)]
    return Evaluation(split, images, names, labels, logits, classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds an evaluation whose class names are hostile, beside two pictures."""
    folder = tmp_path_factory.mktemp("page")
    write_evaluation(evaluation(HOSTILE), folder / "test")
    for name in ("curves.png", "samples.png"):
        Image.new("RGB", (300, 200), "red").save(folder / name)
    return folder


def whole_page(folder: Path) -> Page:
    return Page(
        title=HOSTILE[0],
        evaluations={Path("test"): evaluation(HOSTILE)},
        headline={"Test accuracy": "97.00%"},
        facts={"Run": "20261121-090144-3f2a", "Data set": HOSTILE[1]},
        classes=HOSTILE,
        counts={"Training": range(1000, 1007), "Test": [0] * 7},
        notes=[f"{name}/bad\udce9.png: truncated" for name in HOSTILE],
        curves=folder / "curves.png",
        samples=folder / "samples.png",
        parameters=[
            Parameter("--epochs", "3", "10", "run"),
            Parameter("--run-name", HOSTILE[2], "", "run"),
            Parameter("--seed", "0", "0", "default"),
        ],
        files={"split.csv": "the split"},
    )


@pytest.fixture(scope="module")
def page(folder: Path) -> Reader:
    path = folder / "report.html"
    write_html(path, whole_page(folder))
    return Reader(path)


def test_names_are_shown_as_they_are_and_never_become_elements(page: Reader) -> None:
    shown = {row[0] for table in page.tables for row in table}
    assert set(HOSTILE) <= shown
    assert HOSTILE[0] in page.headings
    for name in HOSTILE:
        assert f"{name}/bad\\udce9.png" in page.text
    assert page.attributes("script") == []
    assert len(page.attributes("img")) == 2 + len(registered_pictures())
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag


def test_nothing_is_loaded_from_elsewhere(page: Reader) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), tag
        assert "url(" not in (attributes.get("style") or "")
    for tag in ("iframe", "object", "embed", "form", "base", "video"):
        assert page.attributes(tag) == []


def test_pictures_are_the_files_and_have_words_for_those_who_do_not_see(
    page: Reader, folder: Path
) -> None:
    files = ["curves.png", "samples.png"]
    files += [f"test/{name}.png" for name in registered_pictures()]
    for name, image in zip(files, page.attributes("img"), strict=True):
        kind, data = (image["src"] or "").split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == (folder / name).read_bytes()
        with Image.open(folder / name) as picture:
            assert picture.width / int(image["width"] or 0) == pytest.approx(150 / 96, rel=0.05)
            assert picture.height / int(image["height"] or 0) == pytest.approx(150 / 96, rel=0.05)
        assert len(image["alt"] or "") > 20


def test_tables_hold_the_figures(page: Reader) -> None:
    counts, per_class, changed, defaults = page.tables
    assert counts[0] == ["Class", "Training", "Test"]
    assert counts[1:-1] == [[name, f"{1000 + k:,}", "0"] for k, name in enumerate(HOSTILE)]
    assert counts[-1] == ["All", "7,021", "0"]
    expected = evaluation(HOSTILE).metrics.per_class
    for label, row in enumerate(per_class[1:]):
        figures = (expected.precision[label], expected.recall[label], expected.f1[label])
        assert row[1:4] == [f"{value:.4f}" for value in figures]
        assert row[4] == str(expected.support[label])
    assert [row[0] for row in changed] == ["Option", "--epochs", "--run-name"]
    assert changed[1] == ["--epochs", "3", "10", "the run"]
    assert defaults[1:] == [["--seed", "0"]]


def test_table_says_what_a_class_is_most_often_mistaken_for(tmp_path: Path) -> None:
    labels = np.array([0] * 6 + [1] * 6)
    predicted = np.array([0, 1, 1, 2, 2, 2] + [1] * 6)
    logits = np.eye(3, dtype=np.float32)[predicted]
    images = np.zeros((12, 8, 8, 1), np.uint8)
    answers = Evaluation("test", images, ["x"] * 12, labels, logits, ["cat", "dog", "bird"])
    write_evaluation(answers, tmp_path)
    write_html(tmp_path / "report.html", Page("Animals", {Path("."): answers}))
    (table,) = Reader(tmp_path / "report.html").tables
    assert [row[-1] for row in table[1:]] == ["bird (3)", "", ""]
    assert table[3] == ["bird", "0.0000", "no images", "0.0000", "0", ""]


def test_the_page_can_be_read_by_machines_that_read_aloud(page: Reader) -> None:
    assert page.attributes("html") == [{"lang": "en"}]
    assert all(header.get("scope") in ("col", "row") for header in page.attributes("th"))
    named = {values["id"] for _, values in page.tags if "id" in values}
    links = [values["href"] for values in page.attributes("a")]
    assert links
    assert {(link or "").removeprefix("#") for link in links} <= named
    for section in page.attributes("section"):
        assert section["aria-labelledby"] in named
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))


def test_an_evaluation_alone_makes_a_page(tmp_path: Path) -> None:
    answers = evaluation([str(label) for label in range(12)], split="holiday photos")
    write_evaluation(answers, tmp_path)
    write_html(tmp_path / "report.html", Page("holiday photos", {Path("."): answers}))
    page = Reader(tmp_path / "report.html")
    right = np.trace(answers.metrics.confusion)
    assert f"holiday photos: {right} of 60 right" in page.headings
    assert not {"Run", "Data", "Training", "Parameters"} & set(page.headings)
    assert f"{answers.metrics.top5:.2%}" in page.text
    for name in ("predictions.csv", "per_class.csv", "classification_report.json"):
        assert name in page.text


def test_what_is_to_know_of_the_data_is_said_without_counts_too(tmp_path: Path) -> None:
    answers = evaluation(["cat", "dog"])
    write_evaluation(answers, tmp_path)
    notes = ["trained on this data", "unreadable: a.png: empty"]
    write_html(tmp_path / "report.html", Page("Animals", {Path("."): answers}, notes=notes))
    page = Reader(tmp_path / "report.html")
    assert {"Data", "To know"} <= set(page.headings)
    assert all(note in page.text for note in notes)
    assert len(page.tables) == 1


def test_tables_of_many_classes_are_folded_away_and_whole(tmp_path: Path) -> None:
    classes = [f"class {label}" for label in range(60)]
    answers = evaluation(classes)
    write_evaluation(answers, tmp_path)
    path = tmp_path / "report.html"
    write_html(path, Page("Many", {Path("."): answers}, classes=classes, counts={"Test": [1] * 60}))
    page = Reader(path)
    assert len(page.attributes("details")) == 2
    for table in page.tables:
        assert set(classes) <= {row[0] for row in table}


def test_large_photographs_are_embedded_smaller_and_look_the_same(
    folder: Path, tmp_path: Path
) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    photograph = Image.fromarray(smooth).resize((1200, 900), Image.Resampling.BICUBIC)
    photograph.save(tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > MOST_PNG_BYTES
    path = folder / "photographs.html"
    write_html(path, replace(whole_page(folder), curves=None, samples=tmp_path / "samples.png"))
    kind, data = (Reader(path).attributes("img")[0]["src"] or "").split(",", 1)
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        difference = np.asarray(picture, np.float64) - np.asarray(photograph, np.float64)
    assert np.sqrt((difference**2).mean()) < 4
    assert len(data) < MOST_PNG_BYTES


def test_a_full_disk_leaves_the_page_of_before(folder: Path, tmp_path: Path) -> None:
    path = folder / "kept.html"
    path.write_text("before")
    with files_up_to(50_000), pytest.raises(ImgclfError, match="Cannot write the page"):
        write_html(path, whole_page(folder))
    assert path.read_text() == "before"
    assert not list(folder.glob("*.part"))
