"""What a run needs is found missing before it begins."""

from types import SimpleNamespace

import pytest

from fastconv.config.prerequisites import require_loggers
from fastconv.system.errors import InputError


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


def test_a_logger_that_can():
    require_loggers(SimpleNamespace(logger={"csv": True, "mine": {"_target_": "logging.Logger", "name": "x"}}))
