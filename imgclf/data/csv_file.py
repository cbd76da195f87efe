"""A CSV file ``path,label[,split]`` -> a listing of labelled files."""

import csv
from collections.abc import Iterator
from pathlib import Path

from imgclf.data.dataset import FREE
from imgclf.data.files import Listing
from imgclf.data.folder import PART_NAMES
from imgclf.errors import ImgclfError

_COLUMNS = ("path", "label", "split")
_HINT = "The first line names the columns: path,label and, if you like, split (train, val, test)."


def list_csv(path: Path) -> Listing:
    """List the images that a CSV file names; their paths are relative to the file's folder.

    An empty ``split`` leaves an image to be dealt out.

    Raises:
        ImgclfError: the file is no CSV in UTF-8, a column is missing, a line is incomplete or has
            too many values, a split is unknown, or a path repeats. Missing image files are found
            when they are read.
    """
    path = path.resolve()
    entries: list[tuple[Path, str, int]] = []
    try:
        # "utf-8-sig": spreadsheets put a byte-order mark in front.
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Strict: a quote that is never closed would swallow the rest of the file.
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            try:
                entries += _read_rows(path, reader)
            except csv.Error as error:
                where = f"'{path}', line {reader.reader.line_num}"
                raise ImgclfError(
                    f"{where}: {error}.", "Check the quotes there and in the lines before."
                ) from error
    except UnicodeDecodeError as error:
        raise ImgclfError(
            f"'{path}' is no text in UTF-8.", "Save it anew as CSV in UTF-8."
        ) from error
    except OSError as error:
        raise ImgclfError(
            f"Cannot read '{path}': {error.strerror}.", "Check its permissions."
        ) from error
    seen: set[Path] = set()
    for image, _, _ in entries:
        if image in seen:
            raise ImgclfError(f"'{path}' names '{image}' twice.", "Keep one of the lines.")
        seen.add(image)
    return Listing.from_entries(path.stem, path.parent, path, entries)


def _read_rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[Path, str, int]]:
    headings = reader.fieldnames or ()
    columns: dict[str, str] = {}
    for heading in headings:
        name = heading.strip().lower()
        if name in _COLUMNS and name in columns:
            raise ImgclfError(f"'{path}' has the column {name} twice.", "Keep one of them.")
        columns[name] = heading
    if not {"path", "label"} <= set(columns):
        found = ", ".join(headings)[:200] or "nothing"
        raise ImgclfError(f"'{path}' lacks the column path or label; it has {found}.", _HINT)
    for row in reader:
        where = f"'{path}', line {reader.line_num}"
        image, label, split = (
            (row[columns[name]] or "").strip() if name in columns else "" for name in _COLUMNS
        )
        if any(row.pop(None, ())):  # what stands behind the last column
            raise ImgclfError(
                f"{where} has more values than there are columns.", "Quote what holds a comma."
            )
        if not image or not label:
            raise ImgclfError(f"{where}: the path or the label is empty.", _HINT)
        if "\0" in image:
            raise ImgclfError(f"{where}: the path holds a zero byte, as no file's does.", _HINT)
        if split and split.lower() not in PART_NAMES:
            raise ImgclfError(f"{where}: the split '{split}' is unknown.", _HINT)
        part = PART_NAMES[split.lower()] if split else FREE
        yield path.parent / image, label, part
