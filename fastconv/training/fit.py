"""Carries out a planned run: trains, scores and records it."""

import dataclasses
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from typing import Any

import lightning as L
from rich.console import Console

from fastconv.budget.benchmark import peak_memory_mb
from fastconv.config.next_command import resume_command
from fastconv.config.resume import RunFolder
from fastconv.config.run_store import copy_of
from fastconv.models.weights import weights_digest
from fastconv.optim.averaging import weights_of
from fastconv.runs.folder import CHECKPOINT
from fastconv.runs.results import PRUNED, Results
from fastconv.system.cluster import end_processes
from fastconv.system.distributed import from_first_rank, is_first_rank, lost_rank
from fastconv.system.errors import InputError, reason
from fastconv.system.signals import INTERRUPT_CODE, Interrupted
from fastconv.system.urls import redacted
from fastconv.training.calibration import calibrate
from fastconv.training.callbacks.custom import restore_states
from fastconv.training.checkpoint_file import read_checkpoint
from fastconv.training.console import results_table
from fastconv.training.datamodule import ShardDataModule
from fastconv.training.final_scores import score
from fastconv.training.first_results import first_results
from fastconv.training.loggers import Loggers
from fastconv.training.module import ImageClassifier
from fastconv.training.own_images import require_same_images
from fastconv.training.plan import Run
from fastconv.training.run_callbacks import RunCallbacks
from fastconv.training.run_stream import open_stream
from fastconv.training.tensorboard import optional
from fastconv.training.trainer import make_module, make_trainer, silence_lightning


def fit(run: Run, console: Console, folder: RunFolder, overrides: list[str]) -> Results:
    """Train, or resume training, and score the test split once. All results are written to the run's folder.

    `results.json` records the progress of the run from the start, and the reason if it fails. Checkpoint and results
    are written, and the results shown, before anything is drawn. With several ranks, only the first one writes.

    Args:
        run: the planned run.
        console: prints the progress and the results.
        folder: the run's folder, which a resumed run already has.
        overrides: the overrides of the command line, for the run's records.

    Raises InputError if training diverges or a rank is lost, Interrupted after a signal.
    """
    described = first_results(run, folder, overrides)
    with closing(Training(run, console, folder, described)) as training:
        training.note()
        try:
            results = training.carry_out()
        except BaseException as error:
            end_processes(training.others)
            folder.has_trained = training.has_trained
            _leave_reason(training, error)
            if isinstance(error, Interrupted):
                where = redacted(copy_of(folder.config.outputs, folder.path) or str(folder.path))
                error.advice = f"go on with: {resume_command(where, overrides, dataclasses.asdict(run.config))}"
                error.goes_on = error.goes_on or (training.has_advanced and error.exit_code != INTERRUPT_CODE)
            if run.config.trainer.world > 1 and lost_rank(error):
                raise InputError(
                    f"a process of this run on {run.config.trainer.world} devices is gone, so the others cannot"
                    f" continue: resume from the last checkpoint with resume={folder.path}"
                ) from error
            raise
        if results.stop_reason == PRUNED:
            console.print(training.pruned_line(), highlight=False, markup=False)
        elif is_first_rank():
            console.print(results_table(results, folder.path))
            results = training.show(results)
    return results


def _leave_reason(training: "Training", error: BaseException) -> None:
    """Write into `results.json` why a run has ended early."""
    with suppress(InputError):  # a disk on which the run failed may not take the reason either
        training.note(stop_reason="error" if isinstance(error, Exception) else "interrupt", error=reason(error))


