"""The report of where networks look, and the sweep that trains what it compares."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import QUICK, Ended, run_command
from PIL import Image
from scipy.stats import t as student

import fastconv
from fastconv.analysis.attribution import augmentation_effect
from fastconv.analysis.attribution.attribution import Attributor, attribute
from fastconv.analysis.attribution.metrics import deletion_and_insertion
from fastconv.analysis.attribution.network import PixelNetwork, Pixels, as_pixels
from fastconv.analysis.checkpoint import load_run
from fastconv.config.commands import Method
from fastconv.config.overrides import compose
from fastconv.data.loading import load
from fastconv.models.weights import DIGEST, weights_digest
from fastconv.runs.results import Results

SWEEP = ("experiment=augmentation_effect", "model.width=4", "seed=0,1", "budget.seconds=null", "schedule.max_epochs=2")

METHODS = ("method=[grad_cam,integrated_gradients,occlusion]",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_root) -> Path:
    """A folder with a finished sweep over augmentation and seeds in `outputs/sweep`: none, standard, none, standard."""
    folder = tmp_path_factory.mktemp("explain")
    ended = run_command(folder, digits_root, "train", *SWEEP, "sweep.report=none", "hydra.sweep.dir=outputs/sweep")
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def runs(folder, tmp_path) -> Path:
    """A copy of the sweep's folder that a test may change."""
    return Path(shutil.copytree(folder / "outputs" / "sweep", tmp_path / "sweep"))


def explain(folder: Path, data: Path, *overrides: str) -> Ended:
    return run_command(folder, data, "explain", *overrides)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- the report


@pytest.fixture(scope="module")
def report(folder, digits_root) -> Path:
    """The report of two pairs of runs."""
    sides = "run=[outputs/sweep/0,outputs/sweep/2]", "against=[outputs/sweep/1,outputs/sweep/3]"
    ended = explain(folder, digits_root, *sides, *QUICK, *METHODS, "folder=report")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-2].endswith("report/explain.html")
    assert ended.out.splitlines()[-1].startswith("next: fastconv export run=")
    return folder / "report"


def test_the_report_has_all_its_files(report):
    names = {path.name for path in report.iterdir()}
    assert names >= {"explain.html", "explain.yaml", "images.csv", "measures.csv", "maps.npz", "measures.png",
                     "effect.png", "effect-own-scale.png", "methods-1.png", "methods-2.png"}  # fmt: skip
    assert not list(report.parent.glob("*.part"))


def test_the_maps_are_captums(report, folder, digits_root):
    """What lies in maps.npz is what the method gives for the run's own checkpoint."""
    run = load_run(folder / "outputs" / "sweep" / "1")
    maps = np.load(report / "maps.npz")
    train, _ = load("digits", digits_root)
    network, pixels = PixelNetwork(run.model, run.mean, run.std), Pixels.of(train.images)
    inputs, target = as_pixels(maps["images"]), torch.from_numpy(maps["against/0/target"])
    assert torch.equal(network(inputs).argmax(1), target)
    for name, method in {
        "grad_cam": Method("LayerGradCam", layer="layer2"),
        "integrated_gradients": Method("IntegratedGradients", arguments={"n_steps": 32}),
        "occlusion": Method("Occlusion", window=0.25),
    }.items():
        expected = attribute(Attributor(method, network, pixels, run.shape), inputs, target)[0].sum(1)
        assert np.allclose(maps[f"against/0/{name}"], expected, atol=1e-5)
        assert maps[f"against/0/{name}"].shape == (len(inputs), 8, 8)


def test_the_network_is_the_one_that_was_scored(folder, digits_root):
    run = load_run(folder / "outputs" / "sweep" / "0")
    _, test = load("digits", digits_root)
    said = PixelNetwork(run.model, run.mean, run.std)(as_pixels(test.images)).argmax(1).numpy()
    assert (said == test.labels).mean() == pytest.approx(run.results.accuracy, abs=2 / len(test))


