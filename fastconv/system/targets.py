"""Python objects that a config names by their path, such as `mypkg.Net`."""

import importlib

from fastconv.system.errors import InputError


def import_target(path: str) -> object:
    """The object at a dotted path. Raises InputError if it cannot be imported."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"_target_={path} cannot be imported: {error}") from error
