"""What the article's rows say of its claims, by values worked out by hand."""

import csv
import dataclasses

import pytest

from fastconv.analysis.article import page
from fastconv.analysis.article.claims import claims, claims_of, findings, gain_by_epochs
from fastconv.analysis.article.page import sections
from fastconv.analysis.article.rows import Measure, Row, as_line, further, read_rows, row_of, setups
from fastconv.analysis.article.tables import measures_table, results_table
from fastconv.runs.results import Results
from fastconv.system.errors import InputError

ROW = Row("cifar10", True, 0, 0.94, 0.2, 30.0, 25.0, 25.0, 6_573_120, 47_000.0, "GPU", "bf16", 64, "", "abc", "epochs")


def rows(with_augmentation, without, dataset="cifar10", **changes):
    """A row for each accuracy in percent, with the seeds 0, 1, ..."""
    return [
        dataclasses.replace(ROW, dataset=dataset, augmented=way, seed=seed, accuracy=percent / 100, **changes)
        for way, values in ((True, with_augmentation), (False, without))
        for seed, percent in enumerate(values)
    ]


def judged(some, measures=()):
    return {each.claim.split()[0]: each for each in claims(setups(some)[0], some, measures)}


@pytest.mark.parametrize(
    ("without", "verdict", "found"),
    [
        # Differences 1.0, 1.2 and 0.8: mean 1, standard deviation 0.2, half an interval 4.3027 * 0.2 / sqrt(3) = 0.497.
        ((93.0, 92.8, 93.2), "yes", "+1.00 points (+0.50 to +1.50)"),
        ((95.0, 95.2, 94.8), "no", "-1.00 points (-1.50 to -0.50)"),
        ((93.0, 94.0, 95.0), "undecided", "+0.00 points (-2.48 to +2.48)"),
        # 1.96 * sqrt((0.94 * 0.06 + 0.93 * 0.07) / 10,000) = 0.684 points.
        ((93.0,), "yes (one seed)", "+1.00 points (+0.32 to +1.68 over the images; n = 1)"),
        ((94.9,), "no (one seed)", "-0.90 points (-1.53 to -0.27 over the images; n = 1)"),
        ((93.5,), "undecided", "+0.50 points (-0.17 to +1.17 over the images; n = 1)"),
        ((), "not measured", "-"),
    ],
)
def test_augmentation_is_judged_by_pairs_of_seeds(without, verdict, found):
    claim = judged(rows((94.0, 94.0, 94.0), without))["Accuracy"]
    assert (claim.verdict, claim.found, claim.n) == (verdict, found, len(without))
    assert claim.command == (
        "python benchmarks/article.py datasets=cifar10 seeds=0,1,2 epochs=25 trainer.precision=bf16 results=again"
    )


def test_seconds_suffice_if_all_epochs_fit():
    fast = judged(rows((94, 94), (93, 93)))["1000"]
    assert (fast.verdict, fast.found, fast.n) == ("yes", "30.0 s (30.0 to 30.0)", 4)
    assert judged(rows((94, 94), (93, 93), seconds=5000.0))["1000"].verdict == "no"
    mixed = judged([*rows((94,), (93,), seconds=1100.0), *rows((94,), (), seconds=900.0)])["1000"]
    assert (mixed.verdict, mixed.found) == ("undecided", "1033.3 s (900.0 to 1100.0)")
    cut = judged(rows((94, 94), (93, 93), seconds=999.0, epochs=6.2, ended_by="budget"))["1000"]
    assert (cut.verdict, cut.found) == ("no", "999.0 s (999.0 to 999.0); time ended 4 of 4 runs, after 6.2 epochs")
    short = judged(rows((94, 94), (93, 93), seconds=100.0, epochs=1.2, ended_by="budget"))["1000"]
    assert short.verdict == "undecided", "a shorter limit says nothing about 1000 s"


@pytest.mark.parametrize(("percent", "verdict"), [(94.08, "yes"), (93.9, "no")])
def test_near_is_a_multiple_of_the_published_error(percent, verdict):
    claim = judged(rows((percent, percent), (90, 90)))["The"]
    assert (claim.verdict, claim.n) == (verdict, 2)
    assert claim.found.startswith(f"{(100 - percent) / 4:.2f} ")
    assert "https://arxiv.org/abs/2404.00498" in claim.measurement
    assert "The" not in judged(rows((99, 99), (98, 98), dataset="digits")), "nobody published one"


def measure(value, way, seed, key="on_object", method="grad_cam", max_epochs=25.0):
    return Measure("cifar10", way, seed, method, key, value, 100, max_epochs, "GPU", "bf16", 64, "")


