"""Measures the peak memory of reading photographs from an S3 server, which must not grow with the size of the tars.

python benchmarks/store_memory.py          a few minutes; 5 GB of the disk for temporary files; needs the extra dev

The server is moto's, in a process of its own, and so is the reader: what is measured is the reader alone.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measurements import Table
from PIL import Image

from fastconv.data.configs import Dataset
from fastconv.data.loading import load
from fastconv.data.url_place import Place

# Photographs of 1.08 MB without compression, and how many each tar has.
SIDE, PER_TAR = 600, 48
# The tars that are read: 0.05, 0.5 and 2 GB.
TARS = (1, 10, 40)
MEMORY = Table("store_memory", "Peak memory of reading photographs in tars from an S3 server", "MB")
BUCKET = "s3://photographs"
SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
input()
"""


@contextmanager
def s3_server() -> Iterator[None]:
    """A server without files, whose address and credentials are in the environment within the block."""
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}  # it logs each request
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.stdout is not None
            address = f"http://127.0.0.1:{int(process.stdout.readline())}"
            settings = {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none",
                        "DEFAULT_REGION": "us-east-1"}  # fmt: skip
            os.environ.update({f"AWS_{name}": value for name, value in settings.items()})
            yield
        finally:
            process.terminate()


def write_tars(count: int) -> int:
    """Write tars of photographs of two classes to the server; return the bytes of all of them."""
    generator, written = np.random.default_rng(0), 0
    Place(BUCKET, "dataset.train").system.mkdir(BUCKET)
    for number in range(count):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            for at in range(PER_TAR):
                picture = io.BytesIO()
                pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                Image.fromarray(pixels).save(picture, "BMP")
                for name, member in (
                    (f"{number}-{at}.bmp", picture.getvalue()),
                    (f"{number}-{at}.cls", b"%d" % (at % 2)),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(member)
                    tar.addfile(info, io.BytesIO(member))
        Place(f"{BUCKET}/{number:03}.tar", "dataset.train").write(content.getvalue())
        written += len(content.getvalue())
    return written


def peak(count: int) -> float:
    """MB that a process which reads the first tars has had at most."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, __file__, str(count), data]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    images, kilobytes = map(int, said.split())
    assert images == count * PER_TAR
    return kilobytes * 1024 / 1e6


def read(count: int, data: Path) -> None:
    """Read the first tars in this process, and print the number of images and the kB that it has had at most."""
    tars = f"{BUCKET}/{{000..{count - 1:03}}}.tar"
    parts = load(Dataset(name="own", source="webdataset", train=tars, test_share=0.5, image_size=24), data)
    # Not getrusage: its peak counts what the parent had when it started this process.
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(sum(map(len, parts)), kilobytes)


def main() -> None:
    if len(sys.argv) > 1:
        return read(int(sys.argv[1]), Path(sys.argv[2]))
    with s3_server():
        gigabytes = write_tars(max(TARS)) / 1e9
        names = {count: f"{gigabytes * count / max(TARS):.2g} GB" for count in TARS}
        for count, name in names.items():
            if MEMORY.lacks(0, name):
                MEMORY.add(0, name, peak(count))
    MEMORY.show(
        note=f"Of the whole process that reads, resizes and keeps the images; {max(TARS) * PER_TAR:,} photographs of"
        f" {SIDE}x{SIDE}, the array of which has 3 MB."
    )


if __name__ == "__main__":
    main()
