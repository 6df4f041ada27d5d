"""The `manifest.json` of a stored stream: which shards it has, and their sums."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from fastconv.data.stream.shards import ShardEntry, possible_bytes
from fastconv.data.stream.spec import FORMAT, StreamSpec
from fastconv.system.errors import InputError, StreamError
from fastconv.system.files import read_file, write_atomically
from fastconv.system.json_text import as_json, without_repeats

MANIFEST = "manifest.json"


def shard_name(epoch: int, shard: int) -> str:
    """Path of a shard inside its stream."""
    return f"epoch-{epoch:04d}/shard-{shard:04d}.tar"


def epoch_of(name: str) -> int:
    """The epoch of a shard, from its path inside its stream."""
    return int(name.partition("/")[0].removeprefix("epoch-"))


@dataclass(frozen=True)
class Manifest:
    """The contents of a stream's `manifest.json`."""

    spec: StreamSpec
    shards: dict[str, ShardEntry]
    """Entries by the shard's path inside the stream."""

    @property
    def epochs(self) -> int:
        """Number of epochs, from the first on, that are complete."""
        per_epoch = len(self.spec.shards())
        epoch = 0
        while all(shard_name(epoch, shard) in self.shards for shard in range(per_epoch)):
            epoch += 1
        return epoch

    def write(self, folder: Path, name: str = MANIFEST) -> None:
        """Store it in the stream's folder, atomically. Raises InputError if it cannot be written.

        Args:
            name: name of the file; a part of a stream has its own (`Part.manifest`).
        """
        write_atomically(folder / name, self.content())

    def content(self) -> bytes:
        """The manifest as it is stored."""
        content = {"format": FORMAT, "fingerprint": self.spec.fingerprint, **asdict(self.spec)}
        content |= {**self.spec.libraries, **self.spec.sources}
        content["shards"] = {name: asdict(self.shards[name]) for name in sorted(self.shards)}
        return as_json(content, indent=1).encode()

    @classmethod
    def read(cls, folder: Path, spec: StreamSpec, name: str = MANIFEST) -> "Manifest":
        """Read the manifest of the stream that `spec` describes; an absent manifest has no shards.

        Raises StreamError for a manifest that is damaged, in another format, or of another stream.
        """
        path = folder / name
        try:
            content = read_file(path)
        except FileNotFoundError:
            return cls(spec, {})
        except InputError as error:
            raise StreamError(str(error)) from error
        except OSError as error:
            raise StreamError(f"{path} cannot be read: {error.strerror}") from error
        return cls.parse(content, path, spec)

    @classmethod
    def parse(cls, text: bytes, place: Path | str, spec: StreamSpec) -> "Manifest":
        """Parse the text of a manifest that was read from `place`. Raises StreamError as `read` does."""
        try:
            content = json.loads(text, object_pairs_hook=without_repeats)
            if content["format"] != FORMAT:
                raise StreamError(f"{place} has format {content['format']!r:.20}, this fastconv reads format {FORMAT}")
            if content["fingerprint"] != spec.fingerprint:
                raise StreamError(f"{place} belongs to another stream ({str(content['fingerprint'])!r:.20})")
            entries = {name: ShardEntry(**entry) for name, entry in content["shards"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StreamError(f"{place} is damaged and cannot be read") from error
        manifest = cls(spec, entries)
        manifest._check(place)
        return manifest

    def _check(self, place: Path | str) -> None:
        """Raise StreamError for a shard that the stream cannot have, or cannot have in this size.

        So no name leads out of the stream's folder, and no more is read or stored than the stream's own size.
        """
        possible = [
            (sum(block.shape[0] for block in stored), possible_bytes(stored))
            for stored in (self.spec.stored_blocks(0, blocks) for blocks in self.spec.shards())
        ]
        for name, entry in self.shards.items():
            found = re.fullmatch(r"epoch-([0-9]{4,9})/shard-([0-9]{4,9})\.tar", name)
            epoch, shard = map(int, found.groups()) if found else (-1, -1)
            if shard_name(epoch, shard) != name or shard >= len(possible):
                raise StreamError(
                    f"{place} is damaged: it names the shard {name!r:.40}, which this stream does not have"
                )
            samples, sizes = possible[shard]
            numbers = type(entry.samples) is int and type(entry.bytes) is int  # a bool is none
            if not numbers or entry.samples != samples or entry.bytes not in sizes:
                raise StreamError(
                    f"{place} is damaged: {name} has {samples} samples in {sizes[0]} bytes or little more, not"
                    f" {entry.samples!s:.20} in {entry.bytes!s:.20}"
                )
            if not isinstance(entry.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
                raise StreamError(f"{place} is damaged: {name} has no sha256")
