"""Tars and streams in an object store: an S3 server on this machine, where moto and s3fs are installed."""

import io
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from fsspec.config import conf
from harness import RUN, SHORT, noise, only_run, run_command, same_weights, served, sha256s, spec_of, stop_at
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.download import read_url
from fastconv.data.loading import load
from fastconv.data.stream.remote import RemoteStream
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.upload import upload_stream, uploaded
from fastconv.data.stream.writer import write_stream
from fastconv.data.url_file import UrlFile
from fastconv.data.url_place import Place
from fastconv.system.errors import InputError

moto = pytest.importorskip("moto.server", reason="install moto[server]")
s3fs = pytest.importorskip("s3fs", reason="install fastconv[s3]")

SECRET = "5ecret-of-the-store"

pytestmark = pytest.mark.usefixtures("patient_downloads", "store")


@pytest.fixture
def store(monkeypatch):
    """An empty bucket; its server and its credentials are in the environment alone."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "tests", "SECRET_ACCESS_KEY": SECRET,
                "DEFAULT_REGION": "us-east-1"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # all servers share what they hold
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def tar_of(levels):
    """A tar of one plain image of each grey level, of the classes 0 and 1 in turn; its size does not depend on them."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for at, level in enumerate(levels):
            picture = io.BytesIO()
            Image.new("L", (24, 24), level).save(picture, "BMP")
            for end, member in (("bmp", picture.getvalue()), ("cls", str(at % 2).encode())):
                info = tarfile.TarInfo(f"{at:04}.{end}")
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return content.getvalue()


def levels_of(folder, url):
    train, test = load(Dataset(name="own", source="webdataset", train=url, test_share=0.25), folder)
    return sorted(int(image[0, 0, 0]) for part in (train, test) for image in part.images)


def test_a_tar_is_read_and_read_again_when_it_has_changed(tmp_path):
    place = Place("s3://bucket/own.tar", "dataset.train")
    place.write(tar_of(range(10, 18)))
    assert levels_of(tmp_path, "s3://bucket/own.tar") == list(range(10, 18))
    assert levels_of(tmp_path, "s3://bucket/own.tar") == list(range(10, 18))
    assert len(list((tmp_path / "arrays").glob("own-*"))) == 1
    place.write(tar_of(range(30, 38)))
    assert levels_of(tmp_path, "s3://bucket/own.tar") == list(range(30, 38))


def test_a_tar_that_changes_while_it_is_read_is_refused():
    place = Place("s3://bucket/own.tar", "dataset.train")
    place.write(bytes(6_000_000))
    with UrlFile("s3://bucket/own.tar", "dataset.train") as file:
        assert file.read(1000) == bytes(1000)
        place.write(b"1" * 6_000_000)
        with pytest.raises(InputError, match="it has changed while it was read"):
            file.readall()


def test_a_stream_is_the_same_bytes(tmp_path, small_blocks):
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path / "disk", 3)
    assert upload_stream(spec, tmp_path / "disk", "s3://bucket/streams") == 6
    assert upload_stream(spec, tmp_path / "disk", "s3://bucket/streams") == 0
    assert uploaded(spec, "s3://bucket/streams").epochs == 3
    reader = RemoteStream(spec, "s3://bucket/streams", tmp_path / "cache", data, max_epochs=3)
    for found, right in zip(reader.rows(0, 3 * 57), OnlineStream(spec, data).rows(0, 3 * 57), strict=True):
        assert np.array_equal(found, right)
    assert sha256s(tmp_path / "cache") == sha256s(tmp_path / "disk")
    reader.close()


