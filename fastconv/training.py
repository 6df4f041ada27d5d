"""A planned run, carried out: train, score, record."""

import dataclasses
import logging
import signal
import warnings
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf
from rich.console import Console

from fastconv import figures
from fastconv.callbacks import BudgetProgressBar, CompileStep, Recorder, ScheduleLR, TimeBudget
from fastconv.datamodule import ShardDataModule
from fastconv.module import ImageClassifier
from fastconv.probe import peak_memory_mb
from fastconv.results import Results, git_commit, versions
from fastconv.run import Run, is_first_rank, open_stream

# Rows of metrics.csv that a run of the expected length writes.
RECORDS = 200


def fit(run: Run, console: Console, folder: Path, overrides: list[str]) -> Results:
    """Train, score the test split once, and leave everything in the run's folder.

    A run that fails leaves `results.json` with the reason. Of several ranks the first one writes.
    """
    config = run.config
    if is_first_rank():
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config))))
    described = Results(
        dataset=config.dataset.name,
        model=config.model.name,
        experiment=config.experiment,
        seed=config.seed,
        stream_seed=config.stream.seed,
        batch_size=config.batch_size,
        norm_batch=config.norm_batch,
        budget_seconds=config.budget.seconds,
        budget_counts=config.budget.counts,
        parameters=run.parameters,
        expected_epochs=run.plan.epochs,
        device=run.device.name,
        precision=run.device.precision,
        versions=versions(),
        git_commit=git_commit(),
        overrides=overrides,
    )
    try:
        results = _fit(run, console, folder, described)
    except BaseException as error:
        interrupted = not isinstance(error, Exception)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        seconds = run.clock.seconds()
        stopped_by = "interrupt" if interrupted else "error"
        if is_first_rank():
            dataclasses.replace(described, stopped_by=stopped_by, error=reason, seconds=seconds).write(folder)
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error  # Lightning makes exit code 1 of it
        if isinstance(error, SIGTERMException):  # and 0 of this
            raise SystemExit(128 + signal.SIGTERM) from error
        raise
    if is_first_rank():
        results.write(folder)
        figures.draw_run(folder, title=f"{config.dataset.name}, {config.model.name}")
    return results


def _fit(run: Run, console: Console, folder: Path, described: Results) -> Results:
    config, plan, clock = run.config, run.plan, run.clock
    L.seed_everything(config.seed, verbose=False)
    module = ImageClassifier(
        model=config.model.name,
        settings=run.model_settings,
        shape=run.spec.shape,
        classes=run.spec.classes,
        mean=run.spec.mean,
        std=run.spec.std,
        optimizer=config.optimizer,
        label_smoothing=config.label_smoothing,
        channels_last=config.trainer.channels_last,
    )
    stream = open_stream(run)
    curve = {"test": run.test, "holdout": run.holdout, "none": None}[config.validate.on]
    datamodule = ShardDataModule(stream, config.batch_size, config.norm_batch, curve, config.validate.samples, run.test)
    budget = TimeBudget(
        seconds=config.budget.seconds,
        bound_steps=plan.bound_steps,
        clock=clock,
        counts=tuple(config.budget.counts),
        step_seconds=run.probe.step_seconds,
        validate_seconds=plan.validate_seconds,
        reserve_seconds=plan.reserve_seconds,
    )
    recorder = Recorder(budget, run.spec.samples, config.batch_size, every=max(1, plan.steps // RECORDS))
    loggers = [TensorBoardLogger(folder, name="", version=""), CSVLogger(folder, name="", version="")]
    if is_first_rank():
        figures.draw_augmented(*stream.rows(0, figures.GRID_IMAGES), run.spec, folder / "augmented.png")
        loggers[0].experiment.add_image("augmented", figures.read_png(folder / "augmented.png"), dataformats="HWC")
    callbacks = [budget, ScheduleLR(config.schedule), recorder, BudgetProgressBar(recorder, console)]
    if run.device.compile:
        callbacks.append(CompileStep(clock, (config.norm_batch, *run.spec.shape)))
    trainer = make_trainer(run, loggers, callbacks)
    try:
        trainer.fit(module, datamodule=datamodule)
        holdout_accuracy = None
        if config.validate.on == "holdout":
            datamodule.validate_all()
            trainer.limit_val_batches = 1.0
            trainer.validate(module, datamodule=datamodule, verbose=False)
            holdout_accuracy = float(trainer.callback_metrics["validate/accuracy"])
        if config.checkpoint.save:
            with clock.segment("checkpoint"):
                partial = folder / "last.ckpt.part"
                trainer.save_checkpoint(partial)
                if trainer.is_global_zero:
                    partial.replace(folder / "last.ckpt")
        with clock.segment("test"):
            trainer.test(module, datamodule=datamodule, verbose=False)
    finally:
        stream.close()
        for logger in loggers:
            logger.finalize("success")
        (folder / "hparams.yaml").unlink(missing_ok=True)  # the loggers' own, empty: config.yaml says it all
    seconds, scores = clock.seconds(), trainer.callback_metrics
    group = trainer.optimizers[0].param_groups[0]
    return dataclasses.replace(
        described,
        accuracy=float(scores["test/accuracy"]),
        accuracy_holdout=holdout_accuracy,
        loss=float(scores["test/loss"]),
        epochs=recorder.epochs,
        steps=budget.steps,
        seconds_counted=budget.elapsed(),
        seconds=seconds,
        images_per_second=budget.steps * config.batch_size / seconds["train"],
        data_wait_fraction=datamodule.train_batches.wait_seconds / seconds["train"],
        peak_memory_mb=peak_memory_mb(run.device.kind),
        stopped_by=budget.stopped_by,
        final_lr=group["lr"] / group["max_lr"],
    )


def make_trainer(run: Run, loggers: list, callbacks: list[L.Callback]) -> L.Trainer:
    """A Trainer of one endless epoch, which the budget ends."""
    config = run.config
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its greetings are not ours
    warnings.filterwarnings("ignore", module="lightning")
    microbatches = config.batch_size // (config.norm_batch * config.trainer.devices)
    steps_between = max(1, round(config.validate.every * run.spec.samples / config.batch_size))
    return L.Trainer(
        accelerator={"cpu": "cpu", "cuda": "gpu"}[run.device.kind],
        devices=config.trainer.devices,
        strategy=config.trainer.strategy,
        precision={"bf16": "bf16-mixed", "fp32": "32-true"}[run.device.precision],
        max_epochs=1,
        accumulate_grad_batches=microbatches,
        val_check_interval=steps_between * microbatches,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if config.validate.on == "none" else 1.0,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
