"""Suggestions for keys that a command does not have: what is meant, and nothing where that cannot be told."""

import pytest

from fastconv.config.overrides import keys
from fastconv.config.suggestions import SYNONYMS, suggestion
from fastconv.config.typed_config import unknown_key

TRAIN = keys("train")
MEANT = {
    "epochs": "schedule.max_epochs",
    "lr": "optimizer.max_lr",
    "batch": "batch_size",
    "learning-rate": "optimizer.max_lr",
    "LR": "optimizer.max_lr",
    "optimizer.lr": "optimizer.max_lr",
    "max_epochs": "schedule.max_epochs",
    "width": "model.width",
    "weight_decay": "optimizer.weight_decay",
    "image_size": "dataset.image_size",
    "precision": "trainer.precision",
    "time": "budget.seconds",
    "scheduler": "schedule",
    "batchsize": "batch_size",
    "batch-size": "batch_size",
    "buget.seconds": "budget.seconds",
    "augment.crop.pading": "augment.crop.padding",
    "lable_smoothing": "label_smoothing",
    "seeds": "seed",
}
FOREIGN = (
    *("foo", "potato", "gpu", "cpu", "dropout", "workers", "num_workers", "verbose", "debug", "patience"),
    *("path", "folder", "hidden", "layers", "colour", "color", "size", "log", "fp8", "cutmix", "mixup", "temperature"),
    *("early_stopping", "classes", "num_classes", "xyz", "a", "x1", "dataloader", "pin_memory", "loss", "metric", "k"),
)


@pytest.mark.parametrize("key", MEANT)
def test_a_key_that_is_meant_is_suggested(key):
    assert suggestion(key, TRAIN) == f"; did you mean {MEANT[key]}?"


@pytest.mark.parametrize("key", FOREIGN)
def test_no_wild_guess(key):
    assert suggestion(key, TRAIN) == "."


def test_the_line_about_a_key_suggests():
    assert unknown_key("lr", "train") == "unknown key lr; did you mean optimizer.max_lr? --help lists all keys"
    assert unknown_key("potato", "train") == "unknown key potato. --help lists all keys"


def test_every_synonym_is_of_a_key_that_some_command_has():
    every = {key for name in ("train", "predict", "compare", "evaluate") for key in keys(name)}
    assert set(SYNONYMS) <= every
    assert {word for words in SYNONYMS.values() for word in words} & set(TRAIN) <= {"checkpoint", "model"}


def test_a_command_is_suggested_only_what_it_has():
    assert suggestion("epochs", keys("predict")) == "."
    assert suggestion("checkpoint", keys("evaluate")) == "; did you mean run?"
    assert suggestion("run", keys("compare")) == "; did you mean runs?"
