"""python -m fastconv.export run=FOLDER [key=value ...]

Write a trained network, including its preprocessing, to files that work without fastconv: `model.onnx` for ONNX Runtime
and others, `model.pt2` for torch.export. Both take raw images, uint8 [N, height, width, channels], and return
probabilities, float32 [N, classes]. Their predictions are first compared with the checkpoint's on test images.

  python -m fastconv.export run=outputs/cifar10/2026-11-25_09-00-00-a1b2c3
  python -m fastconv.export run=outputs/a format=[onnx]

`dataset.root`, `dataset.train` and `dataset.test` say where the run's images are now, if they have moved or are behind
a URL.
"""

from pathlib import Path

from fastconv.config.cli import Command
from fastconv.config.commands import Export, as_list
from fastconv.config.given_run import check_given_run
from fastconv.config.next_command import print_next_of_run, setting
from fastconv.config.prerequisites import require_writable
from fastconv.config.store import stored
from fastconv.system.errors import InputError
from fastconv.system.names import printable
from fastconv.system.settings import check_settings


def check(config: Export) -> None:
    """Raise InputError for settings that cannot work, as far as can be told without reading the run."""
    if not as_list(config.format):
        raise InputError("format has no value: give onnx, torch, or both as [onnx,torch]")
    check_settings(config)
    require_writable(Path(config.run))


@Command("export", __doc__, check)
def main(config: Export) -> None:
    """Run the command; see the top of this file."""
    config = check_given_run(config, check)
    from fastconv.analysis.export import export

    for line in export(config):
        print(printable(line))
    root = config.dataset.root or stored(Path(config.run)).dataset.root
    images = setting("images", root) if root and Path(root).is_dir() else "images=FILES"
    print_next_of_run("predict", Path(config.run), images, carried=["trust"])


if __name__ == "__main__":
    main()
