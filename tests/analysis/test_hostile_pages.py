"""Pages made of what somebody else sent: text is shown as text, and a page loads nothing and runs only its own."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from harness import QUICK
from PIL import Image

from fastconv.analysis.article.page import write_article
from fastconv.analysis.html import stored_figure

CHROMIUM = shutil.which("chromium")
MARK = "document.title='owned'"
# Text that would run as a script, in one place or another of a page, if it were not escaped.
PAYLOADS = (
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"</title></style></pre><script>{MARK}</script>",
    f'"><img src=x onerror="{MARK}">',
    f"' onmouseover={MARK} autofocus onfocus={MARK} x='",
    f"<svg/onload={MARK}>",
    f"<a href=javascript:{MARK}>x</a>",
    f"<iframe srcdoc='<script>parent.{MARK}</script>'>",
    "{{ 7*191 }}{% for x in y %}",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9'><link rel=stylesheet href=http://127.0.0.1:9>",
    "&lt;script&gt;<!--",
)
TEXT = " ".join(PAYLOADS)


def hostile(**values):
    """Results whose every text is hostile, the names of settings and segments included."""
    found = {
        "dataset": TEXT, "model": TEXT, "experiment": TEXT, "seed": 0, "stream_seed": 0, "accuracy": 0.5, "loss": 1.0,
        "accuracy_tta": 0.5, "epochs": 2.0, "steps": 40, "seconds_counted": 3.0, "budget_seconds": 1.0,
        "budget_counts": [TEXT], "seconds": {TEXT: 3.0}, "stop_reason": "epochs", "device": TEXT, "precision": TEXT,
        "versions": {TEXT: TEXT}, "git_commit": PAYLOADS[5], "overrides": [f"{TEXT}={TEXT}", f"$(touch harm) {TEXT}"],
        "recipe": {"seed": TEXT, "dataset.name": TEXT, TEXT: TEXT, "augment.auto": TEXT, "schedule.max_epochs": TEXT},
    }  # fmt: skip
    return json.dumps(found | values)


def write_runs(sweep: Path) -> None:
    """Runs with hostile results: two that are finished and differ, one that failed, and a sweep's description."""
    for name, values in {
        "0": {},
        "1": {"recipe": {TEXT: "other"}},
        "2": {"stop_reason": "error", "error": TEXT},
    }.items():
        run = sweep / f"{name}{PAYLOADS[5].replace('/', ' ')}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"dataset": {"name": TEXT}, TEXT: TEXT}))
        (run / "results.json").write_text(hostile(**values))
        (run / "metrics.csv").write_text("train/epoch,validate/accuracy,budget/seconds_counted\n1,0.5,1\n2,0.6,2\n")
        Image.new("RGB", (4, 4)).save(run / "augmented.png")
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({"command": TEXT, "overrides": [TEXT, "; touch harm"]}))


class Page(HTMLParser):
    """The elements of a page, its scripts, its text, and every attribute that could run or load something."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.scripts: list[str] = []
        self.text = ""
        self.bad: list[tuple[str, str, str | None]] = []
        self._in_script = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._in_script = tag == "script"
        for key, value in attrs:
            loads = key in ("src", "href", "srcset", "action", "srcdoc", "data") and not (value or "").startswith(
                "data:"
            )
            refreshes = key == "http-equiv" and value != "Content-Security-Policy"
            if key.startswith("on") or loads or refreshes or (key == "style"):
                self.bad.append((tag, key, value))

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += f"{data}\n"  # else numbers of neighbouring cells run together

    def handle_endtag(self, tag):
        self._in_script = False


def require_harmless(page: Path, least: int) -> None:
    """Every payload stands in the page as text, at least so many times; nothing else runs or loads."""
    found = Page(page)
    assert not found.bad
    assert not found.tags & {"iframe", "svg", "object", "embed", "form", "base", "a", "input"}
    assert len(found.scripts) == 1
    assert MARK not in found.scripts[0]
    assert found.text.count(PAYLOADS[0]) >= least
    assert "{{ 7*191 }}" in found.text
    assert "1337" not in found.text


def title_in_browser(page: Path, profile: Path) -> tuple[str, str]:
    """The title of a page after its scripts have run, and its whole document."""
    ended = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--virtual-time-budget=2000",
         "--dump-dom", page.absolute().as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return re.search(r"<title>(.*?)</title>", ended.stdout, re.S)[1], ended.stdout


@pytest.fixture
def pages(tmp_path, command):
    """The pages of a comparison and of a sweep's article, both of hostile runs."""
    sweep = tmp_path / "sweep"
    write_runs(sweep)
    ended = command("compare", "runs=sweep", "page=compare.html")
    assert ended.code == 0, ended.err
    write_article(sweep, "data")
    return tmp_path / "compare.html", sweep / "article.html"


