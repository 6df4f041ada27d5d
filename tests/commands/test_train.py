"""Whole runs on real digits: what they leave behind, and that it is true."""

import csv
import json
import multiprocessing
import subprocess

import numpy as np
import pytest
import torch
from harness import SHORT, SMALL, only_run, run_command, same_weights, weights
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastconv.config.overrides import compose
from fastconv.data.loading import load
from fastconv.data.splits import stratified_split
from fastconv.data.stream.spec import OnlineStream, stream_spec
from fastconv.models import build_model
from fastconv.runs import results
from fastconv.runs.folder import new_run_folder
from fastconv.system.errors import InputError
from fastconv.training.module import ImageClassifier

# What others may rely on to be in `results.json` and in its `seconds`.
KEYS = """
    dataset model experiment seed stream_seed accuracy accuracy_tta test_skipped tta_skipped tta_views accuracy_holdout
    accuracy_holdout_tta loss balanced_accuracy macro_f1 kappa epochs steps batch_size micro_batch_size budget_seconds
    budget_counts seconds_counted seconds petaflop images_per_second dataloader_wait_fraction parameters peak_memory_mb
    stop_reason error expected_epochs expected_seconds resumed final_lr device precision versions git_commit
    overrides hparams
"""
SEGMENTS = "setup benchmark precompute compile train validate checkpoint test"


@pytest.fixture(scope="module")
def trained(davidnet_run):
    """(run folder, results, what was printed) of a run that its budget ends."""
    return davidnet_run, json.loads((davidnet_run / "results.json").read_text()), (davidnet_run / "out.txt").read_text()


def test_a_budget_ends_the_run_with_the_schedule(trained):
    _, found, _ = trained
    assert found["stop_reason"] == "budget"
    assert found["steps"] >= 150
    assert found["final_lr"] <= 0.01
    assert 4.8 <= found["seconds_counted"] <= 5
    assert found["seconds_counted"] == pytest.approx(found["seconds"]["train"] + found["seconds"]["validate"])


def test_something_is_said_at_once_and_the_result_before_any_figure(trained):
    _, _, printed = trained
    first, *others = printed.splitlines()
    assert first == "fastconv: reading the settings and the images"
    assert [line for line in others if line.startswith(("plan", "result", "figures in "))][-1].startswith("figures in ")
    assert printed.index("\nplan") < printed.index("\nresult") < printed.index("\nfigures in ")


def test_the_plan_is_announced_before_the_benchmark(command, monkeypatch):
    def refuse(*_):
        raise InputError("no benchmark today")

    monkeypatch.setattr("fastconv.training.run.plan_run", refuse)
    ended = command("train", *SHORT, "dry_run=true")
    assert ended.code == 1
    assert ended.out.splitlines()[-1].startswith("planning the run, with a benchmark")


def test_best_counts_everything():
    """From the start of the process to the written result, though plain runs count what the article does."""
    best, plain = (compose("train", overrides).budget.counts for overrides in (["experiment=best"], []))
    assert sorted(best) == sorted(SEGMENTS.split())
    assert sorted(plain) == ["train", "validate"]


def test_it_learns(trained):
    assert trained[1]["accuracy"] >= 0.9


