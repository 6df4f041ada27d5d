"""The command line: what can be set, and one clear line for whatever cannot work."""

import argparse
import ast
import dataclasses
import errno
import os
import subprocess
import sys
from typing import get_args

import pytest
from harness import files, run_command
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from fastconv import compare, train
from fastconv.config.commands import Method
from fastconv.config.help import described_keys, field_docs
from fastconv.config.overrides import compose, group_options, groups
from fastconv.config.store import SCHEMAS, complete, methods
from fastconv.data.stream import cache as storage
from fastconv.runs.results import Results
from fastconv.system.settings import check_settings, range_of
from fastconv.system.targets import Component

GROUPS = {group: group_options(group) for group in groups()}
OPTIONS = [f"{group}={option}" for group, options in GROUPS.items() for option in options]


# -- what can be set


def test_the_groups_and_their_options_are_found():
    """Of each group one that there must be; one that is new needs no change here."""
    expected = {
        "dataset": "cifar10",
        "model": "davidnet",
        "augment": "standard",
        "optimizer": "sgd",
        "schedule": "one_cycle",
        "average": "ema",
        "trainer": "cpu",
        "stream": "precomputed",
        "experiment": "best",
    }
    assert {group for group, option in expected.items() if option not in GROUPS[group]} == set()
    assert groups("explain") == ["method"]
    assert groups("lr_find") == groups("train")


def test_every_key_of_a_report_is_explained():
    config = compose("explain", ["run=a"])
    meanings = {key: meaning for key, _, meaning in described_keys(config) if not key.startswith("methods.")}
    assert all(meanings.values())
    for method in group_options("method"):
        assert list(methods(OmegaConf.to_object(compose("explain", ["run=a", f"method={method}"])))) == [method]


def test_help_says_once_what_the_keys_of_loggers_and_methods_mean():
    of_run = {key: meaning for key, _, meaning in described_keys(complete(compose("train", [])))}
    assert of_run["logger.csv"].startswith("Loggers of curves")
    assert not of_run["logger.tensorboard"]
    of_report = [meaning for key, _, meaning in described_keys(compose("explain", ["run=a"])) if "methods." in key]
    assert of_report[0].startswith("The attribution methods by name. ")
    for doc in field_docs(Method).values():
        used = [meaning for meaning in of_report if meaning.endswith(doc)]
        assert len(used) == (not doc.startswith("Standard deviation"))  # no option of the group sets `noise`


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_every_key_is_explained(option):
    config = complete(compose("train", [option]))
    unexplained = [key for key, _, meaning in described_keys(config) if not meaning and not key.endswith(".name")]
    assert [key for key in unexplained if not key.startswith("logger.")] == []  # whose keys are names of loggers


def schemas():
    """Every dataclass of settings: those of the commands, and those in them and in the groups of a run."""
    store = [
        node for group in ConfigStore.instance().repo.values() if isinstance(group, dict) for node in group.values()
    ]
    found = {OmegaConf.get_type(each.node) for each in store if hasattr(each, "node") and OmegaConf.is_dict(each.node)}
    pending, seen = [Method, *SCHEMAS.values(), *found], []
    while pending:
        each = pending.pop()
        if dataclasses.is_dataclass(each) and each not in seen and each.__module__.startswith("fastconv."):
            seen.append(each)
            pending += [field.type for field in dataclasses.fields(each)]
    return seen


def test_every_number_has_a_range():
    compose("train", [])
    without = [
        f"{schema.__name__}.{field.name}"
        for schema in schemas()
        for field in dataclasses.fields(schema)
        if {int, float} & {field.type, *get_args(field.type)} and range_of(field) is None
    ]
    assert without == []


def test_the_default_of_every_setting_is_possible():
    compose("train", [])
    for schema in (each for each in schemas() if not issubclass(each, Component)):
        required = [field for field in dataclasses.fields(schema) if field.default is dataclasses.MISSING]
        unset = [field for field in dataclasses.fields(schema) if field.default == MISSING]
        if not unset and all(field.default_factory is not dataclasses.MISSING for field in required):
            check_settings(schema())


