"""The commands of README and docs compose, their links lead somewhere, and the site builds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PAGES, REPOSITORY, write_snippets
from markdown.extensions.toc import slugify

from fastconv.config.arguments import check_arguments, prepare_arguments
from fastconv.config.overrides import keys
from fastconv.config.store import SCHEMAS, options_with

REFERENCE = REPOSITORY / "docs" / "reference.md"
OTHER_PAGES = [REPOSITORY / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/research/README.md")]


def commands() -> list[tuple[str, str]]:
    """(page, command) of each line that begins with a prompt and calls fastconv, and of each in a sentence."""
    found = []
    for page in PAGES:
        text = page.read_text()
        found += [(page.name, line) for line in re.findall(r"^\$ ((?:python -m fastconv\.|fastconv ).+)$", text, re.M)]
        found += [(page.name, " ".join(each.split())) for each in re.findall(r"`(python -m fastconv\.[^`]+)`", text)]
    # Of those on several pages only the first.
    return sorted((page, line) for line, page in {line: page for page, line in reversed(found)}.items())


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:70])
def test_every_command_can_be_typed(tmp_path, monkeypatch, page, line):
    write_snippets(tmp_path)
    monkeypatch.chdir(tmp_path)
    name, *arguments = shlex.split(re.sub(r"^(python -m fastconv\.|fastconv )", "", line), comments=True)
    assert (REPOSITORY / "fastconv" / f"{name}.py").exists()
    config_name = name if name in SCHEMAS else "train"
    prepared = prepare_arguments(config_name, arguments)
    check_arguments(config_name, prepared, lambda config: None, lambda config: None)


def test_there_are_commands():
    assert len(commands()) > 30


SECTIONS = (
    "augment|average|budget|checkpoint|dataset|model|optimizer|range_test|schedule|stream|sweep|trainer|tta|validate"
)


def settings() -> list[str]:
    """The settings that sentences name in code, such as `budget.seconds`."""
    spans = [span for page in PAGES for span in re.findall(r"`([^`\n]+)`", page.read_text())]
    found = {key for span in spans for key in re.findall(rf"(?<![\w./])(?:{SECTIONS})\.[a-z][\w.]*\w", span)}
    return sorted(key for key in found if not key.endswith((".png", ".onnx", ".pt2")))  # those are files


def test_every_setting_that_is_named_exists():
    known = {key for name in ("train", "lr_find") for key in keys(name)}
    known |= {key[: key.rindex(".")] for key in known if "." in key}  # sections
    named = settings()
    assert len(named) > 50
    unknown = [key for key in named if key not in known and not options_with(*key.split(".", 1))]
    assert not unknown


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if "://" not in target:
            path = page.parent / target if target else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Those that the site makes of a page's headings."""
    return {slugify(heading, "-") for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.M)}


SHORT_PAGES = {"README.md": 900, "docs/best.md": 600, "docs/budget.md": 600, "docs/stream.md": 600}


@pytest.mark.parametrize(("page", "most"), SHORT_PAGES.items())
def test_short_pages_stay_short(page, most):
    """In words, with tables, formulas and commands."""
    assert len((REPOSITORY / page).read_text().split()) <= most


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_code_blocks_fit_their_width(page):
    """At 1280 pixels, a block of the site shows 120 characters."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert not [line for block in blocks for line in block.splitlines() if len(line) > 120]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_the_words_of_the_field(page):
    found = re.findall(
        r"\b(norm_batch|plan_only|probes?|rungs?|offers?|ladder|surest|so many \w+)\b", page.read_text(), re.I
    )
    assert not found


def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of the theme's authors, about their successor
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    for name, members in re.findall(
        r"^::: (\S+)(?:\n    options: \{members: \[(.*)\]\})?$", REFERENCE.read_text(), re.M
    ):
        for anchor in [name, *(f"{name}.{member}" for member in members.split(", ") if member)]:
            assert f'id="{anchor}"' in page, f"{anchor} has no docstring, or another name"
    assert (tmp_path / "site" / "results" / "scaling_law.png").exists()
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text())
        fetched = [address for tag in tags for address in re.findall(r"\b(?:src|href)=[\"']?([^\"' >]+)", tag)]
        elsewhere = [each for each in fetched if re.match(r"(?:https?:)?//", each)]
        assert not elsewhere, f"{page.parent.name} loads {elsewhere}"


def test_make_help_lists_the_targets_on_macos_too(tmp_path):
    """Its sed takes \\t in a replacement for the letter t."""
    sed = tmp_path / "sed"
    sed.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"os.execv({shutil.which('sed')!r}, ['sed', *(each.replace('\\\\t', 't') for each in sys.argv[1:])])\n"
    )
    sed.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    shown = subprocess.run(
        ["make", "--silent", "help"], cwd=REPOSITORY, env={**os.environ, "PATH": path}, capture_output=True, text=True
    ).stdout
    purposes = re.findall(r"^([a-z-]+):.*## (.*)$", (REPOSITORY / "Makefile").read_text("utf-8"), re.M)
    assert len(purposes) >= 10
    assert [line.split(maxsplit=2) for line in shown.splitlines()] == [["make", *each] for each in purposes]
