"""The article's page, made by a short sweep of real runs."""

import re
import subprocess

import pytest
from harness import REPOSITORY, run_command

SHORT = ("dataset=digits", "model.width=4", "stream=online", "budget.seconds=null", "schedule.max_epochs=1",
         "batch_size=64", "dataset.cutout_size=3", "dataset.crop_padding=1", "figures=true")  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory, digits_root):
    """(how the command ended, the sweep's folder)."""
    folder = tmp_path_factory.mktemp("article")
    ended = run_command(folder, digits_root, "train", "experiment=article", *SHORT)
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    return ended, sweep


def test_the_page_has_all_its_parts(swept):
    ended, sweep = swept
    assert ended.code == 0, ended.err
    page = (sweep / "article.html").read_text()
    assert f"{sweep.name}/article.html" in ended.out
    headings = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    assert headings == [
        "Results of training without a time limit: digits",
        "Results",
        "digits",
        "How to make this page",
    ]
    table = page[page.index("<table") : page.index("</table>")]
    for column in ("accuracy %", "epochs", "train s", "setup s", "parameters"):
        assert f">{column}</th>" in table
    assert table.count("<tr>") == 3, "a header, and a row with and one without augmentation"
    alts = re.findall(r'<img class="drawn" src="data:image/webp;base64,[^"]+" alt="(.*?)">', page)
    assert alts == ["digits: curves", "Augmented images of digits", "Heatmaps of digits"]
    assert re.search(r"digits: \d+\.\d\d % with augmentation after 0\.\d+ of 1 epochs; \d+\.\d\d % without", page)
    assert "python -m fastconv.train -m experiment=article dataset=digits model.width=4 stream=online" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "it needs nothing else"


def test_a_run_that_failed_is_told_and_its_heatmaps_are_missed(command, tmp_path):
    ended = command("train", "experiment=article", *SHORT, "optimizer.max_lr=1000,0.4", "schedule.max_epochs=0.8",
                    "augment=standard")  # fmt: skip
    assert ended.code == 1
    (page,) = (path.read_text() for path in tmp_path.rglob("article.html"))
    assert "training diverged" in page
    assert "No heatmaps: " in page


def test_make_article_is_that_sweep():
    shown = subprocess.run(
        ["make", "-n", "article", "ARGS=budget.seconds=5"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert "-m fastconv.train experiment=article sweep.resume=auto budget.seconds=5" in shown
