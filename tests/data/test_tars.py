"""Tars of labelled images as people have them: every image is read, or counted with the reason."""

import functools
import io
import json
import tarfile
import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
from harness import QuietFolder, served
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import load, open_source
from fastconv.data.sources.webdataset import tar_images
from fastconv.system.errors import InputError


def picture(level, form="png"):
    file = io.BytesIO()
    Image.fromarray(np.full((24, 24), level, np.uint8)).save(file, form)
    return file.getvalue()


def write(path, members, mode="w", form=tarfile.PAX_FORMAT):
    with tarfile.open(path, mode, format=form) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.LNKTYPE, members[0][0]
                tar.addfile(entry)
                continue
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def found(path):
    """({level of an image: its class}, [(name, reason)], notes) of a tar."""
    each = open_source(Dataset(name="own", source="webdataset", train=str(path)), path.parent).find()
    levels = {
        np.asarray(Image.open(io.BytesIO(sample.read()))).flat[0].item(): each.classes[sample.label]
        for sample in each.train
    }
    return levels, [(name.removeprefix(f"{path}: "), why) for name, why in each.unreadable], list(each.notes)


def pairs(name, label="{label}", ending="cls"):
    """Members of four images; `name` is theirs without the ending, with {at}."""
    return [
        (f"{name.format(at=at)}.{end}", content)
        for at in range(4)
        for end, content in (("png", picture(at)), (ending, label.format(label=LABELS[at]).encode()))
    ]


LABELS = ("cat", "dog", "cat", "dog")
TRUE = dict(enumerate(LABELS))
READ = {
    "plain": pairs("{at:05}"),
    "dots in the names": pairs("photo.v{at}"),
    "dots in folders": pairs("./v1.0/photo {at}"),
    "labels of the part before the dot": [(name.replace(".png", ".input.png"), each) for name, each in pairs("{at}")],
    "labels with the image's ending": [(name.replace(".cls", ".png.cls"), each) for name, each in pairs("{at}")],
    "upper case": [(name.upper(), each) for name, each in pairs("a{at}")],
    "labels at the end": sorted(pairs("{at}"), key=lambda pair: pair[0].endswith("cls")),
    "labels first": sorted(pairs("x.{at}"), key=lambda pair: pair[0].endswith("png")),
    "shuffled": [pairs("{at}")[at] for at in (3, 0, 7, 4, 1, 2, 6, 5)],
    "a line break in the label": pairs("{at}", "{label}\r\n"),
    "a byte order mark": pairs("{at}", "\ufeff{label}"),
    "json": pairs("{at}", '{{"label": "{label}", "width": 24}}', "json"),
    "json with another key": pairs("{at}", '{{"label": null, "class_name": "{label}"}}', "json"),
    "json of one label": pairs("{at}", '["{label}"]', "json"),
    "txt": pairs("{at}", ending="txt"),
    "what macOS adds": [*pairs("{at}"), ("._0.png", b"x"), ("__MACOSX/._1.png", b"x"), (".DS_Store", b"x")],
    "long names": pairs("folder/" * 30 + "x" * 120 + "{at}"),
}


@pytest.mark.parametrize("case", READ)
def test_tars_as_people_have_them(tmp_path, case):
    assert found(write(tmp_path / "own.tar", READ[case])) == (TRUE, [], [])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_forms_of_tars(tmp_path, form, mode):
    assert found(write(tmp_path / "own.tar", pairs("ünï {at}"), mode, form)) == (TRUE, [], [])


@pytest.mark.parametrize(("ending", "form"), [("JPG", "jpeg"), ("webp", "webp"), ("jfif", "jpeg"), ("avif", "avif")])
def test_formats_of_images(tmp_path, ending, form):
    members = []
    for at in range(4):
        members += [(f"{at}.{ending}", picture(60 * at, form)), (f"{at}.cls", LABELS[at].encode())]
    levels, unreadable, _ = found(write(tmp_path / "own.tar", members))
    assert (list(levels.values()), unreadable) == (list(LABELS), [])


