"""Every bad override gets one clear line: hundreds of them, made from the schema.

What is bad is judged here, by the type of a key and the few lists below, and not asked of `check`. A key that is new is
covered without a change: text for a number, a share of minus one or a size that is not finite are bad wherever they
stand.
"""

import itertools
import os
import random
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from harness import run_command
from omegaconf import DictConfig, OmegaConf

from fastconv.config.overrides import compose, group_options, groups

pytestmark = pytest.mark.slow

GROUPS = {group: group_options(group) for group in groups()}

# A case takes half a second: of the bad values of a key so many are drawn, and all cases are tried in so many parts.
VALUES_PER_KEY = 7
PARTS = 12
TIMED = 20

# -- the judgement: what may be zero, what may be huge, and which words a key takes

ZERO_IS_FINE = {
    "seed", "stream.seed", "data_pruning", "dataset.holdout", "dataset.holdout_seed", "dataset.split_seed",
    "dataset.flip", "dataset.crop_padding", "dataset.cutout_size",
    "augment.crop.padding", "augment.flip.probability", "augment.cutout.size", "label_smoothing",
    "augment.color_jitter.brightness", "augment.color_jitter.contrast", "augment.magnitude", "optimizer.weight_decay",
    "optimizer.beta2", "optimizer.sgd_momentum", "average.decay", "tta.shift", "schedule.base_momentum",
    "schedule.warmup", "schedule.min_lr_ratio",
}  # fmt: skip
SEEDS = {"stream.seed", "dataset.holdout_seed", "dataset.split_seed"}  # 10**12 is as good as any
WORDS = {
    "dataset.name": "fashion_mnist", "model.name": "davidnet", "optimizer.name": "sgd", "schedule.name": "one_cycle",
    "stream.mode": "precomputed", "validate.on": "holdout", "trainer.accelerator": "cpu", "trainer.strategy": "ddp",
    "objective": "macro_f1", "trainer.precision": "bf16", "trainer.winograd": "off", "augment.crop.mode": "reflect",
    "augment.flip.mode": "alternating", "augment.auto": "trivial_augment", "model.activation": "gelu",
    "average.kind": "lookahead", "schedule.anneal_strategy": "cos", "format": "markdown",
}  # fmt: skip
FOLDERS = {"data", "outputs", "stream.root"}
FREE_TEXT = {*FOLDERS, "stream.cache", "sort", "sweep.resume"}  # [1] is a folder's name as good as any
SHARES = {
    "dataset.holdout", "dataset.flip", "label_smoothing", "augment.flip.probability", "optimizer.momentum",
    "augment.color_jitter.brightness", "augment.color_jitter.contrast", "schedule.pct_start", "schedule.base_momentum",
    "schedule.max_momentum", "schedule.warmup", "schedule.min_lr_ratio", "schedule.gamma", "model.norm_momentum",
    "optimizer.beta2", "optimizer.sgd_momentum", "optimizer.whiten_bias_fraction", "average.decay",
    "tta.confidence_threshold",
}  # fmt: skip

SCALARS_NEVER = ("[1]", "{a:1}")
BAD_VALUES = {
    int: (*SCALARS_NEVER, "abc", "", "1.5", "1e3", "true", "nan", "inf", "-inf", "-1", "-1000000000000", str(10**30)),
    float: (*SCALARS_NEVER, "soon", "", "true", "nan", "inf", "-inf", "-1", "-1e12", "1e30", "9" * 400),
    bool: (*SCALARS_NEVER, "perhaps", "", "1.5", "2", "-1", "nan"),
    str: SCALARS_NEVER,
    list: ("abc", "", "5", "{a:1}", "[null]", "[{a:1}]", "[nothing]", "null"),
}


