"""What a run needs is found missing before it begins."""

import re
from types import SimpleNamespace

import pytest

from fastconv.config.overrides import compose
from fastconv.config.prerequisites import require_loggers, too_large_batch
from fastconv.config.quoting import literally
from fastconv.config.typed_config import typed
from fastconv.config.validation import check
from fastconv.system.errors import InputError
from fastconv.system.names import check_name


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"_target_": "nowhere.Logger"}, "logger.mine._target_=nowhere.Logger: there is no module nowhere"),
        ({"_target_": "logging.Loger"}, "logging has no Loger; did you mean Logger?"),
        ({"_target_": "Logger"}, "give a class or function as package.module.Name"),
        ({"_target_": "logging.Logger"}, "logger.mine: Logger missing a required argument: 'name'"),
        ({"_target_": "logging.Logger", "name": "x", "nme": 1}, "got an unexpected keyword argument 'nme'"),
    ],
)
def test_a_logger_that_cannot_be_made(settings, says):
    with pytest.raises(InputError) as error:
        require_loggers(SimpleNamespace(logger={"csv": True, "mine": settings}))
    assert says in str(error.value)


@pytest.mark.parametrize("images", [2, 3, 97, 200, 300, 511])
@pytest.mark.parametrize("given", [(), ("micro_batch_size=64",), ("trainer.devices=2",)], ids=" ".join)
def test_the_batch_that_is_advised_is_possible(images, given):
    def config(*settings):
        overrides = ["dataset=image_folder", *given, *settings]
        return typed("train", compose("train", overrides), overrides)

    line = too_large_batch(config(), images)
    assert f"image_folder has {images} image" in line
    (advised,) = re.findall(r"Give batch_size=(\d+) or fewer, or experiment=best", line)
    assert int(advised) <= images
    assert too_large_batch(config(f"batch_size={advised}"), images) is None
    if int(advised) >= 64 or not given:  # a smaller one needs a smaller micro_batch_size too, which its own line says
        check(config(f"batch_size={advised}"))


def test_a_logger_that_can():
    require_loggers(SimpleNamespace(logger={"csv": True, "mine": {"_target_": "logging.Logger", "name": "x"}}))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("photos", "photos"),
        ("my photos, 50% {new}", "my photos_ 50_ _new_"),
        ("Größe.v2", "Größe.v2"),
        ("sweeps", "image_folder"),
        (".hidden", "hidden"),
        ("b/../c", "c"),
    ],
)
def test_a_folder_of_images_is_called_by_its_own_name(folder, name, tmp_path):
    overrides = ["dataset=image_folder", f"dataset.root={literally(tmp_path / folder)}"]
    found = typed("train", compose("train", overrides), overrides).dataset.name
    assert found == name
    check_name("dataset.name", found)
    own = [*overrides, "dataset.name=mine"]
    assert typed("train", compose("train", own), own).dataset.name == "mine"


def test_the_folder_that_a_command_runs_in_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    overrides = ["dataset=image_folder", "dataset.root=."]
    assert typed("train", compose("train", overrides), overrides).dataset.name == "birds"
    assert typed("train", compose("train", overrides[:1]), overrides[:1]).dataset.name == "image_folder"
