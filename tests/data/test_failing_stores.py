"""Object stores that fail, refuse or are silent: few requests, and one line that says what, where and what to do."""

import json
import threading
from http.server import BaseHTTPRequestHandler

import fsspec
import pytest
from harness import RUN, SHORT, run_command, served

from fastconv.data.download import AbsentError, RefusedError, UnavailableError, read_url
from fastconv.data.sending import send_bytes
from fastconv.data.url_file import UrlFile
from fastconv.data.url_place import Place
from fastconv.system.errors import InputError

SECRET = "5ecret-of-the-store"
URLS = {"s3": "s3://bucket/own.tar", "gs": "gs://bucket/own.tar"}

pytestmark = pytest.mark.usefixtures("patient_downloads")


class Store(BaseHTTPRequestHandler):
    """Notes the requests, and answers as the server's `answer` says."""

    protocol_version = "HTTP/1.1"  # of 1.0, those that ask before they send would wait

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(self.command)
        self.server.answer(self)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815

    def say(self, status, content=b"", **headers):
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def failing(status, code="", says=""):
    """An answer with an error, as S3 and Google's store write it."""
    of_s3 = f"<Error><Code>{code}</Code><Message>{says}</Message></Error>".encode()
    of_google = json.dumps({"error": {"code": status, "message": says}}).encode()
    return lambda handler: handler.say(status, of_google if "/b/" in handler.path else of_s3)


def silent(handler):
    handler.server.ended.wait(60)


