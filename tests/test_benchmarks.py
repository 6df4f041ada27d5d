"""The benchmarks' machinery, on small networks: they measure a run's own path, and tables follow from their rows."""

import dataclasses
import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import article
import article_options
import gpu
import pytest
import slow_server
import store
import torch
from bare_loop import BareLoop, measure_pairs, plan
from harness import OFFICIAL_DATA, QUICK, REPOSITORY, run_command
from lightning.pytorch.accelerators import CPUAccelerator
from measurements import Table, append, describe_device, read
from rich.console import Console

from fastconv.analysis.article.rows import Row, as_line, further
from fastconv.budget.flops import training_flops
from fastconv.config.resume import RunFolder
from fastconv.data.stream.manifest import Manifest
from fastconv.data.stream.writer import write_stream
from fastconv.training.fit import fit

SMALL = [
    "dataset=digits",
    "model.width=4",
    "batch_size=64",
    "micro_batch_size=32",
    "trainer=cpu",
    "trainer.precision=fp32",
]


@pytest.fixture
def table(tmp_path):
    return Table("speed", "Speed", "images/s", ours="ours", device="a machine", folder=tmp_path)


def test_a_table_is_made_of_its_rows(table, tmp_path, capsys):
    for number, (ours, other) in enumerate([(10, 5), (20, 5), (90, 30)]):
        assert table.lacks(number, "ours", "other")
        table.add(number, "ours", ours)
        assert table.lacks(number, "ours", "other")
        table.add(number, "other", other)
        assert not table.lacks(number, "ours", "other")
    assert table.ratio("other") == 3, "the median of 2, 4 and 3"
    table.show(note="In a test.")
    shown = (tmp_path / "speed.md").read_text()
    assert "| other | 5 | 5 | 30 | 3 | 3x |" in shown
    assert "| ours | 20 | 10 | 90 | 3 |  |" in shown
    assert capsys.readouterr().out.strip() == shown.strip()


def test_less_may_be_better(table):
    seconds = Table("seconds", "Seconds", "s", ours="ours", less_is_better=True, device="it", folder=table.folder)
    seconds.add(0, "ours", 2)
    seconds.add(0, "other", 6)
    assert seconds.ratio("other") == 3


def test_a_row_goes_under_its_column_and_begins_a_line(tmp_path):
    """Whatever the order of the columns, and also behind a line that was cut off."""
    path = tmp_path / "rows.csv"
    append(path, {"a": 1, "b": "x"}, {"a": 2, "b": "y"})
    with path.open("a") as file:
        file.write("3,")
    append(path, {"b": "z", "a": 4})
    assert path.read_text() == "a,b\n1,x\n2,y\n3,\n4,z\n"
    with pytest.raises(ValueError, match="'c'"):
        append(path, {"a": 5, "b": "w", "c": 0})
    assert path.read_text().endswith("4,z\n")


def test_rows_of_another_machine_do_not_count(table):
    table.add(0, "ours", 1)
    other = Table("speed", "Speed", "images/s", ours="ours", device="another machine", folder=table.folder)
    assert other.lacks(0, "ours")
    assert len(read(table.folder / "speed.csv")) == 1
    append(table.folder / "speed.csv", read(table.folder / "speed.csv")[0])
    assert len(read(table.folder / "speed.csv")) == 2


def test_a_stream_is_read_from_a_slow_server(tmp_path):
    """All its images, by fastconv and bare, no faster than the server's connections allow together."""
    spec, data = store.noise(11_000)  # two shards
    written = write_stream(spec, data, tmp_path, 1)
    names = sorted(Manifest.read(written, spec).shards)
    assert len(names) == 2
    with slow_server.served(tmp_path) as port:
        found = store.read(spec, port, 1), store.read_raw(spec, port, names)
    most = slow_server.BYTES_PER_SECOND * len(names) / 32**2 / 3
    assert all(0 < speed < most for speed in found)


TRIED = ("device=cpu", "limits=off", "results=results", "dataset=digits", "trainer=cpu", "trainer.precision=fp32",
         "batch_size=32", "micro_batch_size=16", "pairs=2", "group=2", "warm_up=2", "steps=3", "seeds=1")  # fmt: skip


def values(part):
    """The values of a part that gpu.py has measured, by name."""
    return {row["name"]: float(row["value"]) for row in read(Path("results", gpu.ROWS)) if row["part"] == part}


MEASURED = {
    "step": {"fastconv", "bare graph", "fastconv / bare graph"},
    "sync": {"steps without waiting"},
    "stream": {"stream=device", "stream=precomputed", "stream=device, steps called"},
}


