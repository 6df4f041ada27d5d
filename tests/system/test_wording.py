"""Numbers agree with their nouns."""

import pytest

from fastconv.system.wording import counted, measured


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((1438, "image"), "1,438 images"),
        ((1, "class"), "1 class"),
        ((2, "class"), "2 classes"),
        ((1, "image is", "images are"), "1 image is"),
        ((2, "image is", "images are"), "2 images are"),
    ],
)
def test_a_number_and_its_noun(given, words):
    assert counted(*given) == words


@pytest.mark.parametrize(
    ("value", "words"), [(1, "1 epoch"), (1.0, "1 epoch"), (2.5, "2.5 epochs"), (0.3, "0.3 epochs")]
)
def test_a_measure_and_its_noun(value, words):
    assert measured(value, "epoch") == words
