"""Numbers agree with their nouns."""

import pytest

from fastconv.system.wording import agreeing, counted, listed, measured


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
    ("count", "words"), [(1, "1 of 11 images is"), (0, "0 of 11 images are"), (2, "2 of 11 images are")]
)
def test_a_part_and_its_verb(count, words):
    assert f"{count} of 11 images {agreeing(count, 'is', 'are')}" == words


@pytest.mark.parametrize(
    ("value", "words"), [(1, "1 epoch"), (1.0, "1 epoch"), (2.5, "2.5 epochs"), (0.3, "0.3 epochs")]
)
def test_a_measure_and_its_noun(value, words):
    assert measured(value, "epoch") == words


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("a", "a"),
        ("ab", "a and b"),
        ("abcd", "a, b, c and d"),
        ("abcde", "a, b, c and 2 more"),
    ],
)
def test_names_in_a_sentence(names, words):
    assert listed(names) == words
