"""python -m fastconv.precompute [key=value ...]

Write the augmented epochs that `python -m fastconv.train` with the same settings will read, as WebDataset tar shards.
With verify=true, check every shard of that stream and write damaged ones again. With prune=true, remove the least
recently used streams until the rest fits in stream.max_gb (stream.max_gb=0 removes all).

  python -m fastconv.precompute dataset=cifar10 stream.epochs=25
  python -m fastconv.precompute dataset=cifar10 stream.epochs=25 stream.root=s3://bucket/streams
  python -m fastconv.precompute -m part=0,1,2,3 parts=4 dataset=cifar10 stream.epochs=40
"""

import dataclasses
from collections.abc import Sequence

from fastconv.budget.clock import Clock
from fastconv.config.cli import READING, Command
from fastconv.config.overrides import task_overrides
from fastconv.config.prerequisites import check_data, require_room, require_writable
from fastconv.config.schema import Config
from fastconv.config.validation import check
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits
from fastconv.data.stream.cache import in_use, prune
from fastconv.data.stream.parts import Missing, Part, missing_parts
from fastconv.data.stream.spec import StreamSpec, stream_spec
from fastconv.system.errors import InputError
from fastconv.system.terminal import plain_console
from fastconv.system.urls import redacted
from fastconv.system.wording import counted


def written(config: Config) -> Config:
    """The config with a stream that is written to shards, also if `stream=auto` is given."""
    if config.stream.mode != "auto":
        return config
    return dataclasses.replace(config, stream=dataclasses.replace(config.stream, mode="precomputed"))


def check_stream(config: Config) -> Splits | None:
    """Check a stream as far as possible without torch, and return its images; None for prune=true.

    Raises InputError for a stream that cannot be made.
    """
    check(config)
    config = written(config)
    if config.part >= config.parts:
        raise InputError(f"part={config.part} is not possible: with parts={config.parts} it is 0 to {config.parts - 1}")
    if config.parts > 1 and (config.verify or config.prune):
        raise InputError("parts is for writing a stream: leave it out with verify and prune")
    if config.parts > 1 and config.stream.epochs is None:
        raise InputError("all parts must divide the same number of epochs: give it, such as stream.epochs=25")
    if config.parts > 1 and config.autotune:
        raise InputError("parts is for one stream, but autotune may choose another on each machine: give its settings")
    if config.prune:
        require_writable(config.stream.folder)
        return None
    if not config.stream.is_stored:
        raise InputError(f"stream={config.stream.mode} is computed while training: there is nothing to write")
    if config.stream.is_remote:
        require_writable_url(config)
    return check_data(config)


def require_writable_url(config: Config) -> None:
    """Raise InputError for a server that a stream cannot be written to, as far as its URL shows."""
    from fastconv.data.url_place import Place

    url = redacted(config.stream.root)
    if Place(config.stream.root, "stream.root").is_http:
        raise InputError(
            f"stream.root={url} is only read from. Write the stream to a folder, such as stream.root=streams, and"
            " upload the content of that folder"
        )
    if config.verify:
        raise InputError(f"verify is for a folder, and stream.root={url} is a URL: its shards are checked when read")
    require_writable(config.stream.folder)


@Command("train", __doc__, check_stream, first_line=READING)
def main(config: Config) -> None:
    """Run the command; see the top of this file."""
    data, config = check_stream(config), written(config)
    from fastconv.data.stream.upload import uploaded
    from fastconv.data.stream.writer import verify_stream
    from fastconv.training.stored_stream import make_room, upload, write_epochs

    console = plain_console()
    root = config.stream.folder
    if data is None:
        removed = prune(root, config.stream.max_bytes)
        size = sum(stream.bytes for stream in removed) / 1e6
        console.print(f"removed {counted(len(removed), 'stream')}, {size:,.0f} MB, from {root}")
        return
    # On its way to a server, a stream is kept where its reader would keep it.
    url = config.stream.root if config.stream.is_remote else ""
    config = dataclasses.replace(config, stream=dataclasses.replace(config.stream, root=str(root)))
    spec, train, epochs = described(config, data)
    if config.verify:
        mended = verify_stream(spec, train, root)
        for line in mended:
            console.print(f"mended: {line}")
        console.print(f"{root / spec.folder}: {'every shard is right' if not mended else 'every shard is right now'}")
        return
    part = Part(config.part, config.parts)
    there = uploaded(spec, url).shards if url else {}
    with in_use(root, spec.folder):
        make_room(config.stream, spec, epochs, console)
        write_epochs(config.stream, spec, train, epochs, console, part=part, elsewhere=there)
        missing = missing_parts(root, spec, part.count, epochs, there)
        if url:
            sent = upload(config.stream, spec, console, url)
            console.print(f"sent {counted(sent, 'shard')} to {redacted(url)}, which had {len(there)}")
    which = (
        f"{len(part.epochs(epochs))} of {counted(epochs, 'epoch')}" if config.parts > 1 else counted(epochs, "epoch")
    )
    console.print(f"{which} of {counted(spec.samples, 'image')} in {root / spec.folder}")
    if config.parts > 1:
        console.print(left(missing, epochs))


def described(config: Config, data: Splits) -> tuple[StreamSpec, ImageData, int]:
    """The stream of a config, its images, and how many of its epochs to write.

    Raises InputError for what `plan_run` refuses.
    """
    if not (config.autotune or config.data_pruning) and (
        config.verify or (config.stream.epochs and config.budget.seconds is not None)
    ):  # without torch, whose import takes as long as writing some ten epochs of CIFAR-10
        from fastconv.training.stored_stream import training_images

        epochs, (train, _) = config.stream.epochs or 0, training_images(config, data)
        spec = stream_spec(train, config.augment, config.stream.seed)
        require_room(config, epochs * spec.epoch_bytes)
        return spec, train, epochs
    from fastconv.training.plan import plan_run
    from fastconv.training.run import settle

    clock = Clock()
    choice = settle(config, data, task_overrides(), clock)
    run = plan_run(choice.config, data, clock, choice.speed, needs_weights=False)
    return run.spec, run.train, run.plan.stream_epochs


def left(missing: Sequence[Missing], epochs: int) -> str:
    """Say which parts of a stream are still to be written, and by whom."""
    if not missing:
        return f"the stream has all its {counted(epochs, 'epoch')}"
    parts = [f"part={each.part.number} ({each.writer or 'no process'} writes it)" for each in missing]
    lacks = sum(each.epochs for each in missing)
    return f"the stream lacks {lacks} of its {counted(epochs, 'epoch')}: {', '.join(parts)}"


if __name__ == "__main__":
    main()
