"""Settings that are text keep what was typed; what cannot be read gets a line to paste."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fastconv.config.arguments import last_of_each, prepare_arguments, read_arguments
from fastconv.config.overrides import compose, parse_override
from fastconv.config.quoting import literally, quoted, to_paste
from fastconv.config.sweep_jobs import require_one_experiment, split_jobs
from fastconv.config.text import as_typed
from fastconv.system.errors import InputError
from fastconv.system.settings import NOT_PLAIN

TEXTS = [
    "2024_01_15", "1e3", "007", "0x10", "true", "on", "nan", "inf", "café", "写真", "photos (1)", "a=b", "x,y", "C:\\x",
    "C:\\new\\", "-lead", "$HOME/x", "{", "}", "[", "[a]", "{a: 1}", "#1", "k:v", "end ", " begin", "it's", 'say "x"',
    "'", "a\nb", "a\tb", "!x", "&x", "*", "%20", "a;b", "a|b", "~nobody-of-this-name/x", "caf\udce9", "e" * 255,
    "1,000", "(a,b)", "a\\", "'''",
]  # fmt: skip


def typed_value(command, key, *overrides, sweep=False):
    (*_, last) = as_typed(command, overrides, lambda: sweep)
    assert last.startswith(f"{key}=")
    return OverridesParser.create().parse_override(last).value()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_kept_as_it_was_typed(text):
    for command, key in (("train", "dataset.root"), ("train", "dataset.name"), ("evaluate", "run")):
        assert typed_value(command, key, f"{key}={text}") == text
    if "," not in text and not text.startswith("["):  # a list or one name: see below
        assert typed_value("predict", "images", f"images={text}") == text
    assert as_typed("train", as_typed("train", [f"dataset.root={text}"], bool), bool) == as_typed(
        "train", [f"dataset.root={text}"], bool
    )


@pytest.mark.parametrize("text", TEXTS)
def test_the_ranks_of_a_job_of_a_sweep_read_the_text(text):
    """The first rank starts them by the overrides of the job, as Hydra writes them."""
    (typed,) = as_typed("train", [f"dataset.root={quoted(text) if ',' in text else text}"], lambda: True)
    ((job,),) = split_jobs([parse_override(typed)])
    assert typed_value("train", "dataset.root", job) == text


@pytest.mark.parametrize("text", TEXTS)
def test_what_a_line_says_to_paste_is_the_text(text):
    (argument,) = shlex.split(to_paste("model.path", text))
    assert parse_override(argument).value() == text
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text


def test_the_composed_config_has_the_text():
    given = prepare_arguments("train", ["dataset=image_folder", "dataset.root=2024_01_15", "outputs=a=b (1)"])
    config = compose("train", given)
    assert (config.dataset.root, config.outputs) == ("2024_01_15", "a=b (1)")
    assert config.stream.root == compose("train", []).stream.root


@pytest.mark.parametrize("text", [*TEXTS, "${x}", "a/\\${x}", "\\\\${a}'${b}\\"])
def test_a_text_is_taken_literally(text):
    config = compose("train", prepare_arguments("train", [f"dataset.root={literally(text)}"]))
    assert config.dataset.root == text


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("dataset.root=null", None),
        ("dataset.root=NULL", None),
        ("dataset.root='null'", "null"),
        ('dataset.root="2024_01_15"', "2024_01_15"),
        ("dataset.root=${data}/x", "${data}/x"),
        ("dataset.root=", ""),
        ("dataset.train=[2024_01_15, b (1).tar,'c,d']", ["2024_01_15", "b (1).tar", "c,d"]),
        ("dataset.train=x-{000..010}.tar", "x-{000..010}.tar"),
        ("dataset.train=[]", []),
        ("dataset.root=photos\\ \\(1\\)", "photos (1)"),  # escaped for Hydra
        ("seed=2", 2),
        ("dataset.flip=1e-1", 0.1),
        ("dataset.arguments.n=1_000", 1000),  # of a user's own function: its type is not known
        ("budget.counts=[train,validate]", ["train", "validate"]),
    ],
)
def test_other_values_keep_their_meaning(override, value):
    assert typed_value("train", override.partition("=")[0], override) == value


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("2024_01_15,2024_01_16", ["2024_01_15", "2024_01_16"]),
        ("choice(2024_01_15,b (2))", ["2024_01_15", "b (2)"]),
        ("'a,b',c", ["a,b", "c"]),
        ("x (1, 2),y", ["x (1, 2)", "y"]),
        ("it's,b", ["it's", "b"]),
        ("range(1,3)", ["1", "2"]),
        ("null,7", [None, "7"]),
    ],
)
def test_a_sweep_over_texts(values, expected):
    (last,) = as_typed("train", [f"dataset.root={values}"], lambda: True)
    override = OverridesParser.create().parse_override(last)
    assert override.is_sweep_override()
    jobs = [parse_override(f"dataset.root={value}").value() for value in override.sweep_string_iterator()]
    assert [value if value is None else str(value) for value in jobs] == expected


def test_a_path_begins_with_the_users_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert typed_value("train", "dataset.root", "dataset.root=~/x (1)") == "/home/somebody/x (1)"
    assert typed_value("predict", "images", "images=[~/a.png,b~.png]") == ["/home/somebody/a.png", "b~.png"]
    assert typed_value("train", "dataset.name", "dataset.name=~/x") == "~/x"
    assert typed_value("train", "dataset.root", "dataset.root='~/x'") == "~/x"
    monkeypatch.setenv("FASTCONV_DATA", "~/data")
    assert [compose(name, []).data for name in ("train", "evaluate")] == ["/home/somebody/data"] * 2


def test_one_name_with_a_comma_or_a_list():
    with pytest.raises(InputError, match=r"several values") as error:
        as_typed("predict", ["images=a.png,b.png"], lambda: False)
    assert "'images=[a.png,b.png]'" in str(error.value)
    assert "'images=\"a.png,b.png\"'" in str(error.value)


def test_the_last_value_of_a_key_counts():
    assert last_of_each(["a=1", "b=2", "a=3", "x={a: 1}", "x={b: 2}"]) == ["b=2", "a=3", "x={a: 1}", "x={b: 2}"]
    given = prepare_arguments("train", ["-m", "seed=0,1", "seed=2,3"])
    assert read_arguments(given).overrides == ["seed=2,3"]


@pytest.mark.parametrize(
    "given",
    [
        ["seed=0,1", "-m", "batch_size=64"],
        ["-m", "seed=0,1", "--config-dir", ".", "batch_size=64"],
        ["seed=0,1", "batch_size=64", "-m"],
        ["seed=0,1", "--config-dir=.", "batch_size=64", "--info"],
        ["seed=0,1", "--cfg", "job", "batch_size=64"],
    ],
)
def test_flags_may_stand_between_settings(given):
    prepared = prepare_arguments("train", given)
    assert prepared[:2] == ["seed=0,1", "batch_size=64"]  # Hydra refuses settings that a flag parts
    assert sorted(prepared) == sorted(given)
    asked, before = read_arguments(prepared), read_arguments(given)
    assert asked == before
    assert asked.overrides == ["seed=0,1", "batch_size=64"]
    assert asked.multirun == ("-m" in given)


@pytest.mark.parametrize("given", [["--seed=5"], ["--seed", "5"], ["batch_size=8", "--seed=5", "optimizer.max_lr=1"]])
def test_a_setting_that_is_written_as_a_flag_gets_the_right_way(given):
    with pytest.raises(InputError, match=r"settings have no dashes, write seed=(5|VALUE)\. --help"):
        read_arguments(given)


WRONG = {
    "--seed=5": "settings have no dashes, write seed=5",
    "seed:5": "as seed=5",
    "seed = 5": "without blanks around =, as seed=5",
    "mnist": "as dataset=mnist",
    "optimizer.foo=photos (1)": "as 'optimizer.foo=\"photos (1)\"'",
    "SEED=5": "did you mean seed?",
    "datset=mnist": "did you mean dataset?",
    "budget.counts=[probe]": "budget.counts=probe is unknown: it is called benchmark now",
    "autotune=[rest]": "autotune=rest is unknown: it is called data_pruning now",
    "dataset.root=photos": "add dataset=image_folder",
    "seed=${": "close every ${...}",
    'seed="${seed}': "quote special characters for Hydra and for the shell",
    "dataset.root=${oc.env:HOME": "close every ${...}",
    # A stored config with an interpolation would be refused ever after.
    "dataset.root=a/\\${x}": f"dataset.root=a/${{x}} is not possible: {NOT_PLAIN}",
    'dataset.root="a/${x}"': f"dataset.root: Interpolation key 'x' not found; {NOT_PLAIN}",
    "dataset.root=a/${x}": f"dataset.root: Interpolation key 'x' not found; {NOT_PLAIN}",
    "dataset.root=it's/${x}": f"{NOT_PLAIN}. Write an interpolation without quotes",
    "dataset.train=[b.csv,a/\\${x}]": "dataset.train.1=a/${x} is not possible",
    "outputs=\\${x}": "outputs=${x} is not possible",
    "dataset.name=\\${x}": "dataset.name=${x} is not possible",
    "logger.mlflow={experiment: '\\${x}'}": "logger.mlflow.experiment=${x} is not possible",
    "dataset.name=../../escape": "it becomes the name of a folder, so it cannot have / or \\",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_slip_gets_a_line_with_the_right_way(command, override):
    ended = command("train", override)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert WRONG[override] in ended.err


def test_an_experiment_may_vary_a_setting_that_it_adds():
    values = OmegaConf.create({"hydra": {"sweeper": {"params": {"+logger.mine.name": "a,b", "seed": "0,1"}}}})
    require_one_experiment(values, ["+logger.mine.name=a", "seed=0", "experiment=mine"])
    with pytest.raises(InputError, match=r"experiment=mine is a sweep by itself, over logger\.mine\.name: start it"):
        require_one_experiment(values, ["seed=0", "experiment=mine"])
