"""Registers the schemas with Hydra, and gives the values of composed and stored configs their types."""

import functools
import math
import os
import secrets
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from fastconv.config.commands import Compare, Evaluate, Explain, Export, LrFind, Method, Predict
from fastconv.config.custom import COMPONENTS
from fastconv.config.schema import Config, Trainer
from fastconv.data.augment.policy import Policy
from fastconv.data.configs import Dataset, Stream
from fastconv.models import network_names, settings_of
from fastconv.models.configs import PRETRAINED_SIDE, SHIPPED, Pretrained
from fastconv.optim import OPTIMIZERS, SCHEDULES
from fastconv.optim.configs import Average
from fastconv.runs.legacy import current_settings
from fastconv.system.cluster import world_size
from fastconv.system.documents import read_yaml
from fastconv.system.errors import InputError, nearest
from fastconv.system.files import PACKAGE
from fastconv.system.names import RESERVED, file_name
from fastconv.system.settings import data_folder, interpolated
from fastconv.system.targets import KEY
from fastconv.system.urls import remember

# A wheel has the configs inside the package, a checkout has them beside it.
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())

# The loggers of every run of version 0.1, which could not choose.
LOGGER = {"csv": True, "tensorboard": True}
# The commands' configs, by the name of their file in `conf/`.
SCHEMAS = {
    "train": Config,
    "compare": Compare,
    "evaluate": Evaluate,
    "explain": Explain,
    "export": Export,
    "lr_find": LrFind,
    "predict": Predict,
}
# The schemas of the groups whose options all have the same settings.
GROUPS = {"dataset": Dataset, "augment": Policy, "average": Average, "stream": Stream, "trainer": Trainer}


@functools.cache  # each composition calls it
def register() -> None:
    """Store the schemas for the files in `conf/`: as `_schema`, or as `_NAME` in groups whose options differ."""
    store = ConfigStore.instance()
    run = _settable(Config)
    for group in COMPONENTS:  # `complete` decides which keys a component has
        run[group] = DictConfig({}, flags={"struct": False})
    own = {name: _settable(schema) for name, schema in SCHEMAS.items() if not issubclass(schema, Config)}
    for name, node in {"schema": run, "lr_find": _beyond_a_run(LrFind), **own}.items():
        store.store(name=f"_{name}", node=node)
    for group, schema in GROUPS.items():
        store.store(group=group, name="_schema", node=_settable(schema))
    schemas: dict[str, dict[str, DictConfig]] = {
        # A network's file that declares its own settings imports torch: `complete` reads it only if it is chosen.
        "model": {name: DictConfig({"name": name}) for name in network_names()}
        | {settings().name: _settable(settings) for settings in SHIPPED},
        "optimizer": {name: _settable(settings) for name, settings in OPTIMIZERS.items()},
        "schedule": {name: _settable(settings) for name, settings in SCHEDULES.items()},
    }
    for group, nodes in schemas.items():
        for name, node in nodes.items():
            store.store(group=group, name=f"_{name}", node=node)
            if not (CONF / group / f"{name}.yaml").exists():
                store.store(group=group, name=name, node=node)


def registered_options(group: str) -> list[str]:
    """The options of a group that are registered in code and have no file in `conf/`."""
    register()
    names = ConfigStore.instance().repo.get(group, {})
    return [name.removesuffix(".yaml") for name in names if not name.startswith("_")]


def complete(config: DictConfig) -> DictConfig:
    """Give the model, the optimizer and the schedule of a composed config the types of their settings.

    A user's own component has the keys that it is given, including `_target_`. Raises InputError for a component that
    has neither `_target_` nor a known name, and OmegaConf's errors for values that do not fit.
    """
    for group, custom in COMPONENTS.items():
        node = OmegaConf.select(config, group) if group in config else None
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is not dict:
            continue
        if KEY in node.keys():  # noqa: SIM118 - `in` does not find a key whose value is missing
            schema: DictConfig = OmegaConf.structured(custom.taking(str(key) for key in node))
        else:
            schema = _settable(_registered(group, node.get("name")))
        OmegaConf.set_struct(schema, True)
        merged: Any = OmegaConf.merge({group: schema}, {group: node})  # so that errors name the whole key
        config[group] = merged[group]
    return config


def _registered(group: str, name: str | None) -> type:
    """The settings class of a registered component. Raises InputError for an unknown one."""
    known: dict[str, Callable[[str], type]] = {
        "model": settings_of,
        "optimizer": OPTIMIZERS.__getitem__,
        "schedule": SCHEDULES.__getitem__,
    }
    try:
        return known[group](str(name))
    except KeyError:
        raise InputError(
            f"{group} has no {KEY} and the unknown name {name}: begin its file with defaults: [_NAME, _self_], or give"
            f" {group}.{KEY}"
        ) from None