def test_the_tables_hold_what_the_page_says(report):
    rows = table(report / "measures.csv")
    assert {row["group"] for row in rows} == {"without augmentation", "with augmentation"}
    assert {row["seed"] for row in rows} == {"0", "1"}
    gaps = [row for row in rows if row["measure"] == "gap"]
    assert {row["method"] for row in gaps} == {"integrated_gradients"}
    assert all(float(row["median"]) < 0.05 for row in gaps)
    # A difference of the page, computed again from the table.
    values = {
        group: np.array([float(row["mean"]) for row in rows if (row["group"], row["method"], row["measure"]) ==
                        (group, "occlusion", "half_area")])
        for group in ("without augmentation", "with augmentation")
    }  # fmt: skip
    change = values["with augmentation"] - values["without augmentation"]
    half = student.ppf(0.975, 1) * change.std(ddof=1) / np.sqrt(2)
    page = (report / "explain.html").read_text()
    cells = re.search(r"<td>Occlusion</td><td[^>]*>area that holds half of the attribution</td>(.*?)</tr>", page)[1]
    sign = "+" if change.mean() >= 0 else ""
    assert f"<td>{sign}{100 * change.mean():.1f} %</td><td>± {100 * half:.1f} %</td>" in cells
    images = table(report / "images.csv")
    assert len(images) == 4 * len(np.load(report / "maps.npz")["labels"])
    assert {row["kind"] for row in images} <= {"class", "error", "correct"}


def test_measures_are_of_images_that_no_prediction_chose(report, folder, digits_root):
    """One of each class: deletion and insertion of the maps in maps.npz, and what they gain over random heatmaps."""
    run, maps = load_run(folder / "outputs" / "sweep" / "1"), np.load(report / "maps.npz")
    network, pixels = PixelNetwork(run.model, run.mean, run.std), Pixels.of(load("digits", digits_root)[0].images)
    inputs, target = as_pixels(maps["images"])[:10], torch.from_numpy(maps["against/0/target"])[:10]
    rows = {(row["method"], row["measure"]): row for row in table(report / "measures.csv") if row["run"] == run.name}
    for method in ("grad_cam", "integrated_gradients", "occlusion"):
        some = torch.from_numpy(maps[f"against/0/{method}"])[:10]
        areas = deletion_and_insertion(network, inputs, some, target, pixels.absent(), steps=2)
        for measure, sign, area in zip(("deletion", "insertion"), (-1, 1), areas, strict=True):
            found = {part: float(rows[method, f"{measure}{part}"]["mean"]) for part in ("", "_random", "_gain")}
            assert rows[method, measure]["n"] == "10"
            assert found[""] == pytest.approx(area.mean(), abs=1e-4)
            assert found["_gain"] == pytest.approx(sign * (found[""] - found["_random"]), abs=1e-4)


