"""Servers that send what nobody should: one line or the same bytes, no code, no file elsewhere, no endless reading."""

import base64
import contextlib
import functools
import gzip
import hashlib
import io
import json
import tarfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import numpy as np
import pytest
from harness import noise, served, spec_of

from fastconv.data import download, url_place, url_reader
from fastconv.data.sources import tar_files as tars
from fastconv.data.sources.tar_files import tar_files
from fastconv.data.stream import remote
from fastconv.data.stream.remote import RemoteFolder, RemoteStream, read_manifest
from fastconv.data.stream.spec import OnlineStream
from fastconv.data.stream.writer import write_stream
from fastconv.data.url_file import UrlFile
from fastconv.system.errors import InputError

FIRST = "epoch-0000/shard-0000.tar"


class Answers(BaseHTTPRequestHandler):
    """Answers each path with what the server holds for its end: bytes, or a function of this handler."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(self.path)
        answer = next((them for end, them in self.server.answers.items() if path.endswith(end)), None)
        with contextlib.suppress(OSError):  # the client may hang up
            if answer is None:
                self.send_error(404)
            elif callable(answer):
                answer(self)
            else:
                self.begin(len(answer))
                self.wfile.write(answer)

    def begin(self, length=None, code=200, **headers):
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_):
        pass


def endless(handler, part=b" " * 2**16, **headers):
    """Send until the client hangs up; after 200 MB it has read without a limit."""
    handler.begin(**headers)
    for _ in range(200 * 2**20 // len(part)):
        handler.wfile.write(part)
        handler.server.sent += len(part)


@pytest.fixture
def server():
    with served(Answers, asked=[], answers={}, sent=0, ended=threading.Event(), daemon_threads=True) as server:
        yield server
        server.ended.set()


pytestmark = pytest.mark.usefixtures("patient_downloads")


@pytest.fixture
def stream(tmp_path, small_blocks, server):
    """(images, spec) of a stream of one epoch whose files the server has."""
    data = noise(57, 3)
    spec = spec_of(data)
    folder = write_stream(spec, data, tmp_path / "right", 1)
    server.answers = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    return data, spec


# -- manifests


def entry(**changes):
    return lambda content: content["shards"][FIRST].update(changes)


def named(name):
    return lambda content: content["shards"].update({name: content["shards"].pop(FIRST)})


MANIFESTS = {
    "negative samples": entry(samples=-30),
    "negative bytes": entry(bytes=-1),
    "huge bytes": entry(bytes=10**18),
    "no bytes": entry(bytes=0),
    "fewer samples": entry(samples=1),
    "text for a number": entry(bytes="9"),
    "a bool for a number": entry(samples=True),
    "NaN": entry(samples=float("nan")),
    "a list for a sha256": entry(sha256=["0" * 64]),
    "a foreign key": entry(pickle="x"),
    "a path up": named("../../x.tar"),
    "a hidden path up": named("epoch-0000/../../../shard-0000.tar"),
    "an absolute path": named("/tmp/x.tar"),
    "a shard too many": named("epoch-0000/shard-0002.tar"),
    "another form of a name": named("epoch-00000/shard-0000.tar"),
    "a list of shards": lambda content: content.update(shards=[FIRST]),
    "an entry that is a number": lambda content: content["shards"].update({FIRST: 3}),
    "another format": lambda content: content.update(format="\x1b[2J" * 99),
    "another stream": lambda content: content.update(fingerprint=["\x1b[2J" * 99]),
}


@pytest.mark.parametrize("change", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_cannot_be_right_gets_one_line(tmp_path, server, stream, change):
    data, spec = stream
    content = json.loads(server.answers["manifest.json"])
    change(content)
    server.answers["manifest.json"] = json.dumps(content).encode()
    refused(server, data, spec, tmp_path)


TEXTS = {
    "deep": b'{"format": 1, "shards": ' + b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "a huge number": b'{"format": ' + b"9" * 10_000 + b"}",
    "a key twice": b'{"format": 2, "format": 1}',
    "not an object": b"[1]",
    "null": b"null",
    "nothing": b"",
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "a page": b"<!DOCTYPE html><html><title>Log in</title></html>",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_manifest_that_is_none_gets_one_line(tmp_path, server, stream, text):
    data, spec = stream
    server.answers["manifest.json"] = text
    refused(server, data, spec, tmp_path)
    assert len(server.asked) <= 2, "the same wrong bytes twice are wrong for good"


def refused(server, data, spec, tmp_path, says="."):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=says) as raised:
        RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=9)
    line = str(raised.value)
    assert line.isprintable(), "a terminal would obey"
    assert len(line) < 500
    assert f"{server.url}/{spec.folder}/manifest.json" in line
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


@functools.cache
def zeros():
    """20 MB of zeros, compressed."""
    return gzip.compress(bytes(20 * 2**20), 6)


def bomb(handler):
    handler.begin(Content_Encoding="gzip")
    for _ in range(10):
        handler.wfile.write(zeros())


def redirect(to):
    return lambda handler: handler.begin(0, 302, Location=to(handler.server.url))


SERVERS = {
    "endless": (endless, "goes on after"),
    "endless in chunks": (lambda handler: chunked(handler), "goes on after"),
    "endless, said to be short": (lambda handler: endless(handler, Content_Length="10"), "is no JSON|400"),
    "announced too long": (lambda handler: handler.begin(10**12), "has 1,000,000,000,000 bytes"),
    "gzip that unpacks to 200 MB": (bomb, "goes on after"),
    "an unknown compression": (lambda handler: handler.begin(5, Content_Encoding="br"), "compresses it"),
    "a redirect to a file": (redirect(lambda _: "file:///etc/hostname"), "cannot fetch"),
    "a redirect to ftp": (redirect(lambda _: "ftp://127.0.0.1/x"), "cannot fetch"),
    "a redirect to itself": (redirect(lambda url: f"{url}/manifest.json"), "cannot fetch"),
    "a redirect to nothing": (redirect(lambda _: ""), "cannot fetch|is no JSON"),
    "forbidden": (lambda handler: handler.begin(0, 403), "403"),
    "a header without end": (lambda handler: handler.begin(0, X_Long="x" * 10**6), "cannot fetch"),
    "no HTTP": (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n" * 20), "cannot fetch"),
    "silence": (lambda handler: None, "cannot fetch"),
    "too little": (lambda handler: (handler.begin(10**5), handler.wfile.write(b"{")), "in 5 tries"),
    "escapes in its words": (
        lambda handler: handler.wfile.write(b"HTTP/1.0 500 \x1b[2J\x07\r\nContent-Length: 0\r\n\r\n"),
        "cannot fetch",
    ),
}


def chunked(handler):
    handler.protocol_version = "HTTP/1.1"
    handler.begin(Transfer_Encoding="chunked")
    for _ in range(3000):
        handler.wfile.write(b"10000\r\n" + b" " * 2**16 + b"\r\n")
        handler.server.sent += 2**16


@pytest.mark.parametrize(("answer", "says"), SERVERS.values(), ids=SERVERS)
def test_a_server_that_does_not_answer_as_it_should_gets_one_line(tmp_path, server, stream, answer, says, monkeypatch):
    data, spec = stream
    monkeypatch.setattr(remote, "MOST_MANIFEST_BYTES", 10**6)
    server.answers["manifest.json"] = answer
    refused(server, data, spec, tmp_path, says)
    assert server.sent < 50 * 2**20, "it was read on and on"


def test_a_body_that_is_compressed_unasked_is_read(server, stream):
    _, spec = stream
    right = server.answers["manifest.json"]

    def answer(handler):
        assert handler.headers["Accept-Encoding"] == "identity"
        content = gzip.compress(right)
        handler.begin(len(content), Content_Encoding="gzip")
        handler.wfile.write(content)

    server.answers["manifest.json"] = answer
    assert list(read_manifest(RemoteFolder(server.url), spec).shards) == [FIRST, "epoch-0000/shard-0001.tar"]


def test_a_query_of_the_address_stays_behind_the_path(server, stream):
    _, spec = stream
    read_manifest(RemoteFolder(f"{server.url}/streams?sig=abc"), spec)
    assert server.asked == [f"/streams/{spec.folder}/manifest.json?sig=abc"]


# -- shards


def shard(data, spec, change):
    """The first shard, with members (header, array, bytes of the header) that `change` has altered."""
    members = []
    for block, stored in enumerate(spec.stored_blocks(0, range(3))):
        for (name, _, _), array in zip(stored.members, spec.compute(data, 0, block), strict=True):
            members.append([tarfile.TarInfo(name), array, None])
    change(members)
    file = io.BytesIO()
    for info, array, head in members:
        content = array if isinstance(array, bytes) else npy(array)
        info.size = len(content)
        file.write(head or info.tobuf(tarfile.USTAR_FORMAT))
        file.write(content + bytes(-len(content) % 512))
    return file.getvalue() + bytes(1024)


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False, **options)
    return file.getvalue()


def claimed(descr, shape, values=b""):
    """A .npy whose header claims a dtype and a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + values


