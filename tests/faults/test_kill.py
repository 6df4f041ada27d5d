"""Processes that are killed or told to end at any moment, and go on: bit for bit as if nothing had happened."""

import random
import signal
import time

import pytest
from harness import SMALL, finish, only_run, rows, same_weights, start

from fastconv.runs.results import Results

pytestmark = pytest.mark.slow

RUN = (*SMALL, "trainer=cpu", "budget.seconds=null", "schedule.max_epochs=8", "validate.every=1",
       "checkpoint.every=0.5", "stream.root=streams")  # fmt: skip
EPOCH = 1438 // 64  # steps
# A function of the run and the call of it in which the signal comes.
MOMENTS = {
    "precompute": "fastconv.data.stream.writer:write_shard 3",
    "the manifest": "fastconv.data.stream.manifest:Manifest.write 1",
    "making the folder": "fastconv.runs.folder:new_run_folder 1",
    "the first results": "fastconv.runs.results:Results.write 1",
    "the first step": "fastconv.training.module:ImageClassifier.training_step 1",
    "the first epoch": f"fastconv.training.module:ImageClassifier.training_step {EPOCH // 2 + 1}",
    "a validation": "fastconv.training.module:ImageClassifier.validation_step 3",
    "a checkpoint": "fastconv.training.checkpoint_file:write_atomically 3",
    "a whole checkpoint without its name": "fastconv.system.files:os.fsync 2",
    "the last step": f"fastconv.training.module:ImageClassifier.training_step {round(8 * 1438 / 64)}",
    "the test": "fastconv.training.module:ImageClassifier.test_step 1",
}
RANDOM = random.Random(0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, digits_root):
    """(folder of the run, seconds that its process took)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    started = time.monotonic()
    code, err = finish(folder, digits_root, *RUN)
    assert code == 0, err
    return only_run(folder), time.monotonic() - started


def go_on(folder, data, undisturbed):
    code, err = finish(folder, data, *RUN, "resume=auto")
    assert code == 0, err
    *finished, run = sorted((folder / "outputs" / "digits").iterdir())
    for each in finished:  # it had come to its end: the process was killed when it had nothing left to do
        assert Results.read(each).stop_reason == "epochs"
    assert same_weights(run, undisturbed[0])
    found, expected = Results.read(run), Results.read(undisturbed[0])
    assert (found.accuracy, found.loss, found.steps) == (expected.accuracy, expected.loss, expected.steps)
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in(tmp_path, digits_root, undisturbed, moment):
    code, _ = finish(tmp_path, digits_root, *RUN, DISTURB=f"{MOMENTS[moment]} {signal.SIGKILL.value}")
    assert code == -signal.SIGKILL
    go_on(tmp_path, digits_root, undisturbed)


@pytest.mark.parametrize("share", [round(RANDOM.uniform(0.3, 1), 3) for _ in range(9)])
def test_killed_after(tmp_path, digits_root, undisturbed, share):
    process = start(tmp_path, digits_root, *RUN)
    time.sleep(share * undisturbed[1])
    process.kill()
    process.wait()
    go_on(tmp_path, digits_root, undisturbed)


@pytest.mark.parametrize("share", [round(RANDOM.uniform(0.2, 1), 3) for _ in range(10)])
def test_told_to_end_after(tmp_path, digits_root, undisturbed, share):
    process = start(tmp_path, digits_root, *RUN)
    time.sleep(share * undisturbed[1])
    process.terminate()
    assert process.wait(600) in (143, 0, -signal.SIGTERM), "0 if it had ended, -15 before Python could listen"
    err = (tmp_path / "err.txt").read_text()
    assert "Traceback" not in err
    assert (process.returncode == 143) == err.startswith("fastconv: ended by SIGTERM")
    if process.returncode != 0:
        go_on(tmp_path, digits_root, undisturbed)


def test_all_parts_together_keep_to_the_budget(tmp_path, digits_root):
    """What a killed process has spent counts, though its steps are lost: by its own clock and by another."""
    run = (*RUN, "budget.seconds=12", "schedule.max_epochs=null", "checkpoint.every=2")
    (tmp_path / "record").mkdir()
    for spent in (3, 7, None):
        process = start(tmp_path, digits_root, *run, "resume=auto", RECORD=str(tmp_path / "record"))
        while spent is not None and counted(tmp_path) < spent:
            time.sleep(0.1)
            assert process.poll() is None
        if spent is not None:
            process.kill()
        assert process.wait(600) == (0 if spent is None else -signal.SIGKILL)
    found = Results.read(only_run(tmp_path))
    assert found.resumed == 2
    assert found.seconds_counted <= 12
    assert found.final_lr <= 0.01
    parts = rows(tmp_path / "record", 0)
    trained = sum(float(part[-1]["ended"]) - float(part[0]["began"]) for part in parts if part)
    longest = max(float(row["ended"]) - float(row["began"]) for part in parts for row in part)
    assert trained <= 12 + 2 * (1 + 4 * longest), "the clock is noted every second, at the end of a step"


def counted(folder):
    """Seconds of the budget that the run has written down."""
    return max((Results.read(path.parent).seconds_counted for path in folder.rglob("results.json")), default=0.0)
