"""Puts the members of a tar together to images with labels: by name, beside each other or not."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastconv.data.sources.formats import ENDINGS, HEIF_ENDINGS, heif_advice
from fastconv.data.sources.labels import NO_LABEL, label_of
from fastconv.system.errors import InputError
from fastconv.system.json_text import from_json
from fastconv.system.names import valid_unicode

# Endings of files with a label. If an image has several, the first counts.
LABEL_ENDINGS = (".cls", ".class", ".label", ".json", ".txt")
# Endings that never hold anything else. An image that has one needs no other.
SURE_ENDINGS = LABEL_ENDINGS[:3]
JSON_KEYS = ("label", "cls", "class", "target", "category", "class_name", "class_id", "label_name", "category_id")
# Kinds of members that notes count.
SECOND, TWICE, OTHER = (
    "further images of the same sample",
    "members of the same name, the last of which counts",
    "others",
)

Files = Iterable[tuple[str, bytes | None]]


@dataclass(frozen=True)
class TarSample:
    """An image of a tar: its name without the ending, the place of its content, its label, and the ending of the file
    with the label."""

    name: str
    image: range
    label: str
    ending: str


@dataclass
class _Group:
    images: dict[str, range] = field(default_factory=dict)
    labels: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


class TarSamples:
    """Iterates over the images of a tar that have a label.

    A label belongs to the image of the same name, or, as WebDataset has it, to that with the same part before the first
    dot (1.cls to 1.input.jpg). Files of a sample need not be side by side: labels are held in memory until their image
    comes. Images are not, since those of a tar without labels would fill it.

    `unreadable` are (name, reason) of what cannot be used, `notes` sentences about what is not used: whole at the end.

    Args:
        files: name and content of each member; the content of a link is None.
        where: the tar, for names.
        keep: keeps the content of an image, and returns its place.
    """

    def __init__(self, files: Files, where: str, keep: Callable[[bytes], range]) -> None:
        self._files, self._where, self._keep = files, where, keep
        self.unreadable: list[tuple[str, str]] = []
        self._unused: dict[str, list[str]] = defaultdict(list)
        self._waiting: dict[str, _Group] = {}

    @property
    def notes(self) -> list[str]:
        """Sentences about members that are not used."""
        unused = [(kind, names) for kind, names in self._unused.items() if names]
        return [f"{len(names):,} {kind} in {self._where}, such as {names[0]}" for kind, names in unused]

    def __iter__(self) -> Iterator[TarSample]:
        for sample in self._all():
            if sample.label:
                yield sample
            else:
                self.unreadable.append((sample.name, NO_LABEL))

    def _all(self) -> Iterator[TarSample]:
        run: dict[str, _Group] = {}
        done: set[str] = set()
        base = last = ""
        for name, content in self._files:
            if (place := _place(name)) is None:
                continue
            key, stem, ending = place
            if key != base:
                yield from self._end_run(base, run, done)
                run, done, base = {}, set(), key
            elif stem != last and last in run and any(each in run[last].labels for each in SURE_ENDINGS):
                yield from self._complete(last, run, done)
            last = stem
            self._add(run.setdefault(stem, _Group()), name, ending, content)
        yield from self._end_run(base, run, done)
        yield from self._end()

    def _add(self, group: _Group, name: str, ending: str, content: bytes | None) -> None:
        if ending not in ENDINGS and ending not in LABEL_ENDINGS:
            group.others.append(name)
            return
        if content is None:
            self.unreadable.append((f"{self._where}: {name}", "a link, not a file"))
            return
        if ending in group.images or ending in group.labels:
            self._unused[TWICE].append(name)
        if ending in ENDINGS:
            group.images[ending] = self._keep(content)
        else:
            group.labels[ending] = content

    def _complete(self, stem: str, run: dict[str, _Group], done: set[str]) -> Iterator[TarSample]:
        """Yield the image of a group that has a label, and forget the group."""
        group = run[stem]
        if group.images and group.labels:
            done.add(stem)
            yield self._sample(stem, run.pop(stem), group.labels)

    def _end_run(self, base: str, run: dict[str, _Group], done: set[str]) -> Iterator[TarSample]:
        """Yield the images whose labels are in a run of members that are the same up to the first dot."""
        for stem in list(run):
            yield from self._complete(stem, run, done)
        first = run.get(base)
        has_image = base in done or (first is not None and bool(first.images))
        shared = first.labels if first is not None and not first.images and base not in done else {}
        used = False
        for stem, group in run.items():
            if group.images and (stem in done or (stem != base and has_image)):
                self._unused[SECOND] += [f"{stem}{ending}" for ending in group.images]
            elif group.images and shared:
                used = True
                yield self._sample(stem, group, shared)
            elif group.images or not (stem in done or base in done or (stem == base and used)):
                yield from self._wait(stem, group)
        if used:
            self._waiting.pop(base, None)

    def _wait(self, stem: str, group: _Group) -> Iterator[TarSample]:
        """Keep a group until its other half comes; yield its image if that is there."""
        there = self._waiting.pop(stem, _Group())
        if there.images and group.images:
            self.unreadable.append((f"{self._where}: {stem}", NO_LABEL))
            there.images = {}
        whole = _Group(there.images | group.images, there.labels | group.labels, there.others + group.others)
        if whole.images and whole.labels:
            yield self._sample(stem, whole, whole.labels)
        else:
            self._waiting[stem] = whole

    def _end(self) -> Iterator[TarSample]:
        used = set()
        for stem, group in self._waiting.items():
            folder, _, file = stem.rpartition("/")
            base = f"{folder}/{file.partition('.')[0]}" if folder else file.partition(".")[0]
            if group.images and base in self._waiting and self._waiting[base].labels:
                used.add(base)
                yield self._sample(stem, group, self._waiting[base].labels)
            elif group.images:
                self.unreadable.append((f"{self._where}: {stem}", NO_LABEL))
        for stem, group in self._waiting.items():
            if group.images or stem in used:
                continue
            if any(ending in group.labels for ending in SURE_ENDINGS):
                why = heif_advice(group.others) or (
                    f"no image of a known format, but {group.others[0]}" if group.others else "a label without an image"
                )
                self.unreadable.append((f"{self._where}: {stem}", why))
            else:
                self._unused[OTHER] += [*group.others, *(f"{stem}{ending}" for ending in group.labels)]

    def _sample(self, stem: str, group: _Group, labels: dict[str, bytes]) -> TarSample:
        best, *others = (ending for ending in ENDINGS if ending in group.images)
        self._unused[SECOND] += [f"{stem}{ending}" for ending in others]
        name = f"{self._where}: {stem}"
        for ending in LABEL_ENDINGS:
            if ending in labels and (label := _label(labels[ending], ending, name)) is not None:
                return TarSample(name, group.images[best], label, ending)
        return TarSample(name, group.images[best], "", "")


def image_members(files: Files, where: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each image of a tar, with a label or without. The content of a link is empty.

    Photographs that need pillow-heif are among them, so that they are reported.
    """
    last = ""
    for name, content in files:
        place = _place(name)
        if place is not None and place[2] in ENDINGS + HEIF_ENDINGS:
            stem = place[1]
            yield f"{where}: {name if stem == last or place[2] not in ENDINGS else stem}", content or b""
            last = stem


