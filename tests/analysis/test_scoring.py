"""Class probabilities are computed of as many images at once as fit into memory."""

import numpy as np
import pytest
import torch

from fastconv.analysis.scoring import class_probabilities
from fastconv.data.dataset import images_at_once


def test_large_images_are_computed_few_at_once():
    assert [images_at_once((side, side, 3)) for side in (8, 32, 64, 96, 224, 1024)] == [500, 500, 500, 222, 40, 1]
    assert images_at_once((3, 4096, 4096)) == 1
    seen = []

    def logits(batch):
        seen.append(len(batch))
        return torch.zeros(len(batch), 2)

    images = np.zeros((10, 512, 1024, 3), np.uint8)
    for given in (images, torch.from_numpy(images)):
        assert class_probabilities(logits, given, "cpu").tolist() == [[pytest.approx(0.5)] * 2] * 10
    assert seen == [3, 3, 3, 1] * 2
    class_probabilities(logits, images[:4], "cpu", batch_size=4)
    assert seen[-1] == 4
