"""Run folders and folders of images that somebody else sent: no command runs, sends or writes what they ask for."""

import http.server
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import served
from PIL import Image

from fastconv.config.trust import require_ours
from fastconv.data.stream.cache import prune, stored_streams
from fastconv.system.errors import InputError


@pytest.fixture
def server():
    """A server that keeps the paths it is asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the name that the class looks for

        def log_message(self, *_):
            pass

    with served(Handler) as listening:
        yield listening.url, asked


@pytest.fixture
def run(davidnet_run, tmp_path):
    """A copy of a run that works; what is in it decides nothing about this test's working folder."""
    folder = tmp_path / "sent"
    shutil.copytree(davidnet_run, folder)
    return folder


def change(run: Path, **sections: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key, values in sections.items():
        config[key] = {**config[key], **values} if isinstance(values, dict) else values
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "name",
    ["evaluate", pytest.param("explain", marks=pytest.mark.slow), pytest.param("export", marks=pytest.mark.slow)],
)
def test_a_stored_url_is_asked_only_if_it_is_trusted(run, command, server, monkeypatch, name):
    url, asked = server
    monkeypatch.setenv("SECRET", "confidential")
    change(run, dataset={"source": "webdataset", "name": "theirs", "train": f"{url}/train.tar?key=confidential"})
    ended = command(name, f"run={run}")
    assert (ended.code, asked) == (1, [])
    assert ended.err.count("\n") == 1
    assert "dataset.train=http://127.0.0.1/..., and may be somebody else's: add trust=true if you trust it" in ended.err
    assert "confidential" not in ended.err
    if name == "evaluate":
        assert command(name, f"run={run}", "trust=true").code == 1
        assert asked == ["/train.tar?key=confidential"] * len(asked) != []


def test_images_behind_a_url_that_was_stored_without_its_secret(run, command, server):
    url, asked = server
    change(run, dataset={"source": "webdataset", "name": "theirs", "train": f"{url}/train.tar?signature=***"})
    for name in ("evaluate", "export"):
        ended = command(name, f"run={run}", "trust=true")
        assert (ended.code, asked, ended.err.count("\n")) == (1, [], 1)
        assert "signature=*** without its password or signature, so its images cannot be opened: give" in ended.err
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("***", "confidential"))
    assert command("evaluate", f"run={run}", "trust=true").code == 1  # this server has no images
    assert asked


@pytest.mark.slow
def test_a_secret_in_a_stored_url_is_not_filled_in(run, command, server, monkeypatch):
    url, asked = server
    monkeypatch.setenv("SECRET", "confidential")
    change(run, dataset={"source": "webdataset", "name": "theirs", "train": "URL"})
    config = run / "config.yaml"
    for written in (f"{url}/${{oc.env:SECRET}}", f'"{url}/\\x24{{oc.env:SECRET}}"'):
        config.write_text(config.read_text().replace("URL", written))
        for name in ("evaluate", "predict"):
            more = [f"images={run}"] if name == "predict" else []
            ended = command(name, f"run={run}", "trust=true", *more)
            assert ended.code == 1
            assert "no readable config.yaml (it has interpolations, which are refused: ${ cannot be in it" in ended.err
    assert asked == []


def test_a_run_of_ones_own_images_needs_no_extra_word(tmp_path, command, run):
    """Paths on this machine are opened, also from another working folder."""
    images = tmp_path / "photos"
    for label in range(10):
        (images / str(label)).mkdir(parents=True)
        for at in range(5):
            pixels = np.random.default_rng(label * 5 + at).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(images / str(label) / f"{at}.png")
    change(run, dataset={"source": "image_folder", "name": "photos", "root": str(images), "image_size": 8})
    ended = command("evaluate", f"run={run}")
    assert ended.code == 0, ended.err


STORED = {
    "data": "data",
    "outputs": "outputs",
    "dataset": {"train": None, "name": "digits"},
    "stream": {"mode": "precomputed", "root": "streams", "cache": "cache"},
    "logger": {"csv": True},
}


def resumed(folder: Path, trust: bool = False, ours: dict | None = None, **stored: dict) -> None:
    folder.mkdir(exist_ok=True)
    require_ours({**STORED, **stored}, {**STORED, **(ours or {})}, folder, trust)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"dataset": {"train": ["a.tar", "https://user:secret@host/a.tar"]}}, r"dataset.train.1=https://host/\.\.\."),
        ({"stream": {**STORED["stream"], "root": "s3://bucket"}}, "stream.root=s3://bucket/"),
        ({"logger": {"mlflow": {"tracking_uri": "http://host"}}}, "logger.mlflow.tracking_uri=http://host/"),
        ({"logger": {"wandb": {"project": "a", "offline": False}}}, "sends to Weights & Biases"),
        ({"dataset": {"train": "simplecache::file.tar"}}, "dataset.train="),
        (
            {"stream": {**STORED["stream"], "root": "/somewhere/else"}},
            "stream.root=/somewhere/else, where fastconv has",
        ),
        ({"data": "/somewhere/else"}, "data=/somewhere/else, where fastconv has written nothing yet"),
        ({"outputs": "/somewhere/else", "logger": {"mlflow": {"experiment": "a"}}}, "outputs=/somewhere/else"),
    ],
)
def test_a_resumed_run_sends_and_writes_only_where_the_command_does(tmp_path, stored, reason):
    with pytest.raises(InputError, match=reason) as caught:
        resumed(tmp_path / "run", **stored)
    assert "secret" not in str(caught.value)
    resumed(tmp_path / "run", trust=True, **stored)
    resumed(tmp_path / "run", ours=stored, **stored)


