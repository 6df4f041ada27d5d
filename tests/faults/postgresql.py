"""A PostgreSQL server of a test's own, where one is installed."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "search", "pa55word-of-the-database"


def programs() -> Path:
    """The folder of the server's programs; skips the test where there are none, or no driver."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    there = [Path(found).parent for found in filter(None, [shutil.which("initdb")])]
    there += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not there:
        pytest.skip("PostgreSQL is not installed")
    return there[-1]


@contextmanager
def postgresql() -> Iterator[str]:
    """Yields the URL, with its password, of an empty database, on a free port of this host."""
    place = programs()
    folder = Path(tempfile.mkdtemp(prefix="fastconv-postgresql-"))
    # The server refuses to run as root.
    as_user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    (folder / "password").write_text(PASSWORD)
    if as_user:
        for path in (folder, folder / "password"):
            shutil.chown(path, "nobody", "nogroup")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        begin = [place / "initdb", "-D", folder / "data", "-U", USER, f"--pwfile={folder}/password",
                 "--auth=scram-sha-256", "--no-sync"]  # fmt: skip
        subprocess.run(begin, cwd=folder, check=True, stdout=subprocess.DEVNULL, **as_user)
        serve = [place / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "fsync=off",
                 "-c", "listen_addresses=127.0.0.1"]  # fmt: skip
        server = subprocess.Popen(serve, cwd=folder, stderr=subprocess.DEVNULL, **as_user)
        try:
            ready = [place / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            while subprocess.run(ready).returncode:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.1)
            yield f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
