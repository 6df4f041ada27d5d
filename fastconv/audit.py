"""python -m fastconv.audit dataset=NAME [key=value ...]

Audit a data set before training: images per class, image sizes, unreadable files, duplicates, and test images that are
also training images. Prints advice, and writes the findings and pictures of images with and without augmentation to a
folder below `outputs`.

  python -m fastconv.audit dataset=image_folder dataset.root=photos
  python -m fastconv.audit dataset=webdataset dataset.train=train-*.tar dataset.test=test.tar
  python -m fastconv.audit dataset=cifar10 augment=airbench96
"""

from pathlib import Path

from fastconv.config.cli import READING, Command
from fastconv.config.next_command import print_next, quoted_overrides
from fastconv.config.overrides import task_overrides
from fastconv.config.prerequisites import require_known, require_writable, with_possible_batch
from fastconv.config.schema import Config
from fastconv.config.validation import check
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import check_local


def check_audit(config: Config) -> None:
    """Raise InputError for a data set that cannot be audited."""
    check(config)
    require_known(config)
    check_local("outputs", config.outputs)
    require_writable(Path(config.outputs))


@Command("train", __doc__, check_audit, first_line=READING)
def main(config: Config) -> None:
    """Run the command; see the top of this file."""
    check_audit(config)
    from fastconv.analysis.dataset_audit import audit, write

    found = audit(config)
    for line in found.report():
        print(printable(line))
    print(f"findings and pictures, and audit.html with both, are in {write(found, config)}")
    if found.problems:
        raise InputError(f"{found.name} cannot be trained on yet: {'; '.join(found.problems)}")
    overrides = with_possible_batch(config, len(found.opened.train.labels), task_overrides())
    print_next("train", *quoted_overrides(overrides))


if __name__ == "__main__":
    main()
