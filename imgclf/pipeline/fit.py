"""The epochs of a run: training, validation, selection, checkpoints, and what is said of each."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imgclf.data.augment import Augmentation
from imgclf.data.dataset import SelectedImages
from imgclf.data.loader import Batch, TrainLoader
from imgclf.errors import ImgclfError, printable
from imgclf.evaluation.drawing import save
from imgclf.evaluation.image_grids import image_grid, target_titles
from imgclf.evaluation.inference import predict_logits
from imgclf.evaluation.metrics import Metrics, compute_metrics
from imgclf.interruption import Interruption
from imgclf.models import ImageClassifier
from imgclf.pipeline.run import Run
from imgclf.pipeline.training_progress import Progress
from imgclf.progress import TrainingDisplay
from imgclf.training.checkpoint import Checkpoint, is_finite, restore, write_checkpoint
from imgclf.training.failures import BadStep, diverged_error, enough_memory_to, step_error
from imgclf.training.loop import (
    EpochEnd,
    NonFiniteLossError,
    Snapshot,
    TrainState,
    train_epochs,
)
from imgclf.training.schedules import learning_rate_at
from imgclf.training.selection import Selection
from imgclf.training.weights import save_weights, weights_of

SHOWN_SAMPLES = 36
_SAMPLES = "samples.png"

# An epoch that is short beside the writing of a checkpoint ends without one: so much of the time
# may go into them. What is written in less than so many seconds is not counted.
_LARGEST_SHARE = 0.05
_UNCOUNTED_SECONDS = 0.1


class _Keeper:
    """Writes checkpoints and tells what they hold, and knows when the next one is due.

    Args:
        run: in progress.
        state, progress: what a checkpoint holds.
        begun: when training began in this process, by `time.perf_counter`.
        say: prints a line.
    """

    def __init__(
        self,
        run: Run,
        state: TrainState,
        progress: Progress,
        begun: float,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._state, self._progress = run, state, progress
        self._seconds_before, self._begun = progress.seconds, begun
        self._say, self._has_said = say, False
        self._written, self._took = time.perf_counter(), 0.0
        self._told = progress.selection.last_epoch

    def due(self) -> bool:
        minutes = self._run.config.checkpoint_minutes
        return time.perf_counter() - self._written >= 60 * minutes

    def due_after_epoch(self) -> bool:
        """Tell whether the end of an epoch, but the last, is worth one."""
        if self.due() or self._took < _UNCOUNTED_SECONDS:
            return True
        return self._took <= _LARGEST_SHARE * (time.perf_counter() - self._written)

    def write(self, epoch_seconds: float) -> None:
        """Write a checkpoint, unless the weights are lost, and tell of the epochs until then.

        Args:
            epoch_seconds: what the epoch in progress took so far.
        """
        began = time.perf_counter()
        self._write(epoch_seconds)
        self._written = time.perf_counter()
        self._took = self._written - began
        last = self._progress.selection.last_epoch
        if last > self._told:
            _tell(self._run, self._progress, self._told)
            self._told = last

    def _write(self, epoch_seconds: float) -> None:
        self._progress.seconds = self._seconds_before + time.perf_counter() - self._begun
        self._progress.epoch_seconds = epoch_seconds
        if not is_finite(self._state.model.state_dict().values()):
            if not self._has_said:
                self._say("Note: the weights are not finite: no checkpoint holds them")
            self._has_said = True
            return  # those before it are better
        folder, progress = self._run.checkpoints, self._progress
        write_checkpoint(folder, self._state, progress.best, progress.to_dict())

    def write_last(self, epoch_seconds: float) -> None:
        """Write one for who resumes the run; where that fails, as on a full disk, say so only."""
        try:
            self.write(epoch_seconds)
        except ImgclfError as error:
            self._say(str(error))


def fit(
    run: Run,
    model: ImageClassifier,
    augmentation: Augmentation,
    interruption: Interruption,
    checkpoint: Checkpoint | None,
) -> Progress:
    """Train, and keep the best epoch's weights in ``model/weights.safetensors``.

    Args:
        run: in progress.
        model: with fresh weights.
        augmentation: what is done to the training images.
        interruption: a signal is heard between two steps; a checkpoint is written before it is
            raised.
        checkpoint: to go on from; None: from the beginning.

    Returns:
        what it has come to. Its seconds count from this call to the last checkpoint, the images'
        way to the device and the wait for MLflow included.
    """
    begun = time.perf_counter()
    config = run.config
    progress = Progress(Selection(config.monitor))
    with enough_memory_to("bring the network and the training images to the device"):
        loader = _loader(run, augmentation)
        state = TrainState.start(model, config, run.compute)
        if checkpoint is not None:
            restore(state, checkpoint)
            progress = Progress.from_checkpoint(checkpoint, config.monitor)
        _begin(run, loader, progress)
    epoch_start = time.perf_counter() - progress.epoch_seconds
    display = TrainingDisplay(config.epochs, loader.steps_per_epoch)
    keeper = _Keeper(run, state, progress, begun, display.say)
    with display, interruption.held():
        try:
            for event in _events(run, state, loader, progress, interruption.requested):
                seconds = time.perf_counter() - epoch_start
                if isinstance(event, Snapshot):
                    display.snapshot(event)
                    if interruption.requested() or (keeper.due() and not event.bad_steps):
                        keeper.write(seconds)
                    continue
                progress.pending = event
                # Nothing changes in the state meanwhile: a signal need not wait.
                with interruption.held(waits=False):
                    measured = _measure(run, state)
                seconds = time.perf_counter() - epoch_start
                is_best = _end_epoch(run, state, progress, measured, _speed(event, loader, seconds))
                progress.pending = None
                patience = config.early_stopping_patience
                stops_early = progress.selection.exhausted(patience)
                if stops_early or event.epoch == config.epochs or keeper.due_after_epoch():
                    keeper.write(0.0)
                display.epoch_end(event, measured.validation, is_best)
                if stops_early:
                    display.say(f"stopped early: no better for {patience} epochs")
                    break
                epoch_start = time.perf_counter()
        except (KeyboardInterrupt, SystemExit):
            keeper.write_last(time.perf_counter() - epoch_start)
            raise
        except NonFiniteLossError as error:
            raise _diverged(error, run, loader, state) from error
        except ImgclfError as error:
            if not interruption.requested():
                raise
            # The disk is full, say: who has asked the run to end is answered all the same.
            display.say(str(error))
        except (RuntimeError, ValueError, MemoryError) as error:
            if told := step_error(error, config):
                raise told from error
            raise
    _refuse_lost_weights(progress)
    # Once: until here, checkpoints hold them.
    save_weights(progress.best, run.folder / "model" / "weights.safetensors")
    return progress


def _refuse_lost_weights(progress: Progress) -> None:
    """Let no run finish with weights that are no numbers: its last step may have made them so."""
    if not is_finite(progress.best.values()):
        raise ImgclfError(
            f"The weights of epoch {progress.selection.best_epoch:,}, which were to be kept, are"
            " not finite: a step at its end diverged.",
            "Lower --learning-rate, raise --warmup-ratio, or limit gradients:"
            " --gradient-clip-norm 1.",
        )


def _diverged(
    error: NonFiniteLossError, run: Run, loader: TrainLoader, state: TrainState
) -> ImgclfError:
    """Name the images of the first bad step, and what may have made it so."""
    epoch, step_in_epoch = divmod(error.step, loader.steps_per_epoch)
    positions = loader.positions(epoch + 1, step_in_epoch)
    images = [run.dataset.names[position] for position in positions]
    # The message names some; all of them stand in the traceback that the run keeps.
    error.add_note("\n  ".join([f"The images of step {error.step + 1}:", *map(printable, images)]))
    bad = BadStep(
        epoch=epoch + 1,
        step=error.step + 1,
        images=images,
        learning_rate=learning_rate_at(error.step, loader.steps_per_epoch, run.config),
        weights_are_finite=is_finite(state.model.parameters()),
    )
    return diverged_error(bad, error.bad_steps, run.config)


def _loader(run: Run, augmentation: Augmentation) -> TrainLoader:
    dataset = run.dataset
    whole = augmentation.reads_beyond_the_centre
    return TrainLoader(
        dataset.images if whole else dataset.inputs(slice(None)),
        run.split.train,
        dataset.labels,
        len(dataset.classes),
        augmentation,
        run.config,
        run.compute.device,
    )


def _begin(run: Run, loader: TrainLoader, progress: Progress) -> None:
    """Bring the run's files and its record to where training begins."""
    if not (run.folder / _SAMPLES).exists():
        _draw_samples(run, next(loader.epoch(1))[0])
    # Each time: the process before may have ended between the picture and the word of it.
    run.tracker.artifact(_SAMPLES)
    if progress.history:
        # The process before may have ended between a checkpoint and the word of it.
        _tell(run, progress, 0)
    run.tracker.wait_until_open()


