"""Makes Lightning's Trainer and the module for a planned run."""

import functools
import logging
import warnings

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy, Strategy

from fastconv.data.sources.levels import Levels
from fastconv.models.classifier import whiten
from fastconv.models.configs import Pretrained
from fastconv.models.tta import view_sets, views_of
from fastconv.system.distributed import started_together
from fastconv.system.errors import InputError
from fastconv.training.callbacks import BudgetProgressBar
from fastconv.training.epoch_loop import use_epoch_loop
from fastconv.training.module import ImageClassifier
from fastconv.training.plan import Run

# Lightning's own method, of version 2.6, by which ranks learn before each step of a SIGTERM.
BROADCAST = "_broadcast_sigterm_tensor"


def silence_lightning() -> None:
    """Keep Lightning's greetings and hints off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # This logger reports that it ends a run's processes after one of them has died.
    logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module="lightning")


def make_module(run: Run, pretrained: bool = True) -> ImageClassifier:
    """Make the untrained network of a run. The seed decides its weights, with the training images if it whitens them.

    Seeds the process, so that the network draws its weights before anything else draws a number.

    Args:
        pretrained: load the weights of a pretrained network; False if a checkpoint replaces them.

    Raises InputError for weights that cannot be fetched or do not fit.
    """
    config = run.config
    L.seed_everything(config.seed, verbose=False)
    module = ImageClassifier(
        model=config.model.name,
        settings=run.model_settings,
        shape=run.spec.shape,
        classes=run.spec.classes,
        mean=run.spec.mean,
        std=run.spec.std,
        levels=(run.train.levels or Levels()).as_dict(),
        resize=run.train.resize,
        optimizer=functools.partial(
            config.optimizer.build, batch_size=config.batch_size, precision=run.device.precision
        ),
        label_smoothing=config.label_smoothing,
        views=views_of(config.tta, config.augment.mirrors),
        channels_last=config.trainer.channels_last,
    )
    module.view_sets = view_sets(config.tta, config.augment.mirrors)
    with run.clock.segment("precompute"):  # a part of training that is done in advance
        whiten(module.model, module.normalise, run.train.images)
        if pretrained and isinstance(config.model, Pretrained):
            from fastconv.models.pretrained_weights import start_from  # imports torchvision

            start_from(module.model, config.model, run.spec.mean, run.spec.std)
    return module


def make_strategy(name: str, world: int) -> str | Strategy:
    """Make Lightning's strategy for `trainer.strategy` and a number of ranks."""
    # Gradients stay where they were averaged, where DDP would copy each of them back.
    return DDPStrategy(gradient_as_bucket_view=True) if name == "ddp" or world > 1 else name


def make_trainer(
    run: Run, loggers: list[Logger], callbacks: list[L.Callback], checkpoints: CheckpointIO | None = None
) -> L.Trainer:
    """Make a Trainer with one endless epoch, which a callback ends. The progress bar, if any, is a callback too.

    Args:
        checkpoints: writes the checkpoints; None for Lightning's own way.
    """
    config = run.config
    steps_between = max(1, round(config.validate.every * run.spec.samples / config.batch_size))
    # Named, since Lightning would guess from the variables of a scheduler that processes are there which are not. The
    # processes of srun and mpirun have been given torchrun's variables.
    environment = TorchElasticEnvironment() if started_together() else LightningEnvironment()
    trainer = L.Trainer(
        accelerator=run.device.kind,
        devices=config.trainer.devices,
        num_nodes=config.trainer.world // config.trainer.devices,
        strategy=make_strategy(config.trainer.strategy, config.trainer.world),
        precision="bf16-mixed" if run.device.precision == "bf16" else "32-true",
        max_epochs=1,
        val_check_interval=steps_between,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if config.validate.on == "none" else 1.0,
        num_sanity_val_steps=0,
        logger=loggers,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, BudgetProgressBar) for callback in callbacks),
        use_distributed_sampler=False,
        plugins=[environment, *([checkpoints] if checkpoints else [])],
    )
    use_epoch_loop(trainer)
    if trainer.world_size > 1 and hasattr(trainer.fit_loop.epoch_loop, BROADCAST):
        # `Checkpoints` tells all ranks of a signal. For Lightning, ranks wait for the first one and for their GPU.
        setattr(trainer.fit_loop.epoch_loop, BROADCAST, lambda: None)
    if trainer.world_size != config.trainer.world:
        raise InputError(
            f"{trainer.world_size} processes would train, but the config says {config.trainer.world}: start the command"
            " outside of a scheduler's job, or with srun, mpirun or torchrun"
        )
    return trainer
