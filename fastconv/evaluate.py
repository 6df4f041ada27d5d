"""python -m fastconv.evaluate run=FOLDER [key=value ...]

Score a trained network on the test split of its data set, and write a page of the run, `report.html`, into its folder:
accuracy with its interval, per-class metrics, calibration, curves, the most confident errors, and how to use the
network. The metrics are also written to `evaluation.json`.

  python -m fastconv.evaluate run=outputs/cifar10/2026-11-25_09-00-00-a1b2c3
  fastconv evaluate run=latest tta=true
  python -m fastconv.evaluate run=outputs/a dataset.train=train.tar dataset.test=test.tar

`dataset.root`, `dataset.train` and `dataset.test` say where the run's images are now, if they have moved or are behind
a URL. The run's images are recognised by their content.
"""

from pathlib import Path

from fastconv.config.cli import Command
from fastconv.config.commands import Evaluate
from fastconv.config.given_run import check_given_run
from fastconv.config.next_command import print_next_of_run
from fastconv.config.prerequisites import require_writable
from fastconv.system.names import printable
from fastconv.system.settings import check_settings


def check(config: Evaluate) -> None:
    """Raise InputError for settings that cannot work, as far as can be told without reading the run."""
    check_settings(config)
    require_writable(Path(config.run))


@Command("evaluate", __doc__, check)
def main(config: Evaluate) -> None:
    """Run the command; see the top of this file."""
    config = check_given_run(config, check)
    from fastconv.analysis.evaluation.report import evaluate_run

    for line in evaluate_run(config)[1]:
        print(printable(line))
    print_next_of_run("explain", Path(config.run))


if __name__ == "__main__":
    main()