def test_heatmaps_are_judged_by_the_object_or_by_deletion():
    some = rows((94, 94), (93, 93))
    both = [measure(0.6 + 0.1 * way, way, seed) for way in (False, True) for seed in (0, 1)]
    gains = [measure(0.3 + sign * 0.1 * way, way, seed, key, method)
             for way in (False, True) for seed in (0, 1) for method in ("grad_cam", "grad_cam_fine")
             for key, sign in (("deletion_gain", -1), ("insertion_gain", 1))]  # fmt: skip
    last, gone, come = (
        each for each in claims(setups(some)[0], some, both + gains) if each.claim.startswith("Heatmaps")
    )
    assert (last.verdict, last.n) == ("yes", 2)
    assert "share of the evidence on the object" in last.measurement
    assert (gone.verdict, gone.n) == ("no", 2)
    assert "gain in deletion" in gone.measurement
    assert (come.verdict, come.n) == ("yes", 2), "both gains are told, also where they disagree"
    assert "gain in insertion" in come.measurement


def test_heatmaps_of_one_seed_are_judged_over_the_images():
    # 1.96 * sqrt(2 * 0.2**2 / 100) = 0.055.
    both = [dataclasses.replace(measure(0.6 + 0.1 * way, way, 0), sd=0.2) for way in (False, True)]
    found = next(each for each in claims(both[0].setup, rows((94,), (93,)), both) if each.claim.startswith("Heatmaps"))
    assert (found.verdict, found.found) == ("yes (one seed)", "+0.100 (+0.045 to +0.155 over the images; n = 1)")
    unknown = [measure(0.6 + 0.1 * way, way, 0) for way in (False, True)]
    found = next(each for each in claims(both[0].setup, rows((94,), (93,)), unknown) if each.claim.startswith("Heat"))
    assert (found.verdict, found.found) == ("undecided", "+0.100 (no interval: n = 1)")


@pytest.mark.parametrize(("sign", "way", "named"), [(1, True, "with"), (-1, False, "without")])
@pytest.mark.parametrize(
    # The interval's half is 1.984 * 0.2 / sqrt(100) = 0.0397 over the images, and over two seeds far wider.
    ("gains", "doubted"),
    [([0.0396], True), ([0.0398], False), ([-0.3], True), ([0.1, 0.5], True), ([0.299, 0.301], False)],
)
def test_maps_that_are_not_better_than_random_decide_nothing(sign, way, named, gains, doubted):
    both = [dataclasses.replace(measure(0.5 + sign * 0.1 * each, each, seed), sd=0.2)
            for each in (False, True) for seed in range(len(gains))]  # fmt: skip
    for seed, gain in enumerate(gains):
        both.append(dataclasses.replace(measure(gain, way, seed, "deletion_gain"), sd=0.2))
        both.append(dataclasses.replace(measure(-gain, not way, seed, "deletion_gain"), sd=0.2))
    found = next(each for each in claims(both[0].setup, rows((94,), (93,)), both) if each.claim.startswith("Heatmaps"))
    if doubted:
        assert found.verdict == "undecided"
        assert found.found.endswith(f"; the heatmaps {named} augmentation are not better than random")
    else:
        assert found.verdict.startswith("yes" if sign > 0 else "no")
        assert "random" not in found.found


def test_what_differs_is_kept_apart():
    narrow = rows((90,), (89,), width=32)
    other = rows((94,), (93,), device="another")
    short = rows((80,), (82,), max_epochs=2.0)
    some = [*short, *narrow, *rows((94, 95), (93, 93)), *other]
    assert [(each.max_epochs, each.width, each.device) for each in setups(some)] == [
        (25, 64, "GPU"), (25, 64, "another"), (25, 32, "GPU"), (2, 64, "GPU"),
    ]  # fmt: skip
    lines = results_table(some).rows
    assert [(line[1], line[2], line[8], line[9], line[10]) for line in lines[:3]] == [
        ("with augmentation", "94.50 ± 0.71", "2", "64", "GPU (bf16)"),
        ("without", "93.00 ± 0.00", "2", "64", "GPU (bf16)"),
        ("with augmentation", "94.00", "1", "64", "another (bf16)"),
    ]
    assert judged(some)["Accuracy"].found == "+1.50 points (-4.85 to +7.85)"
    found = gain_by_epochs(some, setups(some)[0])
    assert [(each.max_epochs, gain.mean) for each, *_, gain in found] == [
        (2, pytest.approx(-2)),
        (25, pytest.approx(1.5)),
    ]


