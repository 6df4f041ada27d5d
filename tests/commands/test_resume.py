"""Runs that are stopped and go on: as if nothing had happened, or with one clear line where they cannot."""

import os
import signal

import pytest
import torch
from harness import RUN, STEPS, only_run, run_command, same_weights, stop_at
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastconv.config import resume
from fastconv.config.overrides import compose
from fastconv.config.run_settings import as_yaml
from fastconv.config.typed_config import typed
from fastconv.models.weights import weights_digest
from fastconv.runs.folder import hold
from fastconv.runs.results import Results
from fastconv.system import signals
from fastconv.system.errors import RunWarning
from fastconv.system.files import unwritable
from fastconv.training import checkpoint_file
from fastconv.training.module import ImageClassifier


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits_root):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_command(folder, digits_root, "train", *RUN).code == 0
    return only_run(folder)


@pytest.mark.parametrize(
    ("method", "call", "steps"),
    [
        ("training_step", 1, 1),
        ("training_step", 8, 8),  # the step comes to its end first
        ("training_step", 11, 11),  # a validation would follow
        ("validation_step", 1, 11),
        ("training_step", STEPS, STEPS),
        ("test_step", 1, STEPS),
    ],
)
def test_a_run_goes_on_as_if_nothing_had_happened(command, tmp_path, monkeypatch, undisturbed, method, call, steps):
    with monkeypatch.context() as patch:
        stop_at(patch, method, call)
        ended = command("train", *RUN)
    run = only_run(tmp_path)
    assert ended.code == 143
    advice = f"go on with: python -m fastconv.train resume={run.relative_to(tmp_path)}"
    assert ended.err == f"fastconv: ended by SIGTERM; {advice}\n"
    stopped = Results.read(run)
    assert (stopped.stop_reason, stopped.error, stopped.steps) == ("interrupt", "Interrupted: SIGTERM", steps)
    assert stopped.accuracy is None
    ended = command("train", *RUN, "resume=auto")
    assert ended.code == 0, ended.err
    assert only_run(tmp_path) == run
    assert same_weights(run, undisturbed)
    found, expected = Results.read(run), Results.read(undisturbed)
    assert (found.steps, found.accuracy, found.loss) == (expected.steps, expected.accuracy, expected.loss)
    assert (found.resumed, found.stop_reason, found.error) == (1, "epochs", None)
    assert found.overrides == expected.overrides
    for segment in ("train", "setup"):
        assert found.seconds[segment] > stopped.seconds[segment] * (steps < STEPS or segment == "setup")


def test_a_job_is_put_back_into_the_queue_only_if_it_has_got_on(command, tmp_path, monkeypatch):
    """Else one whose time is over before its first step, while it compiles, would begin again for ever."""
    asked = []
    monkeypatch.setattr("fastconv.config.failures.requeue", lambda: asked.append("requeue") or "")
    for method, requeued in (("training_step", 1), ("configure_optimizers", 1), ("training_step", 2)):
        with monkeypatch.context() as patch:
            stop_at(patch, method, 1, signal.SIGUSR1)
            assert command("train", *RUN, "resume=auto").code == 138
        assert len(asked) == requeued
    with monkeypatch.context() as patch:
        stop_at(patch, "configure_optimizers", 1, signal.SIGTERM)  # it is preempted: that may come at any time
        assert command("train", *RUN, "resume=auto").code == 143
    assert len(asked) == 3
    assert Results.read(only_run(tmp_path)).steps == 2


def test_torchrun_does_not_train_anew_what_is_finished(command, tmp_path, monkeypatch):
    """It starts all ranks anew where one fails at its end, when the first one has written the results."""
    for module in ("fastconv.config.restart", "fastconv.config.resume", "fastconv.train"):
        monkeypatch.setattr(f"{module}.agent", lambda: "host 7 1")
    assert command("train", *RUN).code == 0
    run = only_run(tmp_path)
    monkeypatch.setattr("fastconv.train.is_restarted", lambda: True)
    ended = command("train", *RUN)
    assert (ended.code, only_run(tmp_path)) == (0, run)
    assert f"{run.name} is finished" in ended.out
    monkeypatch.setattr("fastconv.config.restart.agent", lambda: "host 7 2")  # another torchrun
    assert command("train", *RUN, "dry_run=true").out.count("is finished") == 0


def test_a_run_that_is_begun_anew_says_so(command, monkeypatch):
    """As when torchrun goes on without the first machine, on whose disk the run is."""
    for module in ("fastconv.train", "fastconv.training.run"):
        monkeypatch.setattr(f"{module}.is_restarted", lambda: True)
    with pytest.warns(RunWarning, match="settings in outputs on this machine is unfinished: it begins from the start"):
        assert command("train", *RUN, "schedule.max_epochs=0.1").code == 0


