"""Which runs may be explained together, and what their groups are called."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fastconv.analysis.attribution.pairing import names_of, require_alike
from fastconv.config.overrides import compose
from fastconv.config.typed_config import typed
from fastconv.system.errors import InputError


def run(name: str, *overrides: str) -> SimpleNamespace:
    """A run of some settings on the same images."""
    given = ["dataset=digits", *overrides]
    config = typed("train", compose("train", given), given)
    return SimpleNamespace(
        folder=Path(name), name=name, config=config, classes=("a", "b"), shape=(8, 8, 1), resize="crop"
    )


@pytest.mark.parametrize("further", ["objective=macro_f1", "model.width=8"])
def test_runs_that_differ_in_a_setting_are_no_group_in_any_order(further):
    """Also in one that is left out of the settings of a run at its default."""
    plain, other = run("plain"), run("other", "seed=1", further)
    require_alike([plain, run("again", "seed=1")], [])
    for group in ([plain, other], [other, plain]):
        with pytest.raises(InputError, match=f"differ in {further.partition('=')[0]}, not only in their seeds"):
            require_alike(group, [])


def test_groups_have_the_names_of_what_differs_in_any_order():
    plain, augmented, other = run("a", "augment=none"), run("b"), run("c", "objective=macro_f1")
    assert names_of(plain, augmented) == ["without augmentation", "with augmentation"]
    both = ["objective=accuracy", "objective=macro_f1"]
    assert names_of(augmented, other) == both
    assert names_of(other, augmented) == both[::-1]
    assert names_of(plain, other) == ["a", "c"]