@pytest.fixture
def server(monkeypatch):
    """A server for both protocols."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with served(Store, asked=[], answer=None, ended=threading.Event(), daemon_threads=True) as server:
        at(monkeypatch, server.url)
        yield server
        server.ended.set()
    forget()


def at(patch, address):
    """Let both libraries look for their stores at an address."""
    for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        patch.setenv(name, address)
    forget()


def forget():
    """fsspec keeps the file systems that it has made, with their addresses and credentials."""
    for protocol in URLS:
        fsspec.get_filesystem_class(protocol).clear_instance_cache()


def write(url):
    send_bytes(b"1", url, "outputs", threading.Event(), "Check outputs, its bucket and that you may write to it")


DENIED, EXPIRED = failing(403, "AccessDenied", "not you"), failing(400, "ExpiredToken", "it has expired")
NO_BUCKET = failing(404, "NoSuchBucket", "absent")
REGION = failing(400, "AuthorizationHeaderMalformed", "expecting 'eu-west-1'")
READS = {
    "s3 denied": ("s3", DENIED, RefusedError, r"access is denied \(Forbidden\): check the credentials\. Check the", 1),
    "gs denied": ("gs", DENIED, RefusedError, r"access is denied .*not you\): check the credentials\. Check the ad", 3),
    "gs unknown": ("gs", failing(401, "", "Anonymous"), RefusedError, "access is denied .*Anonymous.*credentials", 2),
    "s3 expired": ("s3", EXPIRED, RefusedError, "the credentials may have expired, or the region differ", 2),
    "s3 region": ("s3", REGION, RefusedError, "the credentials may have expired, or the region differ", 2),
    "s3 absent": ("s3", NO_BUCKET, AbsentError, "own.tar does not exist. Check the address", 2),
    "gs absent": ("gs", NO_BUCKET, AbsentError, "own.tar does not exist. Check the address", 2),
    "s3 failing": ("s3", failing(503), UnavailableError, "in 5 tries: ", 5),
    "gs failing": ("gs", failing(503), UnavailableError, "in 5 tries: ", 10),
    "s3 silent": ("s3", silent, UnavailableError, "in 2 tries: Read timeout on endpoint URL", 2),
    "gs silent": ("gs", silent, UnavailableError, "in 2 tries: Timeout on reading data", 4),
}
WRITES = {
    "s3 denied": (
        "s3",
        DENIED,
        RefusedError,
        r"access is denied \(not you\): check the credentials\. Check outputs",
        1,
    ),
    "gs denied": ("gs", DENIED, RefusedError, "access is denied .*: check the credentials. Check outputs", 1),
    "s3 expired": ("s3", EXPIRED, RefusedError, "access is denied .it has expired.: check the credentials", 1),
    "s3 region": ("s3", REGION, RefusedError, "expecting 'eu-west-1'.*the region differ", 2),
    "s3 absent": (
        "s3",
        NO_BUCKET,
        AbsentError,
        "cannot write s3://bucket/own.tar: its bucket or folder does not exist",
        1,
    ),
    "gs absent": (
        "gs",
        NO_BUCKET,
        AbsentError,
        "cannot write gs://bucket/own.tar: its bucket or folder does not exist",
        1,
    ),
    "s3 failing": ("s3", failing(500), UnavailableError, "cannot write s3://bucket/own.tar in 5 tries: ", 5),
    "gs failing": ("gs", failing(500), UnavailableError, "cannot write gs://bucket/own.tar in 5 tries: ", 5),
}


@pytest.mark.parametrize(("protocol", "answer", "kind", "says", "most"), READS.values(), ids=READS)
def test_a_file_that_cannot_be_read_gets_a_line(server, monkeypatch, caplog, protocol, answer, kind, says, most):
    """s3fs, botocore and gcsfs would each try again by themselves, for minutes, and log tracebacks."""
    monkeypatch.setattr(fsspec.get_filesystem_class("s3"), "read_timeout", 0.3)
    monkeypatch.setattr("fastconv.data.url_reader.SILENCE_SECONDS", 0.3)
    server.answer = answer
    with pytest.raises(kind, match=says) as raised:
        read_url(URLS[protocol], "dataset.train", 100)
    assert URLS[protocol] in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(server.asked) <= most
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(("protocol", "answer", "kind", "says", "most"), WRITES.values(), ids=WRITES)
def test_a_file_that_cannot_be_written_gets_a_line(server, caplog, protocol, answer, kind, says, most):
    server.answer = answer
    with pytest.raises(kind, match=says) as raised:
        write(URLS[protocol])
    assert str(raised.value).isprintable()
    assert len(server.asked) <= most
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("protocol", URLS)
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nowhere.invalid"], ids=["no server", "no name"])
def test_a_server_that_is_not_there_gets_a_line(server, monkeypatch, protocol, address):
    at(monkeypatch, address)
    with pytest.raises(UnavailableError, match=rf"cannot fetch {URLS[protocol]} in 5 tries: \w+.*Check the address"):
        read_url(URLS[protocol], "dataset.train", 100)


def test_reading_goes_on_after_failures_in_the_middle(server):
    """An error, and an answer that breaks off."""
    content, faults = bytes(range(256)) * 40_000, ["", "error", "error", "short"]

    def answer(handler):
        first, _, last = handler.headers.get("Range", "bytes=0-")[6:].partition("-")
        part = content[int(first) : int(last or len(content)) + 1]
        about = {"ETag": '"1"', "Last_Modified": "Sun, 29 Nov 2026 10:00:00 GMT"}
        if handler.command == "HEAD":
            return handler.say(200, content, **about)
        fault = faults.pop(0) if faults else ""
        if fault == "error":
            return failing(500)(handler)
        about["Content_Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        handler.close_connection = bool(fault)
        return handler.say(206, part[:1000] if fault else part, Content_Length=str(len(part)), **about)

    server.answer = answer
    assert UrlFile(URLS["s3"], "dataset.train").readall() == content
    assert faults == []


@pytest.mark.parametrize("protocol", URLS)
def test_a_run_ends_at_once_if_its_store_may_only_be_read(tmp_path, digits_root, server, protocol):
    server.answer = DENIED
    ended = run_command(tmp_path, digits_root, "train", *RUN, f"outputs={protocol}://bucket/runs")
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert "access is denied" in ended.err
    assert "Check outputs, its bucket and that you may write to it" in ended.err
    assert not list(tmp_path.rglob("results.json"))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("train", ["dataset=webdataset", "dataset.train=s3://AKIA:{secret}@bucket/own.tar", *SHORT]),
        ("train", ["dataset=webdataset", "dataset.train=tar://own.tar::s3://AKIA:{secret}@bucket/own.tar", *SHORT]),
        ("train", ["dataset=webdataset", "dataset.train=zip://a.tar::simplecache::S3://{secret}@bucket/a.zip", *SHORT]),
        ("train", ["dataset=digits", "stream.root=s3://AKIA:{secret}@bucket/streams", *SHORT]),
        ("train", [*RUN, "outputs=s3://AKIA:{secret}@bucket/runs"]),
        ("train", ["resume=s3://AKIA:{secret}@bucket/runs/digits/a"]),
        ("evaluate", ["run=s3://AKIA:{secret}@bucket/runs/digits/a"]),
        ("precompute", ["dataset=digits", "stream.epochs=1", "stream.root=s3://AKIA:{secret}@bucket/streams", *SHORT]),
    ],
    ids=["tar", "chain", "long chain", "stream", "outputs", "resume", "run", "precompute"],
)
def test_keys_in_an_address_are_refused_and_shown_nowhere(tmp_path, digits_root, server, name, given):
    """s3fs would take them for the name of the bucket."""
    ended = run_command(tmp_path, digits_root, name, *(each.format(secret=SECRET) for each in given))
    assert (ended.code, ended.err.count("\n")) == (1, 1), ended.err
    assert "s3://***@bucket" in ended.err.lower()
    assert "AWS_ACCESS_KEY_ID" in ended.err
    assert SECRET not in ended.out + ended.err
    assert server.asked == []
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in paths if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nope://bucket/own.tar", "Protocol not known: nope"),
        ("reference://own.tar", "missing 1 required positional argument"),
        ("ftp://127.0.0.1:9/own.tar", "Connection refused"),
        ("zip://own.tar::file:///absent.zip", "No such file or directory"),
    ],
)
def test_an_address_that_its_library_cannot_open_gets_a_line(url, says):
    with pytest.raises(InputError, match=rf"^cannot open {url}: .*{says}.*\. Set dataset.train to another address"):
        Place(url, "dataset.train")
