"""Checks the values of a run's config, each by itself and in combination."""

import dataclasses
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

from fastconv.config.deadline import check_until
from fastconv.config.schema import Config
from fastconv.data.configs import Dataset
from fastconv.models.configs import Airbench, Pretrained
from fastconv.optim import SGD, Muon
from fastconv.optim.schedules import OneCycle
from fastconv.runs import legacy
from fastconv.system.errors import InputError
from fastconv.system.names import check_name, printable
from fastconv.system.settings import check_local, check_option, check_plain, check_settings, is_url
from fastconv.system.targets import Component
from fastconv.system.urls import redacted

# Letters of a run's name, and of a tag: a column of a table has room for them.
MOST_LETTERS = 100
# Raises InputError unless it is given True; then a key, and the rule for it.
Require = Callable[[bool, str, str], None]


def check_words(config: Any) -> None:
    """Raise InputError for a word that has another name now, such as `probe` in `budget.counts`."""
    for key, words in legacy.WORDS.items():
        found = config
        for name in key.split("."):
            found = getattr(found, name, None)
        for word in found if isinstance(found, list) else [found]:
            if isinstance(word, str) and word in words:
                raise InputError(f"{key}={word} is unknown: it is called {words[word]} now")


def require_store(outputs: str) -> None:
    """Raise InputError for a URL that the folders of runs cannot be copied to."""
    from fastconv.data.url_place import Place

    if "://" not in outputs or "::" in outputs:
        check_local("outputs", outputs)
    if Place(outputs, "outputs").is_http:
        raise InputError(
            f"outputs={redacted(outputs)} is not possible: a web server is only read from. Give a folder, or an object"
            " store, such as s3://bucket/runs"
        )


def check(config: Config) -> None:
    """Raise InputError, naming the key, for a value out of range or values that contradict each other."""
    check_words(config)
    check_until(config.budget.until)
    check_plain("", dataclasses.asdict(config))
    check_local("data", config.data)  # before the folders that follow from it
    check_settings(config)
    if is_url(config.outputs):
        require_store(config.outputs)
    if not config.stream.is_remote:
        check_local("stream.root", config.stream.root)
    check_name("dataset.name", config.dataset.name)
    for key, words in (("name", [config.name]), ("tags", config.tags)):
        for word in words:
            if word is not None and (not word.strip() or word != printable(word) or len(word) > MOST_LETTERS):
                shown = printable(word)[:MOST_LETTERS]
                raise InputError(f"{key}={shown} is not possible: give 1 to {MOST_LETTERS} printable characters")
    require = partial(_require, config)
    _check_dataset(config.dataset, require)
    for group in ("model", "optimizer", "schedule"):
        if isinstance(component := getattr(config, group), Component):
            component.check()
        else:
            check_option(f"{group}.name", component.name, [type(component).name])
    for key, hint in {"data": "; FASTCONV_DATA is empty", "outputs": "", "stream.root": "", "stream.cache": ""}.items():
        require(attrgetter(key)(config).strip() != "", key, f"give a folder{hint}")
    if config.augment.extra:
        config.augment.transforms()
    if config.stream.mode == "device" and (names := config.augment.only_on_host()):
        raise InputError(
            f"stream=device is not possible: {' and '.join(names)} can only be computed on the host. Use"
            " stream=precomputed"
        )
    for at, callback in enumerate(config.callbacks):
        if not isinstance(callback, dict) or not isinstance(callback.get("_target_"), str):
            raise InputError(f"callbacks.{at}={callback} is not possible: give {{_target_: package.module.Callback}}")
    _check_model(config, require)
    _check_limits(config, require)
    _check_batch(config, require)
    _check_optimization(config, require)


def _require(config: Config, ok: bool, key: str, rule: str) -> None:
    if not ok:
        raise InputError(f"{key}={attrgetter(key)(config)} is not possible: {rule}")


