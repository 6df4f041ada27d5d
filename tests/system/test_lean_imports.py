"""Lightning without what TorchMetrics can do beyond fastconv's needs."""

import gc
import importlib
import json
import subprocess
import sys

import pytest
from lightning_utilities.core import imports

from fastconv.system.lean_imports import UNUSED, lean_imports, without_garbage_collection

CODE = """
import json, sys
from fastconv.system.lean_imports import UNUSED, lean_imports
with lean_imports():
    import torchmetrics.classification
import torch
accuracy = torchmetrics.classification.MulticlassAccuracy(2, average="micro")
accuracy.update(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 0, 0]))
print(json.dumps([sorted(UNUSED & set(sys.modules)), float(accuracy.compute())]))
"""


def test_torchmetrics_works_without_packages_that_it_would_import():
    found = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == [[], 0.5]


def test_they_are_there_before_and_after():
    for _ in range(2):
        assert all(imports.RequirementCache(name) and imports.package_available(name) for name in UNUSED)
        with lean_imports():
            assert not any(imports.RequirementCache(name) or imports.package_available(name) for name in UNUSED)
            assert imports.RequirementCache("torch")


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("new", [True, False])
def test_nothing_is_collected_while_modules_are_imported(tmp_path, monkeypatch, enabled, new):
    """Nor are the objects of new modules looked at afterwards; what was on before is on again."""
    (tmp_path / "made_for_this_test.py").write_text("made = [[]]")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_for_this_test", raising=False)
    made = None if new else importlib.import_module("made_for_this_test").made
    (gc.enable if enabled else gc.disable)()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
            made = importlib.import_module("made_for_this_test").made
        assert gc.isenabled() == enabled
        assert any(each is made for each in gc.get_objects()) == (not new)
    finally:
        gc.unfreeze()
        gc.enable()
