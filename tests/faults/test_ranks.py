"""Two processes train one run: the same batches as one process, the same end, and no one left behind."""

import csv
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from harness import SCRIPT, SMALL, alive, finish, only_run, rows, start, steps_alike, wait_for_steps, weights

from fastconv.runs.results import Results

pytestmark = pytest.mark.slow

TWO = ("trainer=ddp", "trainer.accelerator=cpu")
LAUNCHERS = {
    "lightning": (str(SCRIPT),),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)),
}


def recorded(folder, data, *overrides, launcher="lightning"):
    """Rows of each rank of a run that ended well."""
    record = folder / "record"
    record.mkdir(parents=True)
    code, err = finish(folder, data, *SMALL, *overrides, script=LAUNCHERS[launcher], RECORD=str(record))
    assert code == 0, err
    return [[row for part in rows(record, rank) for row in part] for rank in (0, 1)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_train_on_the_batches_of_one(tmp_path, digits_root, launcher):
    fifty = ("budget.seconds=null", f"schedule.max_epochs={50 * 64 / 1438}")
    one, _ = recorded(tmp_path / "one", digits_root, "trainer=cpu", *fifty)
    first, second = recorded(tmp_path / "two", digits_root, *TWO, *fifty, launcher=launcher)
    assert len(first) == len(second) == 50
    assert len(one) == 100
    both = [row for pair in zip(first, second, strict=True) for row in pair]
    assert [row["sha256"] for row in both] == [row["sha256"] for row in one]
    assert [row["lr"] for row in first] == [row["lr"] for row in second] == [row["lr"] for row in one[::2]]
    losses = np.array([[float(row["loss"]) for row in each] for each in (both, one)])
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)
    found = [Results.read(only_run(tmp_path / name)) for name in ("one", "two")]
    # Equal weights, but statistics of batch norm that are averaged over ranks: four of 359 test images differ.
    assert found[0].accuracy == pytest.approx(found[1].accuracy, abs=0.02)
    curves = [list(csv.DictReader((only_run(tmp_path / name) / "metrics.csv").open())) for name in ("one", "two")]
    trained = [[float(row["train/loss"]) for row in curve if row["train/loss"]] for curve in curves]
    np.testing.assert_allclose(trained[0], trained[1], atol=1e-4)


def test_a_step_waits_for_no_decision(tmp_path, digits_root):
    # Seconds that never run out, but must be watched.
    run = ("budget.seconds=3000", f"schedule.max_epochs={12 * 64 / 1438}", "checkpoint.every=null", "validate.on=none")
    code, err = finish(tmp_path, digits_root, *SMALL, *TWO, *run, COLLECTIVES=str(tmp_path))
    assert code == 0, err
    for rank in (0, 1):
        _, _, first, *steps = [[*map(int, row)] for row in list(csv.reader((tmp_path / f"{rank}.csv").open()))[1:]]
        assert first[1] == 1
        # The training scores are read after each of so few steps.
        assert steps == [[1, 1]] * 9