def _events(
    run: Run,
    state: TrainState,
    loader: TrainLoader,
    progress: Progress,
    stop: Callable[[], bool],
) -> Iterator[Snapshot | EpochEnd]:
    if progress.pending is not None:
        yield progress.pending
    # A run may have ended after it had stopped early.
    if not progress.selection.exhausted(run.config.early_stopping_patience):
        yield from train_epochs(state, loader, run.config, run.compute, stop)


@dataclass(frozen=True)
class _Measured:
    """What an epoch's weights come to on the splits that are looked at; None: on none."""

    validation: Metrics | None
    test: Metrics | None


def _measure(run: Run, state: TrainState) -> _Measured:
    def on(part: str) -> Metrics | None:
        positions = run.split.parts[part]
        if not len(positions):
            return None
        images = SelectedImages(run.dataset, positions)
        logits = predict_logits(state.selected_model, images, run.compute.device)
        return compute_metrics(logits, run.dataset.labels[positions])

    # The test split is for curves; nothing may be chosen by it.
    return _Measured(on("val"), on("test") if run.config.track_test else None)


def _speed(end: EpochEnd, loader: TrainLoader, seconds: float) -> dict[str, float]:
    images_per_step = loader.num_images / loader.steps_per_epoch
    return {
        "images_per_second": end.images_per_second,
        "step_milliseconds": 1000 * images_per_step / end.images_per_second,
        "epoch_seconds": seconds,
    }