@dataclass(frozen=True)
class Case:
    """A command line and the words of which its line must name one."""

    command: str
    overrides: tuple[str, ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        text = " ".join((self.command, *self.overrides))
        return text if len(text) < 80 else text[:80] + "..."


def values_of(config: DictConfig, prefix: str = "") -> dict[str, Any]:
    """The type of every key of a composed config, as its dataclass has it."""
    hints = get_type_hints(OmegaConf.get_type(config))
    found = {}
    for name in config:
        node = config._get_node(name)
        if isinstance(node, DictConfig) and OmegaConf.get_type(node) is not dict:
            found |= values_of(node, f"{prefix}{name}.")
        else:
            found[prefix + name] = hints[name]
    return found


def schema(config_name: str) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Every key with its type and the group option, if any, that has it."""
    options = [()]
    if config_name == "train":
        options += [(f"{group}={option}",) for group in sorted(GROUPS) for option in GROUPS[group]]
    found: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for option in options:
        for key, hint in values_of(compose(config_name, list(option))).items():
            found.setdefault(key, (hint, option))
    return found


def kind_of(hint: Any) -> tuple[type | None, bool]:
    """int, float, bool, str or list (None for what may be anything), and whether null is a value."""
    options = get_args(hint) if NoneType in get_args(hint) else (hint,)
    kind = next(option for option in options if option is not NoneType)
    kind = get_origin(kind) or kind
    return (kind if kind in BAD_VALUES else None), NoneType in options


def bad_values(key: str, hint: Any) -> list[str]:
    kind, optional = kind_of(hint)
    values = list(BAD_VALUES.get(kind, ())) if key not in FREE_TEXT else []
    if kind is not None and not optional and "null" not in values:
        values.append("null")
    if kind in (int, float) and key not in ZERO_IS_FINE:
        values.append("0")
    if kind is int and key not in SEEDS:
        values.append(str(10**12))
    if kind is float:
        values.append("1e12")
    if key in SHARES:
        values += ["1.5", "-0.1"]
    if key in WORDS:
        values += ["", "5", "nonsense", WORDS[key][:-1], WORDS[key].upper()]
    if key in FOLDERS:
        values += ["", "'  '", "/dev/null", "/proc/nowhere", sys.executable, "x" * 300]
    return values


def misspelt(key: str, rng: random.Random) -> str:
    """The key with a slip of the hand in its last part."""
    parent, dot, name = key.rpartition(".")
    at = rng.randrange(len(name))
    slips = (
        name[:at] + name[at + 1 :],
        name[:at] + name[at] + name[at:],
        name[:at] + rng.choice("abcdefghij") + name[at:],
        name + rng.choice("sx"),
    )
    return parent + dot + (rng.choice(slips) or "x")


def generated() -> list[Case]:
    """Every key with bad values, slips of the hand, and what may not be done to it; every section and group too."""
    rng, cases = random.Random(0), []

    def add(override: str, *names: str, option: tuple[str, ...] = ()) -> None:
        commands = ("compare",) if keys is compare else ("train", "train", "precompute")
        # A custom one without its class is refused for that.
        names += tuple(f"{each.split('=')[0]}._target_" for each in option if each.endswith("=custom"))
        command = "train" if override.startswith("outputs=") else rng.choice(commands)
        cases.append(Case(command, (*option, override), tuple(filter(None, names))))

    run, compare = schema("train"), schema("compare")
    for keys in (run, compare):
        for key, (hint, option) in keys.items():
            values = bad_values(key, hint)
            for value in rng.sample(values, min(VALUES_PER_KEY, len(values))):
                add(f"{key}={value}", key, value, option=option)
            word = misspelt(key, rng)
            if word not in keys and word not in GROUPS:
                add(f"{rng.choice(('', '', '+', '++'))}{word}=1", word, option=option)
            deeds = [f"~{key}", f"{key}=???", f"{key}=${{nothing.there}}"]
            deeds += [f"+{key}=1"] * (not kind_of(hint)[1])  # Hydra adds to what is null
            for deed in rng.sample(deeds, 2):
                add(deed, key, "nothing.there", option=option)
        sections = {key.rpartition(".")[0] for key in keys} - {"", *GROUPS}
        for section, value in itertools.product(sorted(sections), ("5", "", "[1]", "null", "{nothing:1}")):
            add(f"{section}={value}", section)
    keys = run
    for group, (first, *_) in sorted(GROUPS.items()):
        for option in ("nonsense", "", "5", "null", "[a,b]", "_schema", f"{first}x", f"{first}/{first}"):
            add(f"{group}={option}", group)
        add(f"~{group}", group)
        add(f"+{group}={first}x", group)
    return cases


GRAMMAR = [
    "a b", "key=[1,", "=5", "key", "++", "+", "~", "", " ", "''", "seed==5", "seed:5", "seed=[", "seed={", "seed='",
    'seed="', "seed=${", "seed=$", "seed=5 6", "seed=(", "budget..seconds=5", ".seed=5", "budget.=5", "seed.=5", "@=5",
    "budget[seconds]=5", "seed.x=1", "budget.seconds.x=1", "budget.counts.a=1", "budget.counts.9=train",
    "seed=" + "9" * 5000, "seed=" + "[" * 500, "seed=0,1", "seed=range(3)", "seed=a\nb", "seed=int(x)", "seed=${seed}",
    "seed=${oc.env:FASTCONV_NOT_SET}", "seed=${nothing:1}", "seed=${part:1}", "budget=${trainer}", "Seed=5",
    "dataset@x=mnist", "--nonsense", "-x", "--cfg=x",
]  # fmt: skip

# Settings that are right each by itself, and the words of which the line must have one.
COMBINATIONS = [
    (("budget.seconds=null", "schedule.max_epochs=null"), "budget.seconds"),
    (("batch_size=300",), "micro_batch_size"),
    (("batch_size=64", "micro_batch_size=48"), "micro_batch_size"),
    (("batch_size=64", "micro_batch_size=64", "trainer=ddp"), "trainer.devices"),
    (("batch_size=2", "trainer.devices=2"), "trainer.devices"),
    (("batch_size=4096",), "batch_size"),
    (("batch_size=1200", "micro_batch_size=2", "trainer.devices=600", "trainer.accelerator=cpu"), "trainer.devices"),
    (("validate.samples=1", "trainer=ddp", "trainer.accelerator=cpu"), "validate.samples"),
    (("augment.cutout.size=8",), "augment.cutout.size"),
    (("dataset.cutout_size=8",), "cutout"),
    (("augment=cutout", "dataset.cutout_size=100"), "cutout"),
    (("experiment=original",), "cutout"),
    (("augment.crop.padding=9",), "augment.crop.padding"),
    (("augment=airbench96",), "cutout"),
    (("dataset.flip=0.3", "augment=airbench"), "augment.flip.probability"),
    (("augment.crop.padding=8", "augment.crop.mode=reflect"), "augment.crop.padding"),
    (("validate.on=holdout",), "dataset.holdout"),
    (("dataset.holdout=0.0001",), "dataset.holdout"),
    (("dataset.holdout=0.9999", "validate.on=holdout"), "dataset.holdout"),
    (("budget.seconds=0.00001",), "budget.seconds"),
    (("budget.seconds=0.01", "budget.counts=[setup,train]"), "budget.seconds"),
    (("budget.seconds=0.001", "stream=online"), "budget.seconds"),
    (("budget.counts=[validate]",), "budget.counts"),
    (("budget.counts=[]",), "budget.counts"),
    (("budget.counts=[train,train]",), "budget.counts"),
    (("budget.counts=[train,trains]",), "train"),
    (("schedule=step", "schedule.milestones=[0.5,nan]"), "schedule.milestones"),
    (("schedule=step", "schedule.milestones=[0.5,1]"), "schedule.milestones"),
    (("schedule=step", "schedule.milestones=[-1]"), "schedule.milestones"),
    (("schedule.three_phase=true", "schedule.pct_start=0.6"), "schedule.pct_start"),
    (("schedule.base_momentum=0.9", "schedule.max_momentum=0.8"), "schedule.base_momentum"),
    (("schedule.div_factor=10", "schedule.final_div_factor=0.01"), "schedule.final_div_factor"),
    (("schedule=linear", "schedule.pct_start=0.2"), "schedule.pct_start"),
    (("optimizer.momentum=0", "optimizer.nesterov=true"), "optimizer.momentum"),
    (("stream.max_gb=0",), "stream.max_gb"),
    (("stream.max_gb=0.000001", "dry_run=true"), "stream.max_gb"),
    (("stream.epochs=1000000",), "stream.max_gb"),
    (("budget.seconds=null", "schedule.max_epochs=1000000"), "stream.max_gb"),
    (("trainer=gpu", "model.width=4"), "GPU"),
    (("model.width=1024", "micro_batch_size=1024", "batch_size=1024"), "micro_batch_size"),
    (("-m", "seed=0,-1"), "seed"),
    (("-m", "model.width=4,abc"), "model.width"),
    (("-m", "dataset=digits,dgits"), "dgits"),
    (("-m", "nothing=1,2"), "nothing"),
    (("-m", "seed=range(0,0)"), "seed"),
    (("-m", "seed=0,1", "micro_batch_size=60"), "micro_batch_size"),
    (("-m", "outputs=/dev/null", "seed=0,1"), "/dev/null"),
    (("--config-name=compare",), "config"),
    (("dataset.name=cifar100",), "dataset.name"),
    (("logger=[csv,nothing]",), "nothing"),
    (("logger=5",), "logger"),
    (("+logger.mine={a:1}",), "logger.mine"),
]
OTHER_COMMANDS = [
    ("precompute", ("stream=online",), "stream=online"),
    ("precompute", ("verify=true", "stream.root=nowhere"), "nowhere"),
    ("precompute", ("prune=true", "stream.root=/dev/null"), "/dev/null"),
    ("precompute", ("prune=true", "stream.max_gb=-1"), "stream.max_gb"),
    ("precompute", ("format=csv",), "format"),
    ("compare", ("runs=nowhere",), "nowhere"),
    ("compare", ("runs=[]",), "runs"),
    ("compare", ("runs=''",), "runs"),
    ("compare", ("runs=null",), "runs"),
    ("compare", ("runs={a:1}",), "runs"),
    ("compare", ("runs=[.,[.]]",), "runs"),
    ("compare", (f"runs={'x' * 300}",), "runs"),
    ("compare", ("seed=5",), "seed"),
    ("compare", ("runs",), "runs"),
]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """All of them; here and not at the top, as composing the whole schema takes seconds."""
    return [
        *generated(),
        *(Case("train", (text,), (text.strip() or "override", re.split("[.=]", text)[0] or text)) for text in GRAMMAR),
        *(Case("train", overrides, (word,)) for overrides, word in COMBINATIONS),
        *(Case(command, overrides, (word,)) for command, overrides, word in OTHER_COMMANDS),
    ]


def files(*folders) -> list[str]:
    """What lies in the folders, but for the probes' answers, which any run may leave."""
    return sorted(str(path) for folder in folders for path in folder.rglob("*") if "benchmarks" not in path.parts)


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch):
    """A case that is not refused must fail, not train for its budget; and this machine is a small one without a GPU."""

    def started(*_, **__):
        raise RuntimeError("it was not refused")

    monkeypatch.setattr("fastconv.training.stored_stream.write_stream", started)
    monkeypatch.setattr("fastconv.training.run.fit", started)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("fastconv.budget.hardware.Device.free_memory", lambda _: 8 * 10**9)


