"""One run from its config: look at the data and the machine, plan, precompute, train, score, record."""

import dataclasses
import functools
import logging
import math
import os
import signal
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastconv import figures
from fastconv.callbacks import BudgetProgressBar, CompileStep, Recorder, ScheduleLR, TimeBudget
from fastconv.clock import Clock
from fastconv.config import Config, check, nearest
from fastconv.data.sources import SOURCES, ImageData, load, mean_and_std, stratified_split
from fastconv.data.storage import prune, stored_streams, unwritable
from fastconv.data.stream import OnlineStream, PrecomputedStream, Stream, StreamSpec, write_stream
from fastconv.datamodule import ShardDataModule
from fastconv.device import Device, prepare
from fastconv.errors import InputError
from fastconv.forecast import Forecast, forecast
from fastconv.models import build_model, count_parameters
from fastconv.module import ImageClassifier
from fastconv.probe import Probe, Recipe, forget_peak_memory, peak_memory_mb, probe
from fastconv.results import Results, git_commit, new_run_folder, versions

# Rows of metrics.csv that a run of the expected length writes.
RECORDS = 200
# Lightning's launcher starts the command again for each further rank, with this in its environment.
RUN_FOLDER_VARIABLE = "FASTCONV_RUN_FOLDER"


@dataclass(frozen=True)
class Run:
    """A run that is planned and ready to start."""

    config: Config
    clock: Clock
    device: Device
    train: ImageData
    holdout: ImageData
    test: ImageData
    spec: StreamSpec
    probe: Probe
    plan: Forecast
    parameters: int

    @property
    def model_settings(self) -> dict:
        """The network's own settings."""
        return model_settings(self.config)


def is_first_rank() -> bool:
    """Whether this process is the one that plans, writes and speaks."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def model_settings(config: Config) -> dict:
    """What of the model's config is for the network itself."""
    return {key: value for key, value in dataclasses.asdict(config.model).items() if key not in ("name", "norm_batch")}


def plan_run(config: Config, clock: Clock) -> Run:
    """Look at the config, the machine and the data, and work out what a run will do.

    Raises InputError for whatever could not work.
    """
    check(config)
    if config.dataset.name not in SOURCES:
        name = config.dataset.name
        raise InputError(f"dataset.name={name} is unknown{nearest(name, SOURCES)} Choose from: {', '.join(SOURCES)}")
    device = prepare(config.trainer)
    forget_peak_memory()
    everything, test = load(config.dataset.name, Path(config.data))
    kept, held = stratified_split(everything, config.dataset.holdout, config.dataset.holdout_seed)
    if config.dataset.holdout:
        for rows, part in ((kept, "for training"), (held, "to hold out")):
            if len(np.unique(everything.labels[rows])) < len(everything.classes):
                raise InputError(
                    f"dataset.holdout={config.dataset.holdout:g} leaves no image {part} of some class of"
                    f" {config.dataset.name}: choose another share"
                )
    train, holdout = (
        (everything.take(kept), everything.take(held)) if len(held) else (everything, everything.take(held))
    )
    spec = stream_spec(config, train)
    settings = model_settings(config)
    channels, classes = spec.shape[2], len(spec.classes)
    with torch.device("meta"):
        parameters = count_parameters(build_model(config.model.name, channels, classes, **settings))
    recipe = Recipe(
        config.model.name,
        settings,
        spec.shape,
        classes,
        config.batch_size // config.trainer.devices,
        config.norm_batch,
        config.trainer.channels_last,
    )
    with clock.segment("probe"):
        measured = probe(recipe, device, Path(config.data) / "probes")
    curve = {"test": test, "holdout": holdout, "none": ()}[config.validate.on]
    plan = forecast(
        config,
        spec,
        measured,
        validate_images=min(len(curve), config.validate.samples or len(curve)),
        final_images=len(holdout) if config.validate.on == "holdout" else 0,
        test_images=len(test),
        already_counted=clock.counted(tuple(config.budget.counts)),
    )
    return Run(config, clock, device, train, holdout, test, spec, measured, plan, parameters)


def stream_spec(config: Config, train: ImageData) -> StreamSpec:
    """The stream of a config's training images. Raises InputError if the augmentation does not fit the images."""
    height, width, channels = train.images.shape[1:]
    side = min(height, width)
    augment = config.augment
    if augment.cutout.size >= side:
        raise InputError(f"augment.cutout.size={augment.cutout.size} covers the {width}x{height} images whole")
    if augment.crop.padding > side or (augment.crop.mode == "reflect" and augment.crop.padding >= side):
        raise InputError(f"augment.crop.padding={augment.crop.padding} is too much for the {width}x{height} images")
    mean, std = mean_and_std(train.images)
    return StreamSpec(
        dataset=config.dataset.name,
        digest=train.digest,
        classes=train.classes,
        shape=(height, width, channels),
        samples=len(train),
        mean=mean,
        std=std,
        policy=augment,
        seed=config.stream.seed,
    )


def precompute(run: Run, console: Console) -> None:
    """Write the epochs that the plan wants, if they are not there, making room by removing old streams.

    Raises InputError for too little disk, StreamError for a damaged stream.
    """
    if not run.plan.stream_epochs:
        return
    root = Path(run.config.stream.root)
    there = sum(stream.bytes for stream in stored_streams(root) if stream.folder.name == run.spec.folder)
    room = run.config.stream.max_gb * 1e9 - max(there, run.plan.stream_epochs * run.spec.epoch_bytes)
    if room < 0:
        raise InputError(
            f"the stream needs {run.plan.stream_epochs * run.spec.epoch_bytes / 1e9:.1f} GB, more than"
            f" stream.max_gb={run.config.stream.max_gb:g}. Raise it, or use stream=online"
        )
    for stream in prune(root, room, keep=run.spec.folder):
        console.print(f"removed the old stream {stream.folder}", highlight=False, markup=False)
    columns = (TextColumn("precompute"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"), TimeRemainingColumn())
    with run.clock.segment("precompute"), Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        write_stream(
            run.spec,
            run.train,
            root,
            run.plan.stream_epochs,
            on_shard=lambda done, total: progress.update(task, completed=done, total=total),
        )


def require_writable(folder: Path) -> None:
    """Raise InputError, before anything long starts, if nothing can be written to a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


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


def open_stream(run: Run) -> Stream:
    """The training stream of a run, whose shards must be on disk if it is precomputed."""
    if run.config.stream.mode == "online":
        return OnlineStream(run.spec, run.train)
    root = Path(run.config.stream.root)
    if run.config.budget.seconds is None:  # the stream is as long as the run
        return PrecomputedStream(run.spec, root)
    # A machine that turns out faster than its probe may need more of it: what its steps and the disk's share allow.
    most = run.config.stream.max_gb * 1e9 / run.spec.epoch_bytes
    if run.plan.bound_steps is not None:
        most = min(most, math.ceil(run.plan.bound_steps * run.config.batch_size / run.spec.samples))
    extend = functools.partial(write_stream, run.spec, run.train, root)
    return PrecomputedStream(run.spec, root, extend, max_epochs=int(most))


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


def make_run_folder(config: Config, parent: Path | None = None, name: str | None = None) -> Path:
    """The folder of a run: a new one on the first rank, the first rank's on the others."""
    if not is_first_rank():
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    folder = new_run_folder(parent or Path(config.outputs) / config.dataset.name, name)
    os.environ[RUN_FOLDER_VARIABLE] = str(folder.absolute())
    return folder
