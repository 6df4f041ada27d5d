"""Names that people have, of files, folders, classes and data sets: no command loses its work over one."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import only_run, run_command
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from fastconv.runs.results import Results
from fastconv.system.terminal import print_in_any_encoding

LATIN = os.fsdecode(b"caf\xe9.png")
BROKEN = os.fsdecode(b"br\xf6ken.png")
CLASSES = ("$a_1$", "_b^{", "<i>c", os.fsdecode(b"d\xe9"), "e\u200f" + "x" * 230)
SMALL = ("trainer=cpu", "trainer.precision=fp32", "model.width=4", "batch_size=16", "micro_batch_size=16",
         "dataset.image_size=8", "augment=none", "stream=online", "budget.seconds=null",
         "schedule.max_epochs=1")  # fmt: skip


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)


@pytest.mark.parametrize("out", ["p.csv", "p.jsonl", "-"])
def test_predictions_of_files_whose_names_are_not_utf8(tmp_path, digits_root, davidnet_run, out):
    for at, name in enumerate(("a.png", LATIN, "=1+1.png", "写真.png")):
        picture(tmp_path / "photos" / name, at)
    (tmp_path / "photos" / BROKEN).write_bytes(b"x")
    ended = run_command(tmp_path, digits_root, "predict", f"run={davidnet_run}", "images=photos", f"out={out}")
    assert ended.code == 0
    assert "5 images" in ended.err + ended.out
    text = ended.out if out == "-" else (tmp_path / out).read_bytes().decode("utf-8", "strict")
    rows = list(csv.DictReader(io.StringIO(text))) if out == "p.csv" else list(map(json.loads, text.splitlines()))
    names = {Path(row["image"]).name for row in rows}
    assert names == {"a.png", "caf\\xe9.png", "br\\xf6ken.png", "=1+1.png", "写真.png"}
    assert [Path(row["image"]).name for row in rows if row.get("error")] == ["br\\xf6ken.png"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_of_any_encoding_shows_every_name(monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    print_in_any_encoding()
    print(f"写真 {LATIN}", flush=True)
    assert b"caf\\udce9.png" in written.getvalue()


def test_a_run_whose_names_are_all_unusual(tmp_path, digits_root):
    """Its figures are drawn, its records have the names as typed, and the audit lists what it found."""
    root = tmp_path / "2024_01_15 (a=b)"
    for label, name in enumerate(CLASSES):
        for at in range(8):
            picture(root / name / (LATIN if at == 0 else f"=cmd{at}.png"), 10 * label + at)
    (root / CLASSES[0] / BROKEN).write_bytes(b"x")
    given = ("dataset=image_folder", f"dataset.root={root.name}", "dataset.name=$x_^{ {2024}", "outputs=1e3")
    ended = run_command(tmp_path, digits_root, "train", *SMALL, *given, "figures=true")
    assert ended.code == 0
    assert "left out:" not in ended.err
    run = only_run(tmp_path / "1e3" / "$x_^{ {2024}")
    assert {"confusion.png", "curves.png", "schedule.png", "augmented.png", "heatmaps.png"} <= set(os.listdir(run))
    assert yaml.safe_load((run / "config.yaml").read_text())["dataset"]["root"] == str(root)
    parsed = [OverridesParser.create().parse_override(text) for text in Results.read(run).overrides]
    assert {override.key_or_group: override.value() for override in parsed}["dataset.root"] == root.name
    again = run_command(tmp_path, digits_root, "evaluate", f"run={run.relative_to(tmp_path)}")
    assert again.code == 0
    page = (run / "report.html").read_bytes().decode()
    assert "<i>c" not in page
    assert "&lt;i&gt;c" in page

    ended = run_command(tmp_path, digits_root, "audit", *SMALL, *given)
    assert ended.code == 0
    assert "br\\xf6ken.png" in ended.out
    (folder,) = (path.parent for path in (tmp_path / "1e3").rglob("audit.txt"))
    classes = list(csv.reader((folder / "classes.csv").open(encoding="utf-8")))
    assert ["d\\xe9", "7", "1"] in classes or ["d\\xe9", "6", "2"] in classes
    assert (folder / "images.png").exists()
