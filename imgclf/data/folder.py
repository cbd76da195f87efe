"""A folder with one sub-folder per class, in parts or not -> a listing of labelled files."""

from collections.abc import Iterator
from pathlib import Path

from imgclf.data.dataset import FREE, TEST, TRAIN, VAL
from imgclf.data.files import Listing
from imgclf.errors import ImgclfError
from imgclf.predict import find_images

PART_NAMES = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}


def list_folder(root: Path) -> Listing:
    """List ``root/<class>/**``, or ``root/train/<class>/**`` with ``val`` and ``test`` beside it.

    A folder is in parts where it has a sub-folder ``train`` that holds folders of images itself,
    and nothing but parts beside it.

    Raises:
        ImgclfError: there are no images, fewer than two classes, or loose images beside parts.
    """
    root = root.resolve()
    folders = _subfolders(root)
    names = {folder.name.lower() for folder in folders}
    entries: list[tuple[Path, str, int]] = []
    if "train" in names and names <= set(PART_NAMES) and _has_classes(root, "train"):
        for folder in folders:
            part = PART_NAMES[folder.name.lower()]
            entries += [(path, label, part) for path, label in _class_images(folder)]
    else:
        entries += [(path, label, FREE) for path, label in _class_images(root)]
    return Listing.from_entries(root.name or "root", root, root, entries)


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise ImgclfError(
            f"Cannot read the folder '{folder}': {error.strerror}.", "Check its permissions."
        ) from error
    return sorted(path for path in found if not path.name.startswith("."))


def _has_classes(root: Path, part: str) -> bool:
    folder = next(path for path in _subfolders(root) if path.name.lower() == part)
    return any(find_images(path) for path in _subfolders(folder))


def _class_images(folder: Path) -> Iterator[tuple[Path, str]]:
    for class_folder in _subfolders(folder):
        for path in find_images(class_folder):
            yield path, class_folder.name