def test_the_page_needs_nothing_else(report):
    page = (report / "explain.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in re.sub(r"data:[^\"']*|http-equiv", "", page)
    assert all('alt="' in image for image in re.findall(r"<img [^>]*>", page))
    assert re.search(
        r'class="findings"><p>Test accuracy: [\d.]+ % without augmentation, [\d.]+ % with augmentation', page
    )
    assert "2 pairs of seeds" in page


def test_a_report_of_one_run_lies_in_its_folder(runs, digits_root):
    ended = explain(runs, digits_root, "run=0", *QUICK, "method=[grad_cam_fine,occlusion]", "measures=false")
    assert ended.code == 0, ended.err
    assert (runs / "0" / "explain" / "methods-1.png").exists()
    assert "anecdotal" in ended.out
    before = (runs / "0" / "explain" / "images.csv").read_text()
    explain(runs, digits_root, "run=0", *QUICK, "method=[occlusion]", "measures=false")  # again, in its place
    assert (runs / "0" / "explain" / "images.csv").read_text() == before
    assert len(np.load(runs / "0" / "explain" / "maps.npz").files) == 4
    ended = run_command(runs, digits_root, "compare", "runs=.", "by=runs", "format=csv")
    assert len(ended.out.splitlines()) == 1 + 4  # the report is no run


def test_files_of_ones_own(runs, digits_root):
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(runs / "a.png")
    Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(runs / "b.jpg")
    ended = explain(runs, digits_root, "run=0", "images=[a.*,b.jpg]", *QUICK, "method=[occlusion]", "folder=out")
    assert ended.code == 0, ended.err
    assert [row["image"] for row in table(runs / "out" / "images.csv")] == ["a.png", "b.jpg"]
    assert {row["label"] for row in table(runs / "out" / "images.csv")} == {""}


def test_a_confidence_is_that_which_predict_gives(runs, digits_root):
    """At the run's temperature."""
    Image.fromarray(np.eye(9, dtype=np.uint8) * 255).save(runs / "a.png")
    checkpoint = torch.load(runs / "0" / "last.ckpt", weights_only=False)
    torch.save(checkpoint | {"temperature": 3.0}, runs / "0" / "last.ckpt")
    results = json.loads((runs / "0" / "results.json").read_text())
    (runs / "0" / "results.json").write_text(json.dumps(results | {"temperature": 3.0}))
    ended = explain(runs, digits_root, "run=0", "images=[a.png]", *QUICK, "method=[occlusion]", "folder=out")
    assert ended.code == 0, ended.err
    ((label, probability),) = fastconv.load(runs / "0").predict(runs / "a.png").top(1)[0]
    (row,) = table(runs / "out" / "images.csv")
    assert (row["prediction"], float(row["confidence"])) == (label, pytest.approx(probability, abs=2e-4))


def test_a_method_of_ones_own(runs, digits_root):
    mine = "+methods.mine={captum: LayerGradientXActivation, title: Mine, layer: fine}"
    ended = explain(runs, digits_root, "run=0", *QUICK, "method=[occlusion]", mine)
    assert ended.code == 0, ended.err
    assert "Mine" in (runs / "0" / "explain" / "explain.html").read_text()


def test_a_map_without_evidence_is_marked(runs, digits_root):
    path = runs / "0" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["model.linear.weight"][:] = 0
    checkpoint[DIGEST] = weights_digest(checkpoint["state_dict"])
    torch.save(checkpoint, path)
    replace(Results.read(path.parent), weights_digest=checkpoint[DIGEST]).write(path.parent)
    ended = explain(runs, digits_root, "run=0", *QUICK, "method=[grad_cam]")
    assert ended.code == 0, ended.err
    assert "not better than random heatmaps: Grad-CAM" in ended.out
    assert "no evidence by Grad-CAM" in (runs / "0" / "explain" / "explain.html").read_text()
    assert {row["without_evidence"] for row in table(runs / "0" / "explain" / "images.csv")} == {"grad_cam"}


# -- what cannot be explained


def damage(runs: Path, what: str) -> None:
    path = runs / "0" / "last.ckpt"
    if what == "no checkpoint":
        path.unlink()
    elif what == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    elif what == "another network":
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["network"]["settings"]["width"] = 8
        torch.save(checkpoint, path)
    elif what == "other classes":
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["network"]["classes"][3] = "three"
        torch.save(checkpoint, path)
    elif what == "broken picture":
        (runs / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")


@pytest.mark.parametrize(
    ("what", "overrides", "line"),
    [
        ("no run", ["run=nowhere"], "nowhere is not the folder of a run"),
        ("no checkpoint", ["run=0"], "0 has no last.ckpt"),
        ("damaged", ["run=0"], "0/last.ckpt is damaged"),
        ("another network", ["run=0"], "0/last.ckpt is of another network"),
        ("other classes", ["run=0", "against=1"], "have different classes (3, three)"),
        ("broken picture", ["run=0", "images=[a.png]"], "images=a.png cannot be read as an image"),
        ("no picture", ["run=0", "images=[c.png]"], "images=c.png is not there"),
        ("", ["run=0", "methods.grad_cam.layer=layer7"], "unknown layer layer7; did you mean layer3?"),
        ("", ["run=0", "+methods.mine.captum=LayerGradCan"], "unknown method LayerGradCan"),
        ("", ["run=0", "+methods.mine.layer=last"], "methods.mine.captum has no value"),
        ("", ["run=0", "methods.occlusion.window=2"], "methods.occlusion.window=2.0 is not possible"),
        ("", ["run=0", "+methods.occlusion.windw=1"], "unknown key methods.occlusion.windw; did you mean window?"),
        ("", ["run=0", "method=[gradcam]"], "unknown method gradcam; did you mean grad_cam?"),
        ("", ["run=0", "method=deep_lift"], "Captum has no rule for AdaptiveMaxPool2d"),
        ("", ["run=[0,2]", "against=1"], "run names 2 folders and against 1"),
        ("", ["run=[]"], "run=[] is not possible"),
        ("", [], "run has no value"),
        ("", ["run=null"], "run has no value"),
        ("", ["run=[0,0]"], "run names runs of the same seed"),
        ("", ["run=[0,3]"], "0 and 3 differ in augment.crop.padding"),
        ("", ["run=[0,2]", "against=[3,1]"], "run and against have different seeds"),
        ("", ["run=0", "folder=1"], "1 has files that do not belong to a report and would be lost"),
        ("", ["run=0", "+methods.integrated_gradients.arguments.return_convergence_delta=true"], "gives a tuple"),
        ("", ["run=0", "+methods.mine={captum: LayerDeepLift, layer: layer3}"], "no rule for AdaptiveMaxPool2d"),
        ("", ["run=0", "target=labels"], "target=labels is unknown; did you mean label?"),
        ("", ["run=0", "steps=0"], "steps=0 is not possible"),
        ("", ["run=0", "names=[a,b]"], "names=['a', 'b'] is not possible"),
        ("", ["run=0", "images={a: 1}"], "images={a: 1} is not there"),
        ("", ["run=0", "folder=/proc/no"], "cannot write /proc/no"),
    ],
)
def test_one_clear_line(what, overrides, line, runs, digits_root):
    damage(runs, what)
    before = sorted(runs.rglob("*"))
    ended = explain(runs, digits_root, *overrides)
    assert ended.code == 1
    assert line in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert "Traceback" not in ended.err
    assert sorted(runs.rglob("*")) == before


# -- the sweep


def test_the_sweep_is_made_of_pairs(folder):
    found = [json.loads((folder / "outputs" / "sweep" / str(job) / "results.json").read_text()) for job in range(4)]
    assert [each["seed"] for each in found] == [0, 0, 1, 1]
    configs = [load_run(folder / "outputs" / "sweep" / str(job)).config for job in range(4)]
    assert [config.augment.crop.padding for config in configs] == [0, 1, 0, 1]
    assert {config.experiment for config in configs} == {"augmentation_effect"}


def test_a_stopped_sweep_goes_on_and_is_explained(runs, digits_root, monkeypatch):
    """Finished runs stay as they are, one without results begins again, and the report (of few images) compares all."""
    monkeypatch.setattr(
        augmentation_effect, "compose", lambda name, given: compose(name, [*given, *QUICK, "method=[grad_cam]"])
    )
    kept = {job: (runs / str(job) / "last.ckpt").read_bytes() for job in (0, 1, 3)}
    weights = torch.load(runs / "2" / "last.ckpt", weights_only=True)["state_dict"]
    shutil.rmtree(runs / "2")
    ended = run_command(runs, digits_root, "train", *SWEEP, "sweep.resume=.")
    assert ended.code == 0, ended.err
    assert all((runs / str(job) / "last.ckpt").read_bytes() == content for job, content in kept.items())
    again = torch.load(runs / "2" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert Results.read(runs / "2").stop_reason == "epochs"
    assert "2 pairs of seeds" in (runs / "explain-digits" / "explain.html").read_text()
    assert "Test accuracy:" in ended.out


def test_another_sweep_is_not_gone_on_with(runs, digits_root):
    ended = run_command(runs, digits_root, "train", *SWEEP, "batch_size=64", "sweep.resume=.", "sweep.report=none")
    assert ended.code == 1
    assert "sweep.resume=. is another sweep: 0 has batch_size=128, not 64" in ended.err
    assert len(list(runs.glob("*/results.json"))) == 4


def test_a_sweep_without_pairs_is_not_explained(runs, digits_root):
    shutil.rmtree(runs / "1")
    shutil.rmtree(runs / "2")
    ended = run_command(runs, digits_root, "train", *SWEEP, "augment=none", "sweep.resume=new", "dry_run=true")
    assert ended.code == 0, ended.err
    from fastconv.analysis.attribution.augmentation_effect import pairs

    assert pairs([load_run(runs / "0"), load_run(runs / "3")]) == {}
