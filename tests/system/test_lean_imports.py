"""Lightning without what TorchMetrics can do beyond fastconv's needs."""

import json
import subprocess
import sys

from lightning_utilities.core import imports

from fastconv.system.lean_imports import UNUSED, lean_imports

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
