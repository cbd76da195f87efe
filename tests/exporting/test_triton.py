"""The model repository is what Triton's own published schema reads."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

import command_line
import imgclf
from imgclf.card import ModelCard, Preprocessing
from imgclf.errors import ImgclfError
from imgclf.exporting.triton import write_model_repository

CARD = ModelCard(
    ('a"b', "two\nlines", "ünï"), Preprocessing.identity(28, 30, 3), (1.0,) * 3, (1.0,) * 3
)


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's ``model_config.proto``, as its Python client carries it; without importing gRPC."""
    client = importlib.util.find_spec("tritonclient")
    assert client is not None
    assert client.submodule_search_locations is not None
    path = Path(client.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_fits_tritons_schema(schema, tmp_path: Path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"content")
    folder = write_model_repository(model, CARD, "my photos/1", tmp_path / "repository")
    assert folder == tmp_path / "repository" / "my-photos-1"
    text = (folder / "config.pbtxt").read_text()
    configuration = text_format.Parse(text, schema.ModelConfig())
    assert configuration.name == folder.name
    assert configuration.backend == "onnxruntime"
    assert configuration.max_batch_size > 1
    assert configuration.dynamic_batching.max_queue_delay_microseconds > 0
    (image,) = configuration.input
    # Without the batch dimension, which max_batch_size stands for.
    assert (image.name, list(image.dims)) == ("image", [28, 30, 3])
    assert image.data_type == schema.DataType.Value("TYPE_UINT8")
    assert [output.name for output in configuration.output] == ["logits", "probabilities"]
    for output in configuration.output:
        assert list(output.dims) == [3]
        assert output.data_type == schema.DataType.Value("TYPE_FP32")
        assert output.label_filename == "labels.txt"
    assert (folder / "labels.txt").read_text(encoding="utf-8") == 'a"b\ntwo lines\nünï\n'
    assert (folder / "1" / "model.onnx").read_bytes() == b"content"


def test_an_export_writes_a_model_for_each_of_its_files(schema, trained, tmp_path: Path):
    printed = command_line.imgclf(
        *("export", "--run", trained.run_id, "--exports-dir", tmp_path),
        *("--format", "triton", "--precision", "fp16"),
    )
    assert printed.exit_code == 0, printed.output
    assert "serves imgclf-digits, imgclf-digits-fp16\n" in printed.stdout
    folder = tmp_path / "digits"
    repository = folder / "triton"
    for name, file in (("imgclf-digits", "model"), ("imgclf-digits-fp16", "model-fp16")):
        copy = repository / name / "1" / "model.onnx"
        assert copy.read_bytes() == (folder / f"{file}.onnx").read_bytes()
        text = (repository / name / "config.pbtxt").read_text()
        assert text_format.Parse(text, schema.ModelConfig()).name == name
        assert (repository / name / "labels.txt").read_text().split() == list("0123456789")
    # What a person has put there is kept: a folder, or a model of the same form.
    own = repository / "imgclf-digits-ensemble"
    own.mkdir()
    with pytest.raises(ImgclfError, match="no export of this data set"):
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    own.rmdir()
    shutil.copytree(repository / "imgclf-digits", own)
    with pytest.raises(ImgclfError, match="no export of this data set"):
        imgclf.export(trained.run_id, exports_dir=tmp_path)
    shutil.rmtree(own)
    # What was exported may be replaced.
    again = imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert not (again.folder / "triton").exists()