def test_the_original_recipe():
    """Pad by 4 on each side, crop, flip, cut out 8x8; one cycle over 25 epochs, at most 1000 s."""
    for dataset in GROUPS["dataset"]:
        config = compose("train", [f"dataset={dataset}", "experiment=original"])
        augment = OmegaConf.to_container(config.augment, resolve=True)
        assert augment == {
            "crop": {"padding": 4, "mode": "constant"},
            "flip": {"probability": 0.5, "mode": "random"},
            "cutout": {"size": 8},
            "color_jitter": {"brightness": 0, "contrast": 0},
            "auto": "none",
            "num_ops": 2,
            "magnitude": 9,
            "extra": [],
        }
        assert (config.schedule.name, config.schedule.max_epochs, config.budget.seconds) == ("one_cycle", 25, 1000)
        assert (config.batch_size, config.optimizer.max_lr, config.model.width) == (512, 0.4, 64)


def test_micro_batch_size_is_the_models_or_a_smaller_batch():
    def micro_batch_size(*overrides):
        return compose("train", list(overrides)).micro_batch_size

    assert micro_batch_size("dataset=cifar10") == 256
    assert micro_batch_size("dataset=digits") == 128
    assert micro_batch_size("dataset=digits", "trainer=ddp") == 64
    assert micro_batch_size("dataset=cifar10", "model.micro_batch_size=64") == 64
    assert micro_batch_size("dataset=cifar10", "micro_batch_size=32") == 32


def test_digits_are_never_mirrored_by_default():
    for dataset, augment in (("digits", "standard"), ("mnist", "standard"), ("mnist", "airbench")):
        assert compose("train", [f"dataset={dataset}", f"augment={augment}"]).augment.flip.probability == 0
    assert compose("train", ["dataset=cifar10", "augment=flip"]).augment.flip.probability == 0.5


@pytest.mark.parametrize(("name", "shows"), [("train", "budget.seconds=1000.0"), ("precompute", "stream.max_gb="),
                                             ("compare", "format=table"),
                                             ("lr_find", "range_test.steps=100")])  # fmt: skip
def test_help_lists_keys_with_their_meaning(command, name, shows):
    ended = command(name, "--help")
    assert ended.code == 0
    assert shows in ended.out
    assert f"python -m fastconv.{name}" in ended.out
    assert "${" not in ended.out


@pytest.mark.parametrize(
    ("name", "sweep"), [("train", "seed=0,1,2"), ("precompute", "part=0,1,2,3"), ("predict", None), ("evaluate", None)]
)
def test_help_shows_a_sweep_that_makes_sense(command, name, sweep):
    shown = command(name, "--help").out
    line = f"Several values with -m make a sweep: -m {sweep}. If a key"
    assert line in shown if sweep else "sweep: -m" not in shown


def test_help_follows_the_overrides(command):
    assert "schedule.milestones=[0.5, 0.75]" in command("train", "--help", "schedule=step").out
    assert "unknown schedule" in command("train", "--help", "schedule=stop").err
    assert "unknown key nothing" in command("train", "--help", "nothing=1", "dataset.root=café").err


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--hydra-help"]])
def test_flags_of_hydra_work_on_python_3_14(command, monkeypatch, flags):
    """Its argparse formats the help of each flag when that is added, and one of Hydra's is no text."""
    add = argparse.ArgumentParser.add_argument

    def add_and_check(self, *given, **settings):
        action = add(self, *given, **settings)
        self._check_help(action)
        return action

    def check(self, action):
        if not isinstance(action.help, str | None):
            raise ValueError("badly formed help string")

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_and_check)
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    ended = command("train", *flags)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out
    assert argparse.ArgumentParser._check_help is check, "as it was"


