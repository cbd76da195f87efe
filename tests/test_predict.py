"""The predictor on a real exported model, against onnxruntime and NumPy by hand."""

import itertools
import json
import os
import random
import shutil
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgclf.card import ModelCard, Preprocessing
from imgclf.errors import BadImageError, ImgclfError
from imgclf.predict import Prediction, Predictor, Unreadable, find_images
from model_files import blank_model, write_sealed

Paths = list[Path]


def pixels_of(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def by_hand(model: Path, paths: Paths) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Logits of plain onnxruntime, and their softmax at the temperature on the card."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batch = np.stack([pixels_of(path) for path in paths])[..., None]
    logits = np.asarray(session.run(["logits"], {"image": batch})[0])
    card = json.loads(session.get_modelmeta().custom_metadata_map["imgclf.card"])
    scaled = logits.astype(np.float64) / card["temperature"]
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return logits, powers / powers.sum(axis=1, keepdims=True)


# --- Answers


def test_answers_are_the_models_own(predictor: Predictor, model: Path, digits: Paths):
    _, expected = by_hand(model, digits)
    answers = predictor(digits, top_k=10)
    assert [answer.image for answer in answers] == [str(path) for path in digits]
    for answer, row in zip(answers, expected, strict=True):
        best = np.argsort(-row)
        assert [label for label, _ in answer.top] == [str(position) for position in best]
        np.testing.assert_allclose([value for _, value in answer.top], row[best], atol=1e-6)
        assert (answer.label, answer.probability) == answer.top[0]


def test_real_digits_are_recognised(predictor: Predictor, digits: Paths):
    right = [answer.label == Path(answer.image).parent.name for answer in predictor(digits)]
    assert np.mean(right) > 0.95


def test_logits_and_probabilities_come_in_order(predictor: Predictor, model: Path, digits: Paths):
    logits, probabilities = predictor.predict_logits(digits, batch_size=7)
    expected_logits, expected_probabilities = by_hand(model, digits)
    assert logits.dtype == probabilities.dtype == np.float32
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
    np.testing.assert_allclose(probabilities, expected_probabilities, atol=1e-6)


def test_every_form_of_an_image_gets_the_same_answer(predictor: Predictor, digits: Paths):
    path = digits[0]
    forms = [path, str(path), path.read_bytes(), Image.open(path), pixels_of(path)]
    forms.append(np.repeat(pixels_of(path)[..., None], 3, axis=2))
    answers = predictor(forms)
    assert len({answer.top for answer in answers}) == 1
    names = [str(path), str(path), "#2", "#3", "#4", "#5"]
    assert [answer.image for answer in answers] == names


def test_one_image_alone_needs_no_list(predictor: Predictor, digits: Paths):
    expected = predictor([digits[0]])[0].top
    with Image.open(digits[0]) as image:
        for source in (digits[0], str(digits[0]), digits[0].read_bytes(), image):
            assert [answer.top for answer in predictor(source)] == [expected]


def test_one_array_is_one_image_or_a_batch_of_them(predictor: Predictor, digits: list[Path]):
    pixels = np.stack([pixels_of(path) for path in digits[:40]])
    expected = [answer.top for answer in predictor(digits[:40])]
    answers = predictor(pixels[..., None])
    assert [answer.top for answer in answers] == expected
    assert [answer.image for answer in answers][:2] == ["#0", "#1"]
    assert [answer.top for answer in predictor(list(pixels))] == expected
    for one in (pixels[0], pixels[0][..., None], pixels[:1, ..., None]):
        assert [answer.top for answer in predictor(one)] == expected[:1]
    # Three grey images without their channel are no image.
    with pytest.raises(BadImageError, match="must be"):
        predictor(pixels[:3])


def test_a_model_may_be_given_as_bytes(predictor: Predictor, model: Path, digits: list[Path]):
    assert Predictor(model.read_bytes())(digits[:3]) == predictor(digits[:3])


def test_a_device_that_this_onnxruntime_has_not_is_refused(model: Path):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ImgclfError, match="has no CUDA") as caught:
        Predictor(model, device="cuda")
    assert "onnxruntime-gpu" in caught.value.hint


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (3, 3), (10, 10), (1000, 10), (0, 1)])
def test_top_k_lists_so_many_classes(predictor: Predictor, digits: Paths, asked: int, given: int):
    (answer,) = predictor(digits[:1], top_k=asked)
    assert len(answer.top) == given
    values = [value for _, value in answer.top]
    assert values == sorted(values, reverse=True)


def test_classes_that_tie_keep_their_order(tmp_path: Path):
    """A model of 40 classes that has learned nothing but how frequent they are."""
    names = [f"class {position}" for position in range(40)]
    frequency = np.arange(40, dtype=np.float32) % 3
    card = ModelCard(tuple(names), Preprocessing.identity(2, 2, 1), mean=(0.0,), std=(1.0,))
    path = tmp_path / "blank.onnx"
    write_sealed(blank_model(card, frequency), path)
    (answer,) = Predictor(path)([np.zeros((2, 2), np.uint8)], top_k=40)
    assert [label for label, _ in answer.top] == names[2::3] + names[1::3] + names[0::3]
    assert answer.probability == pytest.approx(np.exp(2) / np.exp(frequency).sum())


def test_dictionary_is_the_answer(predictor: Predictor, digits: Paths):
    (answer,) = predictor(digits[:1], top_k=2)
    (first, second) = answer.top
    assert answer.to_dict() == {
        "image": str(digits[0]),
        "label": first[0],
        "probability": first[1],
        "top": [
            {"label": first[0], "probability": first[1]},
            {"label": second[0], "probability": second[1]},
        ],
    }


