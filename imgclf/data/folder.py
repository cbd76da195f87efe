"""A folder with one sub-folder per class, in parts or not -> a listing of labelled files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imgclf.data.dataset import FREE, TEST, TRAIN, VAL
from imgclf.data.files import Listing
from imgclf.errors import ImgclfError
from imgclf.predict import find_images

PART_NAMES = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST}
# What archives made on a Mac carry along.
_NO_CLASSES = {"__MACOSX"}


def list_folder(root: Path) -> Listing:
    """List ``root/<class>/**``, or ``root/train/<class>/**`` with ``val`` and ``test`` beside it.

    A folder is in parts where its sub-folders have the parts' names, one or several of them, and
    hold folders of images themselves.

    Raises:
        ImgclfError: there are no images, loose images beside parts, or parts beside other folders.
    """
    root = root.resolve()
    folders = [folder for folder in _subfolders(root) if folder.name not in _NO_CLASSES]
    parts = [folder for folder in folders if folder.name.lower() in PART_NAMES]
    entries: list[tuple[Path, str, int]] = []
    if any(_has_classes(part) for part in parts):
        others = [folder.name for folder in folders if folder not in parts and _has_images(folder)]
        if others:
            raise ImgclfError(
                f"'{root}' holds '{parts[0].name}', a part of a split, and '{others[0]}', which is"
                " none.",
                "Keep only train, val and test there, each with one sub-folder per class.",
            )
        for folder in parts:
            part = PART_NAMES[folder.name.lower()]
            entries += [(path, label, part) for path, label in _class_images(folder)]
    else:
        entries += [(path, label, FREE) for path, label in _class_images(root, folders)]
    return Listing.from_entries(root.name or "root", root, root, entries)


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise ImgclfError(
            f"Cannot read the folder '{folder}': {error.strerror}.", "Check its permissions."
        ) from error
    return sorted(path for path in found if not path.name.startswith("."))


def _has_classes(folder: Path) -> bool:
    return any(_has_images(path) for path in _subfolders(folder))


def _has_images(folder: Path) -> bool:
    return next(find_images(folder), None) is not None


def _class_images(
    folder: Path, class_folders: Sequence[Path] | None = None
) -> Iterator[tuple[Path, str]]:
    for class_folder in _subfolders(folder) if class_folders is None else class_folders:
        for path in find_images(class_folder):
            yield path, class_folder.name