def test_a_run_from_the_store_is_the_run_from_disk_and_keeps_no_secret(tmp_path, digits_root):
    settings = ["dataset=digits", *SHORT, "stream.epochs=1"]
    wrote = run_command(tmp_path, digits_root, "precompute", *settings, "stream.root=s3://bucket/streams",
                        "stream.cache=cache")  # fmt: skip
    assert wrote.code == 0, wrote.err
    assert "sent 1 shard to s3://bucket/streams" in wrote.out
    runs = []
    for outputs, *more in (("disk",), ("fetched", "stream.root=s3://bucket/streams", "stream.cache=fetched-cache")):
        ended = run_command(tmp_path, digits_root, "train", *settings, f"outputs={outputs}", *more)
        assert ended.code == 0, ended.err
        assert SECRET not in ended.out + ended.err
        runs.append(only_run(tmp_path / outputs))
    assert same_weights(*runs)
    assert list((tmp_path / "fetched-cache").rglob("*.tar"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_run_is_copied_to_the_store_and_goes_on_from_there(tmp_path, digits_root, monkeypatch):
    undisturbed = run_command(tmp_path, digits_root, "train", *RUN, "outputs=disk")
    assert undisturbed.code == 0, undisturbed.err
    shutil.copytree(digits_root / "arrays", tmp_path / "data" / "arrays")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 9)
        stopped = run_command(tmp_path, tmp_path / "data", "train", *RUN, "outputs=s3://bucket/runs")
    assert stopped.code == 143, stopped.err
    shutil.rmtree(tmp_path / "data" / "runs")
    url = stopped.err.strip().rpartition("resume=")[2]
    assert url.startswith("s3://bucket/runs/digits/")
    resumed = run_command(tmp_path, tmp_path / "data", "train", f"resume={url}")
    assert resumed.code == 0, resumed.err
    run = only_run(next((tmp_path / "data" / "runs").iterdir()))
    assert same_weights(run, only_run(tmp_path / "disk"))
    s3fs.S3FileSystem(skip_instance_cache=True).get(url.removeprefix("s3://"), str(tmp_path / "copy"), recursive=True)
    for name in ("results.json", "last.ckpt", "config.yaml"):
        assert (run / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


class Asked(BaseHTTPRequestHandler):
    """Counts requests, and answers as the server's `answer` says."""

    def do_HEAD(self):
        self.server.asked.append(self.path)
        self.server.answer(self)

    do_GET = do_PUT = do_HEAD  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("answer", "says", "requests"),
    [
        (lambda handler: handler.send_error(503), "in 5 tries: ", 5),
        (lambda handler: handler.server.ended.wait(60), "in 2 tries: Read timeout on endpoint URL", 2),
    ],
    ids=["failing", "silent"],
)
def test_a_store_that_fails_is_asked_no_oftener_than_a_web_server(monkeypatch, answer, says, requests):
    """botocore and s3fs try again by themselves, each with pauses of its own: 42 s for a store that is not there."""
    with served(Asked, asked=[], answer=answer, ended=threading.Event(), daemon_threads=True) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.3)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match=says):
            read_url("s3://bucket/own.tar", "dataset.train", 100)
        assert len(server.asked) == requests
        server.ended.set()


def test_settings_of_fsspec_go_before_ours(monkeypatch):
    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"retries": {"total_max_attempts": 3}, "read_timeout": 1}})
    assert Place("s3://bucket/x", "dataset.train").system.config_kwargs == conf["s3"]["config_kwargs"]


@pytest.mark.parametrize(
    ("url", "without", "says"),
    [
        ("s3://bucket/absent.tar", (), r"s3://bucket/absent.tar does not exist\. Check the address"),
        ("s3://absent/own.tar", (), r"s3://absent/own.tar does not exist\. Check the address"),
        ("s3://bucket/own.tar", ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), "Unable to locate credentials: set the env"),
    ],
)
def test_what_keeps_a_file_from_being_read_gets_a_line(tmp_path, monkeypatch, url, without, says):
    Place("s3://bucket/own.tar", "dataset.train").write(b"1")
    for name in without:
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(Path(tmp_path)))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match=says):
        read_url(url, "dataset.train", 100)