def test_no_images_no_answers(predictor: Predictor, tmp_path: Path):
    assert predictor([]) == []
    assert predictor(tmp_path) == []
    logits, probabilities = predictor.predict_logits([])
    assert logits.shape == probabilities.shape == (0, 10)


# --- Streams


def test_order_is_kept_around_unreadable_images(
    predictor: Predictor, digits: Paths, tmp_path: Path
):
    """Unreadable ones at the start, at both sides of a batch's border, and as a whole batch."""
    absent = tmp_path / "absent.png"
    places = {0, 3, 4, 8, 9, 10, 11, 13}
    sources = [absent if place in places else digits[place * 9] for place in range(14)]
    answers = list(predictor.stream(sources, batch_size=4))
    assert [answer.image for answer in answers] == [str(source) for source in sources]
    for place, answer in enumerate(answers):
        if place in places:
            assert answer == Unreadable(str(absent), "no such file")
        else:
            assert answer == predictor([sources[place]])[0]


def test_call_raises_for_an_unreadable_image_and_names_it(
    predictor: Predictor, digits: Paths, tmp_path: Path
):
    text = tmp_path / "notes.png"
    text.write_text("no image")
    for ask in (predictor, predictor.predict_logits):
        with pytest.raises(BadImageError) as caught:
            ask([digits[0], text])
        assert caught.value.message.startswith(f"{text}: not an image")


def test_stream_takes_no_more_than_a_batch_ahead(predictor: Predictor, digits: Paths):
    taken = itertools.count()
    number = 0

    def endless() -> Iterator[Path]:
        nonlocal number
        for path in itertools.islice(itertools.cycle(digits), 10_000):
            number = next(taken) + 1
            yield path

    answers = predictor.stream(endless(), batch_size=16)
    assert number == 0
    for answered in range(1, 50):
        next(answers)
        assert number <= -(-answered // 16) * 16
    answers.close()  # type: ignore
    assert number == 64


def test_threads_share_one_predictor(predictor: Predictor, digits: Paths):
    expected = predictor(digits)
    results: dict[int, object] = {}
    start = threading.Barrier(8)

    def ask(number: int) -> None:
        start.wait()
        results[number] = [predictor(digits) for _ in range(3)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), [expected] * 3)


# --- Folders


def test_folder_stands_for_the_images_in_it(predictor: Predictor, digits: Paths, tmp_path: Path):
    content = digits[0].read_bytes()
    for name in ("b.png", "a.PNG", "sub/deep/c.jpeg", ".hidden.png", ".cache/d.png", "e.txt", "f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    shown = [tmp_path / name for name in ("a.PNG", "b.png", "sub/deep/c.jpeg")]
    assert list(find_images(tmp_path)) == shown
    answers = predictor([digits[1], tmp_path, digits[2]])
    expected = [digits[1], *shown, digits[2]]
    assert [answer.image for answer in answers] == [str(path) for path in expected]


def test_folder_is_read_in_the_order_of_names(digits: Paths, tmp_path: Path):
    names = [f"{position:03}.png" for position in range(60)]
    for name in random.Random(0).sample(names, len(names)):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_images(tmp_path)] == names


def test_images_in_a_thousand_nested_folders_are_found_and_deeper_ones_told(
    predictor: Predictor, digits: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Up to the longest path that the operating system takes."""
    monkeypatch.chdir(tmp_path)
    deep = tmp_path.joinpath(*["d"] * 1500)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    shutil.copy(digits[0], deep / "a.png")
    (answer,) = predictor([tmp_path])
    assert answer.image == str(deep / "a.png")
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    with pytest.raises(ImgclfError, match=r"Cannot read the folder .*: File name too long"):
        list(find_images(tmp_path))
    monkeypatch.chdir(tmp_path)
    subprocess.run(["rm", "-r", "d"], check=True)


def test_folder_of_a_million_images_takes_no_more_memory_than_their_names(tmp_path: Path):
    number = 4000
    names = [f"{position:012}.png" for position in range(number)]
    for name in names:
        (tmp_path / name).touch()
    tracemalloc.start()
    try:
        found = sum(1 for _ in find_images(tmp_path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == number
    assert 1_000_000 / number * peak < 150e6


def test_links_to_images_are_read_and_links_that_lead_nowhere_are_named(
    predictor: Predictor, digits: Paths, tmp_path: Path
):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "absent.png").symlink_to("nothing")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "digit.png").symlink_to(digits[0])
    (folder / "folder.png").symlink_to(digits[0].parent, target_is_directory=True)
    answers = list(predictor.stream(folder))
    assert [Path(answer.image).name for answer in answers] == [
        "absent.png",
        "circle.png",
        "digit.png",
    ]
    assert answers[0] == Unreadable(str(folder / "absent.png"), "no such file")
    assert isinstance(answers[1], Unreadable)
    assert isinstance(answers[2], Prediction)


def test_hidden_folder_that_is_asked_for_is_read(digits: Paths, tmp_path: Path):
    hidden = tmp_path / ".dataset"
    hidden.mkdir()
    (hidden / "a.png").write_bytes(digits[0].read_bytes())
    assert list(find_images(hidden)) == [hidden / "a.png"]


def test_impossible_path_is_one_unreadable_image(predictor: Predictor, digits: Paths):
    answers = list(predictor.stream(["x" * 5000, "null\0byte", digits[0]]))
    assert [type(answer).__name__ for answer in answers] == [
        "Unreadable",
        "Unreadable",
        "Prediction",
    ]


# --- Model files


def test_model_path_may_be_text_and_the_file_may_go(model: Path, digits: Paths, tmp_path: Path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.read_bytes())
    predictor = Predictor(os.fspath(copy), threads=1)
    copy.unlink()
    assert predictor.providers == ("CPUExecutionProvider",)
    assert predictor(digits[:1])[0].label == digits[0].parent.name