def _end_epoch(
    run: Run, state: TrainState, progress: Progress, measured: _Measured, speed: dict[str, float]
) -> bool:
    """Select, keep the weights of the best epoch, and note the metrics; tell whether it is best."""
    end, selection = progress.pending, progress.selection
    assert end is not None
    if measured.validation is None:
        selection.keep_last(end.epoch)
        is_best = True
    else:
        is_best = selection.update(end.epoch, measured.validation.scalars("val"))
    if is_best:
        progress.best = weights_of(state.selected_model)
    metrics = {
        "train/loss": end.loss,
        "train/accuracy": end.accuracy,
        "lr": end.learning_rate,
        **speed,
    }
    if measured.validation is not None:
        metrics |= measured.validation.scalars("val")
    if measured.test is not None:
        metrics["epoch/test_accuracy"] = measured.test.accuracy
    for name, value in metrics.items():
        progress.history.setdefault(name, []).append((end.epoch, value))
    return is_best


def _tell(run: Run, progress: Progress, told: int) -> None:
    """Log epochs. Only what a checkpoint holds is said: a resumed run repeats nothing.

    Args:
        run: in progress.
        progress: as the last checkpoint holds it.
        told: the last epoch that was logged before.
    """
    last = progress.selection.last_epoch
    for epoch in range(told + 1, last + 1):
        summary = progress.selection.metrics() if epoch == last else None
        run.tracker.metrics(progress.metrics_of(epoch), step=epoch, summary=summary)


def _draw_samples(run: Run, batch: Batch) -> None:
    """Show what the network is about to see, so that wrong labels or crops are noticed early."""
    images = batch.images[:SHOWN_SAMPLES].cpu().numpy()
    titles = target_titles(batch.targets[:SHOWN_SAMPLES].cpu().numpy(), run.dataset.classes)
    heading = "First training batch, after augmentation"
    save(image_grid(images, titles, heading=heading), run.folder / _SAMPLES)
