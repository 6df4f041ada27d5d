"""Patterns name each file once, whatever links there are."""

import os
from pathlib import Path

import pytest

from fastconv.data.sources.patterns import matching
from fastconv.system.errors import InputError

FILES = ("photos/a/1.png", "photos/a/b/2.png", "photos/c/b/3.png", "photos/4.png", "far/5.png")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Photos among links in circles, a second way to some of them, and a link to others elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for link, target in (("self", "."), ("self2", "."), ("a/up", ".."), ("a/c", "../c"), ("c/a", "../a"),
                         ("z", "a"), ("x", "../far"), ("broken", "broken")):  # fmt: skip
        os.symlink(target, Path("photos") / link)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("photos/**/*.png", FILES),
        ("**/*.png", FILES),
        ("./**/**/*.png", FILES),
        ("photos/**/[0-9]*", FILES),
        ("photos/**/b/*.png", FILES[1:3]),
        ("photos/*/**/*.png", (*FILES[:3], FILES[4])),
        ("photos/**/b/**", FILES[1:3]),
        ("photos/*/*.png", (FILES[0], FILES[4])),
        ("p*/**/a/1.*", FILES[:1]),
        ("photos/*.png", FILES[3:4]),
        ("photos/[abcsxz]*", ("photos/a", "photos/c", "far", "photos/broken")),
    ],
)
def test_each_file_is_named_once(photos, pattern, named):
    found = matching(pattern, "images")
    assert sorted(map(os.path.realpath, found)) == sorted(os.path.realpath(photos / name) for name in named)


@pytest.mark.parametrize("pattern", ["photos/trip [1]/*.png", "photos/trip [1]/**", "./photos/trip [1]/**/*.png"])
def test_folders_with_brackets_in_their_names_are_meant_as_they_are(photos, pattern):
    for folder in ("trip [1]", "trip 1"):
        (photos / "photos" / folder).mkdir()
        (photos / "photos" / folder / "6.png").touch()
    assert matching(pattern, "images") == ["photos/trip [1]/6.png"]
    assert matching("photos/trip [12]/*.png", "images") == ["photos/trip 1/6.png"]
    with pytest.raises(InputError, match=r"^images=photos/trip \[1\]/\*\.jpg matches no file"):
        matching("photos/trip [1]/*.jpg", "images")


def test_names_are_below_the_folder_that_was_given(photos):
    os.unlink("photos/x")
    assert matching(f"{photos}/far/**", "images") == [f"{photos}/far/5.png"]
    assert matching("far/**/*.png", "images") == ["far/5.png"]
