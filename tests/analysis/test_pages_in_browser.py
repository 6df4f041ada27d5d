"""Every kind of page in a browser, on a desk and on a phone, light and dark: nothing is cut off, covered, loaded or
reported."""

import functools
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from http.server import SimpleHTTPRequestHandler

import numpy as np
import pytest
from harness import QUICK, REPOSITORY, served
from PIL import Image

from fastconv.analysis.article.page import write_article

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

# Shows a page in a frame as wide as a screen, and replaces itself by what it finds there. The page's own policy allows
# no other script in it.
LOOK = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<style>body {margin: 0} iframe {border: 0; width: WIDTHpx; height: 900px}</style>
<iframe src="PAGE"></iframe>
<script>
addEventListener("load", () => setTimeout(() => {
  const page = document.querySelector("iframe").contentDocument, right = (each) => each.getBoundingClientRect().right;
  const named = (table, name) => [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === name);
  const verdicts = [...page.querySelectorAll("table")].filter((table) => named(table, "verdict") >= 0)
    .flatMap((table) => [...table.rows].map((row) => right(row.cells[named(table, "verdict")])));
  const texts = [...page.querySelectorAll("TEXTS")].filter((each) => each.checkVisibility());
  const blocks = [...page.querySelectorAll("h1, h2, h3, p, figcaption, summary, dt, dd, table, pre, img, .words")]
    .filter((each) => each.checkVisibility()).map((each) => [each, each.getBoundingClientRect()]);
  const cover = ([one, a], [other, b]) => !one.contains(other) && !other.contains(one)
    && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const frame = document.querySelector("iframe").contentWindow;
  const wide = [...page.querySelectorAll(".wide")]
    .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth + 1);
  const found = {
    width: page.documentElement.scrollWidth,
    verdicts: verdicts,
    cut: texts.filter((each) => right(each) > WIDTH || each.scrollWidth > each.clientWidth + 1)
      .map((each) => each.textContent.slice(0, 60)),
    covered: blocks.filter((one, at) => blocks.slice(at + 1).some((other) => cover(one, other)))
      .map(([each]) => each.outerHTML.slice(0, 60)),
    elsewhere: frame.performance.getEntriesByType("resource").map((each) => each.name)
      .filter((name) => !name.startsWith(location.origin) && !name.startsWith("data:")),
    commands: page.querySelectorAll(".language-console code").length,
    wide: wide.length,
    told: wide.filter((each) => !each.previousElementSibling.hidden && each.classList.contains("more-right")).length,
    lines: [...page.querySelectorAll(".scrolls")].filter((each) => each.checkVisibility()).length,
    paper: getComputedStyle(page.body).backgroundColor,
  };
  document.body.textContent = JSON.stringify(found);
}, 500));
</script>
"""
TEXTS = "h1, h2, h3, p, figcaption, summary, dt, dd, pre, .pictures figure, .gallery img"
DARKEST = 200  # the sum of red, green and blue of a dark page's ground at most


class Asked(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what is asked for."""

    def log_message(self, *_):
        self.server.asked.append(self.path)