def test_measures_of_two_lengths_stand_side_by_side():
    some = rows((94,), (93,))
    found = [measure(0.6, False, 0), measure(0.7, True, 0)]
    found += [measure(0.4, False, 0, max_epochs=2.0), measure(0.2, True, 0, max_epochs=2.0)]
    table = measures_table(found, setups(some)[0])
    (line,) = table.rows
    assert table.header[4::4] == ["25 epochs: without", "2 epochs: without"]
    assert line[4:] == ["0.600", "0.700", "+0.100 (no interval: n = 1)", "1",
                        "0.400", "0.200", "-0.200 (no interval: n = 1)", "1"]  # fmt: skip


def test_heatmaps_are_those_of_the_runs_whose_curves_are_shown(tmp_path, monkeypatch):
    """A sweep over epochs has a report of heatmaps for each number, that of the first runs first."""
    reports, shown = {}, []
    for number, (name, epochs) in enumerate((("cifar10", 2), ("cifar10-2", 25))):
        report = reports[name] = tmp_path / "sweep" / f"explain-{name}"
        report.mkdir(parents=True)
        lines = []
        for augmented in (False, True):
            run = tmp_path / "sweep" / str(2 * number + augmented)
            run.mkdir()
            (run / "config.yaml").write_text("dataset: {name: cifar10}\n")
            hparams = {"schedule.max_epochs": epochs, "augment.flip.probability": 0.5 * augmented}
            Results("cifar10", "davidnet", None, 0, 0, 0.9, stop_reason="epochs", hparams=hparams).write(run)
            lines.append({"run": run.name, "method": "grad_cam", "measure": "on_object", "mean": 0.5, "median": 0.5,
                          "n": 100, "sd": 0.1})  # fmt: skip
        with (report / "measures.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, lines[0])
            table.writeheader()
            table.writerows(lines)
    monkeypatch.setattr(page, "explain_sweep", lambda *given: reports)
    monkeypatch.setattr(
        page, "draw_curves", lambda pair, *others: shown.append(sorted(each.name for each in pair.values()))
    )
    monkeypatch.setattr(
        page, "figures_of", lambda dataset, curves, augmented, effects, hparams: shown.append(effects) or []
    )
    text = page.write_article(tmp_path / "sweep", "data").read_text()
    assert shown == [["2", "3"], reports["cifar10-2"]]
    assert "<h2>cifar10: 25 epochs, another network" in text
    assert "No heatmaps" not in text


def test_a_single_wide_run_hides_nothing_of_narrower_pairs(tmp_path):
    pair = rows((92.6,), (89.1,), width=32)
    short = rows((80.0,), (81.0,), width=32, max_epochs=2.0)
    measures = [dataclasses.replace(measure(0.6, way, 0), width=32) for way in (False, True)]
    parts = sections([*rows((94.0,), ()), *pair, *short], measures, {}, tmp_path / "epochs.png")
    assert [part.heading for part in parts] == [
        "Results",
        "The article's claims: 25 epochs",
        "Accuracy against epochs",
        "Measures of the heatmaps: 25 epochs, DavidNet of width 32, GPU (bf16)",
    ]
    claimed = parts[1].table.rows
    assert [(line[0].split()[0], line[5], str(line[2]), line[4]) for line in claimed] == [
        ("Accuracy", "width 32, GPU (bf16)", "yes (one seed)", "1"),
        ("Heatmaps", "width 32, GPU (bf16)", "undecided", "1"),
        ("1000", "width 64, GPU (bf16)", "yes", "1"),
        ("1000", "width 32, GPU (bf16)", "yes", "2"),
        ("The", "width 64, GPU (bf16)", "undecided", "1"),
        ("The", "width 32, GPU (bf16)", "no (one seed)", "1"),
    ], "a claim that one of them cannot tell of is told by the other alone"
    assert [line[1] for line in parts[2].table.rows] == ["2", "25"]


def test_what_nobody_measured_is_told_once():
    some = [*rows((94.0,), ()), *rows((93.9,), (), width=32), *rows((95.0,), (94.0,), dataset="fashion_mnist")]
    found = claims_of(setups(some), some, [])
    told = [(each.dataset, each.setup.width, each.verdict) for each in found if each.claim.startswith("Accuracy")]
    assert told == [
        ("cifar10", 64, "not measured"),
        ("fashion_mnist", 64, "yes (one seed)"),
    ]
    accuracy, heatmaps, *_ = findings(found)
    assert accuracy.split(": ")[1] == "cifar10 not measured; fashion_mnist yes (one seed), +1.00 points [width 64]."
    assert heatmaps.endswith(": cifar10 not measured; fashion_mnist not measured.")
    near = next(line for line in findings(found) if line.startswith("The error"))
    assert (
        "cifar10 undecided, 1.50 times its error [width 64]; cifar10 undecided, 1.52 times its error [width 32];"
        in near
    )
    only = findings([each for each in found if each.setup.width == 64])
    assert only[0].endswith("fashion_mnist yes (one seed), +1.00 points."), "one setup is not named on each line"


def written(path, *lines):
    """A table of rows, with a column that is nobody's."""
    values = [as_line(each) | {"date": "2026-11-29"} for each in lines]
    table = [list(values[0]), *(list(map(str, each.values())) for each in values)]
    path.write_text("".join(",".join(cells) + "\n" for cells in table))
    return path


def test_a_row_is_kept_as_it_is(tmp_path):
    for each in (ROW, dataclasses.replace(measure(0.25, True, 3), sd=0.125)):
        assert read_rows(type(each), written(tmp_path / "rows.csv", each)) == [each]
    assert read_rows(Row, tmp_path / "none.csv") == []


def test_tables_of_several_machines_can_be_put_together(tmp_path):
    again = dataclasses.replace(ROW, accuracy=0.5, run="of another machine of this kind")
    other = dataclasses.replace(ROW, device="another")
    one, two = written(tmp_path / "one.csv", ROW), written(tmp_path / "two.csv", again, other)
    one.write_text(one.read_text() + two.read_text())
    assert read_rows(Row, one) == [ROW, other], "a seed counts once, and a header among the lines is none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0.94", "high"), "line 2 is no row of this table (accuracy is 'high')"),
        (lambda text: text.replace(",yes,", ",true,"), "line 2 is no row of this table (augmented is 'true')"),
        (lambda text: text[:-30], "line 2 is no row of this table (it has too many or too few columns)"),
        (lambda text: text[:-1] + ",1\n", "line 2 is no row of this table (it has too many or too few columns)"),
        (lambda text: text + "<<<<<<< HEAD\n", "line 3 is no row of this table (it has too many or too few columns)"),
        (lambda text: text.replace(",loss,", ",Loss,"), "has no column loss"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(tmp_path, change, message):
    path = written(tmp_path / "rows.csv", ROW)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError) as told:
        read_rows(Row, path)
    assert message in str(told.value)
    assert str(path) in str(told.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_rows(Row, path)


def test_only_a_finished_run_has_a_row():
    results = Results("cifar10", "davidnet", "original", 2, 2, accuracy=0.9, stop_reason="epochs",
                      overrides=["dataset=cifar10", "seed=2", "outputs=x", "resume=auto", "stream=online"],
                      hparams={"model.width": 32, "schedule.max_epochs": 6.0})  # fmt: skip
    row = row_of(results, "run")
    dirty = dataclasses.replace(results, git_commit="6507cfab5797069a04f6dba60f96babe8fb19b86-dirty")
    assert row_of(dirty).commit == "6507cfab57-dirty", "changed files are told"
    assert (row.width, row.max_epochs, row.settings, row.augmented, row.seed) == (32, 6, "stream=online", False, 2)
    assert (
        row_of(dataclasses.replace(results, pretrained="resnet18 a")).settings == "stream=online pretrained=resnet18 a"
    )
    assert row_of(dataclasses.replace(results, stop_reason="interrupt")) is None
    assert row_of(dataclasses.replace(results, accuracy=None)) is None
    assert row_of(None) is None


@pytest.mark.parametrize("own", [{"dataset.source": "image_folder"}, {"dataset._target_": "mine.photos"}])
def test_images_of_your_own_are_not_compared_with_what_others_published_on_their_name(own):
    finished = Results("cifar10", "davidnet", "original", 0, 0, accuracy=0.95, stop_reason="epochs")
    official = {"dataset.name": "cifar10", "dataset.source": "builtin", "dataset._target_": None, "augment.auto": "a"}
    for hparams, compared in ((official, True), (official | own, False)):
        row = row_of(dataclasses.replace(finished, hparams=hparams))
        assert ("The" in judged([row])) == compared
        assert bool(page.published([row])) == compared
    assert row.dataset == "cifar10 (your own images)"


def test_settings_with_columns_of_their_own_do_not_set_rows_apart():
    given = ["model.width=32", "trainer.precision=fp32", "trainer.winograd=on", "trainer.num_threads=2", "outputs=o",
             "trainer.accelerator=gpu", "trainer.compile=false", "stream=auto"]  # fmt: skip
    assert further(given) == []
    assert further([*given, "optimizer.weight_decay=0", "batch_size=256"]) == [
        "batch_size=256",
        "optimizer.weight_decay=0",
    ]
