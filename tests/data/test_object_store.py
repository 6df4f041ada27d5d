"""Tars, streams and runs in object stores: an S3 server and one of Google's store, both on this machine."""

import io
import re
import shutil
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import numpy as np
import pytest
from fsspec.config import conf
from gcp_storage_emulator.server import create_server
from harness import RUN, SHORT, noise, only_run, run_command, same_weights, sha256s, spec_of, stop_at
from moto.server import ThreadedMotoServer
from PIL import Image

from fastconv.config.run_store import _files, fetch_run
from fastconv.data.configs import Dataset
from fastconv.data.download import read_url
from fastconv.data.loading import load
from fastconv.data.sending import send_file
from fastconv.data.stream.remote import RemoteStream
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.upload import upload_stream, uploaded
from fastconv.data.stream.writer import write_stream
from fastconv.data.url_file import UrlFile
from fastconv.data.url_place import Place, below
from fastconv.data.url_reader import BLOCK_BYTES
from fastconv.system.errors import InputError

FILE = Path(__file__)
SECRET = "5ecret-of-the-store"

pytestmark = pytest.mark.usefixtures("patient_downloads")


def forget(protocol):
    """fsspec keeps the file systems that it has made, with their addresses and credentials."""
    fsspec.get_filesystem_class(protocol).clear_instance_cache()


@contextmanager
def amazon(patch):
    """An S3 server with an empty bucket; its address and the credentials are in the environment alone."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "tests", "SECRET_ACCESS_KEY": SECRET,
                "DEFAULT_REGION": "us-east-1"}  # fmt: skip
    for name, value in settings.items():
        patch.setenv(f"AWS_{name}", value)
    forget("s3")
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # all servers share what they hold
    forget("s3")
    server.stop()


@contextmanager
def google(patch):
    """A server of Google's store with an empty bucket."""
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    # gcsfs hangs up on what it no longer needs, and the server would write so to an error stream that is gone by then.
    server._api._httpd.handle_error = lambda *_: None
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
    forget("gs")
    fsspec.filesystem("gs").mkdir("bucket")
    yield "gs://bucket"
    server.stop()
    server.wipe()
    forget("gs")


@pytest.fixture(params=[amazon, google], ids=["s3", "gs"])
def bucket(request, monkeypatch):
    """The URL of an empty bucket on a server on this machine."""
    with request.param(monkeypatch) as url:
        yield url


@pytest.fixture
def s3_bucket(monkeypatch):
    with amazon(monkeypatch) as url:
        yield url


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


def test_a_tar_is_read_and_read_again_when_it_has_changed(tmp_path, bucket):
    url = f"{bucket}/own.tar"
    place = Place(url, "dataset.train")
    place.write(tar_of(range(10, 18)))
    assert levels_of(tmp_path, url) == list(range(10, 18))
    assert levels_of(tmp_path, url) == list(range(10, 18))
    assert len(list((tmp_path / "arrays").glob("own-*"))) == 1
    place.write(tar_of(range(30, 38)))
    assert levels_of(tmp_path, url) == list(range(30, 38))


def test_a_tar_that_changes_while_it_is_read_is_refused(bucket):
    url = f"{bucket}/own.tar"
    place = Place(url, "dataset.train")
    place.write(bytes(6_000_000))
    with UrlFile(url, "dataset.train") as file:
        assert file.read(1000) == bytes(1000)
        place.write(b"1" * 6_000_000)
        with pytest.raises(InputError, match="it has changed while it was read"):
            file.readall()


def test_a_stream_is_the_same_bytes(tmp_path, small_blocks, bucket):
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path / "disk", 3)
    assert upload_stream(spec, tmp_path / "disk", f"{bucket}/streams") == 6
    assert upload_stream(spec, tmp_path / "disk", f"{bucket}/streams") == 0
    assert uploaded(spec, f"{bucket}/streams").epochs == 3
    reader = RemoteStream(spec, f"{bucket}/streams", tmp_path / "cache", data, max_epochs=3)
    for found, right in zip(reader.rows(0, 3 * 57), OnlineStream(spec, data).rows(0, 3 * 57), strict=True):
        assert np.array_equal(found, right)
    assert sha256s(tmp_path / "cache") == sha256s(tmp_path / "disk")
    reader.close()


