"""The command `fastconv NAME ...`, the same as `python -m fastconv.NAME ...`; without a name it lists the commands."""

import os
import runpy
import sys
from collections.abc import Sequence

from fastconv import __doc__ as about
from fastconv import __version__
from fastconv.system.errors import nearest
from fastconv.system.names import printable
from fastconv.system.terminal import ends_with_its_reader, print_in_any_encoding, say_of_interrupts

COMMANDS = {
    "train": "train a network within a time budget, and score it",
    "precompute": "write the augmented training stream in advance",
    "lr_find": "suggest a peak learning rate",
    "audit": "check a data set before training on it",
    "evaluate": "score a trained network, and write a page of its run",
    "explain": "draw heatmaps of trained networks, and measure them",
    "compare": "put many runs into one table and one page",
    "predict": "classify images",
    "export": "write a trained network as ONNX and torch.export files",
}
COMPLETION = ("--shell-completion", "-sc")
# Completion for zsh, which splits words otherwise than the script of Hydra for bash expects. It asks for candidates as
# fish's does, one on a line; those that end with = or a dot go on without a space.
SCRIPTS = {
    "install=zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_fastconv() {
    local -a found
    found=(${(f)"$(COMP_LINE="${(j: :)words[1,CURRENT]}" fastconv -sc query=fish 2> /dev/null)"})
    local -a open=(${(M)found:#*[=.]}) whole=(${found:#*[=.]})
    compadd -S '' -a open
    compadd -a whole
}
compdef _fastconv fastconv""",
    "uninstall=zsh": "compdef -d fastconv\nunfunction _fastconv",
}


@ends_with_its_reader
def main() -> None:
    """Run the command that the first argument names. Nothing is imported before it is needed."""
    print_in_any_encoding()
    say_of_interrupts()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(help_text())
    elif name == "--version":
        print(f"fastconv {__version__}")
    elif name in COMPLETION:
        complete([name, *arguments])
    elif name in COMMANDS:
        sys.argv = [sys.argv[0], *arguments]
        # As `python -m` does, so that the processes of further devices start with the same command.
        runpy.run_module(f"fastconv.{name}", run_name="__main__", alter_sys=True)
    else:
        print(f"fastconv: {unknown(name)}", file=sys.stderr)
        raise SystemExit(1)


def help_text() -> str:
    """The commands, one a line."""
    listed = [f"  fastconv {name:<11} {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [str(about), "", *listed, "", "NAME --help explains the settings of a command; --version prints the version."]
    )


def unknown(name: str) -> str:
    """One line about a first argument that is no command."""
    shown = printable(name[:100])
    if "=" in name:
        return f"{shown} is a setting: name a command before it, as fastconv train {shown}"
    return f"unknown command {shown}{nearest(name, COMMANDS)} Choose from: {', '.join(COMMANDS)}"


def complete(arguments: Sequence[str]) -> None:
    """Complete a command line by Hydra's completion: `-sc install=bash` prints a script that asks
    `-sc query=bash`. So do fish and zsh, whose script is in `SCRIPTS`.

    The line is in the environment variable COMP_LINE. Its first word is fastconv and the second one a command, whose
    keys and values are completed, or the beginning of one.
    """
    if arguments[-1] in SCRIPTS:
        print(SCRIPTS[arguments[-1]])
        return
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    in_name = len(words) < 2 or (len(words) == 2 and not line[-1].isspace())
    if any(each.startswith("query=") for each in arguments) and in_name:
        print("\n".join(name for name in COMMANDS if name.startswith("".join(words[1:]))))
        return
    name = words[1] if words[1:] and words[1] in COMMANDS else "train"
    os.environ["COMP_LINE"] = line.partition(words[0])[2].lstrip() if words else ""
    import importlib

    sys.argv = ["fastconv", *arguments]
    importlib.import_module(f"fastconv.{name}").main()


if __name__ == "__main__":
    main()