def put(at, make):
    def change(members):
        members[at][1] = make(members[at][1])

    return change


def swap(members):
    members[0], members[1] = members[1], members[0]


def link(members):
    members[0][0].type, members[0][0].linkname = tarfile.SYMTYPE, "/etc/passwd"


def negative(members):
    buffer = bytearray(members[0][0].tobuf(tarfile.USTAR_FORMAT))
    buffer[124:136] = b"\xff" * 12
    members[0][2] = summed(buffer)


def summed(buffer):
    """A tar header with its checksum."""
    buffer[148:156] = b"        "
    buffer[148:156] = b"%06o\0 " % sum(buffer[:512])
    return bytes(buffer)


SHARDS = {
    "pointers for pixels": put(0, lambda x: claimed("|O", (x.size // 8,), x.tobytes())),
    "pointers for labels": put(1, lambda y: claimed("|O", y.shape, y.tobytes())),
    "records": put(1, lambda y: claimed([("a", "<i4"), ("b", "<i4")], y.shape, y.tobytes())),
    "float labels": put(1, lambda y: y.astype(float)),
    "labels of the other byte order": put(1, lambda y: y.astype(">i8")),
    "32-bit labels": put(1, lambda y: y.astype(np.int32)),
    "labels beyond the classes": put(1, lambda y: y + 3),
    "negative labels": put(1, lambda y: y - 9),
    "one row": put(0, lambda x: x[:1]),
    "no rows": put(0, lambda x: x[:0]),
    "no labels": put(1, lambda y: y[:0]),
    "labels in two dimensions": put(1, lambda y: y[None]),
    "images of another shape": put(0, lambda x: x.swapaxes(1, 2).copy()),
    "columns first": put(0, lambda x: np.asfortranarray(x)),
    "16-bit images": put(0, lambda x: x.astype(np.uint16)),
    "a shape that needs more than there is": put(0, lambda x: claimed("|u1", (10**12, *x.shape[1:]), x.tobytes())),
    "a negative shape": put(0, lambda x: claimed("|u1", (-1, *x.shape[1:]), x.tobytes())),
    "another version of .npy": put(0, lambda x: npy(x, version=(3, 0))),
    "a pickle": put(0, lambda x: b"\x80\x04c" + x.tobytes()),
    "a header that nests": put(0, lambda x: b"\x93NUMPY\x01\x00\xf0\x01" + b"(" * 496 + x.tobytes()),
    "other order": swap,
    "other names": lambda members: setattr(members[0][0], "name", "../../x.npy"),
    "a link": link,
    "a negative size": negative,
    "too few members": lambda members: members.pop(),
    "no members": list.clear,
}


@pytest.mark.parametrize("change", SHARDS.values(), ids=SHARDS)
def test_a_shard_that_is_not_the_streams_is_computed_instead(tmp_path, server, stream, change):
    """Its size and its sha256 are those of the manifest, which is the server's too."""
    data, spec = stream
    content = shard(data, spec, lambda members: None)
    assert content == server.answers[FIRST], "the generator is right"
    serve(server, shard(data, spec, change))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with contextlib.suppress(InputError):  # a size that no shard of this stream has: the manifest is refused
            reader = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=1)
            assert all(map(np.array_equal, reader.rows(0, 57), OnlineStream(spec, data).rows(0, 57)))
            reader.close()
            (line,) = {str(each.message) for each in told if "too late" not in str(each.message)}
            assert line.endswith("Its images are computed instead")
            assert line.isprintable()
    assert not (tmp_path / "cache" / spec.folder / FIRST).exists()


def serve(server, content):
    """Serve a first shard, with a manifest that goes with it."""
    manifest = json.loads(server.answers["manifest.json"])
    sha256 = hashlib.sha256(content).hexdigest()
    manifest["shards"][FIRST].update(bytes=len(content), sha256=sha256)
    server.answers |= {FIRST: content, "manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("answer", [endless, bomb, lambda handler: handler.begin(10**12)], ids=["on", "gzip", "size"])
def test_no_more_of_a_shard_is_read_than_the_manifest_says(tmp_path, server, stream, answer):
    data, spec = stream
    server.answers[FIRST] = answer
    reader = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=1)
    with pytest.warns(UserWarning, match="no more .*can be right.*computed instead"):
        found = reader.rows(0, 4)
    assert np.array_equal(found[0], OnlineStream(spec, data).rows(0, 4)[0])
    assert server.sent < 50 * 2**20
    assert sum(path.endswith(FIRST) for path in server.asked) == 1


def test_a_shard_that_trickles_is_computed_until_it_is_there(tmp_path, server, stream, monkeypatch):
    """It holds up no block for longer than computing it takes, and closing ends the download."""
    data, spec = stream
    monkeypatch.setattr(remote, "FIRST_WAIT_SECONDS", 0.05)
    right, more = server.answers[FIRST], threading.Event()

    def trickle(handler):
        handler.begin(len(right))
        handler.wfile.write(right[:100])
        handler.wfile.flush()
        more.wait(60)
        handler.wfile.write(right[100:])

    server.answers[FIRST] = trickle
    reader, online = RemoteStream(spec, server.url, tmp_path / "cache", data, max_epochs=1), OnlineStream(spec, data)
    with pytest.warns(UserWarning, match="sends shards too late: what is late is computed instead"):
        assert np.array_equal(reader.rows(0, 20)[0], online.rows(0, 20)[0])
    assert not (tmp_path / "cache" / spec.folder / FIRST).exists()
    more.set()
    reader._arrivals[FIRST].result(60)
    assert np.array_equal(reader.rows(20, 30)[0], online.rows(20, 30)[0])
    assert (0, 0) in reader._open, "the rest is read from it"


def test_a_server_that_was_silent_twice_is_not_asked_again(server, monkeypatch):
    monkeypatch.setattr(url_reader, "SILENCE_SECONDS", 0.2)
    server.answers["x"] = lambda handler: handler.server.ended.wait(60)
    with pytest.raises(InputError, match=r"cannot fetch .*/x in 2 tries: "):
        download.read_url(f"{server.url}/x", "images", 100)
    assert len(server.asked) == 2


def test_a_trickle_ends_when_it_is_too_slow(server, monkeypatch):
    monkeypatch.setattr(url_reader, "SILENCE_SECONDS", 0.2)

    def trickle(handler):
        handler.begin(10**6)
        while not handler.server.ended.wait(0.05):
            handler.wfile.write(b" ")

    server.answers["x"] = trickle
    with pytest.raises(InputError, match=r"cannot fetch .* too slow to wait for"):
        download.read_url(f"{server.url}/x", "images", 10**6)
    assert len(server.asked) == 1


def test_a_reader_that_takes_its_time_does_not_make_a_server_slow(server, monkeypatch):
    server.answers["x"], now = bytes(10**6), [0.0]
    monkeypatch.setattr(url_reader, "time", SimpleNamespace(monotonic=lambda: now[0]))
    file = url_place.Place(f"{server.url}/x", "images").open()
    read = 0
    while content := file.read(10**5):
        read += len(content)
        now[0] += 10_000
    file.close()
    assert read == 10**6


# -- tars of images


def tar(*members, compress=bytes):
    """A tar of (name, content); what is no bytes is a header already."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return compress(file.getvalue())


def header(kind=tarfile.REGTYPE, size=0, **fields):
    info = tarfile.TarInfo("a.png")
    info.type, info.size = kind, size
    for name, value in fields.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def with_size(content, size):
    """A tar whose first member claims a size, in the binary form that has a sign."""
    buffer = bytearray(content)
    buffer[124:136] = (size % 256**12).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    return summed(bytearray(buffer[:512])) + bytes(buffer[512:])


def pax(name, value):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {name: value}
        made.addfile(info)
    return file.getvalue()


ONE = tar(("a.png", b"x" * 600))
TARS = {
    "a member of 4 GB": (header(size=4 * 2**30) + bytes(2048), "a.png has 4,294,967,296 bytes"),
    "a member of 8 EB": (with_size(ONE, 2**63), "bytes, which no image has"),
    "a negative member": (with_size(ONE, -512), "which must be a tar"),
    "a header of 4 GB": (header(tarfile.XHDTYPE, 4 * 2**30) + bytes(2048), "a header of 4,294,967,296 bytes"),
    "a name of 4 GB": (header(tarfile.GNUTYPE_LONGNAME, 4 * 2**30) + bytes(2048), "a header of"),
    "a pax size": (pax("size", str(2**40)), "bytes, which no image has"),
    "a negative pax size": (pax("size", "-1024"), "which must be a tar"),
    "a hole of 1 TB": (pax("GNU.sparse.size", str(2**40)) + bytes(1024), "which must be a tar|no image has"),
    "a name that leads out": (tar(("../a.png", b"x")), "leads out of it"),
    "an absolute name": (tar(("/tmp/a.png", b"x")), "leads out of it"),
    "cut off": (ONE[:900], "which must be a tar"),
    "a page": (b"<!DOCTYPE html><html>" + b"<p>Log in</p>" * 99, "which must be a tar"),
    "compressed twice": (gzip.compress(gzip.compress(ONE)), "which must be a tar"),
    "a pickle": (b"\x80\x04cposix\nsystem\n" + bytes(2048), "which must be a tar"),
}


@pytest.mark.parametrize(("content", "says"), TARS.values(), ids=TARS)
@pytest.mark.parametrize("place", ["disk", "server"])
def test_a_tar_that_is_made_to_harm_gets_one_line(tmp_path, server, content, says, place):
    (tmp_path / "t.tar").write_bytes(content)
    server.answers["t.tar"] = content
    url = f"{server.url}/t.tar" if place == "server" else str(tmp_path / "t.tar")
    with pytest.raises(InputError, match=says) as raised:
        list(tar_files(url, "dataset.train"))
    assert url in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600


def test_links_have_no_content_and_devices_are_passed_over(tmp_path):
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    (tmp_path / "t.tar").write_bytes(b"".join(header(kind, linkname="/etc/passwd") for kind in kinds) + ONE)
    found = list(tar_files(str(tmp_path / "t.tar"), "dataset.train"))
    assert found == [("a.png", None), ("a.png", None), ("a.png", b"x" * 600)]


def test_zeros_without_end_are_not_read_to_their_end(tmp_path):
    (tmp_path / "t.tar.gz").write_bytes(gzip.compress(ONE + bytes(17 * 2**20), 1))
    with pytest.raises(InputError, match="it goes on with zeros"):
        list(tar_files(str(tmp_path / "t.tar.gz"), "dataset.train"))


def test_a_compressed_tar_that_grows_to_a_multiple_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "FREE_BYTES", 10**5)
    members = [(f"{at}.png", bytes(3 * 10**5)) for at in range(9)]
    (tmp_path / "t.tar.gz").write_bytes(tar(*members, compress=gzip.compress))
    with pytest.raises(InputError, match="to fill the memory"):
        list(tar_files(str(tmp_path / "t.tar.gz"), "dataset.train"))
    (tmp_path / "t.tar").write_bytes(tar(*members))
    assert len(list(tar_files(str(tmp_path / "t.tar"), "dataset.train"))) == 9, "nothing of it is compressed"


def test_a_tar_without_an_end_is_read_up_to_a_limit(server, monkeypatch):
    monkeypatch.setattr("fastconv.data.url_file.MOST_UNANNOUNCED_BYTES", 10**6)
    server.answers["t.tar"] = lambda handler: endless(handler, ONE[:1536] * 40)
    with pytest.raises(InputError, match="does not say how long it is: download it"):
        for _ in tar_files(f"{server.url}/t.tar", "dataset.train"):
            pass
    assert server.sent < 50 * 2**20


def test_the_password_of_a_netrc_is_used_and_is_in_no_setting(tmp_path, server, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ann password pa55word")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def answer(handler):
        said = handler.headers["Authorization"]
        handler.begin(len(said))
        handler.wfile.write(said.encode())

    server.answers["x"] = answer
    assert download.read_url(f"{server.url}/x", "images", 100) == b"Basic " + base64.b64encode(b"ann:pa55word")


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_download_goes_on_where_it_stopped(server, ranges):
    """Each answer breaks off 5 kB further on."""
    content, server.starts, server.more = bytes(range(256)) * 88, [], threading.Semaphore(0)

    def answer(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        server.starts.append(start)
        if ranges and start:
            handler.begin(len(content) - start, 206, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.begin(len(content))
        handler.wfile.write(content[start if ranges else 0 : 5000 * len(server.starts)])
        handler.wfile.flush()
        server.more.acquire(timeout=60)  # aiohttp drops what is not read yet when the connection breaks

    server.answers["t.tar"] = answer
    file, found = UrlFile(f"{server.url}/t.tar", "dataset.train"), b""
    while part := file.read(10**5):
        found += part
        if len(found) % 5000 == 0:
            server.more.release()
    server.more.release()
    assert found == content
    assert server.starts == [0, 5000, 10000, 15000, 20000]


def test_a_file_that_changes_while_it_is_read_is_refused(server):
    server.more = threading.Semaphore(0)

    def answer(handler):
        handler.begin(10**4, ETag=f'"{len(server.asked)}"')
        handler.wfile.write(bytes(5000))
        server.more.acquire(timeout=60)

    server.answers["t.tar"] = answer
    file, found = UrlFile(f"{server.url}/t.tar", "dataset.train"), 0
    while found < 5000:
        found += len(file.read(10**5))
    server.more.release(9)
    with pytest.raises(InputError, match="it has changed while it was read"):
        file.read(1)
    assert len(server.asked) == 2
