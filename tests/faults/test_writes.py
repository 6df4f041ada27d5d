"""Every write that a run needs, refused by the system in every way: the run says so or is whole."""

import errno
from pathlib import Path

import pytest
from harness import SMALL, failing_writes, require_told_or_whole, run_command

from fastconv.data.loading import load

pytestmark = pytest.mark.slow

RUN = ("dataset=digits", *SMALL, "budget.seconds=null", "schedule.max_epochs=0.3", "checkpoint.every=0.0001",
       "logger=[csv,tensorboard]")  # fmt: skip
KINDS = {
    "config": r"config\.yaml",
    "results": r"results\.json",
    "checkpoint": r"last\.ckpt",
    "metrics": r"metrics\.csv",
    "events": r"tfevents",
    "shards": r"shard-\d+",
    "manifest": r"manifest\.json",
    "arrays": r"\.npy",
    "what arrays are": r"meta\.json",
    "figures": r"\.png",
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("moment", ["first", "second", "all", "from the second on"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_fails(tmp_path, kind, moment, number):
    first, last = {"first": (1, 1), "second": (2, 2), "all": (1, None), "from the second on": (2, None)}[moment]
    data, outputs = tmp_path / "data", tmp_path / "outputs"
    with failing_writes(KINDS[kind], number, first, last):
        ended = run_command(tmp_path, data, "train", *RUN, "figures=true")
    require_told_or_whole(ended, outputs)
    again = run_command(tmp_path, data, "train", *RUN, "resume=auto")
    assert again.code == 0, again.err
    assert not [path for path in Path(tmp_path).rglob("*") if path.name.endswith(".part")]
    load("digits", data)