def test_a_resumed_run_goes_on_in_the_folders_that_it_filled(tmp_path):
    (tmp_path / "streams" / ".locks").mkdir(parents=True)
    (tmp_path / "data" / "arrays").mkdir(parents=True)
    stream = {**STORED["stream"], "root": str(tmp_path / "streams")}
    resumed(tmp_path / "run", data=str(tmp_path / "data"), stream=stream)


def test_a_resumed_run_writes_through_no_link(tmp_path, command, run):
    (run / "results.json").unlink()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in ("metrics.csv", "hparams.yaml", "curves.png", ".lock"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious)
    ended = command("train", f"resume={run}", "trust=true")
    assert ended.code == 1
    assert "is a link, and the run would write there" in ended.err
    assert precious.read_text() == "mine"


@pytest.mark.slow
def test_commands_replace_links_and_follow_none(tmp_path, command, run):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    names = ("report.html", "evaluation.json", "model.pt2", "part-model.pt2", "classes.txt")
    for name in names:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious)
    assert command("evaluate", f"run={run}").code == 0
    assert command("export", f"run={run}", "format=torch", "samples=2").code == 0
    assert precious.read_text() == "mine"
    assert not any((run / name).is_symlink() for name in names if not name.startswith("part-"))


def test_prune_removes_nothing_through_links(tmp_path):
    root, elsewhere = tmp_path / "streams", tmp_path / "elsewhere"
    for folder in (root / f"a-{'0' * 16}", elsewhere):
        (folder / "epoch-0000").mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        (folder / "epoch-0000" / "shard-0000.tar").write_bytes(bytes(100))
    (root / f"b-{'0' * 16}").symlink_to(elsewhere)
    (root / f"c-{'0' * 16}").mkdir()
    (root / f"c-{'0' * 16}" / "epoch-0000").symlink_to(elsewhere / "epoch-0000")
    assert [stream.folder.name[0] for stream in stored_streams(root)] == ["a"]
    assert [stream.folder.name[0] for stream in prune(root, 0)] == ["a"]
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["epoch-0000", "manifest.json", "shard-0000.tar"]


def make_images(folder: Path) -> None:
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for at in range(6):
            Image.fromarray(np.full((8, 8), 10 * at, np.uint8)).save(folder / label / f"{at}.png")
    os.mkfifo(folder / "a" / "pipe.jpg")
    (folder / "a" / "endless.png").symlink_to("/dev/zero")
    (folder / "a" / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/harm) (w) file\n")
    (folder / "b" / "loop").symlink_to(folder)
    with (folder / "b" / "huge.jpg").open("wb") as file:
        file.truncate(10 * 2**30)


REASONS = {"pipe.jpg": "a named pipe", "endless.png": "a device", "program.jpg": "not an image", "huge.jpg": "MiB"}


@pytest.mark.slow
def test_special_files_among_images_are_named_and_not_opened(tmp_path, command, run):
    make_images(tmp_path / "photos")
    ended = command("predict", f"run={run}", "images=photos/a", "out=a.csv")
    assert ended.code == 0, ended.err
    ended = command("predict", f"run={run}", "images=photos/b/huge.jpg", "out=b.csv")
    text = (tmp_path / "a.csv").read_text() + (tmp_path / "b.csv").read_text()
    for name, reason in REASONS.items():
        (row,) = (line for line in text.splitlines() if name in line)
        assert reason in row
    ended = command("audit", "dataset=image_folder", "dataset.root=photos")
    assert ended.code == 0, ended.err
    (findings,) = tmp_path.glob("outputs/**/findings.csv")
    for name, reason in REASONS.items():
        assert any(name in line and reason in line for line in findings.read_text().splitlines()), name


@pytest.mark.slow
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_tars_tables_and_single_images_are_regular_files(tmp_path, command, run, make):
    for name in ("x.tar", "x.csv", "x.npz", "x.png"):
        make(tmp_path / name)
    for ended in (
        command("predict", f"run={run}", "images=x.tar"),
        command("explain", f"run={run}", "images=[x.png]"),
        command("train", "dataset=webdataset", "dataset.train=x.tar"),
        command("train", "dataset=csv", "dataset.train=x.csv"),
        command("train", "dataset=arrays", "dataset.root=x.npz"),
    ):
        assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err


@pytest.mark.slow
def test_no_message_has_what_a_terminal_obeys(tmp_path, command, run):
    change(run, dataset={"name": "\x1b[2J\x1b]0;owned\x07"})
    (tmp_path / "\x1b[31mred").mkdir()
    for ended in (
        command("evaluate", f"run={run}"),
        command("evaluate", "run='\x1b[31mred'"),
        command("compare", "runs='\x1b[31mred'"),
    ):
        assert ended.code == 1
        assert "\x1b" not in ended.err + ended.out
        assert "\\x1b" in ended.err


def test_a_sweep_of_somebody_else_runs_no_code_at_its_end(tmp_path, run):
    """Its further folders are no jobs of the command, but the closing report reads them too."""
    from fastconv.analysis.attribution.augmentation_effect import explain_sweep

    sweep = tmp_path / "sweep"
    shutil.copytree(run, sweep / "99")
    change(sweep / "99", callbacks=[{"_target_": "os.system"}])
    with pytest.raises(InputError, match=r"names code to run, callbacks.0.*os\.system"):
        explain_sweep(sweep, str(tmp_path), trust=False)