def test_config_can_be_printed(command):
    ended = command("train", "--cfg", "job", "dataset=cifar10", "model.width=32")
    assert ended.code == 0
    config = OmegaConf.create(ended.out)
    assert (config.dataset.name, config.model.width) == ("cifar10", 32)


def test_a_command_leaves_the_environment_as_it_was(monkeypatch):
    """For scripts that call several commands in one process."""
    monkeypatch.setattr(sys, "argv", ["train", "dataset=nothing"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit):
        train.main()
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_works_from_any_folder_as_a_module(tmp_path):
    """A process of its own, without a traceback for a mistake."""
    command = [sys.executable, "-m", "fastconv.train", "dataset=nothing"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("fastconv: unknown dataset nothing")
    assert ended.stderr.count("\n") == 1
    assert files(tmp_path) == []


def test_help_and_errors_do_not_wait_for_torch():
    """What answers fast must not import what starts slowly."""
    for name in ("train", "precompute", "compare", "lr_find"):
        code = f"import fastconv.{name}, sys; print([m for m in ('torch', 'lightning', 'rich') if m in sys.modules])"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert ast.literal_eval(found) == []


# -- bad input

BAD = {
    # What there is not.
    "dataset=fashon_mnist": "unknown dataset fashon_mnist; did you mean fashion_mnist?",
    "dataset.name=mnits": "dataset.name=mnits is unknown; did you mean mnist?",
    "model=davidnett": "unknown model davidnett; did you mean davidnet?",
    "budget.second=5": "unknown key budget.second; did you mean budget.seconds?",
    "buget.seconds=5": "unknown key buget.seconds; did you mean budget.seconds?",
    "augment.crop.pading=1": "unknown key augment.crop.pading; did you mean augment.crop.padding?",
    "seeds=5": "unknown key seeds; did you mean seed?",
    "optimizer.bias_lr=1": "optimizer.bias_lr is a key of optimizer=muon alone",
    "experiment=orignal": "unknown experiment orignal; did you mean original?",
    "budget.counts=[train,tests]": "did you mean test?",
    "trainer.precision=fp23": "trainer.precision=fp23 is unknown; did you mean fp32?",
    "augment.crop.mode=reflekt": "did you mean reflect?",
    "schedule.anneal_strategy=cosine": "Choose from: linear, cos",
    "stream.mode=ofline": "did you mean online?",
    "validate.on=tets": "did you mean test?",
    "trainer.winograd=false": "trainer.winograd=False is unknown; did you mean off (in a file: 'off')?",
    # What is of another type.
    "budget.seconds=soon": "budget.seconds: Value 'soon' of type 'str' could not be converted to Float",
    "seed=1.5": "seed: Value '1.5' of type 'float' could not be converted to Integer",
    "dry_run=perhaps": "dry_run: Value 'perhaps' is not a valid bool",
    "budget": "cannot read the override budget",
    "budget.counts=train": "budget.counts is a list: write budget.counts=[a,b]",
    "budget=${trainer}": "budget cannot be set as a whole",
    "budget=5": "budget cannot be set as a whole: set its keys, such as budget.seconds=value",
    "dry_run=5": "dry_run: Value '5' is not a valid bool",
    "seed=???": "seed has no value",
    "seed=${nothing.there}": "Interpolation key 'nothing.there' not found",
    # What is no override, or does something else than was meant.
    "~seed": "~seed is not possible: a run needs every key",
    "++budget.second=5": "unknown key budget.second; did you mean budget.seconds?",
    "dataset=_schema": "unknown dataset _schema. Choose from: arrays, cifar10, csv, custom, digits, fashion_mnist, ",
    "dataset=[digits,mnist]": "unknown dataset [digits,mnist]; did you mean digits?",
    "hydra/launcher=basicc": "unknown hydra/launcher basicc; did you mean basic? Choose from: basic, ",
    "schedule.name=linear": "schedule.name=linear is unknown. Choose from: one_cycle",
    "seed=0,1": "seed=0,1 has several values: add -m",
    f"seed={'9' * 5000}": "cannot read the override seed=999",
    "--nonsense": "unrecognized arguments: --nonsense",
    "--config-name=compare": "this is not a config of this command",
    # What cannot be.
    "budget.seconds=0": "budget.seconds=0.0 is not possible: give a number of seconds in (0, 1e9], or null for",
    "budget.seconds=-5": "budget.seconds=-5.0 is not possible",
    "budget.seconds=0.00001": "budget.seconds=1e-05 is too short for one step",
    "budget.seconds=nan": "budget.seconds=nan is not possible",
    "budget.seconds=inf": "budget.seconds=inf is not possible",
    "budget.seconds=1e300": "budget.seconds=1e+300 is not possible",
    f"budget.seconds={'9' * 400}": "too large to convert to float",
    "budget.counts=[train,train]": "name each segment once",
    "schedule.max_epochs=inf": "schedule.max_epochs=inf is not possible",
    "validate.every=inf": "validate.every=inf is not possible",
    "seed=4294967296": "give a whole number in [0, 2**32)",
    "dataset.holdout_seed=-1": "dataset.holdout_seed=-1 is not possible",
    "dataset.holdout=0.0001": "leaves no image to hold out of some class of digits",
    "dataset.holdout=0.999": "digits has 10 images for training",
    "micro_batch_size=1": "one image has no statistics",
    "model.width=1000000000": "give a number of filters in [1, 1024]",
    "model.width=null": "model.width cannot be null",
    "schedule.pct_start=0.00001": "give a share in [0.001, 0.999]",
    "data=''": "FASTCONV_DATA is empty",
    "outputs=''": "outputs= is not possible: give a folder",
    f"data={'x' * 300}": "File name too long",
    "stream.root=/dev/null": "cannot write /dev/null: Not a directory",
    "stream.max_gb=0": "more than stream.max_gb=0",
    "batch_size=4096": "digits has 1,438 images for training. Give batch_size=1280 or fewer, or",
    "budget.counts=[validate]": "it must name train",
    "batch_size=0": "batch_size=0 is not possible",
    "batch_size=300": "multiple of micro_batch_size x trainer.devices = 256",
    "micro_batch_size=-1": "micro_batch_size=-1 is not possible",
    "label_smoothing=1": "label_smoothing=1.0 is not possible",
    "objective=balanced_acuracy": "did you mean balanced_accuracy?",
    "seed=-1": "seed=-1 is not possible",
    "dataset.holdout=1": "dataset.holdout=1.0 is not possible",
    "validate.on=holdout": "set dataset.holdout above 0 too",
    "validate.every=0": "validate.every=0.0 is not possible",
    "augment.crop.padding=9": "augment.crop.padding=9 is too much for the 8x8 images",
    "augment.crop.padding=-1": "give a number of pixels in [0, 10000]",
    "augment.cutout.size=8": "augment.cutout.size=8 covers the 8x8 images whole",
    "augment.flip.probability=2": "give a chance in [0, 1]",
    "augment.auto=randaugment": "did you mean rand_augment?",
    "augment.magnitude=31": "give a strength in [0, 30]",
    "model.width=0": "model.width=0 is not possible",
    "model.logits_scale=nan": "model.logits_scale=nan is not possible",
    "model.micro_batch_size=0": "model.micro_batch_size=0 is not possible",
    "optimizer.max_lr=0": "optimizer.max_lr=0.0 is not possible",
    "optimizer.max_lr=inf": "optimizer.max_lr=inf is not possible",
    "schedule.final_div_factor=0.01": "the last learning rate would be above the peak",
    "optimizer.momentum=0": "Nesterov needs momentum",
    "schedule.pct_start=1": "give a share in [0.001, 0.999]",
    "schedule.max_epochs=0": "schedule.max_epochs=0.0 is not possible",
    "trainer.devices=0": "trainer.devices=0 is not possible",
    "trainer.num_threads=0": "give a number of threads in [1, 1024]",
    "trainer.num_threads=many": "give a number of threads in [1, 1024], auto, or null",
    "trainer.num_threads=1.5": "trainer.num_threads: Value '1.5' is of a kind that it cannot have",
    "trainer.num_threads=100000": "give a number of threads in [1, 1024]",
    "stream.epochs=0": "stream.epochs=0 is not possible",
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_gets_one_line(command, tmp_path, override):
    ended = command("train", override)
    assert ended.code == 1
    assert BAD[override] in ended.err
    assert ended.err.startswith("fastconv: ")
    assert ended.err.count("\n") == 1, "one line, no traceback"
    assert files(tmp_path) == [], "nothing is left behind"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["budget.seconds=null", "schedule.max_epochs=null"], "the run would never end"),
        (["experiment=best", "budget.seconds=null"], "budget.seconds=null is not possible with autotune"),
        (["schedule=linear", "schedule.warmup=1"], "schedule.warmup=1.0 is not possible"),
        (["schedule=cosine", "schedule.min_lr_ratio=-1"], "schedule.min_lr_ratio=-1.0 is not possible"),
        (["schedule=step", "schedule.milestones=[0.5,2]"], "give shares in (0, 1)"),
        (["schedule.three_phase=true", "schedule.pct_start=0.6"], "three phases need it below 0.5"),
        (["augment.crop.mode=reflect", "augment.crop.padding=8"], "too much for the 8x8 images"),
        (["tta.shift=8"], "tta.shift=8 is too much for the 8x8 images"),
        (
            ["model=airbench", "model.whitening_stride=8"],
            "model.whitening_stride=8 needs patches of 10x10 pixels, more than the 8x8 images have",
        ),
        (["augment.flip.mode=alternating", "augment.flip.probability=0.3"], "give 0.5, or 0 for no flips"),
        (["trainer=gpu", "model.width=4"], "torch finds no GPU here"),
        (["trainer.compile=true", "model.width=4"], "it needs a C++ compiler"),
        (["schedule=step", "schedule.milestones=[{a:1}]"], "give shares in (0, 1)"),
        (["batch_size=1200", "micro_batch_size=2", "trainer.devices=600"], "trainer.devices=600 is not possible"),
        (["+budget.seconds=4"], "budget.seconds exists already: write it without the +"),
        (["-m", "model.width=4,-1"], "job 1: model.width=-1 is not possible"),
        (["-m", "seed=range(0,0)", "figures=true"], "the sweep seed=range(0,0) figures=true has no values"),
        (["a b"], "cannot read the override a b"),
        (["-m", "outputs=/proc/nowhere", "seed=0,1"], "cannot write /proc/nowhere"),
    ],
    ids=str,
)
def test_bad_combinations_get_one_line(command, tmp_path, monkeypatch, overrides, says):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    ended = command("train", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "# @package _global_\nvalidate: {on: none}",
            "validate.True: YAML reads on without quotes as true: write 'on'",
        ),
        ("# @package _global_\ntrainer: {winograd: off}", "did you mean off (in a file: 'off')?"),
        ("batch_size: 256", "the file of an experiment begins with the line # @package _global_"),
    ],
)
def test_a_slip_in_a_file_of_ones_own_gets_one_line(command, tmp_path, text, says):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    ended = command("train", "--config-dir", str(tmp_path), "experiment=mine")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err


