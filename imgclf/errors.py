"""What a person reads when something goes wrong."""

from collections.abc import Sequence

MOST_SHOWN = 10


def printable(name: str) -> str:
    """Return a name as text: what is not UTF-8 in a file's name is written as Python shows it."""
    return name.encode("utf-8", "backslashreplace").decode()


def some_of(lines: Sequence[str], most: int = MOST_SHOWN) -> str:
    """Return the first lines, as `printable`, indented, and how many more there are."""
    shown = [f"  {printable(line)}" for line in lines]
    del shown[most:]
    if len(lines) > len(shown):
        shown.append(f"  and {len(lines) - len(shown):,} more")
    return "\n".join(shown)


class ImgclfError(Exception):
    """A failure that the person can understand and mend; shown without a traceback.

    Args:
        message: what was wrong, and with what.
        hint: what to do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(ImgclfError):
    """A wrong name, option or value: nothing was started."""

    exit_code = 2


class BadImageError(ImgclfError):
    """One image that cannot be read; ``message`` is the reason, without the image's name."""


class UnknownFormatError(BadImageError):
    """What was given is no image at all, or one of a format that is not read."""


class TooManyPixelsError(BadImageError):
    """An image that is too large to be decoded."""
