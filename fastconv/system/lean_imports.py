"""Imports Lightning in less time, for commands whose start is part of a budget.

TorchMetrics, which Lightning imports, imports every package that one of its metrics or plots can use. The three metrics
that fastconv uses need none of them.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

# Packages that fastconv itself imports later, if at all. Without them, importing fastconv.training.run takes 6.5 s of
# CPU time instead of 9.4 (medians of 3 on two very busy AMD EPYC cores, torch 2.14, lightning 2.6).
UNUSED = frozenset({"torchvision", "scipy", "matplotlib"})


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Within the block, Python does not look for unreachable objects. If it imports a module, those there now stay.

    Imports make a million objects that last. Python goes through all of them again and again while they grow, and
    once more whenever it looks later: torch and fastconv.training.run take 4.4 s of CPU time to import instead of 5.8
    (medians of 3 on two busy AMD EPYC cores, torch 2.14, lightning 2.6).
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def lean_imports() -> Iterator[None]:
    """Within the block, TorchMetrics takes some packages for not installed.

    What it would do with them cannot be used in this process, so this is not for one that runs a user's own code.
    Both names are public ones of lightning_utilities.
    """
    from lightning_utilities.core import imports

    is_met, is_there = imports.RequirementCache.__bool__, imports.package_available
    with (
        mock.patch.object(
            imports.RequirementCache,
            "__bool__",
            lambda self: str(self.requirement or self.module) not in UNUSED and is_met(self),
        ),
        mock.patch.object(imports, "package_available", lambda name: name not in UNUSED and is_there(name)),
    ):
        yield
