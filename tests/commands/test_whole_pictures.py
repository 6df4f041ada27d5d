"""A run on wide images sees them whole, and so does everything that is done with it afterwards."""

import json
import shutil

import numpy as np
import pytest
import torch
from harness import QUICK, by_hand, only_run, run_command
from omegaconf import OmegaConf
from PIL import Image

import fastconv
from fastconv.analysis.checkpoint import load_run
from fastconv.data.sources.pixels import to_array

SIDE = 12
TRAIN = ("dataset=image_folder", "dataset.root=photos", f"dataset.image_size={SIDE}", "model=airbench",
         "model.widths=[4,8,8]", "augment=none", "batch_size=16", "micro_batch_size=16", "trainer=cpu",
         "trainer.precision=fp32", "budget.seconds=null", "schedule.max_epochs=12", "stream=online", "validate.on=none",
         "checkpoint.every=null")  # fmt: skip


def wide(generator, bright: bool) -> Image.Image:
    """Dark noise, 3:1, which is bright at its left end or nowhere: the square in the middle does not show it."""
    pixels = generator.integers(0, 90, (SIDE, 3 * SIDE, 3), np.uint8)
    pixels[:, : SIDE // 2] += 150 * bright
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def trained(made_once):
    """A folder with wide photos, and a run below `outputs`; what it printed is in out.txt."""

    def train(folder):
        generator = np.random.default_rng(0)
        for label in ("bright", "dark"):
            (folder / "photos" / label).mkdir(parents=True)
            for at in range(40):
                wide(generator, label == "bright").save(folder / "photos" / label / f"{at}.png")
        ended = run_command(folder, folder / "data", "train", *TRAIN)
        assert ended.code == 0, ended.err
        (folder / "out.txt").write_text(ended.out)

    return made_once("wide photos", train)


@pytest.fixture
def there(trained, tmp_path):
    """A copy: (folder, run)."""
    for name in ("photos", "outputs", "data"):
        shutil.copytree(trained / name, tmp_path / name)
    run = only_run(tmp_path / "outputs")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(trained), str(tmp_path)))  # the photos' place is absolute
    return tmp_path, run


def padded(path) -> np.ndarray:
    return to_array(Image.open(path), SIDE, False, resize="pad")


def test_the_choice_is_told_and_kept(trained):
    run = only_run(trained / "outputs")
    told = "".join((trained / "out.txt").read_text().replace("│", "").split())
    assert "dataset.resize=autochosepad:80of80images" in told
    assert json.loads((run / "results.json").read_text())["hparams"]["dataset.resize"] == "pad"
    assert json.loads((run / "splits.json").read_text())["resize"] == "pad"
    assert OmegaConf.load(run / "config.yaml").dataset.resize == "auto"
    assert torch.load(run / "last.ckpt", weights_only=True)["network"]["resize"] == "pad"
    assert load_run(run).resize == "pad"
    assert json.loads((run / "results.json").read_text())["accuracy"] > 0.9


def test_predict_sees_files_whole(there, command, tmp_path):
    folder, run = there
    paths = sorted((folder / "photos" / "bright").iterdir())[:6]
    expected = by_hand(run, np.stack([padded(path) for path in paths]))
    predictor = fastconv.load(run, "cpu")
    np.testing.assert_allclose(predictor.predict(paths).probabilities, expected, atol=1e-5)
    opened = [Image.open(path) for path in paths]
    np.testing.assert_allclose(predictor.predict(opened).probabilities, expected, atol=1e-5)
    arrays = np.stack([np.asarray(image) for image in opened])
    np.testing.assert_allclose(predictor.predict(arrays).probabilities, expected, atol=1e-5)
    ended = command("predict", f"run={run}", f"images={folder / 'photos'}", "out=found.jsonl", "accelerator=cpu")
    assert ended.code == 0, ended.err
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    right = [(row["classes"][0]["class"] == "bright") == ("/bright/" in str(row["image"])) for row in rows]
    assert np.mean(right) > 0.9, "no middle square shows the class"


def test_evaluate_and_explain_see_them_whole(there, command):
    folder, run = there
    ended = command("evaluate", f"run={run}", f"data={folder / 'data'}")
    assert ended.code == 0, ended.err
    accuracy = json.loads((run / "evaluation.json").read_text())["accuracy"]
    assert accuracy == pytest.approx(json.loads((run / "results.json").read_text())["accuracy"])
    file = next((folder / "photos" / "bright").iterdir())
    ended = command("explain", f"run={run}", f"data={folder / 'data'}", f"images=[{file}]", "method=[grad_cam]", *QUICK,
                    "measures=false")  # fmt: skip
    assert ended.code == 0, ended.err


def test_a_run_keeps_its_way_when_auto_would_choose_another(there, command):
    folder, run = there
    before = json.loads((run / "results.json").read_text())["accuracy"]
    generator = np.random.default_rng(1)
    for label in ("bright", "dark"):
        for at in range(500):
            image = Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            image.save(folder / "photos" / label / f"square {at}.png")
    ended = command("evaluate", f"run={run}", f"data={folder / 'data'}")
    assert ended.code == 0, ended.err
    assert "1,000 images are new since this run, and left out." in ended.out
    assert json.loads((run / "evaluation.json").read_text())["accuracy"] == pytest.approx(before)


def test_export_says_how_images_are_prepared(there, command):
    _, run = there
    ended = command("export", f"run={run}", "format=torch", "samples=3")
    assert ended.code == 0, ended.err
    said = "each image scaled until it just fits into 12x12 pixels and centred on its own mean colour"
    assert said in ended.out
    assert "integers of more than 8 bits divided by 256, floats times 255, transparent parts on white" in ended.out
    extra = {"preprocessing": ""}
    torch.export.load(run / "model.pt2", extra_files=extra)
    assert said in extra["preprocessing"]


def test_onnx_says_it_too(there, command):
    import onnxruntime

    _, run = there
    ended = command("export", f"run={run}", "format=onnx", "samples=3")
    assert ended.code == 0, ended.err
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map["preprocessing"]
    assert about.startswith("uint8 [N, 12, 12, 3], 0 to 255, RGB; each image scaled until it just fits")


def test_other_ways_are_refused_in_one_line(command):
    ended = command("train", *TRAIN, "dataset.resize=stretch")
    assert ended.code == 1
    assert ended.err.startswith("fastconv: dataset.resize=stretch is unknown")
    assert "crop, pad, squash, auto" in ended.err
    assert ended.err.count("\n") == 1


def test_a_damaged_way_is_refused_in_one_line(there, command):
    _, run = there
    stored = torch.load(run / "last.ckpt", weights_only=True)
    stored["network"]["resize"] = ["pad"]
    torch.save(stored, run / "last.ckpt")
    ended = command("export", f"run={run}", "format=torch")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "last.ckpt is damaged" in ended.err
