"""Exported files predict as the checkpoint does, from raw images, without fastconv."""

import shutil

import numpy as np
import pytest
import torch
from harness import by_hand, only_run, run_command

from fastconv.analysis import export as exporting
from fastconv.data.loading import load

RESNET = ("dataset=digits", "model=resnet18", "model.width=4", "batch_size=64", "micro_batch_size=64",
          "budget.seconds=null", "schedule.max_epochs=0.5", "stream=online", "validate.on=none")  # fmt: skip


@pytest.fixture(scope="module", params=["airbench", "davidnet", pytest.param("resnet18", marks=pytest.mark.slow)])
def exported(request, tmp_path_factory, digits_root):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "resnet18":
        assert run_command(folder, digits_root, "train", *RESNET).code == 0
        run = only_run(folder)
    else:
        run = shutil.copytree(request.getfixturevalue(f"{request.param}_run"), folder / "run")
    ended = run_command(folder, digits_root, "export", f"run={run}", "format=[onnx,torch]")
    assert ended.code == 0, ended.err
    assert "on 359 test images" in ended.out
    _, test = load("digits", digits_root)
    return run, np.array(test.images), by_hand(run, test.images)


def test_onnx_predicts_as_the_checkpoint(exported):
    import onnxruntime

    run, images, expected = exported
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert given.type == "tensor(uint8)"
    for some in (images, images[:1], images[:7]):
        (found,) = session.run(None, {given.name: some})
        np.testing.assert_allclose(found, expected[: len(some)], atol=1e-4)


def test_torch_export_predicts_as_the_checkpoint(exported):
    run, images, expected = exported
    module = torch.export.load(run / "model.pt2").module()
    for some in (images, images[:1], images[:7]):
        np.testing.assert_allclose(module(torch.from_numpy(some)).numpy(), expected[: len(some)], atol=1e-4)
    assert (run / "classes.txt").read_text().split() == list("0123456789")


def test_one_image_to_compare_on_is_enough(exported, digits_root, tmp_path):
    """A file takes any number of images all the same."""
    run, images, expected = exported
    ended = run_command(tmp_path, digits_root, "export", f"run={run}", "format=torch", "samples=1")
    assert ended.code == 0, ended.err
    assert "on 1 test image" in ended.out
    module = torch.export.load(run / "model.pt2").module()
    np.testing.assert_allclose(module(torch.from_numpy(images[:7])).numpy(), expected[:7], atol=1e-4)


def test_a_file_that_predicts_otherwise_is_not_written(exported, digits_root, tmp_path, monkeypatch):
    run, *_ = exported

    def wrong(network, images, path):
        assert path.suffix == ".pt2", "torch warns of another ending"
        path.write_bytes(b"")
        return lambda given: np.zeros((len(given), 10), np.float32)

    monkeypatch.setitem(exporting.WRITERS, "torch", wrong)
    before = (run / "model.pt2").read_bytes()
    ended = run_command(tmp_path, digits_root, "export", f"run={run}", "format=torch")
    assert ended.code == 1
    assert "would give other probabilities than the checkpoint" in ended.err
    assert (run / "model.pt2").read_bytes() == before
    assert not list(run.glob("part-*"))
    ended = run_command(tmp_path, digits_root, "export", f"run={run}", "format=onx")
    assert "did you mean onnx?" in ended.err


def test_a_network_that_no_file_can_hold_is_told_in_one_line(exported, digits_root, tmp_path, monkeypatch):
    """A user's own may compute anything, such as what depends on values."""
    run, *_ = exported

    def branching(self, images):
        logits = self.classifier(images.float())
        return (logits if images.float().mean() > 0 else -logits).softmax(1)

    monkeypatch.setattr(exporting.Probabilities, "forward", branching)
    before = (run / "model.pt2").read_bytes()
    ended = run_command(tmp_path, digits_root, "export", f"run={run}", "format=torch")
    assert ended.code == 1
    assert " cannot be written with format=torch: " in ended.err
    assert "data-dependent" in ended.err
    assert ended.err.count("\n") == 1
    assert (run / "model.pt2").read_bytes() == before
