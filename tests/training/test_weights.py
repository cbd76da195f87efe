import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from imgclf.errors import ImgclfError
from imgclf.models import ImageClassifier, InputShape, NetworkSettings, create_network
from imgclf.training.weights import load_weights, save_weights


def fresh(seed: int, channels: int = 3, num_classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    network = create_network(
        "small-cnn", InputShape(channels, 16, 16), NetworkSettings(num_classes, 0.1, "batch")
    )
    model = ImageClassifier(network, [float(seed)] * channels, [9.0] * channels)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.num_batches_tracked is not None
            module.running_mean.normal_()
            module.num_batches_tracked.fill_(seed)
    return model


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_statistics_and_counters_come_back_bit_for_bit(
    layout: torch.memory_format, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    model = fresh(1).to(memory_format=layout)
    save_weights(model, path)
    other = fresh(2)
    load_weights(other, path)
    assert_same_weights(other, fresh(1))
    assert_same_weights(model, fresh(1))  # saving changes nothing
    assert all(tensor.is_contiguous() for tensor in load_file(path).values())


def test_loading_keeps_the_models_own_memory_layout(tmp_path: Path) -> None:
    save_weights(fresh(1), tmp_path / "w")
    model = fresh(2).to(memory_format=torch.channels_last)
    load_weights(model, tmp_path / "w")
    filters = [weight for weight in model.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in filters)
    assert_same_weights(model, fresh(1))


def test_new_weights_replace_the_old_and_leave_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(fresh(1), path)
    save_weights(fresh(2), path)
    model = fresh(3)
    load_weights(model, path)
    assert_same_weights(model, fresh(2))
    assert list(tmp_path.iterdir()) == [path]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_header(content: bytes) -> bytes:
    return content[:20]


def empty(content: bytes) -> bytes:
    return b""


def huge_header(content: bytes) -> bytes:
    return b"\xff" * 8 + content[8:]


def text(content: bytes) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\n"


@pytest.mark.parametrize("damage", [cut, cut_header, empty, huge_header, text])
def test_damaged_file_is_an_error_that_names_it(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(fresh(1), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImgclfError, match=r"weights\.safetensors.*cannot be used"):
        load_weights(fresh(2), path)


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ImgclfError, match="cannot be used"):
            load_weights(fresh(2), path)


@pytest.mark.parametrize("other", [fresh(2, channels=1), fresh(2, num_classes=5), nn.Linear(2, 2)])
def test_weights_of_another_network_are_an_error(other: nn.Module, tmp_path: Path) -> None:
    save_weights(fresh(1), tmp_path / "w")
    with pytest.raises(ImgclfError, match="cannot be used"):
        load_weights(other, tmp_path / "w")


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def test_pickled_file_is_refused_and_nothing_in_it_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickled, zipped = tmp_path / "pickle", tmp_path / "torch"
    pickled.write_bytes(pickle.dumps(Trap(marker)))
    torch.save({"network": Trap(marker)}, zipped)
    for path in (pickled, zipped):
        with pytest.raises(ImgclfError, match="cannot be used"):
            load_weights(fresh(2), path)
    assert not marker.exists()