def _place(name: str) -> tuple[str, str, str] | None:
    """What a member is grouped by: its name up to the first dot, the name without its ending, and the ending.

    None for what systems leave in tars: hidden files, and the other half of a file of macOS.
    """
    name = valid_unicode(name).removeprefix("./")
    folder, _, file = name.rpartition("/")
    if file.startswith(".") or "__MACOSX" in folder.split("/"):
        return None
    before = f"{folder}/" if folder else ""
    stem, ending = os.path.splitext(file)
    ending = ending.lower()
    if ending in LABEL_ENDINGS and os.path.splitext(stem)[1].lower() in ENDINGS:  # 1.jpg.cls beside 1.jpg
        stem = os.path.splitext(stem)[0]
    return before + file.partition(".")[0], before + stem, ending


def _label(content: bytes, ending: str, name: str) -> str | None:
    """The label in a file; None if it has none, or is not text."""
    try:
        told: Any = content.decode("utf-8-sig")
        if ending == ".json":
            told = from_json(told)
    except ValueError:
        return None
    if isinstance(told, dict):
        told = next((told[key] for key in JSON_KEYS if told.get(key) is not None), None)
    if isinstance(told, list) and len(told) == 1:
        told = told[0]
    if isinstance(told, list | dict):
        shown = " ".join(content[:80].decode(errors="replace").split())
        raise InputError(f"{name} has several labels, {shown}: a classifier needs one for each image")
    label = None if told is None else label_of(str(told))
    return str(int(label)) if label and re.fullmatch(r"-?[0-9]{1,18}", label) else label
