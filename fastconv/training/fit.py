"""Carries out a planned run: trains, scores and records it."""

import dataclasses
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console

from fastconv.analysis import run_figures
from fastconv.analysis.evaluation.per_class import balanced_accuracy, macro_f1
from fastconv.budget.benchmark import peak_memory_mb
from fastconv.budget.pacing import ScoringReserve
from fastconv.config.resume import RunFolder, hparams
from fastconv.data.stream.spec import Stream
from fastconv.models.tta import views_of
from fastconv.models.weights import weights_digest
from fastconv.optim.averaging import AVERAGES, weights_of
from fastconv.runs.results import Results, git_commit, versions
from fastconv.system import signals as interrupts
from fastconv.system.distributed import from_first_rank, is_first_rank, lost_rank
from fastconv.system.errors import InputError, reason, warn
from fastconv.system.signals import Interrupted
from fastconv.training.callbacks import (
    AverageWeights,
    BudgetProgressBar,
    Checkpoints,
    CompileStep,
    FiniteLoss,
    Recorder,
    ScheduleLR,
    TimeBudget,
)
from fastconv.training.callbacks.custom import restore_states
from fastconv.training.checkpoint_file import read_checkpoint
from fastconv.training.datamodule import ShardDataModule
from fastconv.training.loggers import Loggers
from fastconv.training.module import ImageClassifier
from fastconv.training.own_images import require_same_images
from fastconv.training.pictures import show_augmented, show_network
from fastconv.training.plan import Run, open_stream
from fastconv.training.tensorboard import optional
from fastconv.training.trainer import make_module, make_trainer, silence_lightning

# Number of rows in the metrics.csv of a run of the expected length.
RECORDS = 200


def fit(run: Run, console: Console, folder: RunFolder, overrides: list[str]) -> Results:
    """Train, or resume training, and score the test split once. All results are written to the run's folder.

    `results.json` records the progress of the run from the start, and the reason if it fails. Checkpoint and results
    are written before anything is drawn. With several ranks, only the first one writes.

    Raises InputError if training diverges or a rank is lost, Interrupted after a signal.
    """
    config = run.config
    described = Results(
        dataset=config.dataset.name,
        model=config.model.name,
        experiment=config.experiment,
        seed=config.seed,
        stream_seed=config.stream.seed,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        budget_seconds=config.budget.seconds,
        budget_counts=config.budget.counts,
        test_digest=None if run.test.hashes is None else run.test.digest[:16],
        parameters=run.parameters,
        expected_epochs=run.plan.epochs,
        expected_seconds=run.plan.seconds,
        device=run.device.name,
        precision=run.device.precision,
        winograd_layers=run.winograd_layers,
        versions=versions(),
        git_commit=git_commit(),
        overrides=overrides,
        hparams=hparams(config),
    )
    if folder.resumed:
        described = _go_on(described, folder.path, run)
    with closing(Training(run, console, folder, described)) as training:
        training.note()
        try:
            results = training.carry_out()
        except BaseException as error:
            _leave_reason(training, error)
            if isinstance(error, Interrupted):
                error.advice = f"go on with: python -m fastconv.train resume={folder.path}"
            if config.trainer.devices > 1 and lost_rank(error):
                raise InputError(
                    f"a process of this run on {config.trainer.devices} devices is gone, so the others cannot go on:"
                    f" go on from the last checkpoint with resume={folder.path}"
                ) from error
            raise
        if is_first_rank():
            training.show(results)
    return results


def _leave_reason(training: "Training", error: BaseException) -> None:
    with suppress(InputError):  # a disk on which the run failed may not take the reason either
        training.note(stop_reason="error" if isinstance(error, Exception) else "interrupt", error=reason(error))


def _go_on(described: Results, folder: Path, run: Run) -> Results:
    """Take over the plan, the clock and the overrides of the previous process."""
    for leftover in folder.glob("*.part") if is_first_rank() else ():
        leftover.unlink()
    try:
        earlier = Results.read(folder)
    except (OSError, ValueError, KeyError):  # that process was stopped before it wrote them
        return described
    run.clock.add(earlier.seconds)
    if earlier.winograd_layers not in (None, run.winograd_layers):
        warn(
            f"{folder} began with Winograd's convolutions in {earlier.winograd_layers} layers and goes on with them in"
            f" {run.winograd_layers}, so it will not end bit for bit as it would have"
        )
    return dataclasses.replace(
        described,
        expected_epochs=earlier.expected_epochs or described.expected_epochs,
        expected_seconds=earlier.expected_seconds or described.expected_seconds,
        overrides=earlier.overrides,
        resumed=earlier.resumed + 1,
    )


