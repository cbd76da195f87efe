import hashlib
import itertools
from pathlib import Path

import onnx

from imgclf.seal import digest_if_intact, is_sealed, seal


def test_the_seal_is_the_last_metadata_record_and_the_digest_of_all_before_it(model: Path):
    content = model.read_bytes()
    last = onnx.load_from_string(content).metadata_props[-1]
    assert last.key == "imgclf.sha256"
    before = content[: -(len(last.SerializeToString()) + 2)]
    assert hashlib.sha256(before).hexdigest() == last.value
    assert is_sealed(content)
    assert digest_if_intact(content) == hashlib.sha256(content).hexdigest()


def test_onnx_writes_the_same_bytes_again(model: Path):
    """MLflow's flavour reads a model and writes it."""
    content = model.read_bytes()
    assert onnx.load_from_string(content).SerializeToString() == content


def test_every_changed_bit_is_found():
    content = seal(bytes(range(256)) * 4)
    for place, bit in itertools.product(range(len(content)), range(8)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        assert digest_if_intact(bytes(changed)) is None


def test_what_is_added_or_cut_off_is_found(model: Path):
    content = model.read_bytes()
    for changed in (content[:-1], content[1:], content + b"\0", content + content, b""):
        assert digest_if_intact(changed) is None
    assert not is_sealed(b"")
    assert not is_sealed(content[:-1])
