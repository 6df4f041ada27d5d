"""The LightningModule of a network: normalises images and trains; `ScoredModule` scores."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastconv.data.features import KeptFeatures
from fastconv.models import build_model
from fastconv.models.classifier import Normalise
from fastconv.models.temperature import TEMPERATURE
from fastconv.models.tta import Views
from fastconv.system.distributed import is_first_rank
from fastconv.training.agreement import average_over_ranks, sum_over_ranks
from fastconv.training.scored_module import ScoredModule
from fastconv.training.step import Learn, WholeStep
from fastconv.training.train_scores import PendingScores

MakeStep = Callable[[L.LightningModule], Callable[[Tensor, Tensor, Learn, Tensor], Tensor]]
"""Makes the training step of a module with a Trainer, such as `WholeStep`."""


class ImageClassifier(ScoredModule):
    """Trains a network on batches of raw images, and scores it.

    Args:
        model: name of the network in `fastconv.models.MODELS`.
        settings: settings of the network, such as `width`.
        shape: height, width and channels of an image.
        classes: class names.
        mean, std: per channel, of pixel values scaled to [0, 1].
        levels: how pixel values of more than eight bits became bytes (`Levels.as_dict`); None if unknown.
        resize: how images become square (`RESIZES`).
        optimizer: makes the optimizer of a network; None for a module that does not train.
        label_smoothing: share of each label that is spread over all classes.
        views: views of test-time augmentation; None to score only the unchanged images.
        channels_last: store the channels of a pixel next to each other in memory.

    The arguments that describe the network are plain values. The checkpoint stores them, so it is enough to rebuild the
    network.

    Raises KeyError for an unknown network, InputError for a class of your own (`_target_`) that cannot be made.
    """

    model: nn.Module
    train_sums: Tensor

    def __init__(
        self,
        model: str,
        settings: Mapping[str, Any],
        shape: tuple[int, int, int],
        classes: tuple[str, ...],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        levels: dict[str, float] | None = None,
        resize: str = "crop",
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        label_smoothing: float = 0.0,
        views: Views | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__(len(classes), views)
        self.automatic_optimization = False  # training_step is the whole step
        self.network = {
            "model": model,
            "settings": dict(settings),
            "shape": list(shape),
            "classes": list(classes),
            "mean": list(mean),
            "std": list(std),
            "levels": levels,
            "resize": resize,
        }
        self.model = build_model(model, channels=shape[2], classes=len(classes), **settings)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self._make_optimizer = optimizer
        self._label_smoothing = label_smoothing
        self.side_share = 1.0
        """Share of their side that training images keep, in (0, 1]."""
        self.kept: KeptFeatures | None = None
        """Features of training images, for the head of a frozen network to learn from again; None to keep none."""
        self.normalise = Normalise(mean, std)
        # Sums of losses, of correct predictions and of images stay on the device until the recorder reads them.
        self.register_buffer("train_sums", torch.zeros(3), persistent=False)
        # DDP would copy them, like all buffers, from the first rank to the others, and they would count twice.
        self._ddp_params_and_buffers_to_ignore = ["train_sums"]
        self.learn: Learn = self._score_training
        self.make_step: MakeStep = WholeStep
        """Makes what trains on a batch, for the Trainer of the module."""
        self._step: Callable[[Tensor, Tensor, Learn, Tensor], Tensor] | None = None  # made for a Trainer

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. A plain attribute stays one, without torch's search among parameters, modules and buffers:
        Lightning sets one twice around each hook, some thirty times a step."""
        if name in self.__dict__ and not isinstance(value, (Tensor, nn.Module)):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Logits float [B, classes] of raw images uint8 [B, H, W, C]."""
        logits: Tensor = self.model(self.normalise(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Train on a batch, images uint8 [parts, n, H, W, C] and labels int64 [parts, n]: compute gradients and update.

        Returns the mean loss, float [].
        """
        if self._step is None:
            self._step = self.make_step(self)
        images, labels = batch
        if self.kept is not None:
            images = self._features(images, labels, self.kept)
        return self._step(images, labels, self.learn, self.train_sums)

    @torch.no_grad()
    def _features(self, images: Tensor, labels: Tensor, kept: KeptFeatures) -> Tensor:
        """The features float [parts, n, D] of a batch of images, which are kept; given features are returned."""
        if images.dtype == torch.uint8:
            model: Any = self.model
            with self.trainer.precision_plugin.forward_context():
                images = torch.stack([model.features(self._resized(self.normalise(part))) for part in images])
            kept.put(kept.place(self.trainer.global_step), images, labels)
        return images

    def _score_training(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss to train on, float [], and the sums of losses, of correct predictions and of images, float [3].

        `images` are uint8 [n, H, W, C], or their features float [n, D].
        """
        model: Any = self.model
        logits = model.classify(images) if images.ndim == 2 else model(self._resized(self.normalise(images)))
        loss = F.cross_entropy(logits, labels, label_smoothing=self._label_smoothing)
        # All of one type: stacking several types takes the host longer than computing them.
        correct, count = logits.argmax(1).eq(labels).sum(dtype=loss.dtype), labels.shape[0]
        return loss, torch.stack([loss.detach() * count, correct, torch.full_like(correct, count)])

    def _resized(self, images: Tensor) -> Tensor:
        """Images float [B, C, H, W] with `side_share` of their sides."""
        if self.side_share == 1:
            return images
        size = [round(self.side_share * side) for side in images.shape[2:]]
        smaller = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return smaller.contiguous(memory_format=torch.channels_last)

    @property
    def is_compiled(self) -> bool:
        """Whether `compile_training` has compiled the training step."""
        return self.learn != self._score_training

    def compile_training(self, batch: tuple[Tensor, Tensor]) -> None:
        """Compile the training step for batches of this shape now, instead of in the first step.

        Does not change weights, gradients or batch-norm statistics.

        Args:
            batch: a microbatch, images uint8 [n, H, W, C] and labels int64 [n].
        """
        self.learn = torch.compile(self.learn, dynamic=False)
        before = {name: buffer.clone() for name, buffer in self.named_buffers()}
        loss, _ = self.learn(*batch)
        # loss.backward() would store gradients and, in a distributed run, trigger their reduction.
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)  # a user's own network may not use all
        for name, buffer in self.named_buffers():
            buffer.copy_(before[name])

    def take_train_scores(self) -> tuple[float, float]:
        """Mean loss and accuracy of all ranks' training images since the last call. Each rank must call this."""
        return self.copy_train_scores().read()

    def copy_train_scores(self) -> PendingScores:
        """Start to read the scores of `take_train_scores`, without letting a GPU wait. Each rank must call this."""
        found = PendingScores.of(self._all_sums())
        self.train_sums.zero_()
        return found

    def _all_sums(self) -> Tensor:
        """`train_sums` of all ranks together, float [3]. Each rank must call this."""
        if not torch.distributed.is_initialized():
            return self.train_sums
        return sum_over_ranks(self.train_sums, self.trainer.strategy.root_device)

    def on_train_start(self) -> None:
        """Raise the momentum of batch norm to make up for the W - 1 of every W microbatches that a rank does not
        see."""
        self._step, ranks = None, self.trainer.world_size
        for layer in self.modules() if ranks > 1 else ():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) and layer.momentum is not None:
                layer.momentum = 1 - (1 - layer.momentum) ** ranks

    def on_validation_start(self) -> None:
        self._average_statistics()

    def on_train_end(self) -> None:
        self._average_statistics()

    def _average_statistics(self) -> None:
        """Average the batch-norm statistics over the ranks, each of which has seen only its own images.

        The result does not depend on how often this is called, since a step moves the statistics by a share that does
        not depend on them: a stopped and resumed run ends with those of an uninterrupted one.
        """
        if self.trainer.world_size > 1:
            statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
            average_over_ranks(statistics, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self._make_optimizer is None:
            raise ValueError("this module was made without an optimizer: it can predict, but not train")
        return self._make_optimizer(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.network
        checkpoint[TEMPERATURE] = self.temperature
        checkpoint["train_sums"] = self._all_sums().tolist()
        self._average_statistics()  # in place, because the checkpoint refers to them

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if is_first_rank():
            self.train_sums.copy_(torch.tensor(checkpoint["train_sums"]))
