"""Groups of runs: their statistics against pandas and scipy, what tells them apart, and verdicts."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from fastconv.analysis.comparison import figures
from fastconv.analysis.comparison.effects import effects, is_balanced
from fastconv.analysis.comparison.figures import validation_curve
from fastconv.analysis.comparison.groups import by_dataset, choose_measure, group_runs, names_of, pareto_front
from fastconv.analysis.comparison.legends import legend_names, legend_texts, shortened
from fastconv.analysis.comparison.report import findings
from fastconv.analysis.comparison.tables import columns, group_rows, run_rows, sort_rows
from fastconv.runs.collection import Entry, find_runs, select
from fastconv.runs.results import Results
from fastconv.system.errors import InputError


def entry(
    accuracy: float | None, seed: int = 0, problem: str | None = None, device="cpu", held=None, **recipe
) -> Entry:
    """A run of digits with some settings, all of which were written on the command line."""
    recipe = {key.replace("__", "."): value for key, value in recipe.items()}
    whole = {"dataset.name": "digits", "model.name": "davidnet", "seed": seed, "stream.seed": seed, **recipe}
    results = Results(
        whole["dataset.name"], "davidnet", None, seed, seed, accuracy, accuracy_holdout=held, device=device,
        seconds_counted=10.0 + seed, epochs=2.0, stop_reason="error" if problem else "epochs", error=problem,
        hparams=whole,
    )  # fmt: skip
    written = {key: str(value) for key, value in recipe.items()} | {"seed": str(seed)}
    return Entry(Path(f"run-{seed}-{'-'.join(written.values())}"), whole, written, results, problem)


def grid(spread: float = 0.01) -> list[Entry]:
    generator = np.random.default_rng(0)
    return [
        entry(float(level + generator.normal(0, spread)), seed, width=width, augment=augment)
        for seed in range(4)
        for width, augment, level in ((8, "none", 0.8), (8, "flip", 0.7), (16, "none", 0.9), (16, "flip", 0.802))
    ]


def test_statistics_are_those_of_pandas_and_scipy():
    runs = grid()
    table = pd.DataFrame([{**run.hparams, "accuracy": run.results.accuracy} for run in runs])
    expected = table.groupby(["width", "augment"])["accuracy"].agg(["count", "mean", "std", "sem"])
    rows = group_rows(group_runs(runs), "accuracy")
    assert len(rows) == 4
    for row in rows:
        wanted = expected.loc[(row["width"], row["augment"])]
        assert row["n"] == wanted["count"] == 4
        assert row["accuracy"] == pytest.approx(wanted["mean"], rel=1e-12)
        assert row["sd"] == pytest.approx(wanted["std"], rel=1e-12)
        low, high = scipy.stats.t.interval(0.95, 3, loc=wanted["mean"], scale=wanted["sem"])
        assert (row["low"], row["high"]) == (pytest.approx(low, rel=1e-10), pytest.approx(high, rel=1e-10))
    assert [row["accuracy"] for row in rows] == pytest.approx(sorted(expected["mean"], reverse=True))


def test_verdicts_are_those_of_welchs_test():
    runs = grid(spread=0.06)
    groups = group_runs(runs)
    samples = [[run.accuracy for run in group.finished] for group in groups]
    p = [scipy.stats.ttest_ind(sample, samples[0], equal_var=False).pvalue for sample in samples[1:]]
    assert min(p) < 0.05 < max(p), "both outcomes are there"
    assert [group.verdict for group in groups] == [
        "best",
        *("not significantly different from the best" if each > 0.05 else "significantly worse" for each in p),
    ]


def test_runs_that_were_scored_on_other_images_are_no_repetitions():
    """Photos that came between two runs: equal settings, but the test split is another one."""
    runs = [entry(0.9, 0), entry(0.8, 1), entry(0.7, 2)]
    digests = ("a" * 16, "a" * 16, "b" * 16)
    grown = [
        dataclasses.replace(run, results=dataclasses.replace(run.results, test_digest=digest))
        for run, digest in zip(runs, digests, strict=True)
    ]
    rows = group_rows(group_runs(grown), "accuracy")
    assert [(row["n"], row["test_digest"]) for row in rows] == [(2, "a" * 16), (1, "b" * 16)]
    (row,) = group_rows(group_runs(runs), "accuracy")
    assert (row["n"], row.get("test_digest")) == (3, None), "built-in data sets have one test split"


def test_data_sets_of_one_name_are_told_apart_by_their_images():
    """Two folders called photos, and runs of each: neither is better than the other."""
    levels = {"a": 0.9, "b": 0.5}
    runs = []
    for digest, level in levels.items():
        for seed in range(3):
            run = entry(level + seed / 1000, seed, dataset__name="photos", dataset__root=f"/{digest}/photos")
            runs.append(dataclasses.replace(run, results=dataclasses.replace(run.results, test_digest=digest * 16)))
    groups = group_runs([*runs, entry(0.7, 0, dataset__name="photos"), entry(0.1, 0)])
    assert [(group.dataset, len(group.finished), group.verdict) for group in groups] == [
        ("photos (aaaaaaaa)", 3, ""), ("photos", 1, ""), ("photos (bbbbbbbb)", 3, ""), ("digits", 1, ""),
    ], "there is nothing to compare with"  # fmt: skip
    assert list(by_dataset(groups)) == ["photos (aaaaaaaa)", "photos", "photos (bbbbbbbb)", "digits"]
    text = " ".join(findings(groups, "accuracy"))
    assert "photos (aaaaaaaa): " in text
    assert "Not significantly different" not in text
    assert [group.dataset for group in group_runs(runs[:3])] == ["photos"]


def spread_runs(width: int, mean: float, seeds: int) -> list[Entry]:
    return [entry(mean + 0.001 * (seed % 3), seed, width=width) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("seeds", "verdicts"),
    [
        ((3, 3), ["best", "significantly worse"]),
        ((2, 3), ["highest, but untested", "untested"]),
        ((3, 2), ["highest, but untested", "untested"]),
        ((1, 1), ["highest, but untested", "untested"]),
        ((1, 3, 3), ["untested", "best", "significantly worse"]),
        ((3, 2, 3), ["best", "untested", "significantly worse"]),
        ((3,), [""]),
        ((2,), [""]),
    ],
)
def test_a_verdict_takes_three_seeds_each_of_two_groups(seeds, verdicts):
    """However far the means are apart: the spread of two values says little."""
    groups = group_runs([run for at, count in enumerate(seeds) for run in spread_runs(at, 0.9 - at / 10, count)])
    assert [len(group.finished) for group in groups] == list(seeds)
    assert [group.verdict for group in groups] == verdicts


def test_the_sentences_say_what_is_untested():
    (text,) = findings(
        group_runs([*spread_runs(1, 0.9, 1), *spread_runs(2, 0.8, 3), *spread_runs(3, 0.6, 3)]), "accuracy"
    )
    assert text == (
        "digits: width=2: accuracy 80.10 ± 0.10 % (n = 3), the best. 1 setting is untested: a test needs 3 seeds of"
        " each of two settings. Higher than the best, but untested: width=1."
    )
    (text,) = findings(group_runs([*spread_runs(1, 0.9, 2), *spread_runs(2, 0.8, 1)]), "accuracy")
    assert ", the highest. 2 settings are untested" in text
    (text,) = findings(group_runs(spread_runs(1, 0.9, 3)), "accuracy")
    assert text == "digits: all runs: accuracy 90.10 ± 0.10 % (n = 3)."


def test_one_seed_that_is_repeated_stays_one():
    runs = [entry(0.9 + at / 1000, 0, width=1) for at in range(3)]
    assert [group.verdict for group in group_runs([*runs, *spread_runs(2, 0.8, 3)])] == [
        "highest, but untested",
        "untested",
    ]


def test_runs_without_spread():
    runs = [entry(level, seed, width=width) for width, level in ((1, 0.5), (2, 0.5), (3, 0.4)) for seed in range(3)]
    assert [group.verdict for group in group_runs(runs)] == [
        "best", "not significantly different from the best", "significantly worse",
    ]  # fmt: skip


def with_digests(runs: list[Entry], **digests: str) -> list[Entry]:
    return [dataclasses.replace(run, results=dataclasses.replace(run.results, **digests)) for run in runs]


def test_runs_that_were_trained_on_other_images_are_not_compared():
    """Photos that came to the training split between two sweeps: the test images are the same."""
    before = with_digests(
        [*spread_runs(1, 0.9, 3), *spread_runs(2, 0.8, 3)], test_digest="a" * 16, train_digest="b" * 16
    )
    after = with_digests(spread_runs(2, 0.95, 3), test_digest="a" * 16, train_digest="c" * 16)
    groups = group_runs([*before, *after])
    assert [(group.dataset, group.verdict) for group in groups] == [
        ("digits (trained on cccccccc)", ""),
        ("digits (trained on bbbbbbbb)", "best"),
        ("digits (trained on bbbbbbbb)", "significantly worse"),
    ]
    assert [row["n"] for row in group_rows(groups, "accuracy")] == [3, 3, 3]
    (row,) = group_rows(group_runs([before[0], after[0]][:1]), "accuracy")
    assert "train_digest" not in row


def test_held_out_images_are_those_of_one_share_and_seed():
    runs = [
        entry(0.5, seed, held=0.8 + share, dataset__holdout=share, dataset__holdout_seed=0)
        for seed in range(3)
        for share in (0.1, 0.2)
    ]
    groups = group_runs(runs, "accuracy_holdout")
    assert [(group.dataset, group.verdict) for group in groups] == [
        ("digits (0.2 held out)", ""),
        ("digits (0.1 held out)", ""),
    ]
    assert [group.dataset for group in group_runs(runs, "accuracy")] == ["digits", "digits"], "one test split"


def test_each_data_set_has_its_best():
    levels = {("mnist", 1): 0.99, ("mnist", 2): 0.9, ("cifar10", 1): 0.5, ("cifar10", 2): 0.6}
    runs = [entry(level, seed, dataset__name=name, width=width) for seed in range(3)
            for (name, width), level in levels.items()]  # fmt: skip
    verdicts = {(group.dataset, group.values["width"]): group.verdict for group in group_runs(runs)}
    worse = "significantly worse"
    assert verdicts == {("mnist", 1): "best", ("mnist", 2): worse, ("cifar10", 2): "best", ("cifar10", 1): worse}


def test_failed_runs_stay_in_their_group_and_out_of_its_statistics():
    failed = entry(None, 2, problem="it broke", device=None, width=8)
    (group,) = group_runs([entry(0.5, 0, width=8), entry(0.7, 1, width=8), failed])
    assert (group.summary("accuracy").n, group.summary("accuracy").mean) == (2, pytest.approx(0.6))
    assert group.problems == [failed]
    row = group_rows([group], "accuracy")[0]
    assert (row["n"], row["not finished"]) == (2, 1)


def test_an_interval_of_a_share_lies_between_none_and_all():
    (wide,) = group_rows(group_runs([entry(0.5, 0), entry(0.9, 1)]), "accuracy")
    assert (wide["low"], wide["high"]) == (0, 1), "Student's t alone gives -1.84 to 3.24"
    (single,) = group_rows(group_runs([entry(0.5)]), "accuracy")
    assert (single["low"], single["high"]) == (None, None)


def test_other_devices_are_other_groups():
    """Under a time budget the machine decides as much as the settings do."""
    groups = group_runs([entry(0.5, 0), entry(0.9, 0, device="gpu")])
    assert [group.values for group in groups] == [{"device": "gpu"}, {"device": "cpu"}]


def test_what_tells_groups_apart_is_what_was_set():
    """Of a group of settings its name, and not the many keys that come with it; nothing that varies with the seed."""
    runs = [
        entry(0.5, seed, schedule=name, schedule__name=name, schedule__factor=factor, note=seed)
        for seed in (0, 1)
        for name, factor in (("step", 0.1), ("cosine", 0.2))
    ]
    for run in runs:  # as the command line has it
        for key in ("schedule.name", "schedule.factor"):
            del run.written[key]
        del run.hparams["note"], run.hparams["schedule"]
    assert [set(group.values) for group in group_runs(runs)] == [{"schedule"}] * 2
    assert {group.values["schedule"] for group in group_runs(runs)} == {"step", "cosine"}
    assert set(names_of(group_runs(runs))) == {"schedule=step", "schedule=cosine"}


def test_a_setting_that_one_run_leaves_out_has_its_composed_value():
    set_, left_out = entry(0.5, width=8), entry(0.6, width=64)
    del left_out.written["width"]
    assert [group.values for group in group_runs([set_, left_out])] == [{"width": 64}, {"width": 8}]


def test_held_out_accuracy_decides_where_every_run_has_it():
    runs = [entry(0.9, held=0.1, width=1), entry(0.1, held=0.9, width=2)]
    assert choose_measure(runs) == "accuracy_holdout"
    assert group_runs(runs, "accuracy_holdout")[0].values == {"width": 2}
    assert choose_measure([*runs, entry(0.5, width=3)]) == "accuracy"


def test_effects_gather_runs_by_value():
    width, augment = effects(group_runs(runs := grid()), "accuracy")
    assert (width.key, width.values, width.is_numeric) == ("width", [8, 16], True)
    assert (augment.key, set(augment.values), augment.is_numeric) == ("augment", {"none", "flip"}, False)
    for value, found in zip(width.values, width.results, strict=True):
        assert sorted(found) == sorted(run.results.accuracy for run in runs if run.hparams["width"] == value)


def test_effects_count_a_repeated_seed_once():
    """Else the settings whose runs were repeated would weigh more in the mean over all that have a value."""
    runs = grid()
    again = [run for run in runs if (run.hparams["width"], run.hparams["augment"]) == (16, "none")]
    expected = [(each.key, each.values, each.results) for each in effects(group_runs(runs), "accuracy")]
    found = effects(group_runs([*runs, *again, *again]), "accuracy")
    for (key, values, results), effect in zip(expected, found, strict=True):
        assert (effect.key, effect.values) == (key, values)
        for one, other in zip(results, effect.results, strict=True):
            assert sorted(other) == pytest.approx(sorted(one), rel=1e-12)


@pytest.mark.parametrize("what", ["a cell is missing", "a seed is missing", "two settings change together"])
def test_effects_are_of_balanced_sweeps_alone(what):
    """Else a mean over the runs with one value would also be one over the others that they happen to have."""
    runs = grid()
    if what == "a cell is missing":
        runs = [run for run in runs if (run.hparams["width"], run.hparams["augment"]) != (16, "flip")]
    elif what == "a seed is missing":
        runs = runs[1:]
    else:
        runs = [entry(0.5, seed, width=width, batch=10 * width) for seed in range(3) for width in (8, 16)]
    groups = group_runs(runs)
    assert not is_balanced(groups, "accuracy")
    assert effects(groups, "accuracy") == []


def test_a_single_setting_has_nothing_to_be_confused_with():
    (effect,) = effects(
        group_runs(grid()[:1] + [entry(0.5, seed, width=16, augment="none") for seed in (1, 2)]), "accuracy"
    )
    assert (effect.key, [len(each) for each in effect.results]) == ("width", [1, 2])


def test_a_value_that_failed_everywhere_leaves_the_others_balanced():
    failed = [
        entry(None, seed, problem="it broke", width=99, augment=augment)
        for seed in range(4)
        for augment in ("none", "flip")
    ]
    width, _ = effects(group_runs([*grid(), *failed]), "accuracy")
    assert width.values == [8, 16]


def test_legends_keep_what_differs():
    """Names that are alike for longer than a legend is wide."""
    runs = [
        entry(
            0.5 + at / 100,
            dataset__name="digits",
            dataset__train=f"/a/very/long/path/that/all/of/them/share/{name}/table.csv",
        )
        for at, name in enumerate(("photos", "scans", "photographs"))
    ]
    names = legend_names(group_runs(runs))
    assert len(set(names)) == 3
    assert all(max(map(len, name.split("\n"))) <= 44 for name in names)
    assert ["photographs" in name and "scans" not in name for name in names] == [True, False, False]
    many = [entry(0.5, **{f"setting_number_{key}": at for key in range(6)}) for at in (1, 2)]
    text = legend_names(group_runs(many))[0].replace("\n", " ")
    assert all(f"setting_number_{key}=" in text for key in range(6)), "a line for what does not fit into one"


@pytest.mark.parametrize("most", [10, 32])
@pytest.mark.parametrize(
    "texts",
    [
        ["short", "texts"],
        ["a" * 50 + "1" + "b" * 50, "a" * 50 + "2" + "b" * 50],
        ["x" * 90, "y" * 90, "x" * 90],
        ["a" * 40, "a" * 41, "a" * 42],
        ["1" + "z" * 60 + str(at) + "z" * 60 + "9" for at in range(12)],
        ["the same, and long enough to be shortened"] * 3,
    ],
    ids=lambda texts: str(texts[0])[:12] if isinstance(texts, list) else str(texts),
)
def test_shortened_texts_stay_apart(texts, most):
    short = shortened(texts, most)
    assert len(set(short)) == len(set(texts))
    assert all(len(each) <= most + 8 for each in short)
    assert [short[texts.index(each)] for each in texts] == short
    assert max(map(len, texts)) > most or short == texts


def test_a_legend_takes_any_name():
    assert legend_texts(["_hidden", "", "$x$", "a\nb"]) == [" _hidden", " ", r"\$x\$", "a b"]


def test_the_front_against_all_pairs():
    points = [tuple(point) for point in np.random.default_rng(1).integers(0, 12, (60, 2)).tolist()]
    beaten = {
        at for at, (seconds, accuracy) in enumerate(points)
        if any(s <= seconds and a >= accuracy and (s, a) != (seconds, accuracy) for s, a in points)
    }  # fmt: skip
    front = [points[at] for at in pareto_front(points)]
    assert front == sorted({points[at] for at in range(len(points)) if at not in beaten})


def test_a_front_of_a_single_mean_can_be_seen(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(figures, "save", lambda drawing, path: saved.append(drawing))
    groups = group_runs(grid())
    assert figures.draw_front(groups, "accuracy", tmp_path / "front.png")
    lines = {line.get_label(): line for line in saved[0].axes[0].lines}
    front, dot = lines["best for the time (front)"], lines[legend_names(groups)[0]]
    assert front.get_xydata().tolist() == dot.get_xydata().tolist()  # all take as long, and this one is the best
    assert (front.get_marker(), front.get_fillstyle()) == ("o", "none")
    assert front.get_markersize() > dot.get_markersize()


def test_conditions_on_settings_and_results():
    runs = [*grid(), entry(None, 9, problem="it broke", width=8, augment="none")]
    assert len(select(runs, ["width:8"])) == 9
    assert len(select(runs, ["width:8.0", "augment:none", "seed:0", "seed:1"])) == 2
    assert [run.hparams["seed"] for run in select(runs, ["stop_reason:error"])] == [9]
    with pytest.raises(InputError, match="no run has a widht; did you mean width"):
        select(runs, ["widht:8"])
    with pytest.raises(InputError, match="no run has width:9: 17 runs were looked at"):
        select(runs, ["width:9"])


def test_sorting_puts_the_better_end_first_and_what_is_missing_last():
    rows = [
        {"accuracy": a, "seconds_counted": s, "name": n}
        for a, s, n in ((0.5, 9.0, "b"), (None, 1.0, "a"), (0.7, 10.0, "c"))
    ]
    assert [row["accuracy"] for row in sort_rows(rows, "accuracy")] == [0.7, 0.5, None]
    assert [row["accuracy"] for row in sort_rows(rows, "-accuracy")] == [0.5, 0.7, None]
    assert [row["seconds_counted"] for row in sort_rows(rows, "seconds_counted")] == [1.0, 9.0, 10.0]
    assert [row["name"] for row in sort_rows(rows, "-name")] == ["c", "b", "a"]
    with pytest.raises(InputError, match="there is no column acuracy; did you mean accuracy"):
        sort_rows(rows, "acuracy")


def test_columns_without_values_are_left_out():
    assert columns([{"a": None, "b": 0, "c": ""}, {"a": None, "b": None, "c": "x"}]) == ["b", "c"]


def test_runs_are_found_once_and_their_settings_read_without_results(tmp_path):
    run = tmp_path / "sweep" / "0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("dataset: {name: digits}\nseed: 3\noptimizer: {max_lr: 0.5}\noutputs: here\n")
    (found,) = find_runs([tmp_path, tmp_path / "sweep"])
    assert found.hparams == {"dataset.name": "digits", "seed": 3, "optimizer.max_lr": 0.5}
    assert found.problem == "unfinished: no results.json"
    (run / "config.yaml").write_text("{ no yaml")
    assert find_runs([tmp_path])[0].hparams == {}


def test_results_hold_the_settings_they_came_from(tmp_path):
    (tmp_path / "config.yaml").touch()
    Results("digits", "davidnet", None, 0, 0, 0.5, stop_reason="epochs", hparams={"optimizer.max_lr": 0.25}).write(
        tmp_path
    )
    assert find_runs([tmp_path])[0].value("optimizer.max_lr") == 0.25
    assert json.loads((tmp_path / "results.json").read_text())["hparams"] == {"optimizer.max_lr": 0.25}


def test_curves_have_the_seconds_of_the_steps_before(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "train/epoch,budget/seconds_counted,validate/accuracy\n0.5,10,\n1.0,20,\n1.0,,0.5\n1.5,32,\n2.0,44,\n2.0,,0.75\n"
    )
    assert validation_curve(tmp_path).tolist() == [[20, 50], [44, 75]]
    assert validation_curve(tmp_path / "nowhere").shape == (0, 2)


def test_a_repeated_seed_counts_once():
    """Two runs of a seed are no two draws: their mean is one value."""
    runs = [entry(0.5, 0), entry(0.7, 0), entry(0.9, 1)]
    (group,) = group_runs(runs)
    summary = group.summary("accuracy")
    assert (summary.n, summary.mean, summary.sd) == (2, pytest.approx(0.75), pytest.approx(np.std([0.6, 0.9], ddof=1)))
    row = group_rows([group], "accuracy")[0]
    assert (row["n"], row["runs"]) == (2, 3)


def test_a_repeated_seed_has_the_results_that_any_of_its_runs_has():
    """An earlier version did not score what a later one does."""
    later = judged("accuracy", 0.9, 0.8)
    earlier = dataclasses.replace(later, results=dataclasses.replace(later.results, balanced_accuracy=None))
    (group,) = group_runs([earlier, later])
    assert (group.summary("balanced_accuracy").n, group.summary("balanced_accuracy").mean) == (1, 0.8)


def test_a_folder_named_twice_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "0").mkdir(parents=True)
    (tmp_path / "a" / "0" / "config.yaml").touch()
    assert len(find_runs([Path("a"), tmp_path / "a", Path("a") / ".." / "a"])) == 1


def test_a_run_that_removes_its_folder_meanwhile_is_none(tmp_path, monkeypatch):
    """As one that is refused does, while `compare` or `resume=auto` looks at the folder."""
    for name in ("kept", "refused"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    walk = os.walk

    def walked(folder):
        for parent, below, files in walk(folder):
            if parent.endswith("refused"):
                shutil.rmtree(parent)
            yield parent, below, files

    monkeypatch.setattr(os, "walk", walked)
    assert [found.folder.name for found in find_runs([tmp_path])] == ["kept"]


def test_a_condition_may_be_null():
    runs = [entry(0.5, budget=None, width=8), entry(0.6, budget=3, width=9)]
    assert [run.hparams["width"] for run in select(runs, ["budget:null"])] == [8]


def judged(objective: str, accuracy: float, balanced: float, seed: int = 0, held: float | None = None) -> Entry:
    """A run with an objective; one of an earlier version has none among its settings."""
    run = entry(
        accuracy, seed, held=accuracy if held else None, **({} if objective == "accuracy" else {"objective": objective})
    )
    measured = {"balanced_accuracy": balanced, "macro_f1": balanced - 0.1, "balanced_accuracy_holdout": held}
    return dataclasses.replace(run, results=dataclasses.replace(run.results, **measured))


def test_tables_show_what_runs_are_judged_by():
    """Where runs differ in that, or are asked about it; other tables stay as they are."""
    plain = [judged("accuracy", 0.9, 0.5), judged("accuracy", 0.92, 0.52, 1)]
    further = {"balanced_accuracy", "macro_f1"}
    rows = [*group_rows(group_runs(plain), "accuracy"), *run_rows(plain, [], "accuracy")]
    assert not further & {name for row in rows for name in row}
    mixed = [*plain, judged("balanced_accuracy", 0.8, 0.7), judged("balanced_accuracy", 0.82, 0.74, 1)]
    assert choose_measure(mixed) == "accuracy"
    groups = group_runs(mixed)
    assert names_of(groups) == ["objective=accuracy", "objective=balanced_accuracy"]
    rows = group_rows(groups, "accuracy")
    assert [row["balanced_accuracy"] for row in rows] == pytest.approx([0.51, 0.72])
    assert [row["macro_f1"] for row in rows] == pytest.approx([0.41, 0.62])
    assert [row["balanced_accuracy"] for row in run_rows(mixed, [], "accuracy")] == [0.5, 0.52, 0.7, 0.74]
    best, _ = group_rows(group_runs(mixed, "balanced_accuracy"), "balanced_accuracy")
    assert (best["objective"], best["balanced_accuracy"], best["accuracy"]) == (
        "balanced_accuracy", pytest.approx(0.72), pytest.approx(0.81))  # fmt: skip
    assert len(select(mixed, ["objective:accuracy"])) == len(select(mixed, ["objective:balanced_accuracy"])) == 2


def test_runs_of_one_objective_are_compared_by_it():
    runs = [judged("balanced_accuracy", 0.8, 0.7), judged("balanced_accuracy", 0.9, 0.6, 1)]
    assert choose_measure(runs) == "balanced_accuracy"
    held = [judged("balanced_accuracy", 0.8, 0.7, held=0.75)]
    assert choose_measure(held) == "balanced_accuracy_holdout"
    assert choose_measure([*held, *runs]) == "balanced_accuracy"
    (row,) = run_rows(held, [], "balanced_accuracy_holdout")
    assert row["balanced_accuracy_holdout"] == 0.75
    assert not {"accuracy", "balanced_accuracy", "macro_f1"} & set(row)


def test_runs_judged_by_held_out_images_do_not_show_their_test_score():
    runs = [entry(0.9, held=0.8), entry(0.7, 1, held=0.6)]
    (row, _) = run_rows(runs, [], "accuracy_holdout")
    assert row["accuracy_holdout"] == 0.8
    assert "accuracy" not in row
    assert run_rows(runs, ["device"], "accuracy")[0]["device"] == "cpu"


def test_a_run_that_was_validated_once_can_be_seen_among_curves(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(figures, "save", lambda drawing, path: saved.append(drawing))
    curves = {1: [[1.0, 50.0]], 2: [[1.0, 50.0], [2.0, 60.0]]}
    for points in curves.values():
        monkeypatch.setattr(figures, "validation_curve", lambda folder, points=points: np.array(points))
        assert figures.draw_curves(group_runs(grid()), tmp_path / "curves.png")
    once, twice = ({line.get_markersize() for line in drawing.axes[0].lines} for drawing in saved)
    assert min(once) > max(twice)


def test_curves_of_learning_show_what_follows_the_first_epoch(monkeypatch, tmp_path):
    """On a scale that begins at chance, 99.5 % and 99.7 % are one line."""
    saved = []
    monkeypatch.setattr(figures, "save", lambda drawing, path: saved.append(drawing))
    (tmp_path / "metrics.csv").write_text(
        "train/epoch,train/loss,train/accuracy,validate/accuracy,schedule/lr\n"
        "0.1,2.3,0.1,,0.1\n1.0,0.1,0.97,0.98,0.4\n2.0,0.001,0.99,0.995,0.0\n"
    )
    assert figures.draw_learning({"a run": tmp_path}, "mnist", tmp_path / "curves.png")
    loss, accuracy, _ = saved[0].axes
    assert loss.get_yscale() == "log"
    assert 96 < accuracy.get_ylim()[0] < 97 < 100 < accuracy.get_ylim()[1]
    assert [len(line.get_xdata()) for line in accuracy.lines] == [3, 2]
