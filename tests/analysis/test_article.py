"""The article's page, made by a short sweep of real runs."""

import re

import pytest
from harness import QUICK, run_command

from fastconv.analysis.article import page as article

SHORT = ("dataset=digits", "model.width=4", "stream=online", "seed=0", "schedule.max_epochs=1",
         "batch_size=64", "dataset.cutout_size=3", "dataset.crop_padding=1", "figures=true")  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory, digits_root):
    """(how the command ended, the sweep's folder)."""
    folder = tmp_path_factory.mktemp("article")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(article, "HEATMAPS", (*QUICK, "method=[grad_cam,grad_cam_fine]"))
        ended = run_command(folder, digits_root, "train", "experiment=article", *SHORT)
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    return ended, sweep


def test_the_page_has_all_its_parts(swept):
    ended, sweep = swept
    assert ended.code == 0, ended.err
    page = (sweep / "article.html").read_text()
    assert f"{sweep.name}/article.html" in ended.out
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    assert headings[0] == "The article&#39;s experiment: digits"
    assert headings[1] == "Results"
    assert headings[2] == "The article&#39;s claims: 1 epoch"
    assert headings[3:] == ["digits", "Measures of the heatmaps", "How to make this page"]
    table = page[page.index("<table") : page.index("</table>")]
    for column in ("accuracy %", "loss", "seconds", "epochs", "parameters", "n", "width", "device"):
        assert f">{column}</th>" in table
    assert table.count("<tr>") == 3, "a header, and a row with and one without augmentation"
    assert "batch_size=64 dataset.crop_padding=1 dataset.cutout_size=3 stream=online" in table
    alts = re.findall(r'<img class="drawn[^"]*" src="data:image/webp;base64,[^"]+" alt="(.*?)">', page)
    shown = [f"Heatmaps of digits: Grad-CAM of the {layer}, {scale}" for layer in ("last block", "block before it")
             for scale in ("each on its own scale", "all on one scale")]  # fmt: skip
    assert alts == ["digits: curves", "Augmented images of digits", *shown]
    for claim in ("Accuracy is lower without", "Heatmaps lie on a more sensible part", "1000 s are enough"):
        assert re.search(f"<td[^>]*>{claim}", page)
    assert "python -m fastconv.train -m experiment=article dataset=digits model.width=4 stream=online" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs nothing else"


def test_a_run_that_failed_is_told_and_its_heatmaps_are_missed(command, tmp_path):
    ended = command("train", "experiment=article", *SHORT, "optimizer.max_lr=1000,0.4", "schedule.max_epochs=0.8",
                    "augment=standard", "figures=false")  # fmt: skip
    assert ended.code == 1
    (page,) = (path.read_text() for path in tmp_path.rglob("article.html"))
    assert "training diverged" in page
    assert "No heatmaps: " in page


def test_the_runs_of_a_seed_come_before_those_of_the_next(command):
    ended = command("train", "experiment=article", "dataset=digits", "model.width=4", "dry_run=true", "seed=0,1",
                    "augment.cutout.size=2", "sweep.report=none", "checkpoint.save=false")  # fmt: skip
    assert ended.code == 0, ended.err
    jobs = re.findall(r"^job \d of \d: (.*)$", ended.out, re.M)
    assert [(re.search("seed=.", job)[0], re.search("augment=[a-z]+", job)[0]) for job in jobs] == [
        ("seed=0", "augment=standard"), ("seed=0", "augment=none"),
        ("seed=1", "augment=standard"), ("seed=1", "augment=none"),
    ]  # fmt: skip
