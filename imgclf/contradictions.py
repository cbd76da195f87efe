"""Options that do not go together: each pair is refused before anything starts."""

from typing import Any

from imgclf.errors import UsageError
from imgclf.options import exact


def refuse_contradictions(config: Any) -> None:
    """Raise `UsageError` where one option of a `TrainConfig` makes another one useless."""
    for flag, value in (("--dataset", config.dataset), ("--runs-dir", config.runs_dir)):
        if not value.strip():
            raise UsageError(f"{flag} is empty.", "Give a value, or leave the option out.")
    if config.val_fraction + config.test_fraction >= 0.95:
        raise UsageError(
            f"--val-fraction {exact(config.val_fraction)} and --test-fraction"
            f" {exact(config.test_fraction)} leave too little to train on.",
            "Choose values whose sum is below 0.95.",
        )
    if config.optimizer == "sgd" and config.nesterov and config.momentum == 0:
        raise UsageError(
            "Nesterov momentum needs a momentum above 0.",
            "Pass --nesterov false, or a --momentum such as 0.9.",
        )
    if config.crop_padding and not config.random_crop:
        raise UsageError(
            "--crop-padding does nothing with --random-crop false.", "Drop one of the two."
        )
    if config.crop_padding and config.random_resized_crop:
        raise UsageError(
            "--crop-padding does nothing with --random-resized-crop.", "Drop one of the two."
        )
    if config.batch_size == 1 and (config.mixup or config.cutmix):
        raise UsageError(
            "--mixup and --cutmix mix the images of a batch, but --batch-size is 1.",
            "Choose a larger --batch-size, or drop the mixing.",
        )
    if config.balanced_sampling and config.class_weights == "balanced":
        raise UsageError(
            "--balanced-sampling true and --class-weights balanced would correct twice.",
            "Drop one of the two.",
        )
