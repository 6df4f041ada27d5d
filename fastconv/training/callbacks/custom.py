"""A user's own callbacks, which a config names by the dotted path of their class."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch

from fastconv.runs.checkpoint import load_checkpoint
from fastconv.system.errors import InputError, reason
from fastconv.system.targets import import_target


def make_callbacks(settings: Iterable[Mapping[str, Any]]) -> list[L.Callback]:
    """Make the callbacks of `config.callbacks`.

    Args:
        settings: for each callback `_target_`, the dotted path of its class, and the arguments of the class.

    Raises InputError for a class that cannot be imported or called or is not a Lightning callback, and for two
    callbacks whose states a checkpoint could not tell apart.
    """
    made = [_make(f"callbacks.{at}", each) for at, each in enumerate(settings)]
    for key, count in Counter(callback.state_key for callback in made).items():
        if count > 1:
            raise InputError(f"callbacks: {count} of them are saved as {key}: give each a state_key of its own")
    return made


def restore_states(callbacks: Iterable[L.Callback], states: Mapping[str, Any]) -> None:
    """Restore the states of callbacks from a checkpoint, by `state_key`."""
    for callback in callbacks:
        if callback.state_key in states:
            callback.load_state_dict(states[callback.state_key])


def unreadable(callbacks: Iterable[L.Callback], states: Mapping[str, Any]) -> list[str]:
    """Say which states of a user's own callbacks are such that no checkpoint with them could be read again: reading one
    runs no code, and so makes plain values and tensors only.

    Args:
        callbacks: of the Trainer; fastconv's own are passed over.
        states: the states that a checkpoint is to hold, by `state_key`.
    """
    found = []
    for callback in callbacks:
        if type(callback).__module__.startswith("fastconv.") or callback.state_key not in states:
            continue
        content = io.BytesIO()
        try:
            torch.save({callback.state_key: states[callback.state_key]}, content)
            load_checkpoint(content)
        except Exception:  # torch and pickle raise many kinds
            found.append(
                f"the state_dict of {type(callback).__name__} holds more than a checkpoint can: give numbers, texts,"
                " lists, dicts and tensors, such as float(x) or x.tolist() for those of numpy"
            )
    return found


def _make(key: str, settings: Mapping[str, Any]) -> L.Callback:
    """Make one callback. Raises InputError, which begins with its `key` in the config."""
    target = settings["_target_"]
    make = import_target(target, f"{key}._target_")
    try:
        made = make(**{name: value for name, value in settings.items() if name != "_target_"})
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"{key}._target_={target}: {reason(error)}") from error
    if not isinstance(made, L.Callback):
        raise InputError(f"{key}._target_={target} is not a Lightning callback: derive it from lightning.Callback")
    return made
