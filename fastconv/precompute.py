"""python -m fastconv.precompute [key=value ...]

Write the augmented epochs that `python -m fastconv.train` with the same settings will read, as WebDataset tar shards.
With verify=true, check every shard of that stream and write damaged ones again. With prune=true, remove the least
recently used streams until the rest fits in stream.max_gb (stream.max_gb=0 removes all).

  python -m fastconv.precompute dataset=cifar10 stream.epochs=25
  python -m fastconv.precompute dataset=cifar10 stream.epochs=25 stream.root=s3://bucket/streams
  python -m fastconv.precompute -m part=0,1,2,3 parts=4 dataset=cifar10 stream.epochs=40
"""

import dataclasses

from fastconv.budget.clock import Clock
from fastconv.config.cli import READING, command
from fastconv.config.overrides import task_overrides
from fastconv.config.prerequisites import check_data, require_writable
from fastconv.config.schema import Config
from fastconv.config.validation import check
from fastconv.data.splits import Splits
from fastconv.system.errors import InputError
from fastconv.system.urls import redacted
from fastconv.system.wording import counted


def written(config: Config) -> Config:
    """The config of a stream that is written: what `stream=auto` leaves open is settled by the command."""
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
        raise InputError("parts is for writing a stream: verify and prune are of a whole one")
    if config.parts > 1 and config.stream.epochs is None:
        raise InputError("how many epochs there are to divide must be the same for all parts: give stream.epochs=25")
    if config.prune:
        require_writable(config.stream.folder)
        return None
    if not config.stream.is_stored:
        raise InputError(f"stream={config.stream.mode} is computed while training: there is nothing to write")
    if config.stream.is_remote:
        require_writable_url(config)
    return check_data(config)


def require_writable_url(config: Config) -> None:
    """Raise InputError for a server that a stream cannot be written to, as far as can be told without asking it."""
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


@command("train", __doc__, check_stream, first_line=READING)
def main(config: Config) -> None:
    """Run the command; see the top of this file."""
    data, config = check_stream(config), written(config)
    from rich.console import Console

    from fastconv.data.stream.cache import prune
    from fastconv.data.stream.parts import Part
    from fastconv.data.stream.upload import uploaded
    from fastconv.data.stream.writer import verify_stream
    from fastconv.training.plan import plan_run
    from fastconv.training.run import settle
    from fastconv.training.run_stream import precompute, stream_in_use, upload

    console = Console(soft_wrap=True, highlight=False, markup=False)
    root = config.stream.folder
    if data is None:
        removed = prune(root, config.stream.max_gb * 1e9)
        size = sum(stream.bytes for stream in removed) / 1e6
        console.print(f"removed {counted(len(removed), 'stream')}, {size:,.0f} MB, from {root}")
        return
    # On its way to a server, a stream is kept where its reader would keep it.
    url = config.stream.root if config.stream.is_remote else ""
    config = dataclasses.replace(config, stream=dataclasses.replace(config.stream, root=str(root)))
    clock = Clock()
    choice = settle(config, data, task_overrides(), clock)
    run = plan_run(choice.config, data, clock, choice.speed, needs_weights=False)
    if config.verify:
        mended = verify_stream(run.spec, run.train, root)
        for line in mended:
            console.print(f"mended: {line}")
        console.print(
            f"{root / run.spec.folder}: {'every shard is right' if not mended else 'every shard is right now'}"
        )
        return
    part = Part(config.part, config.parts)
    there = uploaded(run.spec, url).shards if url else {}
    with stream_in_use(run):
        precompute(run, console, in_time=False, part=part, elsewhere=there)
        if url:
            sent = upload(run, console, url)
            console.print(f"sent {counted(sent, 'shard')} to {redacted(url)}, which had {len(there)}")
    epochs, own = run.plan.stream_epochs, len(part.epochs(run.plan.stream_epochs))
    which = f"{own} of {counted(epochs, 'epoch')}" if config.parts > 1 else counted(epochs, "epoch")
    console.print(f"{which} of {counted(run.spec.samples, 'image')} in {root / run.spec.folder}")


if __name__ == "__main__":
    main()
