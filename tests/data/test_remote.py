"""A stream on a server: the same training as from disk, whatever the server does."""

import functools
import json
import re
import shutil
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from harness import (
    SHORT,
    SMALL,
    QuietFolder,
    SimulatedTime,
    noise,
    only_run,
    run_command,
    same_weights,
    served,
    sha256s,
    spec_of,
)

from fastconv.data import download
from fastconv.data.stream import cache as storage
from fastconv.data.stream import remote
from fastconv.data.stream.parts import Part
from fastconv.data.stream.remote import RemoteFolder, RemoteStream, read_manifest
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.upload import upload_stream
from fastconv.data.stream.upload import uploaded as uploaded_manifest
from fastconv.data.stream.writer import write_stream
from fastconv.data.url_place import Place
from fastconv.runs.results import Results
from fastconv.system.errors import InputError, RunWarning, StreamError

PAUSES = download.PAUSES


class Handler(QuietFolder):
    """Serves a folder; each fault that the server holds for the end of a path spoils one answer."""

    def do_GET(self):  # noqa: N802 - the name that the class looks for
        self.server.asked.append(self.path)
        if self.server.together and self.path.endswith(".tar") and "epoch-0000/shard-0000" not in self.path:
            self.server.together.wait(60)
        faults = next((them for end, them in self.server.faults.items() if self.path.endswith(end)), [])
        fault = faults.pop(0) if faults else None
        if fault is None:
            return super().do_GET()
        if fault == "error":
            return self.send_error(500)
        content = Path(self.translate_path(self.path)).read_bytes()
        if fault == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:1])
            self.server.ended.wait(60)
            self.close_connection = True
            return None
        self.send_response(200)
        if fault != "short":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(bytes(len(content)) if fault == "wrong" else content[:-1000])
        self.close_connection = True


@pytest.fixture
def server(tmp_path):
    """Serves the folder `uploaded`; `asked` are the paths of all requests."""
    (tmp_path / "uploaded").mkdir(exist_ok=True)
    with served(
        functools.partial(Handler, directory=tmp_path / "uploaded"),
        asked=[],
        faults={},
        together=None,
        ended=threading.Event(),
    ) as server:
        yield server
        server.ended.set()


pytestmark = pytest.mark.usefixtures("patient_downloads")


