"""python -m fastconv.predict run=FOLDER images=FILES [key=value ...]

Classify images with a trained network: files, folders (including subfolders) or tars, or patterns such as
'photos/*.jpg' and 'photos/**/*.jpg'. Writes a row for each image, as csv or as one JSON object per line. Images are
processed one batch at a time, so memory does not grow with their number.

  python -m fastconv.predict run=outputs/cifar10/2026-11-25_09-00-00-a1b2c3 images=photos
  python -m fastconv.predict run=outputs/a images=[cat.png,more.tar] out=predictions.jsonl top=5
  python -m fastconv.predict run=outputs/a 'images=photos/*.jpg' out=-
"""

import sys
from pathlib import Path

from fastconv.config.cli import Command
from fastconv.config.commands import Predict, as_list
from fastconv.config.given_run import check_given_run
from fastconv.config.prerequisites import require_writable
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import check_settings
from fastconv.system.wording import counted


def check(config: Predict) -> None:
    """Raise InputError for settings that cannot work, as far as can be told without reading the run."""
    if not as_list(config.images):
        raise InputError("images has no value: give files, folders or tars, as images=[a.png,photos,more.tar]")
    check_settings(config)
    from fastconv.data.sources.patterns import matching

    for path in map(str, as_list(config.images)):
        if "://" not in path:
            matching(path, "images")
    if config.out != "-":
        if not config.out.endswith((".csv", ".jsonl")):
            raise InputError(f"out={config.out} is not possible: give a file that ends in .csv or .jsonl, or -")
        require_writable(Path(config.out).absolute().parent)


@Command("predict", __doc__, check)
def main(config: Predict) -> None:
    """Run the command; see the top of this file."""
    config = check_given_run(config, check, prints_data=config.out == "-")
    from fastconv.analysis.checkpoint import load_run
    from fastconv.analysis.prediction_files import write_predictions
    from fastconv.analysis.predictor import Predictor

    images = [str(path) for path in as_list(config.images)]
    predictor = Predictor(load_run(Path(config.run), config.trust), config.accelerator)
    count = len(predictor.classes)
    written = write_predictions(predictor, images, config.out, min(config.top, count), config.tta)
    if written.first_failed and written.failed == written.images:
        name, why = written.first_failed
        line = f"none of {written.images:,} images can be read, such as {name} ({why})"
        if written.images == 1:
            line = f"{name} cannot be read ({why})"
        raise InputError(printable("; ".join([line, *written.notes])))
    where = "" if config.out == "-" else f" in {config.out}"
    missing = f"; {written.failed:,} could not be read, and have the reason instead of a class"
    lines = [*written.notes, f"{counted(written.images, 'image')}{where}{missing if written.failed else ''}"]
    if config.top > count:
        lines.insert(0, f"top={config.top}: the network has {counted(count, 'class')}, and all are written")
    print("\n".join(map(printable, lines)), file=sys.stderr if config.out == "-" else sys.stdout)


if __name__ == "__main__":
    main()