def test_accuracy_and_loss_are_the_checkpoints(trained, digits_root):
    """The network, rebuilt from `last.ckpt` alone and asked with plain torch, scores what the results say."""
    run, found, _ = trained
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    network, state = checkpoint["network"], checkpoint["state_dict"]
    height, width, channels = network["shape"]
    model = build_model(network["model"], channels, len(network["classes"]), **network["settings"])
    model.load_state_dict({name.removeprefix("model."): value for name, value in state.items() if name[:6] == "model."})
    _, test = load("digits", digits_root)
    images = (torch.from_numpy(np.array(test.images)) / 255 - torch.tensor(network["mean"])) / torch.tensor(
        network["std"]
    )
    with torch.no_grad():
        logits = model.eval()(images.permute(0, 3, 1, 2).contiguous())
    labels = torch.from_numpy(np.array(test.labels))
    assert (height, width) == (8, 8)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-6)
    assert found["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-3)


def test_results_say_what_happened(trained):
    run, found, _ = trained
    assert set(KEYS.split()) <= set(found)
    assert found["epochs"] == pytest.approx(found["steps"] * 64 / 1438, abs=1e-6)
    assert found["images_per_second"] == pytest.approx(found["steps"] * 64 / found["seconds"]["train"])
    assert found["dataloader_wait_fraction"] > 0
    assert found["parameters"] == sum(p.numel() for p in build_model("davidnet", 1, 10, width=8).parameters())
    assert set(SEGMENTS.split()) <= set(found["seconds"])
    assert {"torch", "python", "numpy"} <= set(found["versions"])
    assert "model.width=8" in found["overrides"]
    assert found["error"] is None
    assert results.Results.read(run).steps == found["steps"]


def test_a_run_leaves_what_a_person_would_open(trained):
    run, _, out = trained
    names = {path.name for path in run.iterdir()}
    files = """augmented.png config.yaml confusion.png curves.png heatmaps.png last.ckpt metrics.csv results.json
        schedule.png"""
    assert set(files.split()) <= names
    assert sum(name.startswith("events.out.tfevents") for name in names) == 1
    assert str(run.name) in out
    for shown in ("images/s (benchmark)", "s left", "lr ", "of the test images", "tensorboard --logdir"):
        assert shown in out


def test_curves_are_logged(trained):
    run, found, _ = trained
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    wanted = """loss/train accuracy/train time/epoch loss/validate accuracy/validate schedule/lr schedule/momentum
        schedule/progress speed/images_per_second speed/dataloader_wait_fraction time/budget_used
        time/seconds_counted"""
    assert set(wanted.split()) <= set(tags["scalars"])
    assert events.Scalars("schedule/lr")[-1].step == found["steps"]
    assert events.Scalars("schedule/lr")[-1].value == pytest.approx(0.4 * found["final_lr"])
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    learned = [row for row in rows if row["train/loss"]]
    assert float(learned[-1]["schedule/progress"]) == 1
    assert float(learned[-1]["train/loss"]) < float(learned[0]["train/loss"])
    progress = [float(row["schedule/progress"]) for row in learned]
    assert progress == sorted(progress)
    validated = [float(row["train/epoch"]) for row in rows if row["validate/accuracy"]]
    assert len(validated) > 1
    assert validated[0] == pytest.approx(3, abs=0.05)


def test_the_config_is_kept_as_it_was_resolved(trained):
    run, _, _ = trained
    text = (run / "config.yaml").read_text()
    assert "${" not in text
    assert "width: 8" in text


# -- the same run twice


def test_runs_without_a_time_limit_are_reproducible(command, tmp_path):
    """Same weights from shards, online, and from shards that are already there; others from another seed of the
    network, or of the stream."""
    settings = {
        "shards": ["stream=precomputed"],
        "again": ["stream=precomputed", "validate.on=none"],
        "online": ["stream=online"],
        "other weights": ["stream=online", "seed=1", "stream.seed=0"],
        "other images": ["stream=online", "stream.seed=1"],
    }
    runs = {}
    for name, overrides in settings.items():
        ended = command("train", "dataset=digits", *SHORT, f"outputs='{name}'", *overrides)
        assert ended.code == 0, ended.err
        runs[name] = only_run(tmp_path / name)
    assert same_weights(runs["shards"], runs["again"], runs["online"])
    assert not same_weights(runs["shards"], runs["other weights"])
    assert not same_weights(runs["shards"], runs["other images"])


def test_epochs_end_a_run_that_has_time_left(command, tmp_path):
    command("train", "dataset=digits", *SMALL, "budget.seconds=500", "schedule.max_epochs=0.3", "checkpoint.save=false")
    run = only_run(tmp_path / "outputs")
    found = results.Results.read(run)
    assert (found.stop_reason, found.steps) == ("epochs", round(0.3 * 1438 / 64))
    assert found.final_lr == pytest.approx(1 / 25 / 1e4, rel=1e-3)
    assert not (run / "last.ckpt").exists()


def test_each_split_has_its_own_use(command, monkeypatch, digits_root):
    """By the pixels that the module is given: it learns from neither held-out nor test images, validations score some
    held-out ones, and at the end all of these and all test images are scored once."""
    seen = {}

    def note(name):
        method = getattr(ImageClassifier, name)

        def step(self, batch, *given):
            images = batch[0].flatten(0, -4).numpy()
            seen.setdefault((name, self.trainer.state.fn), []).extend(map(bytes, images))
            return method(self, batch, *given)

        monkeypatch.setattr(ImageClassifier, name, step)

    for name in ("training_step", "validation_step", "test_step"):
        note(name)
    given = ("augment=none", "stream=online", "dataset.holdout=0.25", "validate.on=holdout", "validate.samples=50",
             "validate.every=0.2")  # fmt: skip
    ended = command("train", "dataset=digits", *SHORT, *given)
    assert ended.code == 0, ended.err
    train, test = load("digits", digits_root)
    kept, held = (train.take(rows).images for rows in stratified_split(train, 0.25, 0))
    learned = seen.pop(("training_step", "fit"))
    assert len(learned) == len(set(learned)) == 8 * 64
    assert set(learned) <= set(map(bytes, kept))
    assert not set(learned) & set(map(bytes, (*held, *test.images)))
    some = [*map(bytes, held[np.linspace(0, len(held), 50, endpoint=False).astype(int)])]
    assert seen.pop(("validation_step", "fit")) == 2 * some
    assert sorted(seen.pop(("validation_step", "validate"))) == sorted(map(bytes, held))
    assert sorted(seen.pop(("test_step", "test"))) == sorted(map(bytes, test.images))
    assert seen == {}


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("one_cycle", lambda at: np.interp(at, [0, 0.2, 1], [1 / 25, 1, 1 / 25e4])),
        ("constant", lambda at: 1.0),
        ("cosine", lambda at: (1 + np.cos(np.pi * at)) / 2),
        ("linear", lambda at: 1 - at),
        ("step", lambda at: 0.1 ** ((at >= 0.5) + (at >= 0.75))),
    ],
)
def test_the_learning_rate_of_each_step_is_the_schedules(command, tmp_path, schedule, factor):
    given = (f"schedule={schedule}", "schedule.max_epochs=0.5", "stream=online", "validate.on=none")
    ended = command("train", "dataset=digits", *SHORT, *given)
    assert ended.code == 0, ended.err
    with (only_run(tmp_path / "outputs") / "metrics.csv").open() as file:
        rates = [float(row["schedule/lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.4 * factor(step / 11) for step in range(1, 12)], rel=1e-3, abs=1e-6)


def test_bf16_trains_anywhere(command, tmp_path, monkeypatch):
    """The network computes in it, in training and when it is scored; the weights stay in float32."""
    computed, start = set(), ImageClassifier.on_train_start

    def begin(self):
        self.model.register_forward_hook(lambda model, given, out: computed.add((model.training, out.dtype)))
        start(self)

    monkeypatch.setattr(ImageClassifier, "on_train_start", begin)
    overrides = (*SHORT, "trainer.precision=bf16", "schedule.max_epochs=0.1", "stream=online", "trainer.num_threads=1")
    threads = torch.get_num_threads()
    ended = command("train", "dataset=digits", *overrides)
    torch.set_num_threads(threads)
    assert ended.code == 0, ended.err
    assert computed == {(True, torch.bfloat16), (False, torch.bfloat16)}
    run = only_run(tmp_path / "outputs")
    assert results.Results.read(run).precision == "bf16"
    assert {value.dtype for value in weights(run).values() if value.is_floating_point()} == {torch.float32}


def test_dry_run_writes_nothing(command, tmp_path):
    ended = command("train", "dataset=digits", *SMALL, "dry_run=true", "schedule.max_epochs=3")
    assert ended.code == 0
    assert "at most 3 epochs" in ended.out
    assert list(tmp_path.iterdir()) == []


# -- the fast path


@pytest.mark.parametrize(("channels_last", "atol"), [("false", 1e-4), ("true", 0.03)])
def test_losses_are_those_of_a_plain_loop(command, tmp_path, digits_root, channels_last, atol):
    """20 steps in fp32: contiguous memory, per-image normalisation, torch's own optimizer without fusion, no Lightning.
    With so much label smoothing and weight decay that the losses tell.

    Microbatches of the same size, since batch norm takes its statistics over them. Processors round otherwise, some in
    channels_last only, which sooner or later decides between pixels of the digits' even background in the max-pools.
    """
    settings = ("model.width=16", "batch_size=64", "micro_batch_size=32", "trainer=cpu", "trainer.precision=fp32",
                f"trainer.channels_last={channels_last}")  # fmt: skip
    run_it = (*settings, "schedule=constant", "optimizer.max_lr=0.05", "optimizer.weight_decay=0.05",
              "label_smoothing=0.1", "budget.seconds=null", "validate.on=none")  # fmt: skip
    ended = command("train", "dataset=digits", *run_it, f"schedule.max_epochs={20 * 64 / 1438}")
    assert ended.code == 0, ended.err
    with (only_run(tmp_path / "outputs") / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]

    config = OmegaConf.to_object(compose("train", ["dataset=digits", *run_it]))
    train, _ = load("digits", digits_root)
    stream = OnlineStream(stream_spec(train, config.augment, config.stream.seed), train)
    mean, std = torch.tensor(stream.spec.mean).view(-1, 1, 1), torch.tensor(stream.spec.std).view(-1, 1, 1)
    torch.manual_seed(0)
    model = build_model("davidnet", 1, 10, width=16)
    decay = [{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05}]
    no_decay = [{"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(decay + no_decay, lr=0.05, momentum=0.9, nesterov=True, foreach=False)
    expected = []
    for step in range(20):
        optimizer.zero_grad()
        parts = []
        for start in (64 * step, 64 * step + 32):
            images, labels = map(torch.from_numpy, stream.rows(start, start + 32))
            normalised = (images.permute(0, 3, 1, 2).contiguous() / 255 - mean) / std
            loss = torch.nn.functional.cross_entropy(model(normalised), labels, label_smoothing=0.1)
            (loss / 2).backward()
            parts.append(loss.item())
        optimizer.step()
        expected.append(sum(parts) / 2)
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses[:8], expected[:8], atol=atol)
    np.testing.assert_allclose(losses, expected, atol=0.03)


def test_compiled_training_is_the_same_training(command, tmp_path, monkeypatch):
    """With a segment of the clock of its own. The compiler here leaves the code as it is; a slow test has torch's."""
    compile_eagerly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda work, **_: compile_eagerly(work, backend="eager"))
    for name, value in (("compiled", "true"), ("plain", "false")):
        ended = command("train", "dataset=digits", *SHORT, f"trainer.compile={value}", f"outputs={name}")
        assert ended.code == 0, ended.err
        assert (", compiled" in ended.out) == (name == "compiled")
    compiled, plain = only_run(tmp_path / "compiled"), only_run(tmp_path / "plain")
    assert same_weights(compiled, plain)
    assert results.Results.read(compiled).seconds["compile"] > 0
    assert results.Results.read(plain).seconds["compile"] == 0


@pytest.mark.slow
def test_torchs_compiler_on_a_cpu(command, tmp_path):
    losses = []
    for name, value in (("compiled", "true"), ("plain", "false")):
        ended = command("train", "dataset=digits", *SHORT, f"trainer.compile={value}", f"outputs={name}")
        assert ended.code == 0, ended.err
        losses.append(results.Results.read(only_run(tmp_path / name)).loss)
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.slow
def test_bf16_learns_as_well_as_fp32(command, tmp_path):
    """Mean accuracy on digits over five seeds, within half a point."""
    settings = ("model.width=16", "batch_size=64", "micro_batch_size=64", "trainer=cpu", "budget.seconds=null")
    means = []
    for precision in ("bf16", "fp32"):
        ended = command("train", "-m", "dataset=digits", *settings, "schedule.max_epochs=12", "seed=0,1,2,3,4",
                        f"trainer.precision={precision}", f"outputs={precision}", "validate.on=none")  # fmt: skip
        assert ended.code == 0, ended.err
        found = [results.Results.read(path.parent) for path in (tmp_path / precision).rglob("results.json")]
        assert {(each.seed, each.precision) for each in found} == {(seed, precision) for seed in range(5)}
        means.append(np.mean([each.accuracy for each in found]))
    assert min(means) > 0.95
    assert abs(means[0] - means[1]) <= 0.005


# -- failures


def raising(error: BaseException):
    def training_step(self, batch, batch_idx):
        raise error

    return training_step


def test_a_failed_run_says_why(command, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "training_step", raising(RuntimeError("out of\nluck")))
    with pytest.raises(RuntimeError):
        command("train", "dataset=digits", *SHORT, "stream=online")
    run = only_run(tmp_path / "outputs")
    found = results.Results.read(run)
    assert (found.stop_reason, found.error, found.accuracy) == ("error", "RuntimeError: out of luck", None)
    assert not (run / "last.ckpt").exists()


def test_a_damaged_stream_names_its_repair_which_works(tmp_path, digits_root):
    overrides = ["dataset=digits", *SHORT, f"stream.root={tmp_path}/streams"]
    assert run_command(tmp_path, digits_root, "precompute", *overrides).code == 0
    (shard,) = (tmp_path / "streams").rglob("*.tar")
    right = shard.read_bytes()
    shard.write_bytes(right[:-1000])
    ended = run_command(tmp_path, digits_root, "train", *overrides)
    assert ended.code == 1
    repair = ended.err.split("Repair it with: ")[1].split()
    assert repair[:3] == ["python", "-m", "fastconv.precompute"]
    assert "verify=true" in repair
    mended = run_command(tmp_path, digits_root, "precompute", *repair[3:])
    assert "mended" in mended.out
    assert shard.read_bytes() == right
    assert "every shard is right" in run_command(tmp_path, digits_root, "precompute", *repair[3:]).out
    assert run_command(tmp_path, digits_root, "train", *overrides).code == 0


def test_precompute_then_train_then_prune(tmp_path, digits_root):
    overrides = ["dataset=digits", *SHORT, f"stream.root={tmp_path}/streams"]
    ended = run_command(tmp_path, digits_root, "precompute", *overrides, "stream.epochs=3")
    assert "3 epochs of 1,438 images" in ended.out

    def shards():
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "streams").rglob("*.tar")}

    before = shards()
    assert run_command(tmp_path, digits_root, "train", *overrides).code == 0
    assert shards() == before, "it reads them, and writes none"
    ended = run_command(tmp_path, digits_root, "precompute", *overrides, "prune=true", "stream.max_gb=0")
    assert "removed 1 stream," in ended.out
    assert not list((tmp_path / "streams").rglob("*.tar"))


def test_old_streams_make_room_for_new_ones(tmp_path, digits_root):
    overrides = ["dataset=digits", *SHORT, f"stream.root={tmp_path}/streams", "stream.max_gb=0.00015"]
    for seed in (0, 1):
        ended = run_command(tmp_path, digits_root, "precompute", *overrides, f"seed={seed}")
        assert ended.code == 0, ended.err
    assert "removed the old stream" in ended.out
    assert len(list((tmp_path / "streams").glob("digits-*"))) == 1
    ended = run_command(tmp_path, digits_root, "precompute", *overrides, "stream.epochs=9")
    assert ended.code == 1
    assert "more than stream.max_gb" in ended.err


# -- run folders


def test_runs_of_the_same_second_get_different_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda pattern: "2026-01-01_00-00-00")
    folders = {new_run_folder(tmp_path) for _ in range(50)}
    assert len(folders) == 50
    assert all(folder.is_dir() for folder in folders)