@pytest.fixture
def uploaded(tmp_path, small_blocks):
    """(images, spec) of a stream of two epochs on the server."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path / "uploaded", 2)
    return data, spec


def shards_asked(server):
    return [path.split("/", 2)[2] for path in server.asked if path.endswith(".tar")]


def equal(found, right):
    return all(np.array_equal(a, b) for a, b in zip(found, right, strict=True))


# -- whole runs


def train(folder, data, outputs, *overrides):
    ended = run_command(folder, data, "train", "dataset=digits", *SHORT, f"outputs={outputs}", *overrides)
    assert ended.code == 0, ended.err
    return only_run(folder / outputs), ended.out


def test_a_server_trains_to_the_weights_that_a_disk_trains_to(tmp_path, digits_root, server):
    """One epoch and a half, of which the server has one and fails twice on it; then again, from what was kept."""
    epochs = "schedule.max_epochs=1.5"
    disk, _ = train(tmp_path, digits_root, "disk", epochs, "stream.root=streams")
    (folder,) = (tmp_path / "streams").glob("digits-*")
    overrides = ["stream.root=uploaded", "stream.epochs=1", "budget.seconds=9", *SHORT[:-2]]
    ended = run_command(tmp_path, digits_root, "precompute", "dataset=digits", *overrides)
    assert ended.code == 0, ended.err
    server.faults = {".tar": ["error", "truncated"]}
    settings = [epochs, f"stream.root={server.url}", "stream.cache=cache"]
    fetched, out = train(tmp_path, digits_root, "fetched", *settings)
    assert re.search(rf"stream .* 2 epochs, 0 MB in {server.url}", out), "the plan"
    assert f"{server.url} has 1 of 2 epochs: the others are computed" in out
    assert shards_asked(server) == ["epoch-0000/shard-0000.tar"] * 3
    assert same_weights(disk, fetched)
    kept = tmp_path / "cache" / folder.name / "epoch-0000" / "shard-0000.tar"
    assert kept.read_bytes() == (folder / "epoch-0000" / "shard-0000.tar").read_bytes()

    server.asked.clear()
    again, _ = train(tmp_path, digits_root, "again", *settings)
    assert shards_asked(server) == []
    assert same_weights(disk, again)
    ended = run_command(tmp_path, digits_root, "precompute", "prune=true", "stream.max_gb=0", *settings[1:])
    assert "removed 1 stream," in ended.out
    assert not kept.exists()


def test_a_server_that_fails_for_good_gets_one_line(tmp_path, digits_root, server):
    ended = run_command(tmp_path, digits_root, "precompute", "dataset=digits", *SHORT, "stream.root=uploaded")
    assert ended.code == 0, ended.err
    (name,) = (path.name for path in (tmp_path / "uploaded").glob("digits-*"))
    settings = ["dataset=digits", *SHORT, f"stream.root={server.url}/", "stream.cache=cache"]
    server.faults = {"manifest.json": ["error"] * 5}
    ended = run_command(tmp_path, digits_root, "train", *settings)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith(f"fastconv: cannot fetch {server.url}/{name}/manifest.json in 5 tries: 500")
    assert not (tmp_path / "outputs" / "digits").exists(), "before anything long"

    server.faults = {".tar": ["truncated"] * 5}
    with pytest.warns(UserWarning, match="cannot fetch") as told:
        ended = run_command(tmp_path, digits_root, "train", *settings, "outputs=computed")
    assert ended.code == 0, ended.err
    (line,) = {str(each.message) for each in told if "cannot fetch" in str(each.message)}
    assert f"cannot fetch {server.url}/{name}/epoch-0000/shard-0000.tar in 5 tries" in line
    assert line.endswith("Its images are computed instead")
    assert not list((tmp_path / "cache").rglob("*.tar*")), "nothing half-written"
    ended = run_command(tmp_path, digits_root, "train", *settings, "outputs=fetched")
    assert ended.code == 0, ended.err
    assert list((tmp_path / "cache").rglob("*.tar"))
    assert same_weights(only_run(tmp_path / "computed"), only_run(tmp_path / "fetched"))


def test_a_shard_that_trickles_does_not_hold_up_a_budget(tmp_path, digits_root, server, monkeypatch):
    """The server has a manifest, and sends a shard's bytes at no pace that helps. Waiting passes on the clock of the
    run alone; the run without a server tells how many steps the budget has."""
    ended = run_command(tmp_path, digits_root, "precompute", "dataset=digits", *SHORT, "stream.root=uploaded")
    assert ended.code == 0, ended.err
    budget = ["dataset=digits", *SMALL, "budget.seconds=8", "schedule.max_epochs=null"]

    def steps(outputs, *overrides):
        time = SimulatedTime(0.02)
        monkeypatch.setattr("fastconv.budget.clock.now", time)
        monkeypatch.setattr(remote, "time", SimpleNamespace(perf_counter=time))

        class Arrival(remote.Future):
            def result(self, timeout=None):
                waits.append(timeout)
                time.seconds += timeout
                raise TimeoutError

        monkeypatch.setattr(remote, "Future", Arrival)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            ended = run_command(tmp_path, digits_root, "train", *budget, f"outputs={outputs}", *overrides)
        assert ended.code == 0, ended.err
        found = Results.read(only_run(tmp_path / outputs))
        assert found.seconds_counted < 8.5  # the clock moves by 0.02 s at a reading
        return found.steps, [str(each.message) for each in told if "too late" in str(each.message)]

    waits = []
    alone, _ = steps("alone", "stream=online")
    server.faults = {".tar": ["trickle"] * 99}
    held, told = steps("held", f"stream.root={server.url}", "stream.cache=cache")
    server.ended.set()
    assert len(told) == 1
    assert told[0].endswith("sends shards too late: what is late is computed instead")
    assert waits[0] == remote.FIRST_WAIT_SECONDS
    assert max(waits[1:]) < 0.1, "no longer than computing a block"
    assert held > 0.5 * alone > 15


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stream.root=http://127.0.0.1:9/streams"], r"cannot fetch http://127.0.0.1:9/streams/digits-.*in 5 tries"),
        (["stream.root=htp://nowhere"], "cannot open htp://nowhere: Protocol not known: htp"),
        (["stream.root=s3:/bucket/streams"], "stream.root=s3:/bucket/streams is not possible: give a file or folder"),
        (
            ["stream.cache=http://nowhere"],
            "stream.cache=http://nowhere is not possible: give a file or folder on this machine",
        ),
    ],
)
def test_an_address_that_cannot_work_gets_one_line(tmp_path, digits_root, overrides, says):
    ended = run_command(tmp_path, digits_root, "train", "dataset=digits", *SHORT, *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert re.search(says, ended.err)


@pytest.mark.parametrize(("protocol", "extra"), [("s3", "s3"), ("gs", "gcs"), ("gcs", "gcs")])
def test_a_missing_package_is_named_by_its_extra(tmp_path, digits_root, monkeypatch, protocol, extra):
    def absent(url, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    overrides = ["dataset=digits", *SHORT, f"stream.root={protocol}://bucket/x"]
    ended = run_command(tmp_path, digits_root, "train", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "Install s3fs to access S3. pip install 'fastconv[" + extra + "]'" in ended.err


@pytest.mark.parametrize(
    ("root", "override", "says"),
    [
        ("http://bucket/streams", "stream.epochs=2", "stream.root=http://bucket/streams is only read from."),
        ("memory://bucket/streams", "verify=true", "verify is for a folder, and stream.root=memory://bucket/streams"),
    ],
)
def test_what_a_server_cannot_do_gets_one_line(tmp_path, digits_root, root, override, says):
    overrides = ["dataset=digits", f"stream.root={root}", override]
    ended = run_command(tmp_path, digits_root, "precompute", *overrides)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert says in ended.err


def test_a_stream_is_written_to_a_store_and_read_from_it(tmp_path, digits_root):
    """The store has what a folder has, byte for byte; a second command, on a machine that has no copy, adds to it."""
    shared, settings = "memory://store/streams", ["dataset=digits", *SHORT[:-2], "budget.seconds=9"]
    ended = run_command(tmp_path, digits_root, "precompute", *settings, "stream.epochs=2", "stream.root=streams")
    assert ended.code == 0, ended.err
    for machine, epochs, says in (("a", 1, "sent 1 shard to memory://store/streams, which had 0"),
                                  ("b", 2, "sent 1 shard to memory://store/streams, which had 1")):  # fmt: skip
        given = [f"stream.epochs={epochs}", f"stream.root={shared}", f"stream.cache={machine}"]
        ended = run_command(tmp_path, digits_root, "precompute", *settings, *given)
        assert ended.code == 0, ended.err
        assert says in ended.out
    assert len(list((tmp_path / "b").rglob("*.tar"))) == 1, "what the store has is not computed again"
    fsspec.filesystem("memory").get("/store/streams/", str(tmp_path / "copy"), recursive=True)
    assert sha256s(tmp_path / "copy") == sha256s(tmp_path / "streams")


# -- the stream


def test_the_next_shard_is_fetched_meanwhile_and_none_that_is_not_needed(tmp_path, uploaded, server):
    data, spec = uploaded
    reader, online = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=1), OnlineStream(spec, data)
    assert shards_asked(server) == []
    assert equal(reader.rows(0, 4), online.rows(0, 4))
    reader._arrivals["epoch-0000/shard-0001.tar"].result(20)
    assert shards_asked(server) == ["epoch-0000/shard-0000.tar", "epoch-0000/shard-0001.tar"]
    assert equal(reader.rows(0, 5 * 57), online.rows(0, 5 * 57))
    assert len(shards_asked(server)) == 2
    reader.close()


def test_shards_are_fetched_at_once(tmp_path, small_blocks, server):
    """The server answers only when as many are asked for as may be; each shard that arrives allows one more."""
    data = noise(57, 3)
    spec = spec_of(data)
    write_stream(spec, data, tmp_path / "uploaded", 9)
    reader, online = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=9), OnlineStream(spec, data)
    asked = []
    for row in (0, 30, 57, 57 + 30):  # the first of each shard
        reader.rows(row, row + 1)
        asked.append(len(reader._arrivals))
    assert asked == [1 + 1, 2 + 2, 3 + 3, 4 + 4]
    for arrival in reader._arrivals.values():
        arrival.result(60)

    reader = RemoteStream(spec, server.url, tmp_path / "again", data, max_epochs=9)
    reader._ahead = remote.MOST_AHEAD
    together = threading.Barrier(remote.MOST_AHEAD, lambda: setattr(server, "together", None))
    server.together = together
    assert equal(reader.rows(0, 4 * 57), online.rows(0, 4 * 57))
    assert server.together is None
    assert not together.broken


def test_a_stream_that_was_half_sent_does_not_count(tmp_path, uploaded, monkeypatch):
    """A store that fails for good names no shard; one that fails now and then gets all, and what it has stays."""
    _, spec = uploaded
    (tmp_path / "store").mkdir()
    url, put, faults = f"file://{tmp_path}/store", Place.put, 10**6

    def failing(place, path):
        nonlocal faults
        faults -= 1
        if faults > 0:
            Path(place.path).parent.mkdir(parents=True, exist_ok=True)
            Path(place.path).write_bytes(path.read_bytes()[:100])
            if faults != 3:  # at 3 it arrives in part, and the store says that all is well
                raise OSError("503 slow down")
        else:
            put(place, path)

    monkeypatch.setattr(Place, "put", failing)
    with pytest.raises(InputError, match=r"cannot write file://.*/store/.*tar in \d tries: .*Check stream.root"):
        upload_stream(spec, tmp_path / "uploaded", url)
    assert uploaded_manifest(spec, url).shards == {}
    faults = 5
    assert upload_stream(spec, tmp_path / "uploaded", url) == 4
    assert sha256s(tmp_path / "store") == sha256s(tmp_path / "uploaded")
    faults = 10**6
    assert upload_stream(spec, tmp_path / "uploaded", url) == 0


def test_two_machines_add_to_one_manifest(tmp_path, small_blocks, monkeypatch):
    """One has read the manifest and is about to replace it, while the other one adds its shards and ends."""
    data = noise(57, 3)
    spec, url, write, others = spec_of(data), f"file://{tmp_path}/store", Place.write, [1]
    for number in range(2):
        write_stream(spec, data, tmp_path / str(number), 4, part=Part(number, 2))

    def after_another(place, content):
        if place.path.endswith("manifest.json") and others:
            assert upload_stream(spec, tmp_path / str(others.pop()), url) == 4
        write(place, content)

    monkeypatch.setattr(Place, "write", after_another)
    assert upload_stream(spec, tmp_path / "0", url) == 4
    assert uploaded_manifest(spec, url).epochs == 4


def test_a_damaged_manifest_in_a_store_can_be_mended(tmp_path, uploaded):
    _, spec = uploaded
    store = tmp_path / "store" / spec.folder
    store.mkdir(parents=True)
    (store / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match=r"store/.*manifest.json is damaged .*\. Remove that file there, and give the"):
        upload_stream(spec, tmp_path / "uploaded", f"file://{tmp_path}/store")
    (store / "manifest.json").unlink()
    assert upload_stream(spec, tmp_path / "uploaded", f"file://{tmp_path}/store") == 4


def test_every_protocol_of_fsspec_serves(tmp_path, uploaded):
    data, spec = uploaded
    fsspec.filesystem("memory").put(str(tmp_path / "uploaded"), "/uploaded", recursive=True)
    for number, url in enumerate(["memory://uploaded", f"file://{tmp_path}/uploaded"]):
        reader = RemoteStream(spec, url, tmp_path / f"cache-{number}", data, max_epochs=9)
        assert equal(reader.rows(0, 3 * 57), OnlineStream(spec, data).rows(0, 3 * 57))
        assert sha256s(tmp_path / f"cache-{number}") == sha256s(tmp_path / "uploaded")


@pytest.mark.parametrize(("fault", "tries"), [("error", 5), ("truncated", 5), ("short", 2), ("wrong", 2)])
def test_a_fault_is_tried_again_and_then_computed(tmp_path, uploaded, server, fault, tries):
    """An error, a body that ends early with and without having told its length, and other bytes: twice the same wrong
    ones stay wrong."""
    data, spec = uploaded
    server.faults = {"epoch-0000/shard-0000.tar": [fault] * (2 * tries - 1)}
    online = OnlineStream(spec, data)
    reader = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=2)
    with pytest.warns(UserWarning, match=rf"cannot fetch {server.url}/.*/shard-0000.tar in {tries} tries: ."):
        found = reader.rows(0, 4)
    assert equal(found, online.rows(0, 4))
    assert shards_asked(server).count("epoch-0000/shard-0000.tar") == tries
    assert equal(reader.rows(4, 57), online.rows(4, 57)), "no further try, and the next shard is read"
    assert shards_asked(server).count("epoch-0000/shard-0000.tar") == tries
    assert "epoch-0000/shard-0000.tar" not in stored(tmp_path, spec)
    again = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=2)
    assert equal(again.rows(0, 4), online.rows(0, 4)), "the last faults, then it works"
    assert "epoch-0000/shard-0000.tar" in stored(tmp_path, spec)


def stored(folder, spec):
    root = folder / "cache" / spec.folder
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def test_no_secret_of_an_address_is_told(tmp_path, uploaded, server):
    """The library's own words have the whole address."""
    data, spec = uploaded
    url = f"{server.url}?token=5ecret"
    server.faults = {".tar?token=5ecret": ["error"] * 5}
    reader = RemoteStream(spec, url, tmp_path / "cache", data, max_epochs=1)
    with pytest.warns(RunWarning, match="in 5 tries: 500, .*computed instead") as told:
        reader.rows(0, 4)
    assert [str(each.message) for each in told if "5ecret" in str(each.message)] == []
    server.faults = {"manifest.json?token=5ecret": ["error"] * 5}
    with pytest.raises(InputError, match="in 5 tries: 500, ") as raised:
        read_manifest(RemoteFolder(url), spec)
    assert "5ecret" not in str(raised.value)


