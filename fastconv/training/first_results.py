"""The results of a run before it trains."""

import dataclasses

from fastconv.config.deadline import BoundedBudget
from fastconv.config.resume import RunFolder, earlier_results, results_of
from fastconv.data.hashes import images_digest
from fastconv.runs.results import Results, git_commit, versions
from fastconv.system.errors import warn
from fastconv.system.slurm import job_number
from fastconv.training.plan import Run

# Keys of the results that decide how a step is rounded, and that a machine may choose by itself.
ROUNDING = ("precision", "winograd_layers", "fused_norms")


def first_results(run: Run, folder: RunFolder, overrides: list[str]) -> Results:
    """The run's settings, plan and machine; of a resumed run, with the plan and the clock of the process before.

    Args:
        overrides: the overrides of the command line. A resumed run keeps those with which it began.
    """
    config = run.config
    dataset = dataclasses.replace(config.dataset, resize=run.train.resize)  # what `auto` chose
    described = results_of(
        dataclasses.replace(config, dataset=dataset),
        overrides,
        pretrained=run.pretrained,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        budget_seconds=config.budget.seconds,
        budget_counts=config.budget.counts,
        budget_until=config.budget.ends if isinstance(config.budget, BoundedBudget) else None,
        slurm_job=job_number(),
        test_digest=None if run.test.hashes is None else run.test.digest[:16],
        train_digest=images_digest([run.train, run.unseen]),
        parameters=run.parameters,
        expected_epochs=run.plan.epochs,
        expected_seconds=run.plan.seconds,
        device=run.device.name,
        precision=run.device.precision,
        winograd_layers=run.winograd_layers,
        fused_norms=run.fused_norms,
        cuda_graphs=0 if run.device.kind == "cuda" else None,
        versions=versions(),
        git_commit=git_commit(),
    )
    if folder.resumed and (earlier := earlier_results(folder.path)):
        run.clock.add(earlier.seconds)
        if changed := [key for key in ROUNDING if getattr(earlier, key) not in (None, getattr(described, key))]:
            before, now = (", ".join(f"{key}={getattr(each, key)}" for key in changed) for each in (earlier, described))
            warn(
                f"{folder.path} began with {before} and goes on with {now}, so it will not end bit for bit as it would"
                " have"
            )
        return dataclasses.replace(
            described,
            expected_epochs=earlier.expected_epochs or described.expected_epochs,
            expected_seconds=earlier.expected_seconds or described.expected_seconds,
            overrides=earlier.overrides,
            resumed=earlier.resumed + 1,
        )
    return described
