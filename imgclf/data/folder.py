"""A folder with one sub-folder per class, in parts or not -> a listing of labelled files."""

from collections.abc import Sequence
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
        ImgclfError: there are no images, loose images beside parts, or parts beside other folders;
            a link gives images a second class; or a folder cannot be read.
    """
    root = root.resolve()
    folders = [folder for folder in _subfolders(root) if folder.name not in _NO_CLASSES]
    parts = [folder for folder in folders if folder.name.lower() in PART_NAMES]
    if any(_has_classes(part) for part in parts):
        others = [folder.name for folder in folders if folder not in parts and _has_images(folder)]
        if others:
            raise ImgclfError(
                f"'{root}' holds '{parts[0].name}', a part of a split, and '{others[0]}', which is"
                " none.",
                "Keep only train, val and test there, each with one sub-folder per class.",
            )
        class_folders = [
            (folder, PART_NAMES[part.name.lower()])
            for part in parts
            for folder in _subfolders(part)
        ]
    else:
        class_folders = [(folder, FREE) for folder in folders]
    _refuse_overlaps([folder for folder, _ in class_folders])
    entries = [
        (path, folder.name, part) for folder, part in class_folders for path in find_images(folder)
    ]
    return Listing.from_entries(root.name or "root", root, root, entries)


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, and the links to folders, but those that lead back.

    A link to the folder itself, or to one above it, would be a class of all images.
    """
    try:
        found = [
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and path.is_dir() and not _leads_back(path)
        ]
    except OSError as error:
        raise ImgclfError(
            f"Cannot read the folder '{error.filename}': {error.strerror}.",
            "Check its permissions.",
        ) from error
    return sorted(found)


def _leads_back(path: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _refuse_overlaps(class_folders: Sequence[Path]) -> None:
    """Raise `ImgclfError` where a link gives images a second class."""
    places = [(folder, folder.resolve()) for folder in class_folders]
    owners: dict[Path, Path] = {}
    for folder, place in places:
        owners.setdefault(place, folder)
    for folder, place in places:
        for above in (place, *place.parents):
            other = owners.get(above, folder)
            if other.name != folder.name:
                raise ImgclfError(
                    f"'{folder}' and '{other}' lead to the same images, which would have two"
                    " classes.",
                    "Remove the link.",
                )


def _has_classes(folder: Path) -> bool:
    return any(_has_images(path) for path in _subfolders(folder))


def _has_images(folder: Path) -> bool:
    return next(find_images(folder), None) is not None
