"""What is no model, or a damaged one, or contradicts its card is refused in plain words."""

import random
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from imgclf.card import METADATA_KEY
from imgclf.errors import ImgclfError
from imgclf.predict import Predictor
from imgclf.seal import seal
from model_files import blank_model, unsealed, write_sealed


def refused(path: Path) -> ImgclfError:
    with pytest.raises(ImgclfError) as caught:
        Predictor(path)
    assert "\n" not in caught.value.message
    assert "'imgclf export'" in caught.value.hint or "xport the model again" in caught.value.hint
    return caught.value


def with_card(model: Path, path: Path, old: str, new: str) -> Path:
    """Write the model with another text in its card."""
    proto = onnx.load(model)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    assert entry.value.count(old) == 1
    entry.value = entry.value.replace(old, new)
    write_sealed(proto, path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.onnx", None, "Cannot open the model '{path}': no such file."),
        ("", None, "Cannot open the model '{path}': it is a folder."),
        ("m" * 300, None, "Cannot open the model '{path}': File name too long."),
        ("empty.onnx", b"", "'{path}' is not an ONNX model that can be used: "),
        ("text.onnx", b"hello\n", "'{path}' is not an ONNX model that can be used: "),
        ("zip.onnx", b"PK\3\4" + bytes(100), "'{path}' is not an ONNX model that can be used: "),
    ],
)
def test_file_that_is_no_model_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert refused(path).message.startswith(message.format(path=path))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95])
def test_truncated_model_is_refused(model: Path, tmp_path: Path, share: float):
    content = model.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    refused(path)


def test_somebody_elses_model_is_refused(predictor: Predictor, tmp_path: Path):
    theirs = blank_model(predictor.card, np.zeros(10, np.float32))
    del theirs.metadata_props[:]
    path = tmp_path / "theirs.onnx"
    write_sealed(theirs, path)
    assert "it has no model card" in refused(path).message


def test_damaged_card_is_refused(model: Path, tmp_path: Path):
    path = with_card(model, tmp_path / "model.onnx", '"classes"', '"glasses"')
    assert refused(path).message == "The model card cannot be read: it lacks 'classes'."


def test_card_that_is_no_text_is_refused(model: Path, tmp_path: Path):
    content = model.read_bytes()
    assert content.count(b'"classes"') == 1
    path = tmp_path / "model.onnx"
    path.write_bytes(seal(unsealed(content).replace(b'"classes"', b'\xff\xfelasses"')))
    assert f"'{path}' is damaged" in refused(path).message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"height": 8', '"height": 7', "'image' should be tensor(uint8) [batch, 7, 8, 1]"),
        ('"classes": ["0", ', '"classes": [', "'logits' should be tensor(float) [batch, 9]"),
        ('"classes": ["0"', '"classes": ["00", "0"', "'logits' should be tensor(float) [batch, 11"),
    ],
)
def test_card_of_another_model_is_refused(
    model: Path, tmp_path: Path, old: str, new: str, message: str
):
    path = with_card(model, tmp_path / "model.onnx", old, new)
    assert refused(path).message.startswith(f"'{path}' contradicts its model card: {message}")


def test_model_never_reads_other_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A model file from outside must not be able to read this machine's files as its weights."""
    proto = onnx.load(model)
    weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret = tmp_path / "secret.bin"
    secret.write_bytes(weights.raw_data)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (Path.cwd() / "secret.bin").write_bytes(weights.raw_data)
    for location in ("secret.bin", "../secret.bin", str(secret)):
        weights.ClearField("raw_data")
        del weights.external_data[:]
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
        path = Path.cwd() / "model.onnx"
        write_sealed(proto, path)
        assert "External data path" in refused(path).message


def test_other_format_of_onnxruntime_is_refused(model: Path, tmp_path: Path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    assert (tmp_path / "model.ort").stat().st_size > 1000
    refused(tmp_path / "model.ort")


def test_random_damage_to_a_model_never_escapes_as_another_error(
    model: Path, digits: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    chance = random.Random(0)
    content = unsealed(model.read_bytes())
    path = tmp_path / "model.onnx"
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 10))):
            # The graph and the card lie at the end, behind the weights.
            place = len(content) - 1 - chance.randrange(min(30_000, len(content)))
            damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(seal(bytes(damaged)))
        try:
            outcomes.add(len(Predictor(path, threads=1)(digits[:2])))
        except ImgclfError:
            outcomes.add(0)
    assert outcomes == {0, 2}
    # What prints to standard output would spoil the JSON of `imgclf predict --json`.
    assert capfd.readouterr().out == ""


def test_batch_of_another_shape_is_refused_in_plain_words(predictor: Predictor):
    with pytest.raises(ImgclfError, match=r"failed on a batch of shape \(2, 9, 8, 1\)"):
        predictor.run(np.zeros((2, 9, 8, 1), np.uint8))
