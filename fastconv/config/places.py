"""Where the files of a run are, as paths that lead there from any folder."""

from pathlib import Path
from typing import Any

from fastconv.data.configs import PLACES, Dataset
from fastconv.system.settings import INTERPOLATION

# Folders of a run, beside those of its own images.
FOLDERS = ("data", "stream.root", "stream.cache")


def from_anywhere(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's nested settings with absolute paths of its data, its streams and its own images; URLs stay."""
    dataset = settings["dataset"]
    own = () if dataset.get("_target_") else PLACES.get(dataset["source"], ())
    found = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    for key in (*FOLDERS, *(f"dataset.{name}" for name in own)):
        section, _, name = key.rpartition(".")
        holder = found[section] if section else found
        holder[name] = _absolute(holder[name])
    return found


def _absolute(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_absolute(each) for each in value]
    if not isinstance(value, str) or "://" in value or "::" in value:
        return value
    here = Path.cwd()
    return value if INTERPOLATION in str(here) else str(here / value)  # a stored config can have none


def missing_place(dataset: Dataset) -> str | None:
    """The first path of a data set of one's own that does not lead to anything here; None if there is none."""
    for name in dataset.places:
        value = getattr(dataset, name)
        for path in value if isinstance(value, list) else [value]:
            is_name = isinstance(path, str) and "://" not in path and not set(path) & set("*?[{")
            if is_name and "::" not in path and not Path(path).exists():
                return str(path)
    return None
