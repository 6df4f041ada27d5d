"""A trained run in Python does what the commands do."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from harness import QUICK
from PIL import Image

import fastconv
from fastconv.analysis import export
from fastconv.system.errors import InputError


@pytest.fixture
def predictor(davidnet_run, digits_root, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.chdir(tmp_path)
    return fastconv.load(shutil.copytree(davidnet_run, tmp_path / "a run, 1"), "cpu")


def test_the_public_names_are_all_that_is_shown():
    assert dir(fastconv) == ["Predictions", "Predictor", "__version__", "fit", "load"]
    assert all(getattr(fastconv, name) is not None for name in dir(fastconv))
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        fastconv.fitt  # noqa: B018


def test_arguments_that_are_no_settings_are_named(predictor):
    images = np.zeros((3, 8, 8), np.uint8)
    for call in (lambda: predictor.evaluate(images, [0, 1, 2]), lambda: predictor.explain(None, images),
                 lambda: predictor.export(overrides=[images])):  # fmt: skip
        with pytest.raises(InputError, match=r"takes other settings as strings, such as .* is a ndarray$"):
            call()


def test_evaluate_scores_the_test_images_and_writes_the_page(predictor):
    found = predictor.evaluate()
    assert found.accuracy == pytest.approx(predictor.run.results.accuracy)
    assert (predictor.run.folder / "report.html").exists()
    written = json.loads((predictor.run.folder / "evaluation.json").read_text())
    assert written["accuracy"] == pytest.approx(found.accuracy)
    assert repr(found).startswith(
        f"Evaluation({len(found.labels)} images: accuracy {found.accuracy:.2%}, 95 % interval"
    )
    with pytest.raises(InputError, match="did you mean accelerator"):
        predictor.evaluate("acelerator=cpu")
    with pytest.raises(InputError, match=r"dataset\.root is not possible"):
        predictor.evaluate("dataset.root=photos")


def test_explain_writes_the_page_of_files(predictor, tmp_path, capsys):
    Image.new("L", (8, 8), 100).save(tmp_path / "a, b.png")
    page = predictor.explain(tmp_path / "a, b.png", "method=[grad_cam]", "measures=false", *QUICK)
    assert page == predictor.run.folder / "explain" / "explain.html"
    assert "a, b.png" in page.read_text()
    assert not capsys.readouterr().out.strip()
    with pytest.raises(InputError, match=r"images=.* is not possible: give files"):
        predictor.explain([])


def test_export_writes_the_formats(predictor, monkeypatch):
    """How each format is written is tested with the command."""

    def write(network, images, path):
        path.write_bytes(b"network")
        return lambda given: network(torch.from_numpy(given)).numpy()

    for kind in export.WRITERS:
        monkeypatch.setitem(export.WRITERS, kind, write)
    run = predictor.run.folder
    assert predictor.export("torch", overrides=["samples=20"]) == [run / "model.pt2"]
    assert not (run / "model.onnx").exists()
    assert predictor.export() == [run / "model.onnx", run / "model.pt2"]
    assert [path.read_bytes() for path in predictor.export()] == [b"network"] * 2
    with pytest.raises(InputError, match="format=onx"):
        predictor.export("onx")


def test_a_notebook_shows_a_table_in_which_nothing_is_markup(predictor):
    shown = predictor._repr_html_()
    results = predictor.run.results
    for text in (
        f"{results.accuracy:.2%} of the test images",
        "digits: 10 classes, 8x8x1",
        f"{results.parameters:,} para",
    ):
        assert text in shown
    config = dataclasses.replace(
        predictor.run.config, dataset=dataclasses.replace(predictor.run.config.dataset, name="<script>x</script>\n")
    )
    predictor.run = dataclasses.replace(predictor.run, config=config)
    assert "<script>" not in predictor._repr_html_()
    assert "&lt;script&gt;x&lt;/script&gt;\\n" in predictor._repr_html_()
    predictor.run = dataclasses.replace(predictor.run, results=None)
    assert "accuracy" not in predictor._repr_html_()


def test_the_rows_of_an_image_are_not_images(predictor):
    image = np.zeros((8, 8, 3), np.uint8)
    assert len(predictor.predict(image)) == 1
    assert len(predictor.predict([image])) == 1
    assert len(predictor.predict(image[..., 0])) == 1
    assert len(predictor.predict(np.stack([image] * 5))) == 5
    with pytest.raises(InputError, match="image 0 is 8x3: this may be a row of an image"):
        predictor.predict(list(image))