class Training:
    """The training and scoring of a planned run, with the callbacks that track its progress."""

    def __init__(self, run: Run, console: Console, folder: RunFolder, described: Results) -> None:
        config, plan = run.config, run.plan
        self._run, self._folder, self._described = run, folder, described
        validated = {"test": run.test, "holdout": run.holdout, "none": None}[config.validate.on]
        images = 0 if validated is None else min(len(validated), config.validate.samples or len(validated))
        self._budget = TimeBudget(
            seconds=config.budget.seconds,
            max_steps=plan.max_steps,
            clock=run.clock,
            counts=tuple(config.budget.counts),
            step_seconds=run.speed.step_seconds,
            validate_images=images,
            reserve=dataclasses.replace(plan.reserve),
            views=views_of(config.tta, config.augment.mirrors),
        )
        every = max(1, plan.steps // RECORDS)
        self._recorder = Recorder(self._budget, run.spec.samples, config.batch_size, every)
        path = folder.path / "last.ckpt" if config.checkpoint.save else None
        self._checkpoints = Checkpoints(path, config.checkpoint.every, self._budget, self.note)
        self._average: AverageWeights | None = None
        if config.average.kind != "none":
            average = AVERAGES[config.average.kind](config.average.update_interval, config.average.decay)
            self._average = AverageWeights(average, self._budget)
        self._callbacks = [
            self._budget,
            ScheduleLR(config.schedule),
            *([self._average] if self._average else []),
            self._recorder,
            BudgetProgressBar(self._recorder, console),
            FiniteLoss(self._budget),
            *run.callbacks,
            self._checkpoints,  # last, so that a checkpoint includes the effects of all other callbacks
        ]
        if run.device.compile:
            self._callbacks.append(CompileStep(run.clock, (config.micro_batch_size, *run.spec.shape)))
        self._validated = validated
        self._opened = ExitStack()

    def note(self, **more: Any) -> None:
        """Write the progress of the run, and other results, to `results.json`."""
        if is_first_rank():
            self._so_far(**more).write(self._folder.path)

    def carry_out(self) -> Results:
        """Train the remaining steps, score, and write the results. A run with results counts as finished."""
        run, config = self._run, self._run.config
        silence_lightning()
        self._module = module = make_module(run)
        stream = self._opened.enter_context(closing(open_stream(run)))
        datamodule = ShardDataModule(
            stream, config.batch_size, config.micro_batch_size, self._validated, config.validate.samples, run.test
        )
        checkpoint = self._load_checkpoint()
        self._loggers = loggers = self._opened.enter_context(closing(Loggers(config, self._folder.path)))
        self._begin(loggers, stream)
        trainer = make_trainer(run, loggers.all, self._callbacks, self._checkpoints.plugin)
        if checkpoint and from_first_rank("trained", self._budget.is_over):
            module.load_state_dict(checkpoint["state_dict"])
            self._finish_average(module, checkpoint)
            datamodule.load_state_dict(checkpoint["ShardDataModule"])
            restore_states(run.callbacks, checkpoint["callbacks"])
            self._budget.stop_reason = self._budget.stop_reason or "budget"
        else:
            path = self._folder.path / "last.ckpt" if checkpoint else None
            trainer.fit(module, datamodule=datamodule, ckpt_path=path, weights_only=True)
            self._checkpoints.save(trainer, last=True)
            interrupts.obey()
        trained, saved = weights_digest(module.state_dict()), self._checkpoints.plugin.digest
        with run.clock.segment("test"):
            scores = self._score(trainer, module, datamodule)
        if is_first_rank() and {saved or trained, module.scored_digest} != {trained}:
            raise InputError(
                "a callback changed the weights while they were saved or scored, so last.ckpt is not the network that"
                " was scored: let it change them at the end of training (on_train_end)"
            )
        spent = run.clock.seconds()
        confusion = module.confusion.numpy()
        results = self._so_far(
            **scores,
            weights_digest=trained,
            balanced_accuracy=balanced_accuracy(confusion),
            macro_f1=macro_f1(confusion),
            petaflop=run.petaflop(self._budget.steps),
            images_per_second=self._budget.steps * config.batch_size / spent["train"],
            dataloader_wait_fraction=datamodule.wait_seconds / spent["train"],
            peak_memory_mb=peak_memory_mb(run.device.kind),
            stop_reason=self._budget.stop_reason,
            final_lr=config.schedule.factors(self._budget.progress).lr,
        )
        if is_first_rank():
            loggers.table.write()
            results.write(self._folder.path, durable=True)
        return results

    def show(self, results: Results) -> None:
        """Log the results, and draw the run's figures. What fails is left out with a warning: the results stand."""
        run, config, loggers = self._run, self._run.config, self._loggers
        loggers.log_results(results)
        if config.figures:
            show_network(self._module, results, run, self._folder.path, loggers.dashboard)
            with optional("curves"):
                run_figures.draw_run(self._folder.path, results, f"{config.dataset.name}, {config.model.name}")

    def close(self) -> None:
        """Close the loggers and the stream."""
        self._opened.close()

    def _finish_average(self, module: ImageClassifier, checkpoint: dict[str, Any]) -> None:
        """Use the average of the weights, here and in the checkpoint, if time ended training before its last step."""
        if not self._average:
            return
        self._average.load_state_dict(checkpoint["callbacks"][self._average.state_key])
        self._average.average.finish(weights_of(module.model))
        checkpoint["callbacks"][self._average.state_key] = self._average.state_dict()
        if is_first_rank():
            self._checkpoints.replace({**checkpoint, "state_dict": module.state_dict()})

    def _scoring_time(self, images: int, ranks: int) -> ScoringReserve | None:
        """The time for scoring further views of this rank's images; None if the budget does not count the test."""
        seconds, budget = self._run.config.budget.seconds, self._budget
        # On a GPU the host runs ahead, so the time of a single batch cannot be measured.
        if seconds is None or "test" not in budget.counts or self._run.device.kind != "cpu":
            return None
        budget.reserve.start_scoring(-(-images // ranks), lambda: seconds - budget.elapsed())
        return budget.reserve

    def _score(self, trainer: L.Trainer, module: ImageClassifier, datamodule: ShardDataModule) -> dict[str, float]:
        scores: dict[str, float] = {}
        ranks = trainer.world_size
        if self._run.config.validate.on == "holdout":
            if "validate" in self._run.config.budget.counts:
                module.scoring_time = self._scoring_time(len(self._run.holdout) + len(self._run.test), ranks)
            datamodule.validate_all()
            trainer.limit_val_batches = 1.0
            trainer.validate(module, datamodule=datamodule, verbose=False)
            scores["accuracy_holdout"] = float(trainer.callback_metrics["validate/accuracy"])
            scores["accuracy_holdout_tta"] = float(trainer.callback_metrics["validate/accuracy_tta"])
        module.scoring_time = reserve = self._scoring_time(len(self._run.test), ranks)
        trainer.test(module, datamodule=datamodule, verbose=False)
        found = trainer.callback_metrics
        if reserve:
            skipped = torch.tensor(float(reserve.skipped))
            scores["tta_skipped"] = int(trainer.strategy.reduce(skipped, reduce_op="sum"))
        return {**scores, **{key: float(found[f"test/{key}"]) for key in ("accuracy", "accuracy_tta", "loss")}}

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """Load the state of the previous process, if it left one, and take over its progress."""
        path = self._folder.path / "last.ckpt"
        if not self._folder.resumed or not path.exists():
            return None
        checkpoint = read_checkpoint(path, self._budget, self._recorder)
        require_same_images(self._run.spec, checkpoint, path)
        return checkpoint

    def _begin(self, loggers: Loggers, stream: Stream) -> None:
        """Log the values of an earlier process again, then the settings and the first images."""
        self._recorder.log_again(loggers.all)
        if is_first_rank():
            loggers.log_settings()
            if self._run.config.figures:
                show_augmented(stream, self._run, self._folder.path, loggers.dashboard)

    def _so_far(self, **more: Any) -> Results:
        return dataclasses.replace(
            self._described,
            epochs=self._recorder.epochs,
            steps=self._budget.steps,
            seconds_counted=self._budget.elapsed(),
            seconds=self._run.clock.seconds(),
            **more,
        )