def test_every_key_and_group_has_its_cases(cases):
    assert len(set(cases)) >= 300
    written = " ".join(override for case in cases for override in case.overrides)
    assert [key for key in (*schema("train"), *schema("compare"), *GROUPS) if f"{key}=" not in written] == []


def problem_of(case: Case, code: int, err: str) -> str | None:
    """What is wrong with how a command ended."""
    if code != 1:
        return f"exit code {code}"
    if not err.startswith("fastconv: ") or err.count("\n") != 1 or not err.endswith("\n") or "Traceback" in err:
        return f"not one line: {err}"
    return None if any(name in err for name in case.names) else f"names none of {case.names}: {err}"


@pytest.mark.parametrize("part", range(PARTS))
def test_a_bad_override_gets_one_line_and_leaves_nothing(tmp_path, digits_root, cases, part):
    problems = {}
    before = files(tmp_path, digits_root)
    for case in cases[part::PARTS]:
        try:
            ended = run_command(tmp_path, digits_root, case.command, *case.overrides)
            problem = problem_of(case, ended.code, ended.err)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        left = sorted(set(files(tmp_path, digits_root)) ^ set(before))
        if problem or left:
            problems[str(case)] = problem or f"left or changed {left}"
            before = files(tmp_path, digits_root)
    assert problems == {}


