"""A user's own components: named by the dotted path of their class, and imported only where they are trusted."""

import copy
import dataclasses
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from fastconv.system.errors import InputError, nearest, reason

KEY = "_target_"


@dataclass
class Component:
    """Settings of a user's own component: the dotted path of its class, and the arguments to call the class with.

    `taking` makes a settings class for some arguments: each becomes a field, as in the settings of shipped components.
    """

    group: ClassVar[str] = ""
    """The config group, such as `model`, for messages."""
    free: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that are arguments."""

    name: str = ""
    """Its name in results and tables; empty for the name of the class."""
    _target_: str = "???"
    """A class or function of your own, as package.module.Name. All other keys are its arguments."""

    def __post_init__(self) -> None:
        self.name = self.name or self._target_.rpartition(".")[2]

    @classmethod
    def taking(cls, names: Iterable[str]) -> type[Self]:
        """The settings class of a component with these arguments. Raises InputError for a name that is not allowed."""
        own = {each.name for each in fields(cls)}
        free = tuple(name for name in names if name not in own)
        for name in free:
            if not name.isidentifier() or hasattr(cls, name):
                raise InputError(f"{cls.group}.{name} cannot be an argument of a component: choose another name")
        arguments = [(name, Any, field(default=None)) for name in free]
        try:
            return dataclasses.make_dataclass(cls.__name__, arguments, bases=(cls,), namespace={"free": free})
        except TypeError as error:  # the name is a Python keyword
            raise InputError(f"{cls.group}: {error}") from error

    @property
    def target(self) -> str:
        """The dotted path of the class."""
        return self._target_

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments to call the class with, by name."""
        return {name: getattr(self, name) for name in self.free}

    @property
    def settings(self) -> dict[str, Any]:
        """The dotted path and the arguments as plain values, for records and checkpoints."""
        return {KEY: self._target_, **self.arguments}

    def load(self) -> Callable[..., Any]:
        """Import the class. Raises InputError if that fails."""
        return import_target(self._target_, f"{self.group}.{KEY}")

    def check(self) -> None:
        """Raise InputError, before a run begins, if the component cannot be used."""
        self.load()


def import_target(target: str, key: str = KEY) -> Callable[..., Any]:
    """Import a class or function by its dotted path. The working directory is on the path, as with `python -m`.

    Args:
        target: package.module.Name.
        key: the setting that names it, for messages.

    Raises InputError if it does not exist or importing it fails.
    """
    module_name, _, name = str(target).rpartition(".")
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"{key}={target} is not possible: give a class or function as package.module.Name")
    _find_modules_of_working_directory()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's code may raise anything
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            message = f"there is no module {error.name}, neither in {Path.cwd()} nor installed"
        else:
            message = f"importing {module_name} failed: {reason(error)}"
        raise InputError(f"{key}={target}: {message}") from error
    if not hasattr(module, name):
        raise InputError(f"{key}={target}: {module_name} has no {name}{nearest(name, vars(module))}")
    found = getattr(module, name)
    if not callable(found):
        raise InputError(f"{key}={target} is neither a class nor a function")
    return found  # type: ignore[no-any-return]


def call_target(found: Callable[..., Any], key: str, *args: Any, **arguments: Any) -> Any:
    """Call a class or function with copies of its named arguments, since it may change a list, and the same settings
    are recorded and used again. Raises InputError for arguments that it refuses; its own errors pass through."""
    require_arguments(found, key, arguments, *args)
    return found(*args, **copy.deepcopy(arguments))


def require_arguments(found: Callable[..., Any], key: str, arguments: Mapping[str, Any], *args: Any) -> None:
    """Raise InputError, without calling it, for arguments that a class or function refuses."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # some callables written in C have no signature
        return
    try:
        signature.bind(*args, **arguments)
    except TypeError as error:
        names = ", ".join(signature.parameters) or "no arguments"
        named = getattr(found, "__qualname__", type(found).__name__)
        raise InputError(f"{key}: {named} {error}; it takes {names}") from error


def source_digest(target: str) -> str:
    """16 hex digits of the sha256 of the source file that defines a target, or of its name if it has no source.

    With it, a stored result, such as a measured speed, is not used for other code. Raises InputError for a path that
    cannot be imported.
    """
    found = import_target(target)
    # Other callables, such as a functools.partial, are made in the module that has them.
    is_defined = isinstance(found, type) or inspect.isroutine(found)
    try:
        source = inspect.getsourcefile(found if is_defined else sys.modules[target.rpartition(".")[0]])
        content = Path(source or "").read_bytes()
    except (TypeError, OSError):
        content = target.encode()
    return hashlib.sha256(content).hexdigest()[:16]


def targets_in(settings: object) -> dict[str, str]:
    """Every `_target_` in nested settings, by its dotted key, such as `model._target_`."""
    return dict(_targets(settings, ""))


def require_trust(settings: object, file: Path, trust: bool, named: Collection[str] = ()) -> None:
    """Raise InputError for settings, read from a file, that name code which the user has not trusted.

    Args:
        file: where the settings were read; somebody else may have written it.
        trust: whether the user trusts the file.
        named: targets that the user named in the command itself.
    """
    found = [f"{key}={target}" for key, target in targets_in(settings).items() if target not in named]
    if found and not trust:
        raise InputError(
            f"{file} names code to run, {', '.join(found)}, and may be somebody else's: add trust=true if you trust it"
        )


def _targets(settings: object, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key == KEY and value:
                yield f"{prefix}{key}", str(value)
            else:
                yield from _targets(value, f"{prefix}{key}.")
    elif isinstance(settings, list | tuple):
        for at, value in enumerate(settings):
            yield from _targets(value, f"{prefix}{at}.")


def _find_modules_of_working_directory() -> None:
    """Put the working directory on the path for good: a module imported from it may import others later."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