@pytest.mark.parametrize("part", ["step", "sync", pytest.param("stream", marks=pytest.mark.slow)])
def test_a_part_for_the_gpu_runs_on_a_cpu(part, digits_here, capsys, monkeypatch):
    """Shortened. Each value is printed and has a row, and what has a row is not measured again."""
    gpu.main(part, *TRIED, "model.width=4")
    found = values(part)
    assert set(found) == MEASURED[part]
    if part == "step":
        assert found["fastconv / bare graph"] == pytest.approx(found["fastconv"] / found["bare graph"], rel=1e-4)
    if part == "sync":
        assert found["steps without waiting"] == 3
    shown = capsys.readouterr().out
    assert all(f"{part}: {name} " in shown for name in found)
    for name in ("measure_pairs", "train_with", "plan"):
        monkeypatch.setattr(gpu, name, lambda *_, **__: pytest.fail("it is there already"))
    gpu.main(part, *TRIED, "model.width=4")


def test_the_gpus_runs_are_made_on_a_cpu(digits_here, digits_root, simulated_time, monkeypatch, tmp_path):
    def train(*overrides):
        assert run_command(tmp_path, digits_root, "train", *overrides).code == 0

    monkeypatch.setattr(gpu, "train", train)
    monkeypatch.setattr(gpu, "forget_benchmarks", lambda: None)
    monkeypatch.setattr(gpu.whole, "main", lambda *given: called.append(given))
    called = []
    gpu.main("speedrun", "best", "article", *TRIED, "budgets=5", "model.widths=[4,8,8]", "schedule.max_epochs=0.2")
    assert set(values("speedrun")) == {"seconds, seed 0", "accuracy_tta, seed 0"}
    names = ("benchmark", "compile", "train", "counted", "accuracy_tta")
    assert set(values("best")) == {f"{name}, 5 s" for name in names}
    assert values("best")["counted, 5 s"] <= 5
    (given,) = called
    assert given[:2] == ("seeds=0", "epochs=25")
    assert "results=results/article" in given


def test_a_part_that_fails_or_is_late_says_so_in_a_line(capsys, monkeypatch):
    started = [sys.executable, "-S", "-c"]
    assert gpu.in_time([*started, "pass"], 60) is None
    assert gpu.in_time([*started, "print(1 / 0)"], 60) == (
        "failed with exit code 1: ZeroDivisionError: division by zero"
    )
    assert gpu.in_time([*started, "import time; time.sleep(600)"], 0.2) == "stopped after 0 s"
    asked = []
    monkeypatch.setattr(gpu, "in_time", lambda command, seconds: asked.append((command[2:], seconds)) or "failed")
    gpu.main("sync", "article", "device=cpu", "seconds=30", "model.width=4")
    assert [name for (name, *_), _ in asked] == ["sync", "article"]
    assert asked[0][0][1:] == ["device=cpu", "seconds=30", "model.width=4", "limits=off"]
    assert all(0 < seconds <= 30 for _, seconds in asked)
    assert capsys.readouterr().out.splitlines() == ["sync: failed", "article: failed"]
    del asked[:]
    gpu.main("sync", "article", "device=cpu", "seconds=400")
    (_, first), (_, last) = asked
    assert first == gpu.LIMITS["sync"]
    assert last > gpu.LIMITS["article"], "no part waits for the time that the last one does not take"
    capsys.readouterr()
    gpu.main("sync", "device=cpu", "seconds=1")
    assert capsys.readouterr().out == "sync: no time is left for it\n"
    with pytest.raises(SystemExit, match="there is no part steps"):
        gpu.main("steps", "device=cpu")


def test_a_part_ends_with_all_that_it_has_started(tmp_path, capfd):
    """A run that a part has started would else go on, on the same GPU as the next part."""
    fcntl = pytest.importorskip("fcntl", reason="process groups are of POSIX systems")
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    inner = f"""import fcntl, time
file = open({str(begun)!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("begun", file=file, flush=True)
time.sleep(600)
open({str(ended)!r}, "w")"""
    outer = f"""import pathlib, subprocess, sys, time
print("a warning", file=sys.stderr, flush=True)
subprocess.Popen([sys.executable, "-S", "-c", {inner!r}])
begun = pathlib.Path({str(begun)!r})
while not (begun.exists() and begun.read_text()):
    time.sleep(0.05)
raise SystemExit(1)"""
    assert gpu.in_time([sys.executable, "-S", "-c", outer], 600) == "failed with exit code 1: a warning"
    with begun.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # is free when the inner process is gone
    assert not ended.exists(), "it went on to its end"
    assert "a warning" in capfd.readouterr().err, "a machine that is lent is gone before anybody can look again"


