"""Folders and CSV files as people bring them, through a whole run, its export and its predictor."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

import imgclf
from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError

Writer = Callable[[Image.Image, Path], object]


def saved(mode: str = "RGB", **options: Any) -> Writer:
    """A writer that converts to a mode and saves with Pillow's options."""
    return lambda image, path: image.convert(mode).save(path, **options)


def _sixteen_bits(image: Image.Image, path: Path) -> None:
    Image.fromarray(np.asarray(image.convert("L"), dtype=np.uint16) * 257).save(path)


def _on_its_side(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    image.rotate(90, expand=True).save(path, exif=exif)


def _half_transparent(image: Image.Image, path: Path) -> None:
    image = image.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def _animated(image: Image.Image, path: Path) -> None:
    image.save(path, save_all=True, append_images=[Image.new("RGB", image.size, "red")])


EVERY_KIND: dict[str, Writer] = {
    "colour.jpg": saved(),
    "grey.jpg": saved("L"),
    "cmyk.jpg": saved("CMYK"),
    "exif.jpeg": _on_its_side,
    "progressive.jfif": saved(format="JPEG", progressive=True),
    "colour.png": saved(),
    "grey.png": saved("L"),
    "palette.png": saved("P"),
    "alpha.png": _half_transparent,
    "grey-alpha.png": saved("LA"),
    "sixteen.png": _sixteen_bits,
    "black-and-white.png": saved("1"),
    "lossy.webp": saved(quality=80),
    "lossless.webp": saved("RGBA", lossless=True),
    "animated.webp": _animated,
    "colour.bmp": saved(),
    "palette.gif": saved("P"),
    "animated.gif": _animated,
    "colour.tif": saved(),
    "grey.tiff": saved("L", compression="tiff_lzw"),
    "cmyk.tiff": saved("CMYK"),
    "sixteen.tif": _sixteen_bits,
    "colour.ppm": saved(),
    "JPEG IN CAPITALS.JPG": saved(),
}


def crops(photo: NDArray[np.uint8], number: int) -> Iterator[Image.Image]:
    """Random parts of a photograph, of many sizes."""
    generator = np.random.default_rng(0)
    for _ in range(number):
        height, width = generator.integers(60, 160, 2)
        top = generator.integers(0, photo.shape[0] - height)
        left = generator.integers(0, photo.shape[1] - width)
        yield Image.fromarray(photo[top : top + height, left : left + width])


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of scikit-learn's two photographs, in every part of the split in every kind of file."""
    root = tmp_path_factory.mktemp("every kind")
    for label, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        images = crops(photo, 4 * len(EVERY_KIND))
        for part, times in (("train", 2), ("val", 1), ("test", 1)):
            for time in range(times):
                folder = root / part / label / f"{time}"
                folder.mkdir(parents=True)
                for name, write in EVERY_KIND.items():
                    write(next(images), folder / name)
    return root


def small_run(tmp_path: Path, **values: object) -> TrainConfig:
    return TrainConfig.from_dict({"runs_dir": str(tmp_path / "runs"), "image_size": 32, **values})


def test_every_kind_of_image_is_learnt_proved_and_predicted_alike(every_kind, tmp_path):
    config = small_run(tmp_path, dataset=str(every_kind), epochs=8, batch_size=12)
    result = imgclf.train(config)
    assert result.metrics["test/accuracy"] > 0.8  # a stone temple and a pink flower
    table = pandas.read_csv(result.folder / "test" / "predictions.csv", dtype=str)
    assert {Path(name).name for name in table["image"]} == set(EVERY_KIND)

    # The proof reads the stored files, and all of them answer as the trained model does.
    exported = imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
    assert exported.parity.from_files
    assert exported.parity.images == len(table) == 2 * len(EVERY_KIND)
    files = [every_kind / name for name in table["image"]]
    answers = imgclf.Predictor(exported.model)(files)
    assert [answer.label for answer in answers] == table["predicted"].tolist()


def _cut_off(image: Image.Image, path: Path) -> None:
    image.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _bomb(image: Image.Image, path: Path) -> None:
    Image.new("1", (40_000, 40_000)).save(path)


def _wrong_checksum(image: Image.Image, path: Path) -> None:
    image.save(path)
    content = bytearray(path.read_bytes())
    content[20] ^= 255  # in the header
    path.write_bytes(content)


# Name -> how it is written, and a word of the reason that a person reads.
EVERY_FAULT: dict[str, tuple[Writer, str]] = {
    "empty.jpg": (lambda image, path: path.write_bytes(b""), "not an image"),
    "cut-off.jpg": (_cut_off, "truncated"),
    "cut-off.png": (_cut_off, "truncated"),
    "text.png": (lambda image, path: path.write_text("no image"), "not an image"),
    "header-only.gif": (lambda image, path: path.write_bytes(b"GIF89a"), "not an image"),
    "bomb.png": (_bomb, "limit"),
    "floating-point.tif": (saved("F"), "8 or 16 bits"),
    "wrong-checksum.png": (_wrong_checksum, ""),
    "link-to-nothing.jpg": (lambda image, path: path.symlink_to("nowhere.jpg"), "No such file"),
}


@pytest.fixture
def every_fault(tmp_path: Path) -> Path:
    """Twenty good images of each of two classes, and every fault among the first."""
    root = tmp_path / "every fault"
    for label, photo in zip(("flower", "temple"), load_sample_images().images, strict=True):
        (root / label).mkdir(parents=True)
        for number, image in enumerate(crops(photo, 20)):
            image.save(root / label / f"{number}.png")
    for name, (write, _) in EVERY_FAULT.items():
        write(Image.open(root / "flower" / "0.png"), root / "flower" / name)
    # None of these is an image that could be missed.
    (root / "flower" / "folder.png").mkdir()
    (root / "flower" / ".hidden.png").write_bytes(b"")
    (root / "flower" / "notes.txt").write_text("about the images")
    (root / "empty class").mkdir()
    return root


def test_every_fault_is_named_with_its_reason_and_training_is_refused(every_fault, tmp_path):
    with pytest.raises(ImgclfError) as caught:
        imgclf.train(small_run(tmp_path, dataset=str(every_fault)))
    message = caught.value.message
    assert message.startswith(f"{len(EVERY_FAULT)} of {40 + len(EVERY_FAULT)} images")
    for name, (_, reason) in EVERY_FAULT.items():
        (line,) = [line for line in message.splitlines() if f"/{name}: " in line]
        assert reason in line
    assert "--max-bad-images" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_every_fault_is_left_out_and_recorded_where_that_is_accepted(every_fault, tmp_path):
    config = small_run(tmp_path, dataset=str(every_fault), max_bad_images=0.5, epochs=1)
    result = imgclf.train(config)
    scan = json.loads((result.folder / "scan.json").read_text())
    assert {name for name, _ in scan["unreadable"]} == {f"flower/{name}" for name in EVERY_FAULT}
    assert sum(sum(parts.values()) for parts in scan["counts"].values()) == 40
    split = pandas.read_csv(result.folder / "split.csv", dtype=str)
    left_out = split[split["split"].str.startswith("unreadable")]["image"]
    assert set(left_out) == {f"flower/{name}" for name in EVERY_FAULT}


def test_a_csv_file_trains_to_the_same_numbers_as_its_folder(every_kind, tmp_path):
    shutil.copytree(every_kind, tmp_path / "copy")
    with (tmp_path / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "split", "path"])
        rows = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
        for path in reversed(rows):
            part, label = path.relative_to(tmp_path / "copy").parts[:2]
            writer.writerow([label, part, path.relative_to(tmp_path)])
    values = {"epochs": 2, "horizontal_flip": True, "dropout": 0.3, "image_size": 24}
    folder = imgclf.train(small_run(tmp_path, dataset=str(every_kind), **values))
    listed = imgclf.train(small_run(tmp_path, dataset=str(tmp_path / "images.csv"), **values))
    assert listed.metrics == folder.metrics
    weights = [(run.folder / "model" / "weights.safetensors") for run in (folder, listed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


HOSTILE_LABELS = (
    "../../outside",
    "/tmp/imgclf-outside",
    "<script>alert(1)</script>",
    'comma, "quotes"; $(touch x) `touch y`',
    "two\nlines",
    "犬 🐕 :dog:",
    "{{ 7 * 7 }} %s {0}",
    "\u202e reversed",
)


class Elements(HTMLParser):
    """The elements of a page, and what it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_stay_names_from_the_csv_file_to_the_answer(digit_files, tmp_path):
    """Labels that are paths, code or markup, in a file whose name is no better."""
    place = tmp_path / "a" / "place"
    place.mkdir(parents=True)
    listed = place / 'it\'s <b>odd<i>, 50% "50": {x} & ünï.csv'
    files = sorted(digit_files.rglob("*.png"))
    rows = [
        [path, HOSTILE_LABELS[2 * int(path.parent.name) + number % 2]]
        for number, path in enumerate(files)
    ]
    with listed.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    runs, exports = place / "runs", place / "exports"
    result = imgclf.train(TrainConfig(dataset=str(listed), epochs=2, runs_dir=str(runs)))
    assert result.not_sent == ()
    exported = imgclf.export(result.run_id, exports_dir=exports, triton=True)

    # Everything was written below the two folders.
    assert {path.name for path in place.iterdir()} == {listed.name, "runs", "exports"}
    assert {path.name for path in tmp_path.rglob("*") if place not in path.parents} == {
        "a",
        "place",
    }
    assert not Path("/tmp/imgclf-outside").exists()
    (folder,) = exports.iterdir()
    assert folder.name == listed.stem

    # The names are what they were, and nothing but names.
    predictor = imgclf.Predictor(exported.model)
    assert predictor.card.classes == tuple(sorted(HOSTILE_LABELS))
    assert {answer.label for answer in predictor(files[:40])} <= set(HOSTILE_LABELS)
    table = pandas.read_csv(result.folder / "test" / "predictions.csv", dtype=str)
    assert set(table["label"]) == set(HOSTILE_LABELS)
    page = Elements((result.folder / "report.html").read_text(encoding="utf-8"))
    assert not {"script", "b", "i"} & page.names
    for label in HOSTILE_LABELS:
        assert label in page.text
    labels = next(folder.glob("triton/*/labels.txt")).read_text(encoding="utf-8").splitlines()
    assert labels == [" ".join(label.split()) for label in sorted(HOSTILE_LABELS)]


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are always Unicode")
def test_a_folder_whose_name_is_not_utf8_is_trained_exported_and_recorded(digit_files, tmp_path):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(digit_files, root)
    (root / "3").rename(root / os.fsdecode(b"drei\xff"))
    config = TrainConfig(dataset=str(root), epochs=1, runs_dir=str(tmp_path / "runs"))
    result = imgclf.train(config)
    assert result.not_sent == ()
    exported = imgclf.export(result.run_id, exports_dir=tmp_path / "exports")
    assert imgclf.Predictor(exported.model).card.classes == ("0", "1", "2", "drei\\udcff")
    options = {"dataset": str(root), "runs_dir": str(tmp_path / "runs")}
    assert imgclf.evaluate(exported.model, **options).not_sent == ()