def test_curves_go_on_where_they_were(command, tmp_path, monkeypatch, undisturbed):
    """Without what a process that was killed logged after its last checkpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(signals, "received", lambda: None)  # nobody asks: the signal is as good as a kill
        patch.setattr("fastconv.training.callbacks.checkpoints.signals.received", lambda: None)
        patch.setattr(ImageClassifier, "on_train_end", lambda self: (_ for _ in ()).throw(RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            command("train", *RUN)
    run = only_run(tmp_path)
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 1
    assert command("train", *RUN, "resume=auto").code == 0

    def curves(folder):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        tags = ("loss/train", "accuracy/validate", "schedule/lr")
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}

    assert curves(run) == curves(undisturbed)
    rows = [(folder / "metrics.csv").read_text().count("\n") for folder in (run, undisturbed)]
    assert rows[0] == rows[1]


def test_a_run_that_was_stopped_twice(command, tmp_path, monkeypatch, undisturbed):
    for call in (3, 4):
        with monkeypatch.context() as patch:
            stop_at(patch, "training_step", call, signal.SIGINT)
            assert command("train", *RUN, "resume=auto").code == 130
    assert command("train", *RUN, "resume=auto").code == 0
    assert same_weights(only_run(tmp_path), undisturbed)
    assert Results.read(only_run(tmp_path)).resumed == 2


def test_the_parts_of_a_run_share_one_budget(command, tmp_path, monkeypatch, simulated_time):
    run = (*RUN, "budget.seconds=2", "schedule.max_epochs=null")
    for call in (10, 15):
        with monkeypatch.context() as patch:
            stop_at(patch, "training_step", call)
            assert command("train", *run, "resume=auto").code == 143
    before = Results.read(only_run(tmp_path)).seconds_counted
    assert 0 < before < 2
    assert command("train", *run, "resume=auto").code == 0
    found = Results.read(only_run(tmp_path))
    assert before < found.seconds_counted <= 2
    assert (found.stop_reason, found.resumed) == ("budget", 2)
    assert found.final_lr <= 0.01


def test_time_that_ran_out_before_the_kill_leaves_a_last_step(command, tmp_path, monkeypatch, simulated_time):
    run = (*RUN, "budget.seconds=500", "schedule.max_epochs=null")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 5)
        assert command("train", *run).code == 143
    folder = only_run(tmp_path)
    stopped = Results.read(folder)
    stopped.seconds["train"] = 499.999
    stopped.write(folder)
    assert command("train", *run, "resume=auto").code == 0
    found = Results.read(folder)
    assert (found.stop_reason, found.steps) == ("budget", 6)
    assert found.final_lr <= 0.01
    assert found.seconds_counted < 501
    assert found.accuracy is not None


# -- which run


@pytest.fixture
def stopped(command, tmp_path, monkeypatch):
    """The folder of a run that was stopped at its third step."""
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 3)
        assert command("train", *RUN).code == 143
    return only_run(tmp_path)


def test_a_named_run_needs_no_other_words(command, stopped, undisturbed):
    ended = command("train", f"resume={stopped}")
    assert ended.code == 0, ended.err
    assert same_weights(stopped, undisturbed)
    ended = command("train", f"resume={stopped}")
    assert ended.code == 1
    assert ended.err == f"fastconv: resume={stopped} has finished: there is nothing to resume\n"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=1", "continues with its own seed=0: leave out seed=1, or start a new run"),
        ("model.width=16", "continues with its own model.width=8"),
        ("budget.seconds=5", "continues with its own budget.seconds=None"),
    ],
)
def test_a_named_run_cannot_change(command, stopped, override, says):
    ended = command("train", f"resume={stopped}", override)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err


def test_a_named_run_may_be_told_what_it_knows_and_where_things_are(command, stopped, undisturbed):
    assert command("train", f"resume={stopped}", "seed=0", "checkpoint.every=1", "model.width=8").code == 0
    assert same_weights(stopped, undisturbed)


def test_another_configuration_is_another_run(command, tmp_path, stopped):
    assert command("train", *RUN, "seed=1", "resume=auto").code == 0
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
    assert Results.read(stopped).stop_reason == "interrupt"


def test_a_run_that_another_process_has_is_left_alone(command, tmp_path, stopped):
    with hold(stopped):
        ended = command("train", f"resume={stopped}")
        assert (ended.code, ended.err.count("\n")) == (1, 1)
        assert "is running in another process" in ended.err
        assert command("train", *RUN, "resume=auto").code == 0
    assert len(list(tmp_path.rglob("config.yaml"))) == 2, "a new one"


def test_a_run_that_another_process_finishes_meanwhile_is_not_trained_again(tmp_path, monkeypatch):
    given = ["dataset=digits", f"outputs={tmp_path}", "resume=auto"]
    config = typed("train", compose("train", given), given)
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    found = resume.unfinished(config, given)
    assert found.path == tmp_path
    found.close()

    def held(folder):
        resume.results_of(config, given, stop_reason="epochs").write(folder)
        return hold(folder)

    monkeypatch.setattr(resume, "hold", held)
    assert resume.unfinished(config, given) is None
    with hold(tmp_path) as free:
        assert free is not None, "and is not held"


def test_what_is_not_a_run(command, tmp_path, stopped):
    for folder in (tmp_path, tmp_path / "nowhere"):
        ended = command("train", f"resume={folder}")
        assert ended.err == f"fastconv: resume={folder} is not the folder of a run: it has no readable config.yaml\n"
    (stopped / "config.yaml").write_text("dataset: [")
    assert "no readable config.yaml" in command("train", f"resume={stopped}").err


def test_a_damaged_checkpoint_gets_one_line(command, tmp_path, stopped):
    path = stopped / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    ended = command("train", *RUN, "resume=auto")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"{path.relative_to(tmp_path)} is damaged" in ended.err
    assert "remove it to begin this run anew" in ended.err
    path.unlink()
    assert command("train", *RUN, "resume=auto").code == 0


def test_configs_come_back_with_their_types(command, stopped):
    config = OmegaConf.load(stopped / "config.yaml")
    assert command("train", f"resume={stopped}", "--cfg", "job").code == 0
    assert config.resume is None


# -- guards


@pytest.mark.parametrize("microbatch", [9, 10])
def test_a_loss_that_is_no_number_ends_the_run(command, tmp_path, monkeypatch, microbatch):
    original, calls = ImageClassifier._score_training, 0

    def score(self, images, labels):
        nonlocal calls
        calls += 1
        loss, sums = original(self, images, labels)
        return loss * (float("nan") if calls == microbatch else 1.0), sums

    monkeypatch.setattr(ImageClassifier, "_score_training", score)
    ended = command("train", *RUN, "checkpoint.every=0.0001")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "the loss is not finite after step 5, at learning rate 0.3" in ended.err
    assert "Lower optimizer.max_lr" in ended.err
    run = only_run(tmp_path)
    assert Results.read(run).error.startswith("the loss is not finite after step 5")
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4, "the last good one"
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_weights_that_are_no_numbers_are_not_kept(command, tmp_path, monkeypatch):
    """Spoilt by the very last step: no loss would tell."""
    training_step, calls = ImageClassifier.training_step, 0

    def spoiling(self, *arguments):
        nonlocal calls
        loss = training_step(self, *arguments)
        calls += 1
        if calls == STEPS:
            next(self.parameters()).data[0] = float("inf")
        return loss

    monkeypatch.setattr(ImageClassifier, "training_step", spoiling)
    ended = command("train", *RUN)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"a weight is not finite after step {STEPS}" in ended.err
    assert torch.load(only_run(tmp_path) / "last.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.parametrize("failing", ["first", "last"])
def test_a_checkpoint_that_cannot_be_written(command, tmp_path, monkeypatch, undisturbed, failing):
    """During training that is a warning; the run whose last one is not there has failed, and can go on."""
    write, calls = checkpoint_file.write_atomically, 0

    def full(path, *arguments, **settings):
        nonlocal calls
        calls += 1
        if (calls == 1) == (failing == "first"):
            raise unwritable(path, OSError(28, "No space left on device"))
        write(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write_atomically", full)
        if failing == "first":
            with pytest.warns(UserWarning, match=r"No space left on device.*The run goes on"):
                assert command("train", *RUN).code == 0
        else:
            ended = command("train", *RUN)
            assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
            assert "last.ckpt: No space left on device. Free some space" in ended.err
            assert Results.read(only_run(tmp_path)).accuracy is None
    run = only_run(tmp_path)
    if failing == "last":
        assert command("train", f"resume={run}").code == 0
    assert not list(run.glob("*.part"))
    assert Results.read(run).weights_digest == weights_digest(torch.load(run / "last.ckpt")["state_dict"])
    assert same_weights(run, undisturbed)
    assert Results.read(run).accuracy == Results.read(undisturbed).accuracy


def test_a_second_interrupt_ends_at_once(monkeypatch):
    class EndedError(Exception):
        pass

    def end(code):
        raise EndedError(code)

    monkeypatch.setattr(os, "_exit", end)
    with signals.listening():
        signals.defer(True)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received() == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)  # told already
        with pytest.raises(EndedError, match="130"):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_outside_training_is_obeyed_at_once():
    with pytest.raises(signals.Interrupted, match="SIGUSR1") as caught, signals.listening():
        signal.raise_signal(signal.SIGUSR1)
    assert caught.value.exit_code == 128 + signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_job_that_starts_again_trains_no_finished_run_again(command, tmp_path, monkeypatch):
    """It may have been preempted while it drew figures, or while the next run of its script trained."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    first, second = ("train", *RUN, "seed=1"), ("train", *RUN, "seed=2")
    assert command(*first).code == 0
    finished = only_run(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    ended = command(*first)
    assert (ended.code, f"{finished.name} is finished" in ended.out) == (0, True), ended
    stop_at(monkeypatch, "training_step", 5)
    assert command(*second).code == 128 + signal.SIGTERM
    ended = command(*second)
    assert (ended.code, "is finished" in ended.out) == (0, False), ended
    found = [Results.read(path.parent) for path in tmp_path.rglob("results.json")]
    assert sorted((each.seed, each.resumed) for each in found) == [(1, 0), (2, 1)]
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # another job is asked for another run
    assert command(*first).code == 0
    assert len(list(tmp_path.rglob("results.json"))) == 3
