"""What a person reads when something goes wrong."""


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