@pytest.fixture(scope="module")
def pages(made_once, davidnet_run, digits_root):
    """A folder with a page of each kind, of small runs."""
    from harness import run_command

    def make(folder):
        run = shutil.copytree(davidnet_run, folder / "run")
        sweep = folder / "outputs" / "sweeps" / "s"
        for number, (augment, seed) in enumerate((augment, seed) for augment in ("none", "flip") for seed in range(3)):
            job = shutil.copytree(davidnet_run, sweep / str(number))
            found = json.loads((job / "results.json").read_text())
            found |= {"seed": seed, "accuracy": 0.9 + seed / 100 + (augment == "flip") / 200}
            found["hparams"] |= {"seed": seed, "augment.flip.probability": 0.5 * (augment == "flip")}
            found["overrides"] = [f"augment={augment}", f"seed={seed}"]
            (job / "results.json").write_text(json.dumps(found))
        generator = np.random.default_rng(0)
        for at in range(40):
            path = (
                folder
                / "photos"
                / ("a class with a long name", "b")[at % 2]
                / f"a photograph with a long name {at}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8)).save(path)
        shutil.copy(path, path.with_name("copy.png"))
        for command in (
            ("evaluate", "run=run"),
            ("explain", "run=run", "folder=explained", *QUICK),
            ("compare", "page=compare.html"),
            ("audit", "dataset=image_folder", "dataset.root=photos"),
        ):
            ended = run_command(folder, digits_root, *command)
            assert ended.code == 0, ended.err
        write_article(sweep, str(digits_root))
        (audit,) = folder.glob("outputs/photos/*/audit.html")
        for page in (run / "report.html", folder / "explained" / "explain.html", sweep / "article.html", audit):
            shutil.copy(page, folder / page.name)

    return made_once("pages", make)


@pytest.fixture(scope="module")
def site(made_once):
    """The folder of the documentation's site."""

    def build(folder):
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        subprocess.run(command, cwd=REPOSITORY, check=True, env=environment)

    return made_once("site", build)


def look(folder, page, width, theme, texts=TEXTS):
    """What LOOK finds on a page of a folder, with the paths that the browser asked for, and what its console says."""
    (folder / "look.html").write_text(
        LOOK.replace("PAGE", page).replace("WIDTH", str(width)).replace("TEXTS", texts), encoding="utf-8"
    )
    with (
        tempfile.TemporaryDirectory() as profile,
        served(functools.partial(Asked, directory=folder), asked=[]) as server,
    ):
        ended = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--window-size=1400,1000", "--virtual-time-budget=5000",
             f"--blink-settings=preferredColorScheme={int(theme == 'light')}", "--dump-dom", f"{server.url}/look.html"],
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        asked = list(server.asked)
    found = json.loads(html.unescape(re.search(r"<body>(.*?)</body>", ended.stdout, re.S)[1]))
    red, green, blue = map(int, re.findall(r"\d+", found["paper"])[:3])
    is_dark = red + green + blue < DARKEST
    return found | {"asked": asked, "console": re.findall(".*CONSOLE.*", ended.stderr), "is_dark": is_dark}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["report", "explain", "compare", "article", "audit"])
def test_a_page_fits_its_screen(pages, tmp_path, name, width, theme):
    shutil.copy(pages / f"{name}.html", tmp_path)
    found = look(tmp_path, f"{name}.html", width, theme)
    assert found["asked"] == ["/look.html", f"/{name}.html"]
    assert found["elsewhere"] == found["console"] == found["cut"] == found["covered"] == []
    assert found["width"] <= width
    assert max(found["verdicts"], default=0) <= width - 32, "the edge of a table that scrolls fades"
    assert (len(found["verdicts"]) > 0) == (name in ("compare", "article"))
    assert found["told"] == found["wide"] == found["lines"]
    assert found["wide"] > 0 or width > 400
    assert found["is_dark"] == (theme == "dark")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("page", ["index.html", "start/index.html"])
def test_the_documentation_fits_its_screen(site, page, width, theme):
    """Tables and what commands print may scroll, not the commands."""
    texts = "article h1, article h2, article h3, article p, article li, .language-console code"
    found = look(site, page, width, theme, texts)
    assert found["commands"] > 0
    assert found["elsewhere"] == found["console"] == found["cut"] == found["covered"] == []
    assert found["width"] <= width
    assert found["is_dark"] == (theme == "dark")


def test_what_is_wrong_is_found(tmp_path):
    """The tests above can fail."""
    wrong = {
        "cut": "<p style='white-space: nowrap'>" + "a long line " * 40 + "</p>",
        "covered": "<p>one</p><p style='margin-top: -2rem'>other</p>",
        "elsewhere": "<img src='http://127.0.0.1:9/none.png'>",
        "console": "<script>console.log('a message')</script>",
    }
    for name, body in wrong.items():
        (tmp_path / f"{name}.html").write_text(f"<!doctype html><link rel=icon href='data:,'>{body}")
        assert look(tmp_path, f"{name}.html", 400, "light")[name]
