"""The command that a run names for the time after it."""

import shlex

from fastconv.config.next_command import resume_command


def test_a_run_goes_on_with_the_addresses_that_it_was_told():
    """It follows no others; where the run itself lies is known from its folder."""
    given = [
        "seed=1",
        "stream.root=s3://bucket/streams",
        "dataset.train=[s3://bucket/1.tar,s3://bucket/2.tar]",
        "outputs=s3://bucket/runs",
        "resume=s3://bucket/runs/digits/1",
    ]
    said = resume_command("s3://bucket/runs/digits/1", given, {})
    assert shlex.split(said) == ["python", "-m", "fastconv.train", given[4], *given[1:3]]


def test_a_run_goes_on_with_code_of_the_users_own():
    said = resume_command("outputs/digits/1", ["seed=1"], {"model": {"_target_": "mypkg.Net"}})
    assert said == "python -m fastconv.train resume=outputs/digits/1 trust=true"