def test_a_run_from_the_store_is_the_run_from_disk_and_keeps_no_secret(tmp_path, digits_root, bucket):
    settings = ["dataset=digits", *SHORT, "stream.epochs=1"]
    wrote = run_command(tmp_path, digits_root, "precompute", *settings, f"stream.root={bucket}/streams",
                        "stream.cache=cache")  # fmt: skip
    assert wrote.code == 0, wrote.err
    assert f"sent 1 shard to {bucket}/streams" in wrote.out
    runs = []
    for outputs, *more in (("disk",), ("fetched", f"stream.root={bucket}/streams", "stream.cache=fetched-cache")):
        ended = run_command(tmp_path, digits_root, "train", *settings, f"outputs={outputs}", *more)
        assert ended.code == 0, ended.err
        assert SECRET not in ended.out + ended.err
        runs.append(only_run(tmp_path / outputs))
    assert same_weights(*runs)
    assert list((tmp_path / "fetched-cache").rglob("*.tar"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_run_is_copied_to_the_store_and_goes_on_from_there(tmp_path, digits_root, monkeypatch, bucket):
    undisturbed = run_command(tmp_path, digits_root, "train", *RUN, "outputs=disk")
    assert undisturbed.code == 0, undisturbed.err
    shutil.copytree(digits_root / "arrays", tmp_path / "data" / "arrays")
    with monkeypatch.context() as patch:
        stop_at(patch, "training_step", 9)
        stopped = run_command(tmp_path, tmp_path / "data", "train", *RUN, f"outputs={bucket}/runs")
    assert stopped.code == 143, stopped.err
    shutil.rmtree(tmp_path / "data" / "runs")
    url = stopped.err.strip().rpartition("resume=")[2]
    assert url.startswith(f"{bucket}/runs/digits/")
    resumed = run_command(tmp_path, tmp_path / "data", "train", f"resume={url}")
    assert resumed.code == 0, resumed.err
    run = only_run(next((tmp_path / "data" / "runs").iterdir()))
    assert same_weights(run, only_run(tmp_path / "disk"))
    for name in ("results.json", "last.ckpt", "config.yaml"):
        assert read_url(f"{url}/{name}", "resume", 10**7) == (run / name).read_bytes()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("name", ["a b", "ü😀", "50%20", "a+b&c=d", "[1]*", "#1"])
def test_names_are_taken_as_they_are(tmp_path, bucket, name):
    """In the name of a tar, and of the folder of a run."""
    if bucket.startswith("gs") and "#" in name:
        pytest.skip("for gcsfs, it begins the number of a version")
    url = f"{bucket}/{name}/{name}.tar"
    Place(url, "dataset.train").write(tar_of(range(10, 18)))
    assert levels_of(tmp_path, url) == list(range(10, 18))
    send_file(FILE, below(f"{bucket}/{name}", "config.yaml"), "outputs", threading.Event(), "")
    fetch_run(f"{bucket}/{name}", tmp_path / "run", "resume")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == FILE.read_bytes()
    assert (tmp_path / "run" / f"{name}.tar").exists()


@pytest.mark.slow
def test_a_folder_of_more_files_than_a_store_lists_at_once(bucket):
    place = Place(f"{bucket}/runs/digits/a", "resume")
    sizes = {f"pictures/{at:04}": at % 3 for at in range(1001)}
    place.system.pipe({f"{place.path}/{name}": bytes(size) for name, size in sizes.items()}, batch_size=4)
    assert _files(place, "") == sizes


def test_a_file_of_no_bytes(tmp_path, bucket):
    Place(f"{bucket}/runs/digits/a/config.yaml", "outputs").write(b"")
    Place(f"{bucket}/own.tar", "outputs").write(b"")
    fetch_run(f"{bucket}/runs/digits/a", tmp_path / "a", "resume")
    assert (tmp_path / "a" / "config.yaml").read_bytes() == b""
    with pytest.raises(InputError, match=r"cannot read .*/own.tar, which must be a tar: empty file"):
        levels_of(tmp_path, f"{bucket}/own.tar")


def test_little_is_read_ahead(bucket):
    """gcsfs would fetch 256 MB meanwhile."""
    Place(f"{bucket}/own.tar", "dataset.train").write(bytes(100))
    file = Place(f"{bucket}/own.tar", "dataset.train").open()
    assert (file._file.cache.name, file._file.blocksize) == ("readahead", BLOCK_BYTES)
    file.close()


def test_settings_of_fsspec_go_before_ours(monkeypatch, s3_bucket):
    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"retries": {"total_max_attempts": 3}, "read_timeout": 1}})
    assert Place("s3://bucket/x", "dataset.train").system.config_kwargs == conf["s3"]["config_kwargs"]


@pytest.mark.parametrize("place", ["bucket", "absent"])
def test_a_file_that_is_absent_gets_a_line(bucket, place):
    url = f"{bucket.replace('bucket', place)}/absent.tar"
    with pytest.raises(InputError, match=rf"^{url} does not exist\. Check the address"):
        read_url(url, "dataset.train", 100)


def test_a_bucket_that_is_absent_is_not_made(tmp_path, digits_root, bucket):
    """The run ends before it trains."""
    url = f"{bucket.replace('bucket', 'absent')}/runs"
    ended = run_command(tmp_path, digits_root, "train", *RUN, f"outputs={url}")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert re.search(
        rf"cannot write {url}/digits/.*/config.yaml: its bucket or folder does not exist\. Check outputs", ended.err
    )
    assert not list(tmp_path.rglob("results.json"))


def test_credentials_that_are_absent_get_a_line(tmp_path, monkeypatch, s3_bucket):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget("s3")
    with pytest.raises(InputError, match="Unable to locate credentials: set the env"):
        read_url(f"{s3_bucket}/own.tar", "dataset.train", 100)
