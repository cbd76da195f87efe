"""Bearer tokens: who may ask."""

import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from fastapi import Request

from imgclf.errors import ImgclfError
from imgclf.serving.errors import RequestError

KeyCheck: TypeAlias = "Callable[[Request], Awaitable[None]]"

_SHORTEST_KEY = 16


def read_keys(path: str) -> list[bytes]:
    """Read a file with one key a line; lines that begin with # are left out.

    Raises:
        ImgclfError: it cannot be read, holds no key, or one that is easily guessed.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ImgclfError(f"Cannot read the keys in '{path}': {reason}.") from error
    stripped = [line.strip() for line in lines]
    keys = [line for line in stripped if line and not line.startswith("#")]
    if not keys or any(len(key) < _SHORTEST_KEY for key in keys):
        raise ImgclfError(
            f"'{path}' must hold keys of at least {_SHORTEST_KEY} characters, one a line.",
            "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return [key.encode() for key in keys]


def key_check(keys: list[bytes]) -> KeyCheck:
    """Return what refuses requests without one of the keys."""

    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Starlette reads headers as Latin-1: so these are the bytes that were sent.
        token = given.strip(" ").encode("latin-1")
        # All are compared, each in constant time: nothing is learnt from how long it takes.
        known = [hmac.compare_digest(token, key) for key in keys]
        if scheme.lower() != "bearer" or not any(known):
            raise RequestError(401, "send a key: Authorization: Bearer KEY")

    return check