def test_each_failing_job_of_a_sweep_gets_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ended = command("train", "-m", "trainer=gpu", "seed=0,1")
    lines = ended.err.splitlines()
    assert ended.code == 1
    for job in (0, 1):
        assert lines[job].startswith(f"fastconv: job {job}: trainer.accelerator=gpu is not possible")
    assert len(lines) == 2
    reasons = [Results.read(path.parent).error for path in tmp_path.rglob("results.json")]
    assert len(reasons) == 2
    assert all(reason.startswith("trainer.accelerator=gpu is not possible") for reason in reasons)


def test_a_network_that_needs_more_memory_than_there_is(command, tmp_path, monkeypatch):
    monkeypatch.setattr("fastconv.budget.hardware.Device.free_memory", lambda _: 10**8)
    ended = command("train", "micro_batch_size=256", "batch_size=256", "model.width=128", f"stream.root={tmp_path}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "GB of memory at least, 0.1 GB are free" in ended.err
    assert files(tmp_path) == []


def test_an_override_may_name_another_key(command, tmp_path):
    overrides = ["micro_batch_size=${batch_size}", "model.width=4", "stream=online", "budget.seconds=null"]
    assert command("train", *overrides, "schedule.max_epochs=0.1").code == 0
    (results,) = tmp_path.rglob("results.json")
    assert Results.read(results.parent).overrides[0] == "micro_batch_size=${batch_size}"


def test_an_unwritable_output_folder_is_found_out_before_anything_long(command, tmp_path):
    (tmp_path / "outputs").write_text("a file")
    ended = command("train", "dataset=digits", "model.width=4", "stream.root=streams")
    assert ended.code == 1
    assert ended.err == "fastconv: cannot write outputs: Not a directory. Choose another folder\n"
    assert files(tmp_path) == ["outputs"]


def test_a_folder_that_is_gone_gets_one_line(monkeypatch, capsys):
    def gone():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(os, "getcwd", gone)
    monkeypatch.setattr(sys, "argv", ["compare"])
    with pytest.raises(SystemExit):
        compare.main()
    assert capsys.readouterr().err == (
        "fastconv: the folder that the command was started in is gone: change to one that is there\n"
    )


def test_too_little_disk_for_the_stream(command, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 0}))
    ended = command("train", "dataset=digits", "model.width=4", "stream.root=streams", "schedule.max_epochs=2")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "the stream of digits needs" in ended.err
    assert not list(tmp_path.rglob("*.tar"))
    assert not list(tmp_path.rglob("results.json"))


