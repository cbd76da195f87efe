"""The seal of a model file: its last metadata record is the SHA-256 of all bytes before it.

So a change to the file is found wherever it stands, by accident or by hand. Who changes a file can
seal it anew: that a file is the one that was published is known only from a digest kept elsewhere,
as tags of the registered version and of the training run in MLflow.
"""

import hashlib

_KEY = b"imgclf.sha256"
_DIGEST_LENGTH = 64


def seal(content: bytes) -> bytes:
    """Append the seal to a serialised ``ModelProto`` whose last field is its metadata.

    Protocol Buffers read a repeated field's entries wherever they stand: to append one is to add
    it.
    """
    return content + _record(hashlib.sha256(content).hexdigest())


def is_sealed(content: bytes) -> bool:
    """Tell whether a file carries a seal at all, right or wrong."""
    record = seal(b"")
    return content[-len(record) : -_DIGEST_LENGTH] == record[:-_DIGEST_LENGTH]


def digest_if_intact(content: bytes) -> str | None:
    """Return the SHA-256 of a whole file whose bytes are those that were sealed; else None."""
    length = len(seal(b""))
    # No copy, and one pass: models are large.
    digest = hashlib.sha256(memoryview(content)[:-length])
    if content[-length:] != _record(digest.hexdigest()):
        return None
    digest.update(content[-length:])
    return digest.hexdigest()


def _record(digest: str) -> bytes:
    """Return a ``StringStringEntryProto`` as an entry of ``ModelProto.metadata_props`` (14)."""
    return _field(14, _field(1, _KEY) + _field(2, digest.encode()))


def _field(number: int, value: bytes) -> bytes:
    assert len(value) < 128, "its length is one byte"
    return bytes([number << 3 | 2, len(value)]) + value
