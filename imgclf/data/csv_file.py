"""A CSV file ``path,label[,split]`` -> a listing of labelled files."""

import csv
from collections.abc import Iterator
from pathlib import Path

from imgclf.data.dataset import FREE
from imgclf.data.files import Listing
from imgclf.data.folder import PART_NAMES
from imgclf.errors import ImgclfError

_HINT = "The first line names the columns: path,label and, if you like, split (train, val, test)."


def list_csv(path: Path) -> Listing:
    """List the images that a CSV file names; their paths are relative to the file's folder.

    An empty ``split`` leaves an image to be dealt out.

    Raises:
        ImgclfError: a column is missing, a line is incomplete, a split is unknown, a path repeats,
            or there are fewer than two classes. Missing image files are found when they are read.
    """
    path = path.resolve()
    try:
        # "utf-8-sig": spreadsheets put a byte-order mark in front.
        with path.open(newline="", encoding="utf-8-sig") as file:
            entries = list(_read_rows(path, file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImgclfError(f"Cannot read '{path}' as CSV: {error}.", _HINT) from error
    seen: set[Path] = set()
    for image, _, _ in entries:
        if image in seen:
            raise ImgclfError(f"'{path}' names '{image}' twice.", "Keep one of the lines.")
        seen.add(image)
    return Listing.from_entries(path.stem, path.parent, path, entries)


def _read_rows(path: Path, file: Iterator[str]) -> Iterator[tuple[Path, str, int]]:
    reader = csv.DictReader(file, skipinitialspace=True)
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    if not {"path", "label"} <= set(columns):
        found = ", ".join(reader.fieldnames or ()) or "nothing"
        raise ImgclfError(f"'{path}' lacks the column path or label; it has {found}.", _HINT)
    for row in reader:
        image, label = row[columns["path"]] or "", row[columns["label"]] or ""
        split = (row[columns["split"]] or "") if "split" in columns else ""
        where = f"'{path}', line {reader.line_num}"
        if not image.strip() or not label.strip():
            raise ImgclfError(f"{where}: the path or the label is empty.", _HINT)
        if split and split.strip().lower() not in PART_NAMES:
            raise ImgclfError(f"{where}: the split '{split}' is unknown.", _HINT)
        part = PART_NAMES[split.strip().lower()] if split.strip() else FREE
        yield path.parent / image.strip(), label.strip(), part