def _check_dataset(dataset: Dataset, require: Require) -> None:
    for key in ("root", "train", "test") if dataset.is_builtin else ():
        if getattr(dataset, key):
            raise InputError(
                f"dataset.{key}={getattr(dataset, key)} is for images of your own, and {dataset.name} is built in: add"
                " dataset=image_folder, csv, webdataset, parquet or arrays"
            )
    for key in ("root", "train", "test") if not dataset.is_builtin else ():
        if (given := getattr(dataset, key)) and key not in dataset.places:
            kind = dataset.source if dataset._target_ is None else "custom"
            raise InputError(f"dataset.{key}={given} is not of dataset={kind}: {_where(dataset, key, given)}")
    require(
        dataset.image_size is None or not dataset.is_builtin,
        "dataset.image_size",
        f"it is for images of your own, and those of {dataset.name} have a size. model=pretrained scales them up to"
        " model.least_side",
    )
    for key in ("image_column", "label_column"):
        of_table = dataset.source in ("csv", "parquet") and dataset._target_ is None
        require(getattr(dataset, key) is None or of_table, f"dataset.{key}", "it is of dataset=csv and parquet alone")


def _where(dataset: Dataset, key: str, given: object) -> str:
    """Where the images of a data set are instead of where a setting says that it does not have."""
    if dataset._target_ is not None:
        return f"give it to your function, as dataset.arguments.{key}={given}"
    if not dataset.places:
        return f"its images are in the data folder, data={given}"
    places = " and ".join(f"dataset.{place}" for place in dataset.places)
    return f"its images are where {places} say{'s' * (len(dataset.places) == 1)}"


def _check_model(config: Config, require: Require) -> None:
    if isinstance(config.model, Pretrained):
        if config.autotune:
            raise InputError(
                "model=pretrained is not possible with autotune (experiment=best), which chooses the network itself:"
                " use experiment=pretrained, or pretrained.backbone to say which one it may choose"
            )
        if isinstance(config.optimizer, Muon):
            raise InputError(
                "optimizer=muon is not possible with model=pretrained: it gives each filter a norm of its own, which"
                " undoes what the weights have learned. Use optimizer=adamw or sgd, or experiment=pretrained"
            )
    if isinstance(config.model, Airbench):
        require(len(config.model.widths) > 0, "model.widths", "give the filters of one group at least")
        require(
            not config.model.residual or config.model.convs > 1, "model.residual", "set model.convs to 2 or more too"
        )


def _check_limits(config: Config, require: Require) -> None:
    budget = config.budget
    if config.autotune and budget.seconds is None and budget.until is None:
        raise InputError(
            "budget.seconds=null is not possible with autotune (experiment=best), which needs a limit: give seconds"
        )
    if budget.seconds is None and budget.until is None and config.schedule.max_epochs is None:
        raise InputError(
            "budget.seconds and schedule.max_epochs are both null: the run would never end; set one of them"
        )
    require("train" in budget.counts, "budget.counts", "it must name train")
    require(len(set(budget.counts)) == len(budget.counts), "budget.counts", "it must name each segment once")


def _check_batch(config: Config, require: Require) -> None:
    trainer, devices = config.trainer, config.trainer.world
    part = config.micro_batch_size * devices
    require(
        config.batch_size % part == 0,
        "batch_size",
        f"it must be a multiple of micro_batch_size x trainer.devices{' x nodes' * (devices > trainer.devices)} ="
        f" {part}; set micro_batch_size too",
    )
    require(
        config.validate.samples is None or config.validate.samples >= devices,
        "validate.samples",
        "give at least one for each of trainer.devices, or null for all",
    )
    require(
        config.validate.on != "holdout" or config.dataset.holdout > 0, "validate.on", "set dataset.holdout above 0 too"
    )


def _check_optimization(config: Config, require: Require) -> None:
    optimizer, schedule = config.optimizer, config.schedule
    require(
        not isinstance(optimizer, SGD) or optimizer.momentum > 0 or not optimizer.nesterov,
        "optimizer.momentum",
        "Nesterov needs momentum; set optimizer.nesterov=false",
    )
    require(
        config.augment.flip.mode == "random" or config.augment.flip.probability in (0, 0.5),
        "augment.flip.probability",
        "alternating flips mirror each image in every other epoch; give 0.5, or 0 for no flips",
    )
    if isinstance(schedule, OneCycle):
        require(
            not schedule.three_phase or schedule.pct_start < 0.5, "schedule.pct_start", "three phases need it below 0.5"
        )
        require(schedule.base_momentum <= schedule.max_momentum, "schedule.base_momentum", "0 to max_momentum")
        require(
            schedule.div_factor * schedule.final_div_factor >= 1,
            "schedule.final_div_factor",
            "the last learning rate would be above the peak; give at least 1 / schedule.div_factor",
        )