def test_a_planned_run_has_the_stream_of_the_command_and_enough_of_it(digits_here, monkeypatch):
    """Steps beyond what is on disk would be timed with the augmentation of their images on the host."""
    run = plan(*SMALL, "schedule.max_epochs=1", "budget.seconds=null", "stream=auto", "stream.root=own", max_steps=60)
    assert run.config.stream.mode == "precomputed"
    assert (run.plan.max_steps, run.plan.stream_epochs) == (60, 3)  # 60 steps of 64, of 1438 images
    written = Manifest.read(run.config.stream.folder / run.spec.folder, run.spec)
    assert written.epochs == 3
    monkeypatch.setattr("fastconv.training.run.choose_stream", lambda *_: ("device", "there is room"))
    run = plan(*SMALL, "experiment=speedrun", "schedule.max_epochs=1", "micro_batch_size=32", max_steps=60)
    assert (run.config.stream.mode, run.plan.stream_epochs) == ("device", 0)


def test_a_bare_graph_is_captured_when_training_has_begun(digits_here, monkeypatch):
    """Before, Lightning frees the memory of cuBLAS, into which a graph would go on to write."""
    happened = []

    class Bare(BareLoop):
        def step(self):
            happened.append("bare step")
            super().step()

    monkeypatch.setattr(CPUAccelerator, "setup", lambda *_: happened.append("setup"))
    found = measure_pairs(["checkpoint.save=false", *SMALL], pairs=1, group=1, warm_up=1, loop=Bare)
    assert set(found) == {"fastconv", "bare loop", "graphs"}
    assert happened[:3] == ["setup", "bare step", "bare step"]


def test_the_bare_loop_learns_what_fastconv_learns(digits_here):
    """The same weights after the same steps: only then does it cost what fastconv should cost."""
    run = plan(*SMALL, "schedule=constant", "optimizer.max_lr=0.01", "schedule.max_epochs=0.5", "budget.seconds=null")
    bare = BareLoop(run)
    before = {name: value.clone() for name, value in bare.model.state_dict().items()}
    for _ in range(run.plan.max_steps):
        bare.step()
    Path("out").mkdir()
    fit(run, Console(quiet=True), RunFolder(Path("out"), run.config, resumed=False), [])
    learned = torch.load("out/last.ckpt", weights_only=True)["state_dict"]
    changed = [name for name, value in bare.model.state_dict().items() if not torch.equal(value, before[name])]
    assert len(changed) == len(before), "every weight and statistic has changed"
    for name, value in bare.model.state_dict().items():
        torch.testing.assert_close(learned[f"model.{name}"], value, rtol=1e-4, atol=1e-5)


def test_flop_of_davidnet():
    """2.27 GFLOP per 32x32 image, of which the convolutions' share can be counted by hand."""
    layers = [(3, 64, 32), (64, 128, 32), (128, 128, 16), (128, 128, 16), (128, 256, 16), (256, 512, 8)]
    layers += [(512, 512, 4), (512, 512, 4)]
    forward = sum(2 * 9 * inputs * outputs * side**2 for inputs, outputs, side in layers) + 2 * 512 * 10
    first = 2 * 9 * 3 * 64 * 32**2  # nobody needs the gradient of the image
    counted = training_flops("davidnet", {}, (32, 32, 3), 10)
    assert counted == 3 * forward - first
    assert counted == pytest.approx(2.27e9, rel=0.005)


def test_flop_of_airbench():
    """0.71 GFLOP per 32x32 image; the whitening's weight has no gradient."""
    layers = [(24, 64, 31), (64, 64, 15), (64, 256, 15), (256, 256, 7), (256, 256, 7), (256, 256, 3)]
    whitening = 2 * 4 * 3 * 24 * 31**2
    forward = sum(2 * 9 * inputs * outputs * side**2 for inputs, outputs, side in layers) + 2 * 256 * 10
    # Nor has the whitening's output but for the bias, which is summed and not counted.
    assert training_flops("airbench", {}, (32, 32, 3), 10) == 3 * forward + whitening
    assert 3 * forward == pytest.approx(0.71e9, rel=0.01)


RESEARCH = REPOSITORY / "benchmarks" / "research"


@pytest.mark.parametrize("name", sorted(path.stem for path in RESEARCH.glob("*.py")))
def test_a_study_can_be_imported(monkeypatch, name):
    monkeypatch.syspath_prepend(RESEARCH)
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", ["best", "records", "equal_work", "ensembles", "model_sizes"])
def test_a_committed_table_is_that_of_its_rows(monkeypatch, name):
    monkeypatch.syspath_prepend(RESEARCH)
    committed = REPOSITORY / "benchmarks" / "results" / f"{name}.md"
    assert importlib.import_module(name).table() == committed.read_text()