def test_comparisons_and_articles_show_text_as_text(pages, tmp_path):
    for page in pages:
        require_harmless(page, least=8)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["compare.html"]
    assert "'; touch harm'" in Page(pages[1]).text, "quoted, for a line that is there to be copied"


def sent_run(folder: Path, davidnet_run: Path) -> Path:
    """A run that works, in a folder with a hostile name and with hostile results."""
    run = folder / f"x'); import os; os.system('touch harm') {PAYLOADS[5].replace('/', ' ')}"
    run.mkdir()
    for name in ("config.yaml", "last.ckpt"):
        shutil.copy(davidnet_run / name, run)
    steps = json.loads((davidnet_run / "results.json").read_text())["steps"]  # else it is no result of this network
    (run / "results.json").write_text(hostile(dataset="digits", steps=steps))
    (run / "curves.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(r) file\n")
    return run


def test_the_page_of_a_run_shows_text_as_text(tmp_path, command, davidnet_run):
    run = sent_run(tmp_path, davidnet_run)
    ended = command("evaluate", f'run="{run}"')
    assert ended.code == 0, ended.err
    require_harmless(run / "report.html", least=2)
    text = Page(run / "report.html").text
    assert "'$(touch harm) " in text
    lines = [line for line in text.splitlines() if line.startswith("predictor = fastconv.load(")]
    assert eval(lines[0].removeprefix("predictor = fastconv.load"), {"__builtins__": {}}) == str(run)
    assert "Loss and accuracy during training" not in text, "what is no PNG is no figure"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_no_page_runs_what_was_sent_in_a_browser(pages, tmp_path, command, davidnet_run):
    profile = tmp_path / "profile"
    control = tmp_path / "control.html"
    control.write_text(f"<title>a page</title>{PAYLOADS[0]}")
    assert title_in_browser(control, profile)[0] == "owned", "a page that does not escape is noticed"
    run = sent_run(tmp_path, davidnet_run)
    for ended in (
        command("evaluate", f'run="{run}"'),
        command("explain", f'run="{run}"', f'names=["{PAYLOADS[5]}"]', "method=[grad_cam]", "folder=explained", *QUICK),
    ):
        assert ended.code == 0, ended.err
    for page in (*pages, run / "report.html", tmp_path / "explained" / "explain.html"):
        title, document = title_in_browser(page, profile)
        assert "owned" not in title.replace(MARK, ""), page.name
        assert title != "owned"
        if 'class="sortable"' in document:
            assert '<th scope="col" tabindex="0">' in document, "the page's own script runs"


def test_the_policy_of_a_page_allows_only_its_own_script(pages):
    for page in pages:
        text = page.read_text()
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy.partition("script-src")[2]


@pytest.mark.parametrize("size", [(20_000, 1), (1, 9000)])
def test_a_figure_that_no_run_draws_is_left_out(tmp_path, size):
    Image.new("1", size).save(tmp_path / "curves.png")
    assert stored_figure(tmp_path / "curves.png", "", "") is None
    assert stored_figure(tmp_path / "absent.png", "", "") is None
    Image.new("L", (30, 30)).save(tmp_path / "fine.png")
    assert stored_figure(tmp_path / "fine.png", "", "").source.startswith("data:image/webp;base64,")


def test_an_article_of_another_name_stays_in_its_folder(tmp_path):
    sweep = tmp_path / "sweep"
    write_runs(sweep)
    for path in sweep.glob("*/results.json"):
        path.write_text(hostile(recipe={"dataset.name": "../../../escape"}))
    write_article(sweep, "data")
    assert not list(tmp_path.glob("*escape*"))
    assert list(sweep.glob("learning-*escape.png"))
