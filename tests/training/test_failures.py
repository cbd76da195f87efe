"""Numbers gone wrong are told with what failed and what may help."""

import numpy as np
import pytest
import torch

from imgclf.config import TrainConfig
from imgclf.errors import ImgclfError
from imgclf.training.failures import (
    BadStep,
    diverged_error,
    enough_memory_to,
    likely_causes,
    out_of_memory_error,
    step_error,
)

GPU = TrainConfig(device="cuda", precision="fp16", batch_size=256)


def cuda_error(tried: str, free: str = "1.66 GiB", own: str = "20.81 GiB") -> RuntimeError:
    """What PyTorch says on a GPU of 24 GiB."""
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {tried}. GPU 0 has a total capacity of 23.65 GiB"
        f" of which {free} is free. Including non-PyTorch memory, this process has {own} memory in"
        " use. Of the allocated memory 12.09 GiB is allocated by PyTorch, and 4.84 GiB is reserved"
        " by PyTorch but unallocated."
    )


def test_an_error_of_the_gpu_is_said_in_one_line_with_a_way_on() -> None:
    """What PyTorch 2.11 has said on an H200."""
    error = step_error(
        RuntimeError(
            "CUDA error: unspecified launch failure\nSearch for `cudaErrorLaunchFailure' in"
            " https://docs.nvidia.com/cuda/ for more information.\nCUDA kernel errors might be"
            " asynchronously reported at some other API call.\n"
        ),
        GPU,
    )
    assert error is not None
    assert error.message == "The GPU reports an error: unspecified launch failure."
    assert "Resume" in error.hint
    assert step_error(RuntimeError("a mistake of ours"), GPU) is None


@pytest.mark.parametrize(
    ("tried", "size", "steps", "proposed", "proposed_steps"),
    [
        ("3.00 GiB", 256, 1, 128, 2),
        ("22.00 MiB", 256, 4, 128, 8),
        ("3.00 GiB", 33, 1, 16, 2),
        ("512 bytes", 2, 1, 1, 2),
        # One allocation alone is larger than the GPU: a quarter of it still would be.
        ("96.00 GiB", 1024, 1, 64, 16),
    ],
)
def test_the_batch_that_did_not_fit_is_named_with_one_that_may(
    tried: str, size: int, steps: int, proposed: int, proposed_steps: int
) -> None:
    config = TrainConfig(device="cuda", batch_size=size, gradient_accumulation_steps=steps)
    error = out_of_memory_error(cuda_error(tried), config)
    assert error is not None
    assert f"--batch-size {size} does not fit into memory" in error.message
    assert "the GPU has 23.65 GiB" in error.message
    assert error.hint.startswith(
        f"--batch-size {proposed} --gradient-accumulation-steps {proposed_steps} may fit"
    )


def test_a_single_image_that_does_not_fit_needs_a_smaller_network() -> None:
    error = out_of_memory_error(cuda_error("3.00 GiB"), TrainConfig(device="cuda", batch_size=1))
    assert error is not None
    assert "--model" in error.hint
    assert "--batch-size" not in error.hint


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4)])
def test_a_batch_of_one_that_cannot_be_normalised_is_told_with_a_way_out(
    shape: tuple[int, ...],
) -> None:
    layer = torch.nn.BatchNorm2d(4) if len(shape) == 4 else torch.nn.BatchNorm1d(4)
    with pytest.raises(ValueError, match="more than 1 value") as caught:
        layer(torch.zeros(shape))
    error = step_error(caught.value, TrainConfig(batch_size=1))
    assert error is not None
    assert "batch of one image" in error.message
    assert "--batch-size 2" in error.hint


def test_a_step_that_lacks_memory_is_told_as_such_and_what_else_fails_stays_as_it_is() -> None:
    error = step_error(cuda_error("3.00 GiB"), GPU)
    assert error is not None
    assert "does not fit into memory" in error.message
    assert step_error(ValueError("a mistake of ours"), GPU) is None
    assert step_error(RuntimeError("a mistake of ours"), GPU) is None


def test_memory_that_other_programs_hold_is_told() -> None:
    crowded = cuda_error("2.00 GiB", free="1.00 GiB", own="4.65 GiB")
    error = out_of_memory_error(crowded, GPU)
    assert error is not None
    assert "other programs hold 18.00 GiB of it" in error.message
    alone = out_of_memory_error(cuda_error("2.00 GiB"), GPU)
    assert alone is not None
    assert "other programs" not in alone.message


