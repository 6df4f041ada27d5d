"""The notebooks of docs/, executed: their cells one after the other, as a kernel would, in this process."""

import ast
import json
import os
import re

import pytest
from harness import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
# Lines that a cell may print.
MOST_LINES = 60


def executed(source, names):
    """Run the source of a cell; returns the value of its last expression, None without one."""
    *before, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        before.append(last)
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_says_little(path, tmp_path, digits_root, monkeypatch, simulated_time, capsys):
    monkeypatch.setenv("FASTCONV_DATA", str(digits_root))
    monkeypatch.setenv("COLUMNS", "160")
    simulated_time.tick = 0.012  # fewer steps than in other tests: 20 s are many
    monkeypatch.chdir(tmp_path)
    content = json.loads(path.read_text())
    names: dict = {}
    shown = []
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert (cell["outputs"], cell["execution_count"]) == ([], None), "outputs are of one machine: clear them"
        shown.append(executed("".join(cell["source"]), names))
        out, err = capsys.readouterr()
        assert len(out.splitlines()) <= MOST_LINES, out
        assert not err
    predictor = names["predictor"]
    assert shown[1] is predictor
    assert "of the test images" in predictor._repr_html_()
    assert predictor.run.results.accuracy > 0.8
    assert names["evaluation"].accuracy == pytest.approx(predictor.run.results.accuracy)
    assert [name for name, _ in shown[4]] == predictor.predict(names["images"][:10]).names
    assert os.path.getsize(shown[5]) > 10_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_links_to_pages_that_are_there(path):
    cells = json.loads(path.read_text())["cells"]
    links = re.findall(
        r"\]\(([^)#]+)", "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] != "code")
    )
    assert links
    assert all((path.parent / link).exists() for link in links)