def test_pauses_grow_and_end_with_the_run(uploaded, server, monkeypatch):
    _, spec = uploaded
    folder, waited = RemoteFolder(server.url), []
    monkeypatch.setattr(download, "PAUSES", PAUSES)
    monkeypatch.setattr(folder, "_closed", SimpleNamespace(wait=waited.append, is_set=lambda: False))
    server.faults = {"manifest.json": ["error"] * 9}
    with pytest.raises(InputError, match="in 5 tries"):
        folder.read(f"{spec.folder}/manifest.json", 10**6, len)
    assert waited == [0.25, 0.5, 1, 2]
    assert sum(waited) < 5
    folder = RemoteFolder(server.url)
    folder.close()
    with pytest.raises(InputError):
        folder.read(f"{spec.folder}/manifest.json", 10**6, len)
    assert len(server.asked) == 5 + 1


def test_what_does_not_exist_is_asked_for_once(tmp_path, uploaded, server):
    data, spec = uploaded
    reader = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=2)
    shutil.rmtree(tmp_path / "uploaded" / spec.folder)
    with pytest.warns(UserWarning, match=r"shard-0000.tar does not exist. Check stream.root, .*computed instead"):
        assert equal(reader.rows(0, 4), OnlineStream(spec, data).rows(0, 4))
    assert shards_asked(server).count("epoch-0000/shard-0000.tar") == 1
    reader.close()
    with pytest.raises(InputError, match=r"manifest.json does not exist"):
        RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=2)
    assert server.asked.count(f"/{spec.folder}/manifest.json") == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2, this fastconv reads format 1"),
        ({"fingerprint": "f" * 16}, "belongs to another stream"),
        ({"shards": 5}, "is damaged and cannot be read"),
    ],
)
def test_a_foreign_manifest_is_refused(tmp_path, uploaded, server, change, says):
    _, spec = uploaded
    path = tmp_path / "uploaded" / spec.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=rf"{server.url}/.*{says}.*Upload the stream again") as raised:
        read_manifest(RemoteFolder(server.url), spec)
    assert not isinstance(raised.value, StreamError)