def run_at_once(folder, data, barrier):
    barrier.wait()
    run_command(
        folder, data, "train", "dataset=digits", *SHORT, "schedule.max_epochs=0.1", f"stream.root={folder}/streams"
    )


@pytest.mark.slow
def test_two_runs_at_once_share_a_stream_and_nothing_else(tmp_path, digits_root):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    other = context.Process(target=run_at_once, args=(tmp_path, digits_root, barrier))
    other.start()
    run_at_once(tmp_path, digits_root, barrier)
    other.join(600)
    found = list((tmp_path / "outputs" / "digits").glob("*/results.json"))
    assert len(found) == 2
    assert len(list((tmp_path / "streams").glob("digits-*"))) == 1
    assert same_weights(*(path.parent for path in found))


def test_commit_of_the_code(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "PACKAGE", tmp_path / "fastconv")
    for folder in ("fastconv", "conf"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    assert results.git_commit() is None, "outside a repository"

    def git(*command):
        settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
        git = ["git", "-C", str(tmp_path), *settings, *command]
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert results.git_commit() is None, "in somebody else's repository"
    git("add", ".")
    git("commit", "-m", "one")
    (tmp_path / "notes").touch()
    assert results.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "conf" / "__init__.py").write_text("changed")
    assert results.git_commit() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert results.git_commit() is None, "without git"
