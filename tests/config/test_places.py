"""Where a data set's images are: each kind has its own settings, and takes no others."""

import pytest

from fastconv.config.overrides import compose
from fastconv.config.typed_config import typed
from fastconv.config.validation import check
from fastconv.system.errors import InputError


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ("dataset=mnist", "dataset.root=photos"),
            "dataset.root=photos is for images of your own, and mnist is built in",
        ),
        (
            ("dataset=image_folder", "dataset.root=photos", "dataset.train=others"),
            "dataset.train=others is not of dataset=image_folder: its images are where dataset.root says",
        ),
        (
            ("dataset=webdataset", "dataset.train=a.tar", "dataset.root=photos"),
            "dataset.root=photos is not of dataset=webdataset: its images are where dataset.train and dataset.test say",
        ),
    ],
)
def test_a_place_that_another_kind_of_data_set_has_is_refused(given, line):
    with pytest.raises(InputError, match=line):
        check(typed("train", compose("train", list(given)), list(given)))


def test_places_of_its_own_are_taken():
    given = ["dataset=csv", "dataset.train=a.csv", "dataset.test=b.csv", "dataset.root=photos"]
    check(typed("train", compose("train", given), given))
