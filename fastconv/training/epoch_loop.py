"""Lightning's loop over the batches of an epoch, without what has no effect in fastconv's training."""

from collections import OrderedDict
from typing import Any

import lightning as L
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins import Precision

from fastconv.training.own_hooks import OwnHooks, has_own
from fastconv.training.step import is_plain

# The minor version of Lightning whose loop this one follows. It is private, so that others may differ.
LIGHTNING = "2.6."
# Hooks around a batch of a module or a data module. None of fastconv's has any of them.
BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end")
MOVE_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop, for a module that optimizes manually and whose every batch is a step of the optimizer.

    Lightning's own calls some 300 Python functions around a step, which takes longer than the rest of the step of a
    small network. `advance` does of these what has an effect: it fetches a batch, moves it if it is elsewhere, calls
    the hooks of callbacks that have them, trains, counts, and hands on what was logged, if anything was. Left out are
    hooks that do nothing, contexts of the profiler, learning-rate schedulers (which Lightning leaves to a module that
    optimizes manually), and logged values where there are none.

    All else is done by Lightning's methods: the first batch after a checkpoint was loaded, validations, the end, and
    each batch of a module or data module with hooks of its own around it.

    On one device, and on ranks that exchange gradients alone, `training_step` is called directly, so it enters the
    precision's context itself, and it returns the loss, without a graph.
    """

    def __init__(self, trainer: L.Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._is_usual = False

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        trainer, module = self.trainer, self.trainer.lightning_module
        self._module, self._hooks = module, OwnHooks(module)
        self._device, self._is_plain = trainer.strategy.root_device, is_plain(trainer)
        data = trainer.datamodule
        self._is_usual = isinstance(data_fetcher, _PrefetchDataFetcher) and not (
            any(has_own(module, hook, L.LightningModule) for hook in (*BATCH_HOOKS, *MOVE_HOOKS))
            or any(has_own(data, hook, L.LightningDataModule) for hook in MOVE_HOOKS if data is not None)
            or has_own(trainer.precision_plugin, "convert_input", Precision)
        )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on the next batch."""
        if not self._is_usual or self._restarting or self.val_loop._restarting:
            super().advance(data_fetcher)
            return
        progress, results, connector = self.batch_progress, self._results, self.trainer._logger_connector
        batch, _, _ = next(data_fetcher)
        index = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        for part in batch:
            if part.device != self._device:
                batch = self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                break
        progress.increment_ready()
        # As the connector's on_batch_start, which takes ten times as long to find the results: what `log` needs.
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None

        self._hooks.call("on_train_batch_start", batch, index)
        progress.increment_started()
        output = self._train(batch, index)
        progress.increment_processed()
        self._hooks.call("on_train_batch_end", output, batch, index)

        if results:  # something was logged through Lightning; fastconv's recorder goes around it
            connector.on_batch_end()
        else:
            results.batch = results.batch_size = None
        progress.increment_completed()
        if results:
            connector.update_train_step_metrics()

    def _train(self, batch: Any, index: int) -> dict[str, Any]:
        """Call `training_step`; return its output as callbacks get it."""
        if not self._is_plain:
            return self.manual_optimization.run(OrderedDict(batch=batch, batch_idx=index))
        module = self._module
        before, module._current_fx_name = module._current_fx_name, "training_step"
        output = {"loss": module.training_step(batch, index)}
        module._current_fx_name = before
        return output

    @property
    def global_step(self) -> int:
        """The number of the optimizer's steps."""
        return self.manual_optimization.optim_step_progress.total.completed

    def _should_accumulate(self) -> bool:
        return self.trainer.accumulate_grad_batches != 1 and super()._should_accumulate()

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        """As Lightning's, which finds out first whether the module can be validated at all."""
        trainer, every = self.trainer, self.trainer.val_check_batch
        is_between = (
            isinstance(every, int)
            and trainer.check_val_every_n_epoch is None
            and self.batch_progress.total.ready % every != 0
            and not self.batch_progress.is_last_batch
            and not trainer.should_stop
        )
        return not is_between and super()._should_check_val_fx(data_fetcher)


def use_epoch_loop(trainer: L.Trainer) -> None:
    """Make a Trainer fit with `EpochLoop`, if it is of the version of Lightning that the loop was written for.

    The Trainer's modules must optimize manually.
    """
    if L.__version__.startswith(LIGHTNING):
        own = trainer.fit_loop.epoch_loop
        trainer.fit_loop.epoch_loop = EpochLoop(trainer, own.min_steps, own.max_steps)