def spent(command, folder, environment) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command; return how it ended, and its seconds of the processor, as the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("number", range(TIMED))
def test_a_bad_override_is_refused_in_seconds(tmp_path, digits_root, cases, number):
    """As a process of its own, in no more than twice what importing Lightning takes beside it; the best of three.

    Half are from the whole, half are combinations: these look at the data and the machine first. How much memory and
    which GPUs this machine has is its own affair.
    """
    own = [overrides for overrides, _ in COMBINATIONS if {"trainer=gpu", "model.width=1024"} & set(overrides)]
    combinations = [Case("train", overrides, (word,)) for overrides, word in COMBINATIONS if overrides not in own]
    chosen = random.Random(2).sample(combinations, TIMED // 2) + random.Random(1).sample(cases, TIMED)
    case = [each for each in chosen if each.overrides not in own][number]
    command = [sys.executable, "-m", f"fastconv.{case.command}", *case.overrides]
    environment, times = {**os.environ, "FASTCONV_DATA": str(digits_root)}, []
    while len(times) < 3:
        ended, seconds = spent(command, tmp_path, environment)
        assert problem_of(case, ended.returncode, ended.stderr) is None
        assert files(tmp_path) == []
        _, of_lightning = spent([sys.executable, "-c", "import lightning.pytorch"], tmp_path, environment)
        times.append((seconds, of_lightning))
        if seconds < 2 * of_lightning:
            return
    raise AssertionError(times)
