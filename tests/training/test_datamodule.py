"""The data of whole runs: `stream=device`, here on a CPU, trains the network that other streams train."""

import pytest
from harness import RUN, SHORT, only_run, run_command, same_weights, stop_at

from fastconv.budget.hardware import Device
from fastconv.runs.results import Results

DEVICE = (*(each for each in RUN if not each.startswith("stream=")), "stream=device")


@pytest.fixture(scope="module")
def online_run(tmp_path_factory, digits_root):
    folder = tmp_path_factory.mktemp("online")
    assert run_command(folder, digits_root, "train", *RUN, "augment.color_jitter.contrast=0.2").code == 0
    return only_run(folder)


def test_a_run_is_the_same_and_resumes_in_the_middle_of_an_epoch(command, tmp_path, monkeypatch, online_run):
    given = (*DEVICE, "augment.color_jitter.contrast=0.2", "stream.root=streams")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 16)
        assert command("train", *given).code == 143
    ended = command("train", *given, "resume=auto")
    assert ended.code == 0, ended.err
    run = only_run(tmp_path)
    assert same_weights(run, online_run)
    assert "augmented while training on the CPU, which holds the images (0.1 MB)" in ended.out
    found = Results.read(run)
    assert (found.hparams["stream.mode"], found.resumed) == ("device", 1)
    assert found.seconds["precompute"] > 0, "the copy of the images"
    assert 0 < found.dataloader_wait_fraction < 1
    assert found.accuracy == Results.read(online_run).accuracy
    assert not (tmp_path / "streams").exists()


def test_a_run_with_a_budget_that_counts_everything_ends(command, tmp_path, simulated_time):
    ended = command(
        "train", "dataset=digits", *SHORT, "stream=device", "budget.seconds=1", "schedule.max_epochs=null",
        "budget.counts=[setup,benchmark,precompute,compile,train,validate,checkpoint,test]", "validate.on=none",
        "checkpoint.save=false",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = Results.read(only_run(tmp_path))
    assert (found.stop_reason, found.hparams["stream.mode"]) == ("budget", "device")
    assert found.epochs > 0.1


@pytest.mark.parametrize(
    "policy", ["augment.auto=rand_augment", "augment.extra=[{_target_: owncode.Invert}]"], ids=["auto", "own"]
)
def test_a_policy_that_needs_the_host_is_refused(command, tmp_path, monkeypatch, policy):
    (tmp_path / "owncode.py").write_text("class Invert:\n    draw = apply = lambda *_: None\n")
    monkeypatch.syspath_prepend(tmp_path)
    ended = command("train", "dataset=digits", *SHORT, "stream=device", policy)
    name = "owncode.Invert" if "owncode" in policy else policy
    assert (ended.code, ended.err) == (
        1,
        f"fastconv: stream=device is not possible: {name} can only be computed on the host. Use stream=precomputed\n",
    )


def test_images_that_do_not_fit_are_refused(command, tmp_path, monkeypatch):
    monkeypatch.setattr(Device, "free_memory", lambda self: 50_000)
    ended = command("train", "dataset=digits", *SHORT, "stream=device")
    assert (ended.code, ended.err) == (
        1,
        "fastconv: stream=device is not possible: the training images of digits need 9.2e-05 GB of the device's memory,"
        " and 5e-05 GB are free. Use stream=precomputed\n",
    )
    assert not (tmp_path / "outputs").exists()


def test_there_is_nothing_to_precompute(command):
    ended = command("precompute", "dataset=digits", "stream=device")
    assert ended.err == "fastconv: stream=device is computed while training: there is nothing to write\n"
