"""A newcomer's program: DavidNet on CIFAR-10 with Lightning's defaults, torchvision's transforms and a DataLoader.

python benchmarks/plain_lightning.py DATA STEPS prints the images/s of all steps but the first.
"""

import sys
import time

import lightning as L
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import CIFAR10

from fastconv.models.davidnet import DavidNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH_SIZE = 512


class Classifier(L.LightningModule):
    def __init__(self, total_steps: int) -> None:
        super().__init__()
        self.model = DavidNet(channels=3, classes=10)
        self.accuracy = MulticlassAccuracy(num_classes=10)
        self.total_steps = total_steps

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        self.accuracy(logits, labels)
        self.log("train_loss", loss)
        self.log("train_accuracy", self.accuracy)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.4, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=max(10, self.total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Stopwatch(L.Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_) -> None:
        self.ends.append(time.perf_counter())


def train(data: str, steps: int) -> float:
    """Images per second over `steps` steps after the first."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
            transforms.RandomErasing(),
        ]
    )
    images = CIFAR10(data, train=True, transform=transform)
    loader = DataLoader(images, batch_size=BATCH_SIZE, shuffle=True, num_workers=2, drop_last=True)
    stopwatch = Stopwatch()
    trainer = L.Trainer(max_steps=steps + 1, callbacks=[stopwatch], logger=False, enable_checkpointing=False)
    trainer.fit(Classifier(steps + 1), loader)
    return steps * BATCH_SIZE / (stopwatch.ends[-1] - stopwatch.ends[0])


if __name__ == "__main__":
    print(train(sys.argv[1], int(sys.argv[2])))
