"""The line with which a command leads to the one after it: audit, train, evaluate, explain, export, predict."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from fastconv.config.overrides import task_overrides
from fastconv.config.quoting import to_paste
from fastconv.config.trust import GIVEN
from fastconv.system.distributed import is_first_rank
from fastconv.system.launch_command import start_words
from fastconv.system.names import printable
from fastconv.system.targets import targets_in
from fastconv.system.urls import redacted

# Settings of a command on a run that the next one needs too: where the images are now, and whether to trust the run.
CARRIED = ("data", "trust", *GIVEN)


def print_next(name: str, *settings: str) -> None:
    """Print `next: fastconv NAME settings`, with settings that are quoted for the shell. The jobs of a sweep do not."""
    if is_first_rank() and HydraConfig.get().mode != RunMode.MULTIRUN:
        print(printable(redacted(f"next: {' '.join(['fastconv', name, *settings])}")), flush=True)


def print_next_of_run(name: str, folder: Path, *settings: str, carried: Sequence[str] = CARRIED) -> None:
    """Print the next command on a run, with the settings of this command that are `carried` on."""
    given = [each for each in task_overrides() if each.partition("=")[0] in carried]
    print_next(name, setting("run", str(folder)), *settings, *quoted_overrides(given))


def resume_command(folder: str, overrides: Sequence[str], settings: dict[str, Any]) -> str:
    """The command that goes on with a run, by the launcher that started this one; it follows an address or code of the
    run only if it is told to.

    Args:
        folder: of the run, or its address.
        overrides: of this command; the addresses among them are named again, but not where the run itself lies.
        settings: of the run, nested. They may name code to run.
    """
    told = [each for each in overrides if "://" in each and each.partition("=")[0] not in ("outputs", "resume")]
    trust = ["trust=true"] * bool(targets_in(settings))
    return " ".join([start_words(), "-m fastconv.train", setting("resume", folder), *quoted_overrides(told), *trust])


def quoted_overrides(overrides: Sequence[str]) -> list[str]:
    """Overrides of this command, quoted for the shell."""
    return [shlex.quote(each) for each in overrides]


def setting(key: str, value: str) -> str:
    """A setting whose value is a path or an address, quoted for the shell, and for Hydra where it needs that.

    A leading ~ is part of a folder's name: that of the home was replaced before.
    """
    return f"{key}={value}" if re.fullmatch(r"(?!~)[\w./:~-]+", value, re.ASCII) else to_paste(key, value)