def test_a_budget_ends_both_ranks_at_the_same_step(tmp_path, digits_root):
    first, second = recorded(tmp_path / "run", digits_root, *TWO, "budget.seconds=10", "schedule.max_epochs=null")
    assert len(first) == len(second) > 0
    assert [row["progress"] for row in first] == [row["progress"] for row in second]
    found = Results.read(only_run(tmp_path / "run"))
    assert found.stop_reason == "budget"
    assert found.seconds_counted <= 10
    assert found.steps == len(first)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other(tmp_path, digits_root, launcher, victim):
    (tmp_path / "record").mkdir()
    run = (*SMALL, *TWO, "budget.seconds=300", "schedule.max_epochs=null", "checkpoint.every=1")
    process = start(tmp_path, digits_root, *run, script=LAUNCHERS[launcher], RECORD=str(tmp_path / "record"))
    ranks = wait_for_steps(tmp_path / "record", 40)
    subprocess.run(["kill", "-9", str(ranks[victim])], check=True)
    assert process.wait(600) != 0
    deadline = time.monotonic() + 600
    while alive(ranks[1 - victim]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(ranks[1 - victim])
    assert "a process of this run on 2 devices is gone" in (tmp_path / "err.txt").read_text()
    run_folder = only_run(tmp_path)
    assert (run_folder / "last.ckpt").exists()


def test_both_ranks_stop_at_a_signal_and_go_on(tmp_path, digits_root):
    """And the run ends as if nothing had happened, with its statistics of batch norm too, which each rank has of its
    own images."""
    whole = ("budget.seconds=null", "schedule.max_epochs=6")
    straight, _ = recorded(tmp_path / "straight", digits_root, *TWO, *whole)
    folder = tmp_path / "stopped"
    (folder / "record").mkdir(parents=True)
    process = start(folder, digits_root, *SMALL, *TWO, *whole, RECORD=str(folder / "record"))
    wait_for_steps(folder / "record", 20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 143
    code, err = finish(folder, digits_root, *SMALL, *TWO, *whole, "resume=auto", RECORD=str(folder / "record"))
    assert code == 0, err
    parts = rows(folder / "record", 0)
    assert len(parts) == 2
    assert [row["sha256"] for part in parts for row in part] == [row["sha256"] for row in straight]
    ours, theirs = weights(only_run(folder)), weights(only_run(tmp_path / "straight"))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_goes_on_by_itself_when_torchrun_starts_it_anew(tmp_path, digits_root, victim):
    whole = ("budget.seconds=null", "schedule.max_epochs=6", "checkpoint.every=1")
    straight, _ = recorded(tmp_path / "straight", digits_root, *TWO, *whole, launcher="torchrun")
    folder = tmp_path / "killed"
    (folder / "record").mkdir(parents=True)
    script = (*LAUNCHERS["torchrun"][:2], "--max-restarts=1", *LAUNCHERS["torchrun"][2:])
    # Else torch's own restart fails: its store is bound to the first rank (pytorch/pytorch issue 135712).
    (folder / "digests").mkdir()
    given = {"RECORD": str(folder / "record"), "DIGESTS": str(folder / "digests"),
             "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # fmt: skip
    process = start(folder, digits_root, *SMALL, *TWO, *whole, script=script, **given)
    ranks = wait_for_steps(folder / "record", 40)
    subprocess.run(["kill", "-9", str(ranks[victim])], check=True)
    assert process.wait(600) == 0, (folder / "err.txt").read_text()
    found = Results.read(only_run(folder))
    assert (found.resumed, found.stop_reason, found.steps) == (1, "epochs", len(straight))
    parts = rows(folder / "record", 0)
    assert len(parts) == 2
    expected = [row["sha256"] for row in straight]
    assert [row["sha256"] for row in parts[1]] == expected[-len(parts[1]) :]
    alike = [steps_alike(folder / "digests" / restarts, 2) for restarts in "01"]
    assert alike[0][0] == 0
    assert alike[0][-1] >= alike[1][0] > 0
    assert alike[1][-1] == len(straight)


def test_a_signal_to_torchrun_is_one_to_the_ranks(tmp_path, digits_root):
    """SIGUSR1 too, with the option that the documentation names."""
    (tmp_path / "record").mkdir()
    script = (*LAUNCHERS["torchrun"][:2], "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
              *LAUNCHERS["torchrun"][2:])  # fmt: skip
    run = (*SMALL, *TWO, "budget.seconds=null", "schedule.max_epochs=100", "checkpoint.every=null")
    process = start(tmp_path, digits_root, *run, script=script, RECORD=str(tmp_path / "record"))
    ranks = wait_for_steps(tmp_path / "record", 20)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(600) != 0
    assert not any(map(alive, ranks.values()))
    assert "fastconv: ended by SIGUSR1; go on with: " in (tmp_path / "err.txt").read_text()
    saved = torch.load(only_run(tmp_path) / "last.ckpt", weights_only=True)
    assert saved["callbacks"]["TimeBudget"]["steps"] >= 20


# Calls, and the ranks that make them. The first rank alone writes: the first checkpoint, the last one, the results,
# each with two calls of fsync, of the file and of its folder.
MOMENTS = {
    "reading": ("fastconv.train:check_run 1", "both"),
    "planning": ("fastconv.training.run:plan_run 1", "both"),
    "writing the stream": ("fastconv.data.stream.writer:write_shard 1", "first"),
    "waiting for the stream": ("fastconv.training.run:stream_in_use 1", "second"),
    "making the network": ("fastconv.training.fit:make_module 1", "both"),
    "the first step": ("fastconv.training.module:ImageClassifier._score_training 1", "both"),
    "writing a checkpoint": ("os:fsync 1", "first"),
    "waiting for a checkpoint": ("fastconv.training.checkpoint_file:CheckpointFile.withhold 1", "second"),
    "a later step": ("fastconv.training.module:ImageClassifier._score_training 9", "both"),
    "validating": ("fastconv.training.scored_module:ScoredModule.validation_step 1", "both"),
    "scoring": ("fastconv.training.scored_module:ScoredModule.test_step 1", "both"),
    "writing the last checkpoint": ("os:fsync 3", "first"),
    "writing the results": ("os:fsync 5", "first"),
    "after the results": ("fastconv.train:print_next_of_run 1", "both"),
}
RANKS = {"both": (0, 1), "first": (0,), "second": (1,)}


@pytest.mark.parametrize(
    ("call", "victim"),
    [pytest.param(call, victim, id=f"{name}-{victim}") for name, (call, of) in MOMENTS.items() for victim in RANKS[of]],
)
def test_a_run_ends_well_whenever_a_rank_is_killed(tmp_path, digits_root, call, victim):
    script = (*LAUNCHERS["torchrun"][:2], "--max-restarts=1", *LAUNCHERS["torchrun"][2:])
    given = {"DISTURB": f"{call} 9", "DISTURB_RANK": str(victim), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    twelve = ("figures=false", "budget.seconds=null", f"schedule.max_epochs={12 * 64 / 1438}", "validate.every=0.25",
              "checkpoint.every=null", "stream.root=streams")  # fmt: skip
    code, err = finish(tmp_path, digits_root, *SMALL, *TWO, *twelve, script=script, **given)
    assert code == 0, err
    assert "exitcode: -9" in err, "a rank was killed"
    (found,) = [found for path in tmp_path.rglob("results.json") if (found := Results.read(path.parent)).accuracy]
    assert (found.steps, found.stop_reason) == (12, "epochs")
    assert not list(tmp_path.rglob("last.ckpt*.part")), "what the killed one left half-written is gone"


def test_torchrun_and_the_config_must_agree(tmp_path, digits_root):
    code, err = finish(tmp_path, digits_root, *SMALL, "trainer=cpu", script=LAUNCHERS["torchrun"])
    assert code != 0
    assert "torchrun started 2 processes, but trainer.devices=1: make them the same" in err