def test_the_scaling_law_is_fitted_to_committed_runs(monkeypatch):
    monkeypatch.syspath_prepend(RESEARCH)
    points = importlib.import_module("fit_scaling_law").points()
    assert {point.dataset for point in points} == {"cifar10", "fashion_mnist", "mnist"}
    committed = (REPOSITORY / "benchmarks" / "results" / "scaling_law.md").read_text()
    for point in points:
        assert f"| {point.epochs:g} | {100 * (1 - point.error):.2f} |" in committed


ARTICLE = ("datasets=digits", "seeds=0", "epochs=0.4,0.2", "heatmaps=0.4", "results=results", *SMALL[1:],
           "stream=online", "dataset.cutout_size=2", "dataset.crop_padding=1",
           "explain.method=[grad_cam,grad_cam_fine]", *(f"explain.{each}" for each in QUICK))  # fmt: skip


def test_the_article_is_run_and_gone_on_with(digits_here, tmp_path, monkeypatch):
    """Every part of both pages; a finished run is kept, one whose row is lost is read, and nothing is trained twice."""
    settings = " ".join(further(article.Options.read(ARTICLE).train))
    for augmented in (True, False):  # the shorter runs are there
        there = Row("digits", augmented, 0, 0.3, 2.0, 1.0, 0.2, 0.2, 26_268, 900.0, describe_device(), "fp32", 4,
                    settings, "abc", "epochs")  # fmt: skip
        append(tmp_path / "results" / "rows.csv", as_line(there) | {"date": "", "versions": ""})
    article.main(*ARTICLE)
    rows = read(tmp_path / "results" / "rows.csv")
    assert [(row["max_epochs"], row["augmented"]) for row in rows] == [
        ("0.2", "yes"), ("0.2", "no"), ("0.4", "yes"), ("0.4", "no"),
    ]  # fmt: skip
    assert {(row["seed"], row["width"], row["device"], row["ended_by"]) for row in rows} == {
        ("0", "4", describe_device(), "epochs")
    }
    text = (tmp_path / "results" / "article.md").read_text()
    assert re.findall("^## ([^:\n]*)", text, re.M) == [
        "Results", "The article's claims", "Accuracy against epochs", "digits", "Measures of the heatmaps",
        "How to make this page",
    ]  # fmt: skip
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", text, re.M)
    assert [Path(each).name for each in pictures] == [
        "epochs.png", "curves.png", "augmented.png", "effect-own-scale.png", "effect.png",
        "effect-grad_cam_fine-own-scale.png", "effect-grad_cam_fine.png",
    ]  # fmt: skip
    assert all((tmp_path / "results" / each).exists() for each in pictures)
    assert "| digits | grad_cam_fine | on the object |" in text
    assert (tmp_path / "results" / "article.html").read_text().count("<img") == len(pictures)
    measures = (tmp_path / "results" / "measures.csv").read_bytes()
    table = (tmp_path / "results" / "rows.csv").read_text()
    (tmp_path / "results" / "rows.csv").write_text("".join(table.splitlines(True)[:-1]))
    (curves,) = (tmp_path / "results").glob("*/digits/curves.png")
    curves.unlink()
    monkeypatch.setattr(article, "in_process", lambda *_: pytest.fail("it is there already"))
    article.main(*ARTICLE)
    assert (tmp_path / "results" / "rows.csv").read_text() == table
    assert (tmp_path / "results" / "measures.csv").read_bytes() == measures
    assert curves.exists(), "of the small files, also where the two runs are of two calls"


def rows_there(folder, *changes):
    """A table of rows of 25 epochs on this machine, which differ as given."""
    row = Row("digits", True, 0, 0.9, 0.3, 9.0, 25.0, 25.0, 26_268, 900.0, describe_device(), "fp32", 64, "", "abc",
              "epochs")  # fmt: skip
    for each in changes:
        append(folder / "rows.csv", as_line(dataclasses.replace(row, **each)))


def test_all_runs_of_a_seed_come_before_their_heatmaps(tmp_path, monkeypatch):
    done = []
    for part in ("train_pair", "explain_pair"):
        monkeypatch.setattr(article.Article, part, lambda _, *job, part=part: done.append((part[:5], *job)))
    article.main("datasets=a,b", "seeds=0,1", "epochs=25,6", f"results={tmp_path}")
    seeds = [[("train", "25", seed, "a"), ("train", "25", seed, "b"),
              ("expla", "25", seed, "a"), ("expla", "25", seed, "b")] for seed in (0, 1)]  # fmt: skip
    assert done == [*seeds[0], *seeds[1], *(("train", "6", seed, name) for seed in (0, 1) for name in "ab")]


