"""Smaller files answer as the trained model does, on real images, or are refused."""

import dataclasses

import numpy as np
import onnx
import pytest

import command_line
import imgclf
from imgclf.errors import ImgclfError
from imgclf.exporting.variants import Agreement
from imgclf.predict import Predictor
from imgclf.verify import replay


@pytest.fixture(scope="module")
def smaller(trained, tmp_path_factory):
    """An export with both variants."""
    folder = tmp_path_factory.mktemp("exports")
    return imgclf.export(trained.run_id, exports_dir=folder, variants=("int8", "fp16"))


@pytest.fixture(scope="module")
def variants(smaller):
    return {variant.kind: variant for variant in smaller.variants}


def test_they_lie_beside_the_model_and_are_smaller(smaller, variants):
    assert sorted(path.name for path in smaller.folder.iterdir()) == [
        "example.png",
        "fp16.json",
        "int8.json",
        "model-fp16.onnx",
        "model-int8.onnx",
        "model.onnx",
        "parity.json",
    ]
    size = smaller.model.stat().st_size
    assert variants["int8"].path.stat().st_size < 0.4 * size
    assert variants["fp16"].path.stat().st_size < 0.6 * size


def types_of_weights(path) -> dict[int, int]:
    """How many numbers there are of each type."""
    totals: dict[int, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        totals[tensor.data_type] = totals.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    return totals


def test_weights_are_what_their_names_say(variants):
    int8, fp16 = types_of_weights(variants["int8"].path), types_of_weights(variants["fp16"].path)
    assert int8[onnx.TensorProto.INT8] > 0.9 * sum(int8.values())
    assert fp16[onnx.TensorProto.FLOAT16] > 0.9 * sum(fp16.values())
    # 7 bits, so that sums do not overflow where a processor adds pairs in 16 bits.
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(variants["int8"].path).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    assert max(int(np.abs(values.astype(int)).max()) for values in weights) <= 64


def test_figures_are_those_of_the_files_on_all_test_images(smaller, variants, trained):
    from imgclf.config import TrainConfig
    from imgclf.pipeline.data import load_and_split

    dataset, split = load_and_split(TrainConfig())
    images, labels = list(dataset.inputs(split.test)), dataset.labels[split.test]
    reference = Predictor(smaller.model)(images)
    for kind, least in (("int8", 0.98), ("fp16", 0.999)):
        answers = Predictor(variants[kind].path)(images)
        same = [a.label == b.label for a, b in zip(answers, reference, strict=True)]
        figures = variants[kind].test
        assert figures.images == len(images)
        assert figures.top1_agreement == pytest.approx(np.mean(same))
        assert figures.top1_agreement >= least
        right = [a.label == dataset.classes[n] for a, n in zip(answers, labels, strict=True)]
        assert figures.accuracy == pytest.approx(np.mean(right))


def test_each_carries_golden_inputs_of_its_own_that_are_answered_clearly(smaller, variants):
    for path in (smaller.model, *(variant.path for variant in variants.values())):
        predictor = Predictor(path)
        verification = replay(predictor)
        assert verification.failures == ()
        assert verification.inputs == 11
        logits = np.array([one.logits for one in predictor.golden.inputs])
        first, second = -np.sort(-logits, axis=1)[:, :2].T
        allowed = verification.scaled_tolerance * np.abs(logits).max()
        assert (first - second > 2 * allowed).all()


def test_verify_tells_which_file_it_is_and_the_opset_of_its_graph(smaller, variants):
    kinds = {variant.path: f" in {kind}" for kind, variant in variants.items()}
    for path, kind in {smaller.model: "", **kinds}.items():
        opsets = {entry.domain: entry.version for entry in onnx.load(path).opset_import}
        result = command_line.imgclf("verify", path)
        assert result.exit_code == 0, result.output
        assert f"digits-cnn{kind} on digits: " in result.stdout
        assert f"any batch size, opset {opsets['']}; " in result.stdout


def test_exporting_again_replaces_a_folder_that_has_variants(trained, tmp_path):
    imgclf.export(trained.run_id, exports_dir=tmp_path, variants=["fp16"])
    again = imgclf.export(trained.run_id, exports_dir=tmp_path)
    assert len(list(again.folder.iterdir())) == 3


def test_an_int8_file_that_loses_too_much_leaves_nothing(trained, tmp_path, monkeypatch):
    """Calibrated on black images, every activation's range is wrong."""
    quantize = imgclf.exporting.variants.quantize_int8
    monkeypatch.setattr(
        "imgclf.exporting.variants.quantize_int8",
        lambda fp32, images: quantize(fp32, np.zeros_like(images)),
    )
    with pytest.raises(ImgclfError, match="int8 file is not good enough: its accuracy is"):
        imgclf.export(trained.run_id, exports_dir=tmp_path, variants=["int8"])
    assert list(tmp_path.iterdir()) == []


GOOD = Agreement(1000, 1.0, 1e-4, 0.95, 0.95)


@pytest.mark.parametrize(
    ("kind", "images", "changes", "good"),
    [
        ("fp16", 1000, {"top1_agreement": 0.999}, True),
        ("fp16", 1000, {"top1_agreement": 0.998}, False),
        ("fp16", 1000, {"max_scaled_difference": 6e-3}, False),
        ("fp16", 1000, {"max_scaled_difference": float("nan")}, False),
        ("int8", 1000, {"accuracy": 0.947}, True),
        ("int8", 1000, {"accuracy": 0.946}, False),
        # One of 100 images is more than 0.3 points, two are too many.
        ("int8", 100, {"accuracy": 0.94}, True),
        ("int8", 100, {"accuracy": 0.93}, False),
        ("int8", 1000, {"accuracy": 0.97}, True),
    ],
)
def test_what_is_good_enough(kind: str, images: int, changes: dict[str, float], good: bool):
    figures = dataclasses.replace(GOOD, images=images, **changes)
    assert (figures.failure(kind) == "") is good


def test_int8_needs_validation_images(tmp_path):
    run = imgclf.train(imgclf.TrainConfig(epochs=1, val_fraction=0.0, runs_dir=str(tmp_path)))
    with pytest.raises(ImgclfError, match="this run had none"):
        imgclf.export(run.run_id, exports_dir=tmp_path / "exports", variants=["int8"])
