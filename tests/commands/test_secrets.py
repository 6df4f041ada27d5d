"""Passwords and signatures of URLs: in no file of a run, in no line, and asked for again where they are needed."""

import functools
import io
import json
import tarfile

import numpy as np
import pytest
import yaml
from harness import SMALL, QuietFolder, only_run, served, stop_at
from PIL import Image

SECRETS = ("pa55word", "5ignature", "t0ken-of-a-variable")


@pytest.fixture
def url(tmp_path):
    """The address, with secrets, of a tar of 40 images of two classes."""
    generator = np.random.default_rng(0)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for at in range(40):
            picture = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8)).save(picture, "PNG")
            for end, content in (("png", picture.getvalue()), ("cls", str(at % 2).encode())):
                info = tarfile.TarInfo(f"{at:04}.{end}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with served(functools.partial(QuietFolder, directory=tmp_path)) as server:
        yield f"http://ann:pa55word@127.0.0.1:{server.server_port}/t.tar?X-Amz-Signature=5ignature"


def leaks(folder, *texts):
    """Where a secret is: files below a folder, and numbers of texts."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = [path.name for path in files if any(secret.encode() in path.read_bytes() for secret in SECRETS)]
    return found + [number for number, text in enumerate(texts) if any(secret in text for secret in SECRETS)]


def test_a_run_keeps_no_secret_and_resumes_once_it_is_given_again(command, tmp_path, url, monkeypatch):
    monkeypatch.setenv("TABLE_TOKEN", SECRETS[2])
    train = f'dataset.train="{url}"'
    settings = ["dataset=webdataset", *SMALL, "batch_size=16", "micro_batch_size=16", "budget.seconds=null",
                "schedule.max_epochs=6", "stream=online", "dataset.image_size=16", "augment=none"]  # fmt: skip
    settings += ["+dataset.arguments.token=${oc.env:TABLE_TOKEN}", train]
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 4)
        stopped = command("train", *settings)
    assert stopped.code not in (0, 1), stopped.err
    run = only_run(tmp_path / "outputs")
    assert leaks(tmp_path / "outputs", stopped.out, stopped.err) == []
    safe = url.replace("ann:pa55word@", "***@").replace("5ignature", "***")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["dataset"]["train"] == safe
    assert stored["dataset"]["arguments"] == {"token": "***"}

    ended = command("train", f"resume={run}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "without its password or signature: give it again, dataset." in ended.err
    other = command("train", f"resume={run}", train.replace("/t.tar", "/other.tar"))
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "continues with its own" in other.err
    resumed = command("train", f"resume={run}", train, "+dataset.arguments.token=${oc.env:TABLE_TOKEN}", "trust=true")
    assert resumed.code == 0, resumed.err
    assert leaks(tmp_path / "outputs", ended.err, other.err, resumed.out, resumed.err) == []
    table = command("compare", "page=compare.html")
    assert leaks(tmp_path / "outputs", table.out, (tmp_path / "compare.html").read_text()) == []

    stored["dataset"]["arguments"] = {}
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    asked = command("evaluate", f"run={run}")
    assert (asked.code, asked.err.count("\n")) == (1, 1)
    assert asked.err.endswith(
        "give the images again, dataset.train=URL, or a copy of them on this machine, dataset.train=PATH\n"
    )
    for given in (train, f"dataset.train={tmp_path / 't.tar'}"):
        scored = command("evaluate", f"run={run}", given)
        assert scored.code == 0, scored.err
        found = json.loads((run / "evaluation.json").read_text())
        assert found["accuracy"] == pytest.approx(json.loads((run / "results.json").read_text())["accuracy"])
        assert leaks(tmp_path / "outputs", scored.out, scored.err) == []
    other = command("evaluate", f"run={run}", "dataset.root=photos")
    assert (other.code, other.err.count("\n")) == (1, 1)
    assert "dataset.root is not possible" in other.err


def test_a_line_about_a_url_has_no_secret(command, tmp_path, url):
    dead = url.replace("/t.tar", "/absent.tar")
    ended = command("train", "dataset=webdataset", f'dataset.train="{dead}"', *SMALL)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "/absent.tar?X-Amz-Signature=*** does not exist" in ended.err
    assert leaks(tmp_path / "outputs", ended.out, ended.err) == []
    wrong = command("train", f"stream.root={dead}", "seed=x")
    assert wrong.code == 1
    assert leaks(tmp_path / "outputs", wrong.out, wrong.err) == []
