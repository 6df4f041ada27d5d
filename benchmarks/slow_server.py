"""A web server for `store.py`: it answers 30 ms after it was asked, and sends 50 MB/s at most on each connection.

Object stores are like that: one connection is slow, many together are fast.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LATENCY_SECONDS, BYTES_PER_SECOND = 0.03, 50e6
PIECE_BYTES = 2**18


class Throttled(BaseHTTPRequestHandler):
    """Sends files of the working directory."""

    protocol_version = "HTTP/1.1"  # connections are kept, as those of object stores are

    def do_GET(self) -> None:
        time.sleep(LATENCY_SECONDS)
        with open(self.path.lstrip("/"), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            began = time.monotonic()
            for start in range(0, size, PIECE_BYTES):
                time.sleep(max(0.0, began + start / BYTES_PER_SECOND - time.monotonic()))
                self.connection.sendfile(file, start, min(PIECE_BYTES, size - start))

    def log_message(self, *_: object) -> None:
        pass


def serve() -> None:
    """Serve the working directory on a free port, whose number is printed, until the process is ended."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Throttled) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a folder from a process of its own within the block; yields the port."""
    with subprocess.Popen([sys.executable, Path(__file__).absolute()], cwd=folder, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


if __name__ == "__main__":
    serve()
