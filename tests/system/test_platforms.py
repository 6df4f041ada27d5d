"""Other systems than Linux: what they lack is taken away in a process of its own, which trains and predicts."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import REPOSITORY, SMALL, only_run
from PIL import Image

from fastconv.data.sources.spool import Spool

# Windows has none of these modules and names. `/proc` is Linux's alone.
HIDE = """
import importlib.abc, os, select, signal, sys, types, warnings

MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "tty"}

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def no_proc(event, arguments):
    if event == "open" and str(arguments[0]).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])

for name in MODULES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hidden())
sys.addaudithook(no_proc)

from lightning.pytorch.trainer.connectors import signal_connector

signal_connector.signal = types.SimpleNamespace(**vars(signal))  # Lightning looks at the name of the system instead
for module, names in {
    os: ("fork", "forkpty", "register_at_fork", "sched_getaffinity", "mkfifo", "O_NONBLOCK", "O_NOFOLLOW"),
    signal: ("SIGALRM", "SIGHUP", "SIGPIPE", "SIGUSR1", "SIGUSR2", "alarm", "setitimer", "pthread_sigmask"),
    select: ("poll", "epoll"),
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
warnings.filterwarnings("error", category=EncodingWarning, module=r"fastconv(\\.|$)")  # Windows' own is not UTF-8
"""
COMMANDS = """
import importlib, json

for name, *arguments in json.loads(sys.argv[1]):
    sys.argv = [name, *arguments]
    importlib.import_module(f"fastconv.{name}").main()
"""


def run_without(folder, data, code, *commands):
    """Run commands, lists of their name and arguments, in a process that lacks what other systems lack."""
    environment = {**os.environ, "FASTCONV_DATA": str(data), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, "-X", "warn_default_encoding", "-c", code, json.dumps(commands)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_run_needs_nothing_of_linux_alone(tmp_path, digits_root):
    """It locks and writes a stream, trains, keeps a checkpoint, and predicts."""
    Image.new("L", (8, 8)).save(tmp_path / "zero.png")
    settings = ("dataset=digits", *SMALL, "budget.seconds=600", "schedule.max_epochs=0.1", "figures=false")
    ended = run_without(
        tmp_path,
        digits_root,
        HIDE + COMMANDS,
        ["train", *settings, "trainer.winograd=off", "stream.root=streams", "logger=csv"],
        ["predict", "run=latest", "images=zero.png", "out=found.csv"],
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    run = only_run(tmp_path / "outputs")
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] > 0
    assert 0 < results["accuracy"] <= 1
    assert results["peak_memory_mb"] is None, "nothing says it here"
    assert (run / "last.ckpt").exists()
    assert list((tmp_path / "streams").glob("digits-*/epoch-*/shard-*.tar"))
    assert len((tmp_path / "found.csv").read_text().splitlines()) == 2
    assert not re.search(r"│ memory +│", ended.stdout)


def test_threads_read_parquet_files_and_tars_without_pread(tmp_path, monkeypatch):
    """Their images lie in one file."""
    monkeypatch.delattr(os, "pread")
    spool, parts = Spool(tmp_path), [bytes([at]) * (1 + 37 * at) for at in range(200)]
    places = [spool.add(part) for part in parts]
    spool.finish()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: spool.read(place.start, len(place)), places)) == parts


def test_what_is_hidden_is_missed(tmp_path):
    """The test above can fail."""
    for line, missing in {
        "import fcntl": "ModuleNotFoundError: No module named 'fcntl'",
        "import resource": "ModuleNotFoundError: No module named 'resource'",
        "os.fork()": "AttributeError: module 'os' has no attribute 'fork'",
        "signal.SIGUSR1": "AttributeError: module 'signal' has no attribute 'SIGUSR1'",
        "open('/proc/cpuinfo', encoding='utf-8')": "FileNotFoundError",
    }.items():
        without_lightning = re.sub(r"^(from lightning|signal_connector).*$", "", HIDE, flags=re.M)
        assert missing in run_without(tmp_path, tmp_path, without_lightning + line).stderr


# Windows neither removes nor renames a file that is open or mapped, nor a folder with one, nor replaces it.
IN_USE = """
import os, sys
from contextlib import suppress

def is_in_use(path, folder):
    if folder != -1:  # its descriptor, as shutil has it
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    path, files = os.path.realpath(path), []
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            files.append(os.readlink(f"/proc/self/fd/{each}"))
    with open("/proc/self/maps", encoding="utf-8") as maps:
        files += [line.rstrip().split(maxsplit=5)[-1] for line in maps]
    return any(f"{file}/".startswith(f"{path}/") for file in files)

def refuse(event, arguments):
    half = len(arguments) // 2
    if event in ("os.remove", "os.rename") and ".lock" not in str(arguments[0]):  # filelock knows Windows
        for path, folder in zip(arguments[:half], arguments[half:]):
            if is_in_use(path, folder):
                raise PermissionError(13, "The file is being used by another process", str(path))

sys.addaudithook(refuse)
"""
DECODE = """
from pathlib import Path
from fastconv.data.configs import Dataset
from fastconv.data.loading import load

train, test = load(Dataset("photos", "image_folder", root="photos"), Path("data"))
print(len(train), len(test))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux")
def test_images_are_decoded_where_no_file_in_use_is_removed(tmp_path):
    for at in range(20):
        path = tmp_path / "photos" / "ab"[at % 2] / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (at, 2 * at, 100)).save(path)
    ended = run_without(tmp_path, tmp_path / "data", IN_USE + DECODE)
    assert (ended.returncode, ended.stdout) == (0, "16 4\n"), ended.stderr
    left = [path.name for path in (tmp_path / "data" / "arrays").rglob("*") if ".lock" not in str(path)]
    assert not [name for name in left if name.startswith("decoded") or name.endswith(".part")]


USE = """
import numpy as np

def attempt():
    for act in (lambda: os.remove("mapped"), lambda: os.rename("folder", "other")):
        try:
            act()
            print("done")
        except PermissionError:
            print("refused")

os.mkdir("folder")
mapped, opened = np.memmap("mapped", np.uint8, "w+", shape=9), open("folder/file", "wb")
attempt()
del mapped
opened.close()
attempt()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux")
def test_what_is_in_use_is_told(tmp_path):
    """The test above can fail."""
    assert run_without(tmp_path, tmp_path, IN_USE + USE).stdout.split() == ["refused", "refused", "done", "done"]
