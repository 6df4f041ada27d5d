"""Makes README the first page of the site, and takes in the tables and figures of benchmarks/results."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that lie elsewhere."""
    readme = (ROOT / "README.md").read_text().replace("](docs/", "](").replace("](benchmarks/results/", "](results/")
    files.append(File.generated(config, "index.md", content=readme))
    for path in sorted(RESULTS.rglob("*")):
        if path.is_file():
            name = f"results/{path.relative_to(RESULTS)}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point at where they are on the site."""
    return markdown.replace("](../benchmarks/results/", "](results/")