def test_names_that_are_not_utf8_stay_apart(tmp_path):
    """As of a Russian Windows: each byte that is not UTF-8 tells names apart."""
    members = []
    for at, name in enumerate(("кот", "кит", "пёс", "лев")):
        stem = name.encode("cp1251").decode("utf-8", "surrogateescape")
        members += [(f"{stem}.png", picture(at)), (f"{stem}.cls", LABELS[at].encode())]
    path = write(tmp_path / "own.tar", members, form=tarfile.GNU_FORMAT)
    assert found(path) == (TRUE, [], [])
    assert [name for name, _ in tar_images(str(path))][:2] == [rf"{path}: \xea\xee\xf2", rf"{path}: \xea\xe8\xf2"]


@pytest.mark.parametrize("name", ["{1,2}.tar", "{1..2}.tar", "{.tar", "a\\b.tar", "[1].tar"])
def test_a_file_may_have_a_pattern_as_its_name(tmp_path, name):
    assert found(write(tmp_path / name, pairs("{at}"))) == (TRUE, [], [])


@pytest.mark.parametrize(
    ("name", "ending"), [("folder {at}/photo.png", ""), ("photo.{at}.png", "json"), ("{at}.png", "cls")]
)
def test_images_whose_labels_come_late_or_never_are_not_held_in_memory(tmp_path, name, ending):
    count, image = 24, picture(0) + bytes(2**20)
    members = [(name.format(at=at), image) for at in range(count)]
    labels = [(f"{member.removesuffix('png')}{ending}", b'"%d"' % (at % 2)) for at, (member, _) in enumerate(members)]
    path = write(tmp_path / "own.tar", [*members, *labels] if ending else members)
    source = open_source(Dataset(name="own", source="webdataset", train=str(path)), tmp_path)
    tracemalloc.start()
    try:
        with nullcontext() if ending else pytest.raises(InputError, match="has no label"):
            each = source.find()
            assert len(each.train) == count
            assert each.train[count - 1].read() == image
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 8 * 2**20, "of 24 MiB"


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path):
    more = [
        ("alone.png", picture(9)),
        ("empty.png", picture(9)),
        ("empty.cls", b"\n"),
        ("null.png", picture(9)),
        ("null.json", b'{"label": null}'),
        ("deep.png", picture(9)),
        ("deep.json", b'{"label": ' + b"[" * 100_000),
        ("phone.heic", b"x"),
        ("phone.cls", b"cat"),
        ("label.cls", b"cat"),
        ("link.png", None),
    ]
    path = write(tmp_path / "own.tar", [*pairs("{at}"), *more])
    levels, unreadable, notes = found(path)
    assert levels == TRUE
    assert dict(unreadable) == {
        "alone": "no label",
        "empty": "no label",
        "null": "no label",
        "phone": "Install pillow-heif to read .heic files",
        "deep": "no label",
        "label": "a label without an image",
        "link.png": "a link, not a file",
    }
    assert notes == []
    given = Dataset(name="own", source="webdataset", train=str(path), test_share=0.5)
    note = load(given, tmp_path / "data")[0].note
    assert "left out: 3 of 11 images cannot be read, such as " in note
    assert " and 4 of 11 images have no label, such as " in note


def test_what_is_not_used_is_noted(tmp_path):
    masks = [(name.replace(".png", ".seg.png"), each) for name, each in pairs("{at}") if name.endswith(".png")]
    members = sorted([*pairs("{at}"), *masks, ("README.md", b"x"), ("index.json", b"{}"), ("0.cls", b"cat")])
    levels, unreadable, notes = found(write(tmp_path / "own.tar", members))
    assert (levels, unreadable) == (TRUE, [])
    assert [note.partition(f" in {tmp_path}")[0] for note in sorted(notes)] == [
        "1 members of the same name, the last of which counts",
        "2 others",
        "4 further images of the same sample",
    ]


def test_tars_behind_each_other_are_read_as_one(tmp_path):
    one, other = (write(tmp_path / f"{at}.tar", pairs("{at}")[4 * at : 4 * at + 4]) for at in (0, 1))
    (tmp_path / "both.tar").write_bytes(one.read_bytes() + other.read_bytes())
    assert found(tmp_path / "both.tar") == (TRUE, [], [])
    (tmp_path / "tail.tar").write_bytes((tmp_path / "both.tar").read_bytes() + b"something else" * 100)
    assert found(tmp_path / "tail.tar") == (TRUE, [], [])


