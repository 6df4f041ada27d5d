"""A budget that counts more than training: kept all the same."""

import pytest
from harness import SMALL, finish, only_run

from fastconv.config.schema import SEGMENTS
from fastconv.runs.results import Results

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "counts",
    [("train",), ("train", "validate", "test"), ("train", "checkpoint"), ("precompute", "train"), SEGMENTS],
    ids="+".join,
)
def test_any_segments_can_count(tmp_path, digits_root, counts):
    run = (*SMALL, "trainer=cpu", "budget.seconds=30", "schedule.max_epochs=null", "checkpoint.every=3")
    code, err = finish(tmp_path, digits_root, *run, f"budget.counts=[{','.join(counts)}]", "stream.root=streams")
    assert code == 0, err
    found = Results.read(only_run(tmp_path))
    assert found.stop_reason == "budget"
    assert found.seconds_counted == pytest.approx(sum(found.seconds[segment] for segment in counts), abs=0.05)
    assert found.seconds_counted <= 30
    assert found.final_lr <= 0.01
