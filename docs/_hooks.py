"""Makes README the first page of the site, and takes in the other pages and results that lie outside docs/."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that lie elsewhere."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text("utf-8")
        text = text.replace("](docs/", "](").replace("](benchmarks/results/", "](results/")
        for other, name in PAGES.items():
            text = text.replace(f"]({other})", f"]({name})")
        files.append(File.generated(config, page, content=text))
    for path in sorted(RESULTS.rglob("*")):
        if path.is_file():
            name = f"results/{path.relative_to(RESULTS)}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point links to benchmarks/results at their copies on the site."""
    return markdown.replace("](../benchmarks/results/", "](results/")