def test_the_cpus_own_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    error = out_of_memory_error(caught.value, TrainConfig(device="cpu", batch_size=64))
    assert error is not None
    assert f"{2**20:,.2f} GiB more were asked for" in error.message
    assert "--batch-size 32" in error.hint


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 18.13 GB, max allowed: 18.13 GB)",
    ],
)
def test_what_libraries_say_of_memory_is_recognised(text: str) -> None:
    error = out_of_memory_error(RuntimeError(text), GPU)
    assert error is not None
    assert error.message == "A step of --batch-size 256 does not fit into memory."
    assert "--batch-size 128 --gradient-accumulation-steps 2" in error.hint


def test_what_else_lacks_memory_is_told_for_what_it_was() -> None:
    with pytest.raises(ImgclfError) as caught, enough_memory_to("draw a circle"):
        torch.empty(2**50, dtype=torch.uint8)
    assert caught.value.message == (
        f"There is not enough memory to draw a circle: {2**20:,.2f} GiB more were asked for."
    )
    with pytest.raises(ImgclfError, match="to draw a circle"), enough_memory_to("draw a circle"):
        np.ones(2**50, np.uint8)


def test_another_failure_is_left_alone() -> None:
    with pytest.raises(RuntimeError) as caught, enough_memory_to("multiply"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert out_of_memory_error(caught.value, GPU) is None


def bad_step(weights_are_finite: bool | None = None) -> BadStep:
    names = [f"cat/{number}.png" for number in range(30)]
    return BadStep(3, 1234, names, 0.05, weights_are_finite)


def test_the_step_its_images_and_the_rate_are_named() -> None:
    error = diverged_error(bad_step(), 5, TrainConfig())
    assert error.message.startswith(
        "The training loss is not finite in step 1,234 (epoch 3) and in 4 after it: the weights"
        " diverged."
    )
    assert "\n  cat/0.png\n" in error.message
    assert error.message.endswith("and 20 more")
    assert "0.05" in error.hint
    assert "--learning-rate" in error.hint


def test_images_without_files_are_named_by_their_numbers() -> None:
    bad = BadStep(1, 7, ["15", "1796"], 1.0)
    error = diverged_error(bad, 1, TrainConfig())
    assert error.message.startswith(
        "The training loss is not finite in step 7 (epoch 1): the weights"
    )
    assert error.message.endswith("\n  #15\n  #1796")


def test_a_name_that_is_not_utf8_can_be_printed() -> None:
    error = diverged_error(BadStep(1, 1, ["caf\udce9.png"], 1.0), 1, TrainConfig())
    assert b"caf\\udce9.png" in error.message.encode()


def test_fp16_is_the_likeliest_cause_where_the_weights_are_finite() -> None:
    assert "fp16" in likely_causes(bad_step(weights_are_finite=True), GPU)[0]
    diverged = likely_causes(bad_step(weights_are_finite=False), GPU)
    assert "learning rate" in diverged[0]
    assert "fp16" in diverged[1]
    assert not [cause for cause in likely_causes(bad_step(), TrainConfig()) if "fp16" in cause]
    finite = diverged_error(bad_step(weights_are_finite=True), 1, GPU)
    assert "the weights were still finite" in finite.message


@pytest.mark.parametrize(
    ("values", "word"),
    [({"class_weights": "balanced"}, "--class-weights none"), ({"loss": "focal"}, "--loss focal")],
)
def test_what_a_run_chose_is_among_the_causes(values: dict[str, str], word: str) -> None:
    with_it = "\n".join(likely_causes(bad_step(), TrainConfig.from_dict(values)))
    assert word in with_it
    assert word not in "\n".join(likely_causes(bad_step(), TrainConfig()))


def test_gradient_clipping_is_not_advised_to_a_run_that_clips() -> None:
    assert "--gradient-clip-norm" in likely_causes(bad_step(), TrainConfig())[0]
    clipped = TrainConfig(gradient_clip_norm=1.0)
    assert "--gradient-clip-norm" not in likely_causes(bad_step(), clipped)[0]
