"""The folders that a person names for what a command writes."""

import tempfile
from pathlib import Path

from imgclf.errors import ImgclfError


def ensure_writable(folder: Path, kind: str, option: str) -> None:
    """Create a folder, and make sure before the work that its outcome can be written there.

    Args:
        folder: may exist.
        kind: stands before its name in the message.
        option: what a person gives to write elsewhere.

    Raises:
        ImgclfError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ImgclfError(
            f"Cannot write to {kind}'{folder}': {error.strerror}.",
            f"Give another place with {option}.",
        ) from error
