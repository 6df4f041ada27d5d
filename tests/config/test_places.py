"""Where a data set's images are, and their size: each kind has its own settings, and takes no others."""

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
        (
            ("dataset=torchvision", "dataset.name=CIFAR100", "dataset.root=photos"),
            "dataset.root=photos is not of dataset=torchvision: its images are in the data folder, data=photos",
        ),
        (
            ("dataset._target_=json.loads", "dataset.root=photos"),
            "dataset.root=photos is not of dataset=custom: give it to your function, as dataset.arguments.root=photos",
        ),
        (
            ("dataset=mnist", "dataset.image_size=64"),
            "dataset.image_size=64 is not possible: it is for images of your own, and those of mnist have a size",
        ),
    ],
)
def test_a_setting_that_another_kind_of_data_set_has_is_refused(given, line):
    with pytest.raises(InputError, match=line):
        check(typed("train", compose("train", list(given)), list(given)))


def test_places_of_its_own_are_taken():
    given = ["dataset=csv", "dataset.train=a.csv", "dataset.test=b.csv", "dataset.root=photos"]
    check(typed("train", compose("train", given), given))
