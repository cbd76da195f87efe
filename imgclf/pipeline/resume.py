"""Finding a run that was ended before its time, and whether it can go on here."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgclf.config import AUTO, TrainConfig
from imgclf.disk import write_whole
from imgclf.errors import ImgclfError, UsageError
from imgclf.next_command import resume_command
from imgclf.pipeline.run import CHECKPOINTS, START
from imgclf.tracking.identity import (
    DATASET_DIGEST_TAG,
    SPLIT_DIGEST_TAG,
    RunIdentity,
    adopted_run,
    find_run_folder,
    read_identity,
)
from imgclf.tracking.journal import FINISHED, JOURNAL_FILE, read_records
from imgclf.tracking.sent import read_sent
from imgclf.training.checkpoint import Checkpoint, newest_checkpoint

# What these say may be written in more than one way.
_PATHS = ("dataset", "data_dir")


@dataclass(frozen=True)
class Interrupted:
    """A run that can go on.

    Attributes:
        identity: as it was, its folder where it is now.
        config: resolved.
        overrides: what was given over the recipe, or over the defaults.
        tags: that the run has set.
    """

    identity: RunIdentity
    config: TrainConfig
    overrides: dict[str, Any]
    tags: Mapping[str, str]

    def check_data(self, dataset_digest: str, split_digest: str) -> None:
        """Refuse other data than the run has begun with.

        Raises:
            ImgclfError: what differs.
        """
        for what, tag, digest in (
            ("images", DATASET_DIGEST_TAG, dataset_digest),
            ("split", SPLIT_DIGEST_TAG, split_digest),
        ):
            before = self.tags.get(tag, digest)
            if before != digest:
                raise ImgclfError(
                    f"The {what} of run {self.identity.run_id} have changed since it began (digest"
                    f" {digest[:12]}, then {before[:12]}): it cannot go on with others.",
                    "Restore the data as they were, or train anew.",
                )

    def checkpoint(self, say: Callable[[str], None]) -> Checkpoint | None:
        """Read the newest checkpoint; None where the run ended before the first.

        Raises:
            ImgclfError: all are damaged.
        """
        found = newest_checkpoint(Path(self.identity.folder) / CHECKPOINTS, say)
        where = "from the beginning"
        if found is not None:
            counters = found.counters
            where = f"in epoch {counters.epoch + 1} after {counters.step_in_epoch} steps"
        say(f"resuming run {self.identity.run_id} {where}")
        return found


def write_start(folder: Path, config: TrainConfig, overrides: Mapping[str, Any]) -> None:
    """Keep what the run is to do, before anything else: a run can go on from its first moment."""
    content = json.dumps({"config": config.to_dict(), "overrides": dict(overrides)}, indent=2)
    write_whole(folder / START, content.encode(), "what the run is to do")


def find_interrupted(run: str, runs_dir: Path, given: Mapping[str, Any]) -> Interrupted:
    """Find a run by its id and read what it was to do.

    Args:
        run: imgclf's id or MLflow's.
        runs_dir: where the runs' folders are.
        given: parameters by name, which must be the run's own.

    Raises:
        UsageError: it has finished, other parameters are given, or ``mlflow run`` has opened
            another run.
        ImgclfError: there is no such run, or its files are damaged.
    """
    folder = find_run_folder(runs_dir, run)
    identity = read_identity(folder)
    try:
        start = json.loads((folder / START).read_text(encoding="utf-8"))
        config, overrides = TrainConfig(**start["config"]), start["overrides"]
        if not isinstance(overrides, dict) or not overrides.keys() <= config.to_dict().keys():
            raise ValueError("what was given is no part of the configuration")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError) as error:
        raise ImgclfError(
            f"Run {folder.name} cannot be resumed: '{folder / START}' is missing or damaged.",
            "It is no training run, or was begun by another version of imgclf. Train anew.",
        ) from error
    status, tags = "", {}
    for record in read_records(folder / JOURNAL_FILE):
        if record.kind == "tags":
            tags |= record.content["values"]
        status = record.content["status"] if record.kind == "end" else ""
    if status == FINISHED:
        raise UsageError(
            f"Run {folder.name} has finished; there is nothing to resume.",
            "If MLflow lacks a part of it: imgclf sync",
        )
    _refuse_other_options(folder.name, config, given)
    return Interrupted(_adopted(identity, folder), config, overrides, tags)


def _refuse_other_options(run: str, config: TrainConfig, given: Mapping[str, Any]) -> None:
    differing = []
    for name, value in given.items():
        own = getattr(config, name)
        if name == "runs_dir" or value == AUTO or (name == "threads" and value == 0):
            continue
        if name in _PATHS and value and Path(value).expanduser().resolve() == Path(own):
            continue
        if value != own:
            differing.append(f"--{name.replace('_', '-')} {value} (the run's: {own})")
    if differing:
        raise UsageError(
            f"Run {run} cannot go on with other options: {', '.join(differing)}.",
            "Leave them out: the run's own hold. Or train anew, without --resume.",
        )


def _adopted(identity: RunIdentity, folder: Path) -> RunIdentity:
    """Say which run of MLflow goes on; under ``mlflow run``, only one that it has opened again."""
    own, opened = read_sent(folder).mlflow_run_id or identity.adopted, adopted_run()
    if opened and opened != own:
        raise UsageError(
            f"'mlflow run' has opened a new, empty run; run {identity.run_id} must go on in its"
            " own.",
            resume_command(identity.run_id, folder.resolve().parent, own)
            if own
            else f"imgclf train --resume {identity.run_id}",
        )
    return dataclasses.replace(identity, adopted=own)
