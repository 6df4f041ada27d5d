"""Scores a run's network on its held-out and its test images, after training."""

from typing import Any

import lightning as L
import torch

from fastconv.analysis.evaluation.per_class import balanced_accuracy, kappa, macro_f1
from fastconv.budget.scoring_reserve import ScoringReserve
from fastconv.training.callbacks import TimeBudget
from fastconv.training.datamodule import ShardDataModule
from fastconv.training.plan import Run
from fastconv.training.scored_module import TEST_SCORES, ScoredModule


def limits_scoring(run: Run) -> bool:
    """Whether images, and further views of them, are left out when there is no time for them."""
    budget = run.config.budget
    # On a GPU the host runs ahead, so the time of a single batch cannot be measured.
    return budget.seconds is not None and "test" in budget.counts and run.device.kind == "cpu"


def score(
    run: Run, budget: TimeBudget, trainer: L.Trainer, module: ScoredModule, datamodule: ShardDataModule
) -> dict[str, Any]:
    """Score a network in the time that the budget has left; return its scores by their keys in `results.json`."""
    scores: dict[str, Any] = {}
    ranks = trainer.world_size
    if limits_scoring(run):
        datamodule.mix()
    if run.config.validate.on == "holdout":
        if "validate" in run.config.budget.counts:
            module.scoring_time = _scoring_time(run, budget, len(run.holdout) + len(run.test), ranks)
        datamodule.validate_all()
        trainer.limit_val_batches = 1.0
        trainer.validate(module, datamodule=datamodule, verbose=False)
        scores["accuracy_holdout"] = float(trainer.callback_metrics["validate/accuracy"])
        scores["accuracy_holdout_tta"] = float(trainer.callback_metrics["validate/accuracy_tta"])
        confusion = module.confusion.numpy()
        scores["balanced_accuracy_holdout"] = balanced_accuracy(confusion)
        scores["macro_f1_holdout"] = macro_f1(confusion)
    module.scoring_time = reserve = _scoring_time(run, budget, len(run.test), ranks)
    trainer.test(module, datamodule=datamodule, verbose=False)
    found = trainer.callback_metrics
    if reserve:
        scores |= _count_views(trainer, module)
    confusion = module.confusion.numpy()
    scores["test_skipped"] = len(run.test) - int(confusion.sum())
    scores |= {"balanced_accuracy": balanced_accuracy(confusion), "macro_f1": macro_f1(confusion)}
    scores["kappa"] = kappa(confusion)
    return {**scores, **{key: float(found[f"test/{key}"]) for key in TEST_SCORES if f"test/{key}" in found}}


def _scoring_time(run: Run, budget: TimeBudget, images: int, ranks: int) -> ScoringReserve | None:
    """The time for scoring this rank's images; None if all of them are scored, in all views."""
    if not limits_scoring(run):
        return None
    budget.reserve.start_scoring(-(-images // ranks), budget.seconds_left)
    return budget.reserve


def _count_views(trainer: L.Trainer, module: ScoredModule) -> dict[str, Any]:
    """Count the test images by their number of views, and the uncertain ones for whose views there was no time."""
    options = [1, *(views.count for views in module.view_sets)]
    here = torch.tensor([float((module.view_counts == count).sum()) for count in options] + [module.views_missing])
    *images, missing = trainer.strategy.reduce(here, reduce_op="sum").int().tolist()
    views = {str(count): number for count, number in zip(options, images, strict=True) if number}
    return {"tta_views": views, "tta_skipped": missing}
