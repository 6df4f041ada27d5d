"""Imports Lightning in half the time, for commands that start within their budget.

TorchMetrics, which Lightning imports, imports every package that one of its metrics or plots can use. fastconv uses three
metrics that need none of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

# Packages that fastconv itself imports later, if at all. Without them, `import lightning` takes 4.6 s of CPU time where
# it took 7 (median of 3, two busy AMD EPYC cores, torchmetrics 1.9 and lightning 2.6).
UNUSED = frozenset({"torchvision", "scipy", "matplotlib"})


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
