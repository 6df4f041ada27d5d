"""`fastconv NAME ...`: one command for all nine, its list, its version, its mistakes and its completion."""

import os
import shutil
import subprocess
import sys
import tomllib
from unittest import mock

import pytest
from harness import REPOSITORY

from fastconv import __main__ as dispatcher
from fastconv import __version__

COMMANDS = ("train", "precompute", "lr_find", "audit", "evaluate", "explain", "compare", "predict", "export")


@pytest.fixture
def fastconv(monkeypatch, capsys):
    """Call the command `fastconv` in this process; returns its exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/fastconv", *arguments])
        code = 0
        try:
            dispatcher.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def test_the_installed_command_is_the_dispatcher():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"fastconv": "fastconv.__main__:main"}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_lists_the_commands_in_a_few_lines(fastconv, arguments):
    code, out, err = fastconv(*arguments)
    assert (code, err) == (0, "")
    assert all(f"  fastconv {name} " in out for name in COMMANDS)
    assert len(out.splitlines()) <= 15


def test_says_its_version(fastconv, command):
    assert fastconv("--version") == (0, f"fastconv {__version__}\n", "")
    assert command("train", "--version").out.startswith(f"fastconv {__version__} (Hydra 1.3")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tran", "unknown command tran; did you mean train? Choose from: train, precompute, lr_find, "),
        ("lr-find", "did you mean lr_find?"),
        ("xyzzy", "unknown command xyzzy. Choose from: train"),
        ("dataset=mnist", "is a setting: name a command before it, as fastconv train dataset=mnist"),
        ("../train", "unknown command ../train"),
        ("a\x1b[31m\nb", "unknown command a\\x1b[31m\\nb. Choose from"),
    ],
)
def test_an_unknown_command_gets_one_line(fastconv, name, says):
    code, out, err = fastconv(name, "--help")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("fastconv: ")
    assert says in err


def in_a_process(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, **options)


def test_a_command_is_run_as_by_its_module(tmp_path):
    """Its process is that of `python -m fastconv.compare`, whose name the processes of further devices start again."""
    script = (
        "import sys; sys.argv = ['fastconv', 'compare', 'runs=nowhere']; from fastconv.__main__ import main; main()"
    )
    ended = in_a_process("-c", script, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (1, "fastconv: reading nowhere\n")
    assert ended.stderr.startswith("fastconv: runs=nowhere is not a folder")
    assert ended.stderr.count("\n") == 1
    with mock.patch("runpy.run_module") as run, mock.patch.object(sys, "argv", ["fastconv", "train", "seed=1"]):
        dispatcher.main()
        assert sys.argv[1:] == ["seed=1"]
    run.assert_called_once_with("fastconv.train", run_name="__main__", alter_sys=True)


def test_nothing_slow_is_imported_to_list_commands():
    code = "import sys; sys.argv = ['fastconv']; from fastconv.__main__ import main; main(); print(*sys.modules)"
    loaded = in_a_process("-c", code, check=True).stdout.split()
    assert {"torch", "numpy", "hydra", "omegaconf", "rich"} & set(loaded) == set()
    assert "fastconv.system.terminal" in loaded


@pytest.mark.parametrize("arguments", [(), ("train", "--version")], ids=str)
def test_ends_without_a_word_when_nobody_reads(tmp_path, arguments):
    """As in `fastconv --help | head -1`, whose reader has ended."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "fastconv", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert ended.stderr == b""
    assert ended.returncode == (0 if "--version" in arguments else 141)  # argparse prints that, and minds no reader


EACH_IN_A_PIPE = """
import os, sys
from fastconv import __main__
from fastconv.config import cli

cli.help_text = lambda *_: "a line\\n" * 10_000  # composing it nine times would take seconds
pipe = int(sys.argv[1])
for name in __main__.COMMANDS:
    if not (child := os.fork()):
        os.dup2(pipe, 1)
        sys.argv = ["fastconv", name, "--help"]
        __main__.main()
        sys.exit()
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_the_help_of_every_command_ends_quietly(tmp_path):
    """Each in a process of its own, whose imports are made once."""
    read, write = os.pipe()
    os.close(read)
    ended = in_a_process("-c", EACH_IN_A_PIPE, str(write), cwd=tmp_path, pass_fds=[write], check=False)
    os.close(write)
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout.splitlines() == [f"{name} 141" for name in COMMANDS]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fastconv ev", {"evaluate"}),
        ("fastconv ", set(COMMANDS)),
        ("fastconv train dataset=cif", {"dataset=cifar10"}),
        ("fastconv train model.wid", {"model.width="}),
        ("fastconv train seed=1 sched", {"schedule=", "schedule."}),
        ("fastconv evaluate ru", {"run="}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completes_commands_keys_and_options(fastconv, monkeypatch, line, words, shell):
    monkeypatch.setenv("COMP_LINE", line)
    code, out, err = fastconv("-sc", f"query={shell}")
    assert (code, set(out.split()), err) == (0, words, "")


def test_the_completion_of_a_shell_is_hydras(fastconv, monkeypatch):
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert fastconv("-sc", "install=bash")[1].endswith(
        "complete -o nospace -o default -F hydra_bash_completion fastconv\n"
    )
    assert "complete -c fastconv " in fastconv("-sc", "install=fish")[1]
    script = fastconv("-sc", "install=zsh")[1]
    assert script.endswith("compdef _fastconv fastconv\n")
    assert "fastconv -sc query=fish" in script
    assert "compdef -d fastconv" in fastconv("-sc", "uninstall=zsh")[1]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_can_read_the_script(fastconv):
    """In a terminal of zsh 5.9 it completed commands, options, and keys with their ending."""
    script = fastconv("-sc", "install=zsh")[1]
    ended = subprocess.run(["zsh", "-f", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
