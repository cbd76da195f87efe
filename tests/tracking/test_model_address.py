"""Addresses of models in MLflow, on a real store: what is found, and what is said otherwise."""

import hashlib
from pathlib import Path

import onnx
import pytest
from mlflow import MlflowClient

import imgclf
from imgclf.errors import ImgclfError, UsageError
from imgclf.tracking.identity import SHA256_TAG
from imgclf.tracking.model_address import AliasedModel, download_model_file
from model_files import write_sealed

REFERENCE = Path(__file__).parents[2] / "exports" / "reference" / "model.onnx"


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The last export of the run: a run's address leads to that, whatever others exported."""
    return imgclf.export(trained.run_id, exports_dir=tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def quantized(trained, tmp_path_factory):
    """An export with an int8 file."""
    folder = tmp_path_factory.mktemp("exports")
    return imgclf.export(trained.run_id, exports_dir=folder, variants=("int8",))


def download(address: str) -> bytes:
    with download_model_file(address) as path:
        content = path.read_bytes()
    assert not path.exists()
    return content


def logged_id(exported, name: str) -> str:
    client = MlflowClient()
    experiment_id = client.get_run(exported.run.mlflow_run_id).info.experiment_id
    query = f"source_run_id = '{exported.run.mlflow_run_id}'"
    found = client.search_logged_models([experiment_id], query)
    # Other tests export the run with other golden inputs, say.
    sha256 = hashlib.sha256(Path(exported.model).read_bytes()).hexdigest()
    return next(
        model.model_id
        for model in found
        if model.name == name and (name != "onnx" or model.tags[SHA256_TAG] == sha256)
    )


@pytest.mark.parametrize(
    "address",
    [
        "models:/{name}@champion",
        "models:/{name}/{version}",
        "models:/{logged}",
        "runs:/{run}",
        "runs:/{mlflow_run}",
        "runs:/{run}/onnx",
        "runs:/{mlflow_run}/export/model.onnx",
    ],
)
def test_every_address_leads_to_the_exported_file(exported, address: str):
    registration = exported.registration
    client = MlflowClient()
    # Other tests of the session may have registered better ones.
    client.set_registered_model_alias(registration.name, "champion", registration.version)
    filled = address.format(
        name=registration.name,
        version=registration.version,
        logged=logged_id(exported, "onnx"),
        run=exported.run.run_id,
        mlflow_run=exported.run.mlflow_run_id,
    )
    assert download(filled) == Path(exported.model).read_bytes()


@pytest.mark.parametrize(
    ("address", "message", "hint"),
    [
        ("models:/imgclf-digit@champion", "Did you mean 'imgclf-digits'", "There are: imgclf-"),
        ("models:/imgclf-digits@best", "has no '@best'", "@champion, /"),
        ("models:/imgclf-digits/99", "has no '/99'", "@champion, /"),
        ("models:/imgclf-digits/x", "has no '/x'", "@champion, /"),
        ("models:/m-" + "0" * 32, "no logged model", "MLflow UI"),
        ("runs:/20200101-000000-ffff", "There is no run", "imgclf runs"),
        ("runs:/{run}/nothing.onnx", "no artifact 'nothing.onnx'", "export, model"),
        ("runs:/{run}/export/parity.json", "holds no model.onnx", "champion"),
    ],
)
def test_what_is_missing_is_said_with_what_there_is(exported, address, message, hint):
    MlflowClient().set_registered_model_alias(
        exported.registration.name, "champion", exported.registration.version
    )
    with pytest.raises(ImgclfError) as caught:
        download(address.format(run=exported.run.run_id))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_pytorch_model_is_told_from_the_exported_one(exported):
    with pytest.raises(ImgclfError, match=r"holds no model\.onnx"):
        download(f"models:/{logged_id(exported, 'pytorch')}")


def test_a_run_without_an_export_is_told_how_to_get_one(workplace):
    client = MlflowClient()
    tags = {"imgclf.kind": "train", "imgclf.run_id": "20260101-000000-none"}
    run = client.create_run("0", tags=tags)
    with pytest.raises(ImgclfError, match="has no exported model") as caught:
        download(f"runs:/{run.info.run_id}")
    assert "imgclf export --run 20260101-000000-none" in caught.value.hint
    client.delete_run(run.info.run_id)


def test_an_empty_registry_says_how_to_fill_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(ImgclfError, match="no model is registered") as caught:
        download("models:/imgclf-digits@champion")
    assert "imgclf export" in caught.value.hint


@pytest.mark.parametrize("address", ["models:/", "models:/name", "runs:/", "models:/a/b/c"])
def test_no_address_at_all_is_a_usage_error(address, workplace):
    with pytest.raises(UsageError, match="no address of a model"):
        download(address)


def test_another_file_in_the_place_of_the_registered_one_is_refused(exported):
    """Sealed anew, it proves nothing but itself: the version's tag knows better."""
    logged = MlflowClient().get_logged_model(logged_id(exported, "onnx"))
    stored = Path(logged.artifact_location.removeprefix("file://")) / "model.onnx"
    original = stored.read_bytes()
    proto = onnx.load_from_string(original)
    proto.doc_string = "another"
    registration = exported.registration
    try:
        write_sealed(proto, stored)
        for address in (
            f"models:/{registration.name}/{registration.version}",
            f"models:/{logged.model_id}",
        ):
            with pytest.raises(ImgclfError, match="not the file that was exported"):
                download(address)
    finally:
        stored.write_bytes(original)
    assert download(f"models:/{logged.model_id}") == original


@pytest.mark.parametrize("path", ["", "/export/model.onnx", "/export", "/export/model-int8.onnx"])
def test_another_file_in_the_place_of_an_exported_one_is_refused(quantized, path: str):
    name = "model-int8.onnx" if "int8" in path else "model.onnx"
    run_id = quantized.run.mlflow_run_id
    stored = Path(MlflowClient().download_artifacts(run_id, f"export/{name}"))
    original = stored.read_bytes()
    address = f"runs:/{quantized.run.run_id}{path}"
    assert download(address) == original == (quantized.folder / name).read_bytes()
    proto = onnx.load_from_string(original)
    proto.doc_string = "another"
    try:
        write_sealed(proto, stored)
        MlflowClient().log_artifact(run_id, str(stored), "export")
        with pytest.raises(ImgclfError, match="not the file that was exported"):
            download(address)
    finally:
        stored.write_bytes(original)
        MlflowClient().log_artifact(run_id, str(stored), "export")


# --- An alias that moves

NAME = "followed"


def register(folder: Path, doc_string: str) -> str:
    """Register a model of its own, and return its version."""
    folder.mkdir()
    proto = onnx.load(REFERENCE)
    proto.doc_string = doc_string
    write_sealed(proto, folder / "model.onnx")
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    source, tags = folder.as_uri(), {"imgclf.sha256": digest}
    return str(MlflowClient().create_model_version(NAME, source, tags=tags).version)


def point(version: str) -> None:
    MlflowClient().set_registered_model_alias(NAME, "champion", version)


def test_a_followed_file_changes_when_the_alias_moves_and_only_then(workplace, tmp_path: Path):
    client = MlflowClient()
    client.create_registered_model(NAME)
    try:
        first, second = register(tmp_path / "first", "a"), register(tmp_path / "second", "b")
        content = {v: (tmp_path / v / "model.onnx").read_bytes() for v in ("first", "second")}
        point(first)
        (tmp_path / "served").mkdir()
        model = AliasedModel(f"models:/{NAME}@champion", tmp_path / "served")
        assert model.path.read_bytes() == content["first"]

        read = model.path.stat()
        assert model.fetch_if_moved() == ""
        assert model.path.stat() == read

        with model.path.open("rb") as being_read:
            point(second)
            assert model.fetch_if_moved() == f"models:/{NAME}/{second}"
            assert model.path.read_bytes() == content["second"]
            # Whoever has it open reads the file before to its end.
            assert being_read.read() == content["first"]
        assert (tmp_path / "second" / "model.onnx").read_bytes() == content["second"]

        (tmp_path / "first" / "model.onnx").write_bytes(b"damaged")
        point(first)
        with pytest.raises(ImgclfError, match="not the file that was exported"):
            model.fetch_if_moved()
        client.delete_registered_model_alias(NAME, "champion")
        with pytest.raises(ImgclfError, match="has no '@champion'"):
            model.fetch_if_moved()
        assert model.path.read_bytes() == content["second"]
        assert list(model.path.parent.iterdir()) == [model.path]
    finally:
        client.delete_registered_model(NAME)


@pytest.mark.parametrize(
    "address", [f"models:/{NAME}/1", "models:/m-" + "0" * 32, "runs:/x", "models:/"]
)
def test_what_always_stands_for_the_same_model_cannot_be_followed(address: str, tmp_path: Path):
    with pytest.raises(UsageError, match="--reload cannot follow") as caught:
        AliasedModel(address, tmp_path)
    assert "models:/NAME@champion" in caught.value.hint