def test_the_other_run_of_a_pair_has_its_precision(tmp_path, monkeypatch):
    rows_there(tmp_path, {})
    asked = []
    monkeypatch.setattr(article, "in_process", lambda *given: asked.append(given))
    with pytest.raises(SystemExit, match=r"^article: .*none-25-0 has no finished run of digits: see above$"):
        article.main("datasets=digits", "seeds=0", "epochs=25", f"results={tmp_path}")
    (given,) = asked
    assert {"augment=none", "trainer.precision=fp32", "resume=auto"} <= set(given)


def test_a_stopped_article_writes_its_page(tmp_path, monkeypatch, capsys):
    """Also while it trains nothing, where a signal would end the process at once."""
    rows_there(tmp_path, {})
    monkeypatch.setattr(article, "in_process", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        article.main("datasets=digits", "seeds=0", "epochs=25", f"results={tmp_path}")
    assert ended.value.code == 128 + signal.SIGTERM
    assert "article: stopped; the same command goes on" in capsys.readouterr().err
    assert "Not run yet: digits without augmentation, 25 epochs." in (tmp_path / "article.md").read_text()
    assert (tmp_path / "article.html").exists()


def test_heatmaps_that_fail_do_not_end_the_article(tmp_path, monkeypatch, capsys):
    runs = [{"augmented": way, "seed": seed, "run": f"{way} {seed}"} for way in (True, False) for seed in (0, 1)]
    rows_there(tmp_path, *runs)
    names = {"standard": True, "none": False}

    def finished(outputs, dataset):
        augment, _, seed = outputs.name.split("-")
        return outputs / dataset / f"{names[augment]} {seed}"

    monkeypatch.setattr(article, "finished_run", finished)
    asked = []

    def fail(*given):
        asked.append(given)
        raise SystemExit(1)

    monkeypatch.setattr(article, "in_process", fail)
    with pytest.raises(SystemExit) as ended:
        article.main("datasets=digits", "seeds=0,1", "epochs=25", f"results={tmp_path}")
    assert (ended.value.code, [each[0] for each in asked]) == (1, ["explain", "explain"])
    assert "digits, seed 1, 25 epochs: no heatmaps, for the reason above" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seeds=a", "seeds=a is not possible: give numbers, as seeds=0,1,2"),
        ("epochs=all", "epochs=all is not possible: give numbers, as epochs=25"),
        ("seed=1", "seed=1 is not possible: seeds sets seed of each run"),
        ("augment=none", "augment=none is not possible: this experiment sets augment of each run"),
        ("elsewhere=yes", "elsewhere=yes is not possible: give elsewhere=skip, or nothing"),
    ],
)
def test_an_argument_of_the_article_that_cannot_work_is_one_line(given, message, tmp_path):
    with pytest.raises(SystemExit) as ended:
        article.main(given, f"results={tmp_path / 'results'}")
    assert ended.value.code == f"article: {message}"
    assert not (tmp_path / "results").exists()


def test_a_machine_with_a_gpu_may_train_the_article_on_its_cpu(monkeypatch):
    monkeypatch.setattr(article_options, "describe_device", lambda: "GPU")
    monkeypatch.setattr(article_options, "describe_processor", lambda: "CPU, 2 cores")
    assert article.Options.read(()).device == "GPU"
    assert article.Options.read(("trainer=cpu",)).device == "CPU, 2 cores"
    assert article.Options.read(("trainer.accelerator=cpu",)).device == "CPU, 2 cores"


def test_the_article_comes_in_order_of_worth():
    jobs = list(article.Options.read(()).jobs())
    names = ["cifar10", "fashion_mnist", "mnist"]
    assert jobs[:9] == [("25", seed, name) for seed in range(3) for name in names]
    assert jobs[9:18] == [("2", seed, name) for seed in range(3) for name in names]
    assert jobs[18:] == [(epochs, seed, name) for epochs in ("6", "12") for seed in range(3) for name in names[:2]]


def test_make_article_is_that_program():
    command = ["make", "-n", "article", "ARGS=seeds=0"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "benchmarks/article.py seeds=0" in shown


@pytest.mark.slow
@pytest.mark.skipif(not (OFFICIAL_DATA / "cifar-10-batches-py").is_dir(), reason="needs CIFAR-10")
def test_plain_lightning_runs():
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "plain_lightning.py"), str(OFFICIAL_DATA), "1"]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(ended.stdout.split()[-1]) > 0