def test_what_is_on_this_machine_is_used_if_it_is_right(tmp_path, uploaded, server):
    """A local stream's shards, of which one was altered: that one is fetched, and a killed process' rest goes."""
    data, spec = uploaded
    write_stream(spec, data, tmp_path / "streams", 2)
    path = tmp_path / "streams" / spec.folder / "epoch-0001" / "shard-0000.tar"
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)
    path.with_name("shard-0000.tar.1.fetch").touch()
    reader = RemoteStream(spec, server.url, tmp_path / "streams", data, max_epochs=2)
    assert equal(reader.rows(0, 2 * 57), OnlineStream(spec, data).rows(0, 2 * 57))
    assert shards_asked(server) == ["epoch-0001/shard-0000.tar"]
    assert sha256s(tmp_path / "streams") == sha256s(tmp_path / "uploaded")
    assert not [*tmp_path.rglob("*.part"), *tmp_path.rglob("*.fetch")]


def test_readers_of_one_cache_fetch_a_shard_once(tmp_path, uploaded, server):
    """As ranks do, which read slices of the same batches."""
    data, spec = uploaded
    readers = [RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=2) for _ in range(4)]
    threads = [threading.Thread(target=reader.rows, args=(0, 2 * 57)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(shards_asked(server)) == [
        f"epoch-000{epoch}/shard-000{shard}.tar" for epoch, shard in np.ndindex(2, 2)
    ]


def test_a_disk_that_fills_up_does_not_end_a_run(tmp_path, uploaded, server, monkeypatch):
    data, spec = uploaded
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 * 2**20}))
    reader = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=2)
    with pytest.warns(RunWarning, match=r"shard of the stream of noise needs 0 MB .*/cache.*stream.cache") as warned:
        found = reader.rows(0, 2 * 57)
    assert len(warned) == 1
    assert equal(found, OnlineStream(spec, data).rows(0, 2 * 57))
    assert shards_asked(server) == []
