"""Tars behind URLs: read in parts of bounded size, again after failures, and whatever their servers tell of them."""

import io
import subprocess
import sys
import tarfile
import tracemalloc
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
from harness import REPOSITORY, served
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.data.sources.tar_files import tar_files
from fastconv.data.url_file import UrlFile
from fastconv.data.url_place import Place
from fastconv.system.errors import InputError


class Photographs(BaseHTTPRequestHandler):
    """Answers /N with a tar of N uncompressed photographs of 1 MB, of two classes, each another."""

    def do_GET(self):
        if self.server.faults:
            self.send_error(self.server.faults.pop())
            return
        count, side = int(self.path[1:]), 600
        picture = io.BytesIO()
        Image.effect_noise((side, side), 50).convert("RGB").save(picture, "BMP")
        content = picture.getvalue()
        block = tarfile.BLOCKSIZE
        padded = -(-len(content) // block) * block
        self.send_response(200)
        self.send_header("Content-Length", str(count * (padded + 3 * block) + 2 * block))
        self.send_header("ETag", f"{count}")
        self.end_headers()
        if self.command == "HEAD":
            return
        for at in range(count):
            for name, member in ((f"{at}.bmp", at.to_bytes(4, "big") * 5000), (f"{at}.cls", b"%d" % (at % 2))):
                body = content[: -len(member)] + member if name.endswith("bmp") else member
                info = tarfile.TarInfo(name)
                info.size = len(body)
                self.wfile.write(info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % block))
        self.wfile.write(bytes(2 * block))

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_a_server_that_tells_no_version_is_noted(tmp_path, monkeypatch):
    with served(Photographs, faults=[]) as server:
        given = Dataset(name="own", source="webdataset", train=f"{server.url}/8", test_share=0.5, image_size=24)
        assert load(given, tmp_path / "data")[0].note == ""
        monkeypatch.setattr(Place, "about", lambda place: [])
        assert load(given, tmp_path / "other")[0].note == (
            f"{server.url}/8 is read once: its server tells neither size nor date, by which a change would show"
        )


def test_a_tar_is_not_read_again_when_its_server_fails_for_a_moment(tmp_path, patient_downloads):
    with served(Photographs, faults=[]) as server:
        given = Dataset(name="own", source="webdataset", train=f"{server.url}/8", test_share=0.5, image_size=24)
        load(given, tmp_path)
        server.faults += [503, 503]  # of HEAD and of GET, as which fsspec asks for the version
        assert load(given, tmp_path)[0].note == ""
        assert server.faults == []
        assert len(list((tmp_path / "arrays").glob("own-*"))) == 1
        server.faults += [503] * 99
        with pytest.raises(InputError, match=f"cannot fetch {server.url}/8 in 5 tries: 503"):
            load(given, tmp_path)


class PartsFile(AbstractBufferedFile):
    """A file of a store that sends the parts it is asked for: the bytes 0 to 250 over and over."""

    def _fetch_range(self, start, end):
        self.fs.asked.append(end - start)
        if self.fs.faults and self.fs.faults.pop():
            raise OSError("503 slow down")
        return bytes(at % 251 for at in range(start, end))


class Parts(AbstractFileSystem):
    protocol = "parts"
    cachable = False
    asked: ClassVar[list[int]] = []
    faults: ClassVar[list[bool]] = []
    size = 9_000_000

    def info(self, path, **_):
        return {"name": path, "size": self.size, "type": "file"}

    def _open(self, path, mode="rb", block_size=50 * 2**20, **settings):
        return PartsFile(self, path, mode, block_size, size=self.size)


def test_a_store_is_asked_for_some_mb_at_a_time_and_again_when_it_fails(patient_downloads):
    fsspec.register_implementation("parts", Parts, clobber=True)
    Parts.asked.clear()
    Parts.faults[:] = [False, False, True, True, False]
    content = UrlFile("parts://bucket/own.tar", "dataset.train").readall()
    assert content == bytes(at % 251 for at in range(Parts.size))
    assert max(Parts.asked) <= 6 * 2**20
    assert Parts.faults == []


def test_no_more_than_a_few_photographs_are_in_memory_at_once():
    """Of 8 and of 32 MB."""
    most = []
    with served(Photographs, faults=[]) as server:
        for count in (8, 32):
            tracemalloc.start()
            found = sum(content is not None for _, content in tar_files(f"{server.url}/{count}", "dataset.train"))
            most.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert found == 2 * count
    assert most[1] < most[0] + 4e6


READER = """
import resource, sys
from pathlib import Path
from fastconv.data.configs import Dataset
from fastconv.data.loading import load
given = Dataset(name="own", source="webdataset", train=sys.argv[1], test_share=0.5, image_size=24)
train, test = load(given, Path(sys.argv[2]))
print(len(train) + len(test), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_a_tar(tmp_path):
    """0.2 and 2 GB of photographs."""
    most = {}
    with served(Photographs, faults=[]) as server:
        for count in (200, 2000):
            command = [sys.executable, "-c", READER, f"{server.url}/{count}", str(tmp_path / str(count))]
            ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
            assert ended.returncode == 0, ended.stderr
            found, most[count] = map(int, ended.stdout.split()[-2:])
            assert found == count
    assert most[2000] - most[200] < 64_000, "kB"