def options_with(group: str, key: str) -> list[str]:
    """The options of a group that have a given key: `schedule` and `pct_start` give `one_cycle`."""
    register()
    schemas = ConfigStore.instance().repo.get(group, {})
    own = {name.removesuffix(".yaml")[1:]: schema.node for name, schema in schemas.items() if name[0] == "_"}
    own.pop("schema", None)
    return [name for name, node in own.items() if OmegaConf.is_config(node) and key in node]


def stored(folder: Path) -> DictConfig:
    """Read a run's config from its folder, with the types of the schema.

    Raises OSError for a file that cannot be read, OmegaConf's errors and ValueError for one that is not a config, and
    ValueError for interpolations: a run writes none, and `${oc.create:...}` or `${oc.env:...}` in a file that somebody
    else wrote would become a `_target_` or give away the environment.
    """
    content = read_yaml(folder / "config.yaml")
    if not isinstance(content, dict):
        raise ValueError("it has no settings")
    if interpolated("", content) is not None:
        raise ValueError("it has interpolations, which are refused: ${ cannot be in it, even in a path of your own")
    settings = current_settings(content)
    values = OmegaConf.create({"logger": LOGGER, **settings})
    register()
    merged = OmegaConf.merge(_settable(Config), complete(values))
    assert isinstance(merged, DictConfig)
    return merged


def methods(config: Explain) -> dict[str, Method]:
    """The attribution methods of a config, by name. Raises InputError for keys or values that `Method` refuses."""
    found: dict[str, Method] = {}
    known = [each.name for each in fields(Method)]
    for name, values in config.methods.items():
        if not isinstance(values, dict):
            raise InputError(
                f"methods.{name}={values} cannot be set as a whole: set its keys, methods.{name}.captum first"
            )
        for key in values:
            if key not in known:
                raise InputError(f"unknown key methods.{name}.{key}{nearest(key, known)} --help lists all keys")
        if not values.get("captum"):
            raise InputError(f"methods.{name}.captum has no value: give a class of captum.attr, such as Lime")
        try:
            method: Any = OmegaConf.to_object(OmegaConf.merge(_settable(Method), values))
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"methods.{name}.{error.full_key or '?'}: {reason}") from error
        found[name] = method
    return found


def _part(batch_size: int, devices: int, nodes: int | None, micro_batch_size: int) -> int:
    """The model's `micro_batch_size`, or a device's share of the batch if that is smaller; at least two images."""
    return min(micro_batch_size, max(2, batch_size // max(1, world_size(devices, nodes))))


def _job_minutes(seconds: float | None) -> int:
    """Minutes of a SLURM job for a run: its budget, half as much for what that does not count, and ten minutes.

    An hour without a time limit: a run that takes longer goes on in the same job, started anew.
    """
    return 60 if seconds is None else math.ceil(1.5 * seconds / 60) + 10


def _beyond_a_run(schema: type[Config]) -> DictConfig:
    """A config node with the fields that `schema` adds to a run's config, and nothing else."""
    node = _settable(schema)
    for key in fields(Config):
        node[key.name] = MISSING
    return node


def _settable(schema: type) -> DictConfig:
    """A config node of a dataclass. Its values can be overridden even if the dataclass is frozen."""
    node: DictConfig = OmegaConf.structured(schema)

    def thaw(config: DictConfig) -> None:
        OmegaConf.set_readonly(config, None)
        for key in config:
            if not OmegaConf.is_missing(config, key) and isinstance(child := config[key], DictConfig):
                thaw(child)
        if OmegaConf.get_type(config) is dict:  # such as dataset.arguments, which takes any key
            OmegaConf.set_struct(config, False)

    thaw(node)
    return node


def _folder_name(root: str | None) -> str:
    """The name of a data set that is a folder: the folder's own; `image_folder` where that cannot name a run."""
    name = file_name(Path(root).resolve().name) if isinstance(root, str) and root else ""
    return name if name.strip("_") and name not in RESERVED else "image_folder"


def _image_size(model: str | None) -> int | None:
    """The side of a user's own images for a network; None for one that follows from them."""
    return PRETRAINED_SIDE if model == Pretrained.name else None


def _env(name: str, *default: Any) -> Any:
    """OmegaConf's `oc.env`. A value that is a secret, by the name of its variable, is never stored or printed."""
    value = oc.env(name, *default)
    if isinstance(value, str) and name in os.environ:
        remember(name, value)
    return value


# Registered at import, so that processes that a sweep's launcher starts have them too.
OmegaConf.register_new_resolver("part", _part, replace=True)
OmegaConf.register_new_resolver("image_size", _image_size, replace=True)
OmegaConf.register_new_resolver("short_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
OmegaConf.register_new_resolver("job_minutes", _job_minutes, replace=True)
OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
OmegaConf.register_new_resolver("data_folder", data_folder, replace=True)
OmegaConf.register_new_resolver("oc.env", _env, replace=True)
