"""A file that would run code when it is unpickled runs none, wherever imgclf reads a file.

The tests of CIFAR's files and of weights are beside those of their readers.
"""

import base64
import gzip
import hashlib
import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import onnx
import pytest
from PIL import Image, PngImagePlugin

import imgclf
from imgclf.card import METADATA_KEY, ModelCard
from imgclf.config import TrainConfig
from imgclf.data.cache import load_decoded
from imgclf.data.sources import load_dataset
from imgclf.errors import ImgclfError
from imgclf.golden import METADATA_KEY as GOLDEN_KEY
from imgclf.golden import GoldenInputs
from imgclf.pipeline.resume import find_interrupted, write_start
from imgclf.predict import Predictor, Unreadable
from imgclf.tracking.sent import Sent, read_sent
from imgclf.tracking.sync import sync_runs
from imgclf.verify import replay
from model_files import write_sealed
from tracking_server import write_run


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.witness,)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[bytes]:
    """A pickle that leaves a trace where it is loaded; nothing in the test may have done so."""
    witness = tmp_path / "payload-has-run"
    content = pickle.dumps(Payload(witness))
    pickle.loads(content)  # noqa: S301 - it would be of no use if it did nothing
    assert witness.exists()
    witness.unlink()
    yield content
    assert not witness.exists()


@pytest.fixture(params=["pickle", "npy", "torch"])
def planted(request: pytest.FixtureRequest, payload: bytes, tmp_path: Path) -> bytes:
    """The pickle as it is, as a NumPy file of one object, and in PyTorch's archive."""
    witness = tmp_path / "payload-has-run"
    buffer = io.BytesIO()
    if request.param == "npy":
        np.save(buffer, np.array([Payload(witness)], dtype=object), allow_pickle=True)
        return buffer.getvalue()
    if request.param == "torch":
        import torch

        torch.save({"weights": Payload(witness)}, buffer)
        return buffer.getvalue()
    return payload


def test_a_recipe_is_no_pickle_and_names_no_function(planted: bytes, tmp_path: Path):
    path, witness = tmp_path / "x.yaml", tmp_path / "payload-has-run"
    path.write_bytes(planted)
    with pytest.raises(ImgclfError, match="Cannot read the recipe"):
        TrainConfig.from_dict({"recipe": str(path)})
    path.write_text(f"epochs: !!python/object/apply:os.mknod ['{witness}']")
    with pytest.raises(ImgclfError, match="Cannot read the recipe"):
        TrainConfig.from_dict({"recipe": str(path)})


@pytest.mark.parametrize("name", ["pixels.raw", "images.json"])
def test_an_entry_of_the_cache_is_no_pickle(
    planted: bytes, name: str, digits: list[Path], tmp_path: Path
):
    def load() -> int:
        told = [0]
        load_decoded(digits, 0, tmp_path / "cache", "x", lambda done, total: told.append(done))
        return max(told)

    assert load() == len(digits)
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / name).write_bytes(planted)
    assert load() == len(digits)


def test_published_files_are_no_pickles(planted: bytes, tmp_path: Path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(planted))
    with pytest.raises(ImgclfError, match="is damaged"):
        load_dataset(TrainConfig(dataset="mnist", data_dir=str(tmp_path)))


def test_a_list_of_images_is_no_pickle(planted: bytes, tmp_path: Path):
    (tmp_path / "images.csv").write_bytes(planted)
    with pytest.raises(ImgclfError, match=r"images\.csv"):
        load_dataset(TrainConfig(dataset=str(tmp_path / "images.csv")))


def test_an_image_is_no_pickle_and_carries_none(
    planted: bytes, predictor: Predictor, digits: list[Path], tmp_path: Path
):
    (tmp_path / "x.png").write_bytes(planted)
    (answer,) = predictor.stream([tmp_path / "x.png"])
    assert isinstance(answer, Unreadable)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", planted.decode("latin-1"))
    with Image.open(digits[0]) as image:
        image.save(tmp_path / "y.png", pnginfo=text)
    expected, found = predictor([digits[0], tmp_path / "y.png"])
    assert found.top == expected.top