class Training:
    """The training and scoring of a planned run.

    Args:
        run: the run.
        console: prints the progress bar, and what is said after training.
        folder: the run's folder.
        described: the run's results before it trains (see `first_results`).
    """

    def __init__(self, run: Run, console: Console, folder: RunFolder, described: Results) -> None:
        self._run, self._console, self._folder, self._described = run, console, folder, described
        self._callbacks = callbacks = RunCallbacks(run, console, folder.path, self.note)
        self._budget, self._recorder, self._checkpoints = callbacks.budget, callbacks.recorder, callbacks.checkpoints
        self._average, self._kept, self._prune = callbacks.average, callbacks.kept, callbacks.prune
        self.others: list[subprocess.Popen[bytes]] = []
        """The processes that the Trainer has started for this run, of which this one is the first."""
        self._opened = ExitStack()
        self._opened.callback(self._budget.agreement.close)

    @property
    def has_advanced(self) -> bool:
        """Whether this process has saved steps that it has trained."""
        return self._checkpoints.has_advanced

    @property
    def has_trained(self) -> bool:
        """Whether a step was taken."""
        return self._budget.steps > 0

    def note(self, **more: Any) -> None:
        """Write the progress of the run, and other results, to `results.json`."""
        if is_first_rank():
            self._so_far(**more).write(self._folder.path)

    def carry_out(self) -> Results:
        """Train the remaining steps, score, and write the results. A run with results counts as finished."""
        run, config = self._run, self._run.config
        silence_lightning()
        checkpoint = self._load_checkpoint()
        self._module = module = make_module(run, pretrained=checkpoint is None)
        self._stream = stream = self._opened.enter_context(closing(open_stream(run)))
        datamodule = ShardDataModule(
            stream, config.batch_size, config.micro_batch_size, run.validated, config.validate.samples, run.test
        )
        network: Any = module.model
        if self._kept and network.ends_with_head(*run.spec.shape):
            module.kept = datamodule.kept = self._kept
        self._loggers = loggers = self._opened.enter_context(closing(Loggers(config, self._folder.path)))
        self._begin(loggers)
        trainer = make_trainer(run, loggers.all, self._callbacks.all, self._checkpoints.plugin)
        self.others = getattr(trainer.strategy.launcher, "procs", [])
        if checkpoint and from_first_rank("trained", self._budget.is_over):
            self._restore_trained(trainer, module, datamodule, checkpoint)
        else:
            path = self._folder.path / CHECKPOINT if checkpoint else None
            trainer.fit(module, datamodule=datamodule, ckpt_path=path, weights_only=True)
            if self._prune and self._prune.has_ended:
                return self._end_pruned(loggers)
            calibrate(run, trainer, module, self._budget)
            self._checkpoints.save(trainer, last=True)
            self._checkpoints.raise_interrupted(trainer)
        trained, saved = weights_digest(module.state_dict()), self._checkpoints.plugin.digest
        with run.clock.segment("test"):
            scores = score(run, self._budget, trainer, module, datamodule)
        if is_first_rank() and {saved or trained, module.scored_digest} != {trained}:
            raise InputError(
                f"a callback changed the weights while they were saved or scored, so {CHECKPOINT} is not the network"
                " that was scored: let it change them at the end of training (on_train_end)"
            )
        results = self._scored(scores, trained, module.temperature, datamodule.wait_seconds)
        if is_first_rank():
            loggers.table.write()
            results.write(self._folder.path, durable=True)
        return results

    def _scored(
        self, scores: dict[str, Any], weights_digest: str, temperature: float | None, wait_seconds: float
    ) -> Results:
        """The results of a run whose network is scored.

        Args:
            wait_seconds: seconds that training has waited for batches.
        """
        run, train_seconds = self._run, self._run.clock.seconds()["train"]
        return self._so_far(
            **scores,
            weights_digest=weights_digest,
            temperature=temperature,
            # No time is known of a process that trained but could not write its results.
            images_per_second=self._budget.steps * run.config.batch_size / train_seconds if train_seconds else None,
            dataloader_wait_fraction=wait_seconds / train_seconds if train_seconds else None,
            peak_memory_mb=peak_memory_mb(run.device.kind) or None,
            stop_reason=self._budget.stop_reason,
            final_lr=run.config.schedule.factors(self._budget.progress).lr,
        )

    def _end_pruned(self, loggers: Loggers) -> Results:
        """Write the results of a run that its search has ended: how far it came, and no score."""
        results = self._so_far(stop_reason=PRUNED)
        loggers.table.write()
        results.write(self._folder.path, durable=True)
        return results

    def pruned_line(self) -> str:
        """Say that the search has ended the run, and when."""
        return (
            f"pruned after {self._recorder.epochs:.2f} epochs, at {self._budget.progress:.0%} of the training: the"
            f" search expects no more of it ({self._folder.path})"
        )

    def show(self, results: Results) -> Results:
        """Count operations, log results and draw figures, which no budget counts. A part that fails is left out."""
        run, loggers, folder = self._run, self._loggers, self._folder.path
        with optional("petaflop"):
            results = dataclasses.replace(results, petaflop=run.petaflop(self._budget.worked))
            results.write(folder, durable=True)
        loggers.log_results(results)
        if run.config.figures:
            with optional("figures"):
                # Imports matplotlib, which training does not need, and which needs a folder of its own for the user.
                from fastconv.training.pictures import draw_figures

                started = time.monotonic()
                draw_figures(self._module, self._stream, results, run, folder, loggers.dashboard)
                line = f"figures in {time.monotonic() - started:.1f} s (none with figures=false)"
                self._console.print(line, highlight=False)
        return results

    def close(self) -> None:
        """Close the loggers, the stream, and what the ranks agree through."""
        self._opened.close()

    def _restore_trained(
        self, trainer: L.Trainer, module: ImageClassifier, datamodule: ShardDataModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over the network of an earlier process that had nothing left to train, but did not score it."""
        module.load_state_dict(checkpoint["state_dict"])
        self._finish(trainer, module, checkpoint)
        datamodule.load_state_dict(checkpoint["ShardDataModule"])
        restore_states(self._run.callbacks, checkpoint["callbacks"])
        self._budget.stop_reason = self._budget.stop_reason or "budget"

    def _finish(self, trainer: L.Trainer, module: ImageClassifier, checkpoint: dict[str, Any]) -> None:
        """Average the weights and fit the temperature, here and in the checkpoint, as after a last step of training."""
        if self._average:
            self._average.load_state_dict(checkpoint["callbacks"][self._average.state_key])
            self._average.average.finish(weights_of(module.model))
            checkpoint["callbacks"][self._average.state_key] = self._average.state_dict()
        calibrate(self._run, trainer, module, self._budget, checkpoint)
        if is_first_rank() and (self._average or module.temperature):
            self._checkpoints.replace({**checkpoint, "state_dict": module.state_dict()})

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """Load the state of the previous process, if it left one, and take over its progress."""
        path = self._folder.path / CHECKPOINT
        if not self._folder.resumed or not path.exists():
            return None
        checkpoint = read_checkpoint(path, self._budget, self._recorder)
        require_same_images(self._run.spec, checkpoint, path)
        return checkpoint

    def _begin(self, loggers: Loggers) -> None:
        """Log the values of an earlier process of this run again, then the settings."""
        self._recorder.log_again(loggers.all)
        if is_first_rank():
            loggers.log_settings()

    def _so_far(self, **more: Any) -> Results:
        """The results so far: how far the run has come, its seconds, and other results."""
        capture = self._callbacks.capture
        return dataclasses.replace(
            self._described,
            epochs=self._recorder.epochs,
            steps=self._budget.steps,
            seconds_counted=self._budget.elapsed(),
            seconds=self._run.clock.seconds(),
            threads=self._callbacks.watch.threads if self._run.device.kind == "cpu" else [],
            cuda_graphs=capture.captures if capture else self._described.cuda_graphs,
            **more,
        )