@pytest.mark.parametrize("harm", ["header", "cut off"])
def test_a_broken_tar_is_not_the_end_of_its_images(tmp_path, harm):
    path = write(tmp_path / "own.tar", pairs("{at}", "{label}"), form=tarfile.USTAR_FORMAT)
    with tarfile.open(path) as tar:
        at = tar.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    if harm == "header":
        content[at : at + 100] = bytes(range(100, 200))
    else:
        del content[at + 200 :]
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"cannot read .*own.tar, which must be a tar: .*(broken after|unexpected end)"
    ):
        found(path)


REFUSED = {
    "no labels": ([(name, each) for name, each in pairs("{at}") if "png" in name], "0 has no label: each image needs"),
    "folders": ([(f"cat/{name}", each) for name, each in pairs("{at}") if "png" in name], "unpack the tar"),
    "captions": (
        [(name, f"a photo of number {at}".encode() if "txt" in name else each)
         for at, (name, each) in enumerate(pairs("{at}", ending="txt"))],
        "seem to be captions, such as 'a photo of number 1'",
    ),
    "several": (pairs("{at}", '{{"label": ["{label}", "b"]}}', "json"), "0 has several labels, .*one for each image"),
    "infinite": (
        [*pairs("{at}", "1")[:2], *pairs("{at}", "2")[2:4], *pairs("{at}", '{{"label": Infinity}}', "json")[4:]],
        "label inf beside numbers",
    ),
    "one class": (pairs("{at}", "cat"), "has a single label, cat: a classifier needs images of two classes"),
    "one class, and no labels": (
        [*pairs("{at}", "cat")[:4], *pairs("{at}", "")[4:]],
        r"single label, cat, and 2 images are left out, such as .* \(no label",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_tars_that_cannot_be_used_are_one_line(tmp_path, case):
    members, line = REFUSED[case]
    with pytest.raises(InputError, match=line) as error:
        found(write(tmp_path / "own.tar", members))
    assert "\n" not in str(error.value)


def test_numbers_are_the_classes_however_they_are_written(tmp_path):
    members = [
        (f"{at}.{end}", content)
        for at, label in enumerate((b"0", b"01", b"2.0", b"1.0"))
        for end, content in (("png", picture(at)), ("json", json.dumps({"label": label.decode()}).encode()))
    ]
    assert found(write(tmp_path / "own.tar", members))[0] == {0: "0", 1: "1", 2: "2", 3: "1"}


@pytest.mark.parametrize("numbers", [(1, 2), (5, 12), (0, 100_000)])
def test_classes_may_be_numbered_in_any_way(tmp_path, numbers):
    """Without a class for each number between, which no image has."""
    members = [
        (f"{at}.{end}", content)
        for at in range(4)
        for end, content in (("png", picture(at)), ("cls", str(numbers[at % 2]).encode()))
    ]
    assert found(write(tmp_path / "own.tar", members))[0] == {at: str(numbers[at % 2]) for at in range(4)}


def test_prediction_has_a_row_for_each_image(tmp_path):
    members = [("a.v1.png", b"1"), ("a.v1.cls", b"x"), ("1.input.JPG", b"2"), ("b.png", b"3"), ("b.jpg", b"4")]
    path = write(tmp_path / "own.tar", [*members, ("._b.png", b"x")])
    assert list(tar_images(str(path))) == [
        (f"{path}: {name}", content)
        for name, content in (("a.v1", b"1"), ("1.input", b"2"), ("b", b"3"), ("b.jpg", b"4"))
    ]


@pytest.fixture
def site(tmp_path):
    """(folder, URL) of a server on this machine."""
    with served(functools.partial(QuietFolder, directory=tmp_path)) as server:
        yield tmp_path, server.url


@pytest.mark.parametrize("protocol", ["http", "file"])
def test_a_tar_behind_a_url_is_read_again_when_it_has_changed(site, protocol):
    folder, address = site
    url = f"{address}/own.tar" if protocol == "http" else f"file://{folder}/own.tar"
    given = Dataset(name="own", source="webdataset", train=url, test_share=0.5)
    write(folder / "own.tar", pairs("{at}"))
    first = [load(given, folder / "data")[0] for _ in range(2)]
    assert [len(each) for each in first] == [2, 2]
    assert len(list((folder / "data" / "arrays").glob("own-*"))) == 1, "the same tar is read once"
    write(folder / "own.tar", [*pairs("{at}"), *pairs("more {at}", "bird")])
    again = load(given, folder / "data")[0]
    assert again.classes == ("bird", "cat", "dog")
    assert len(again) == 4