def test_missing_data_without_a_network(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    (tmp_path / "data").mkdir()
    ended = run_command(tmp_path, tmp_path / "data", "train", "dataset=cifar10")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "is missing and CIFAR10 could not be downloaded" in ended.err
    assert files(tmp_path / "data") == []


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_a_debugger_sees_tracebacks(monkeypatch, tmp_path, value, shown):
    """HYDRA_FULL_ERROR=1 hides nothing; another value means nothing, as for Hydra."""
    command = [sys.executable, "-m", "fastconv.train", "dataset=nothing"]
    monkeypatch.setenv("HYDRA_FULL_ERROR", value)
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ("Traceback" in ended.stderr) == shown


def test_a_sweep_in_a_folder_that_no_config_could_name_is_refused(command, tmp_path):
    ended = command("train", "-m", "seed=0,1", "hydra.sweep.dir=a/\\${x}", "dry_run=true")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "hydra.sweep.dir=a/${x} is not possible" in ended.err
    assert files(tmp_path) == []


def test_libraries_of_object_stores_do_not_greet():
    """They log at level INFO that they were imported and found credentials, once for each process."""
    names = ("gcsfs", "botocore.credentials", "aiobotocore.credentials")
    code = (
        "import logging; from hydra.core.utils import configure_log;"
        "from fastconv.config.overrides import compose;"
        "configure_log(compose('train', [], with_hydra=True).hydra.job_logging, False);"
        f"[logging.getLogger(name).info('hello from ' + name) for name in {names}];"
        "logging.getLogger('gcsfs').warning('a warning'); logging.getLogger('mypkg').info('the user')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert [line.rpartition("] ")[2] for line in ended.stdout.splitlines()] == ["a warning", "the user"]