def test_a_model_is_no_pickle_and_carries_none(planted: bytes, model: Path, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(planted)
    with pytest.raises(ImgclfError, match="not an ONNX model"):
        Predictor(path)
    for text in (planted.decode("latin-1"), base64.b64encode(planted).decode()):
        for key in (METADATA_KEY, GOLDEN_KEY):
            proto = onnx.load(model)
            (entry,) = [entry for entry in proto.metadata_props if entry.key == key]
            entry.value = text
            write_sealed(proto, path)
            with pytest.raises(ImgclfError, match="cannot be read"):
                replay(Predictor(path))
        proto = onnx.load(model)
        proto.metadata_props.add(key="unknown", value=text)
        proto.doc_string = text
        write_sealed(proto, path)
        assert replay(Predictor(path)).failures == ()


def test_cards_and_golden_inputs_are_no_pickles(planted: bytes):
    for text in (planted.decode("latin-1"), base64.b64encode(planted).decode()):
        with pytest.raises(ImgclfError, match="cannot be read"):
            ModelCard.from_json(text)
        with pytest.raises(ImgclfError, match="cannot be read"):
            GoldenInputs.from_json(text, ("cat", "dog"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run, and where MLflow keeps the files of its model."""
    from mlflow import MlflowClient

    runs_dir = str(tmp_path_factory.mktemp("runs"))
    result = imgclf.train(TrainConfig(epochs=1, batch_size=512, runs_dir=runs_dir))
    assert result.mlflow_run_id is not None
    address = MlflowClient().get_run(result.mlflow_run_id).info.artifact_uri
    return result.run_id, Path(unquote(urlparse(address).path)) / "model"


@pytest.mark.parametrize("name", ["config.json", "card.json", "weights.safetensors"])
def test_a_runs_files_in_the_store_are_no_pickles(
    planted: bytes, name: str, stored: tuple[str, Path], tmp_path: Path
):
    run_id, folder = stored
    shutil.copytree(folder, tmp_path / "kept")
    (folder / name).write_bytes(planted)
    try:
        with pytest.raises(ImgclfError, match=r"cannot be (read|used)"):
            imgclf.export(run_id, exports_dir=tmp_path / "exports")
    finally:
        shutil.copytree(tmp_path / "kept", folder, dirs_exist_ok=True)
    assert list((tmp_path / "exports").glob("*")) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b""),
        ("config.json", b"[]"),
        ("config.json", b'{"epochs": "three"}'),
        ("config.json", b'{"surprise": 1}'),
        ("config.json", b"[" * 100_000),
        ("config.json", b"\xff\xfe"),
        ("config.json", None),
        ("card.json", b"{}"),
        ("card.json", b"\xff\xfe"),
        ("card.json", None),
        ("weights.safetensors", b""),
        ("weights.safetensors", None),
    ],
    ids=range(12),
)
def test_a_run_whose_files_were_tampered_with_is_refused(
    name: str, content: bytes | None, stored: tuple[str, Path], tmp_path: Path
):
    run_id, folder = stored
    shutil.copytree(folder, tmp_path / "kept")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    try:
        with pytest.raises(ImgclfError) as caught:
            imgclf.export(run_id, exports_dir=tmp_path / "exports")
    finally:
        shutil.copytree(tmp_path / "kept", folder, dirs_exist_ok=True)
    assert caught.value.hint


def test_a_card_that_forgot_its_data_replaces_no_folder(stored: tuple[str, Path], tmp_path: Path):
    run_id, folder = stored
    card = folder / "card.json"
    before = card.read_text(encoding="utf-8")
    card.write_text(before.replace('"dataset_digest"', '"digest"'), encoding="utf-8")
    precious = tmp_path / "digits" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    try:
        with pytest.raises(ImgclfError, match="no export of this data set"):
            imgclf.export(run_id, exports_dir=tmp_path)
    finally:
        card.write_text(before, encoding="utf-8")
    assert precious.read_text() == "years of work"


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("name", ["journal.jsonl", "sent.json", "start.json"])
def test_what_a_run_keeps_in_its_folder_is_no_pickle(
    planted: bytes, end: bytes, name: str, tmp_path: Path
):
    folder = write_run(tmp_path / "runs", ended=False)
    write_start(folder, TrainConfig(), {})
    (folder / name).write_bytes(planted + end)
    if name == "sent.json":
        assert read_sent(folder) == Sent()
        assert find_interrupted(folder.name, folder.parent, {}).config == TrainConfig()
        return
    with pytest.raises(ImgclfError, match=r"holds no run|is damaged|missing or damaged"):
        find_interrupted(folder.name, folder.parent, {})
    if name == "journal.jsonl":
        for result in sync_runs([folder]):
            assert (result.records, result.was_dead) == (0, False)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was interrupted after its first epoch."""
    from imgclf.pipeline import fit

    runs_dir, evaluate, calls = tmp_path_factory.mktemp("runs"), fit.predict_logits, []

    def interrupted_the_second_time(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(fit, "predict_logits", interrupted_the_second_time)
        with pytest.raises(KeyboardInterrupt):
            imgclf.train(TrainConfig(epochs=2, batch_size=512, runs_dir=str(runs_dir)))
    (folder,) = runs_dir.iterdir()
    return folder


def test_checkpoints_that_a_run_goes_on_from_are_no_pickles(
    planted: bytes, interrupted: Path, tmp_path: Path
):
    """Neither as they are, nor with a digest that fits."""
    runs_dir = shutil.copytree(interrupted.parent, tmp_path / "runs")
    checkpoints = runs_dir / interrupted.name / "checkpoints"
    plain, sealed = checkpoints.iterdir()
    plain.write_bytes(planted)
    sealed.write_bytes(planted + hashlib.sha256(planted).digest())
    with pytest.raises(ImgclfError, match="all are damaged"):
        imgclf.resume(interrupted.name, str(runs_dir))
    assert {path.suffix for path in checkpoints.iterdir()} == {".damaged"}
