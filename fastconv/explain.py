"""python -m fastconv.explain run=FOLDER [against=FOLDER] [key=value ...]

Explain the predictions of one or two trained networks by heatmaps, and measure how faithful the heatmaps are. Writes
`explain.html`, with figures and tables, to a folder `explain` in the run's folder. To compare several seeds, give
lists: run=[a,b,c] against=[d,e,f].

  python -m fastconv.explain run=outputs/cifar10/2026-11-25_09-00-00-a1b2c3
  python -m fastconv.explain run=outputs/a against=outputs/b per_class=5
  python -m fastconv.explain run=outputs/a images=[cat.png,dog.jpg] measures=false method=[grad_cam,occlusion]

`dataset.root`, `dataset.train` and `dataset.test` say where the run's images are now, if they have moved or are behind
a URL.
"""

from pathlib import Path

from fastconv.config.cli import Command
from fastconv.config.commands import Explain, as_list
from fastconv.config.given_run import check_given_run
from fastconv.config.next_command import print_next_of_run
from fastconv.config.prerequisites import require_writable
from fastconv.config.store import methods
from fastconv.config.validation import check_words
from fastconv.data.sources.patterns import matching
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import check_settings
from fastconv.system.terminal import plain_console
from fastconv.system.wording import counted


def report_folder(config: Explain) -> Path:
    """Return the folder of the report."""
    if config.folder:
        return Path(config.folder).absolute()
    first, second = config.folders()
    return first[0] / (f"explain-against-{second[0].resolve().name}" if second else "explain")


def check(config: Explain) -> None:
    """Raise InputError for settings that cannot work, as far as can be told without reading the runs."""
    runs, against = config.folders()
    for key, value in (("run", config.run), ("against", config.against)):
        named = as_list(value)
        if key == "run" and value is None:
            raise InputError("run has no value: give the folder of a run with run=value")
        if any(isinstance(each, list | dict) or not str(each).strip() for each in named) or value == []:
            raise InputError(f"{key}={value} is not possible: give a folder, or a list of folders as [a,b]")
    if against and len(runs) != len(against):
        raise InputError(
            f"run names {counted(len(runs), 'folder')} and against {len(against)}: give the same number, to make pairs"
        )
    check_words(config)
    check_settings(config)
    if config.names is not None and len(config.names) != (2 if against else 1):
        raise InputError(
            f"names={config.names} is not possible: give one name for run, and one for against if it is set"
        )
    if not config.methods:
        raise InputError("there is no method: choose with method=[grad_cam,occlusion] or the like")
    for name, method in methods(config).items():
        check_settings(method, prefix=f"methods.{name}.")
    if config.images is not None and (not isinstance(config.images, list | str) or not config.images):
        raise InputError(f"images={config.images} is not possible: give files, as [a.png,b.jpg]")
    for path in as_list(config.images):
        matching(str(path), "images")
    folder = report_folder(config)
    require_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "explain.html").exists():
        raise InputError(f"{folder} has files that do not belong to a report and would be lost: choose another folder")


@Command("explain", __doc__, check)
def main(config: Explain) -> None:
    """Run the command; see the top of this file."""
    config = check_given_run(config, check)
    from fastconv.analysis.attribution.experiment import explain_runs
    from fastconv.analysis.attribution.report import write_report

    console = plain_console()
    explanation = explain_runs(config, console)
    for line in write_report(explanation, config, report_folder(config)):
        console.print(printable(line))
    print_next_of_run("export", config.folders()[0][0])


if __name__ == "__main__":
    main()
