"""Constants of autotune, each with the measurement or the reason behind its value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Autotune:
    """Constants of autotune. Shares are of `budget.seconds`, and upper bounds. Measurements: docs/research-log.md."""

    startup_share: float = 0.5
    """Where starting has taken more than this share of the budget, the choice is for the seconds that are left: a
    judgement. A usual start takes 5 to 8 s on two cores, and must not decide between two runs of the same command."""

    # Benchmarks of networks.
    benchmark_share: float = 0.02
    """For benchmarks of networks: a guess, which leaves 96 % of the budget for training and scoring."""
    confirm_share: float = 0.01
    """For further benchmarks of a network because the first was disturbed."""
    benchmark_batch_size: int = 2048
    """Images per optimizer step in a benchmark; the step of another batch size is computed from it."""
    benchmark_micro_batch_size: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({"cpu": 64, "cuda": 1024, "mps": 1024})
    )
    """Images that a benchmark computes at once: few for a short benchmark; a GPU needs as many as fill it."""
    time_exponent: float = 0.7
    """From one model size to the next, time grows with this power of the arithmetic. Measured on two CPU cores: 0.5
    between the smallest sizes, 0.95 between the largest."""
    max_time_growth: float = 1.2
    """Time cannot grow more than this many times as much as the arithmetic: a benchmark that says so was disturbed."""
    fastest_network: float = 1.5
    """On a GPU no network computes faster than this many times a product of large matrices: a guess, for a product that
    other work has disturbed."""

    # The number of CPU threads (fastconv.budget.threads).
    thread_turns: int = 8
    """Turns of the choice before training."""
    thread_seconds: float = 0.1
    """It ends after this time, from the second turn on: slices of the scheduler are some milliseconds."""
    thread_gain: float = 1.15
    """Another number must be this many times as fast to be taken: the noise of a trial is about a tenth."""
    thread_slowdown: float = 1.5
    """Steps that take this many times the usual show that something else keeps the machine busy."""
    thread_trial_seconds: float = 0.25
    """Seconds of the steps of a trial, and of the steps that it is compared with: many slices of the scheduler."""
    thread_rest_seconds: float = 2.0
    """Seconds of training before a trial, at least."""
    thread_worst: float = 6.0
    """A step with more threads may take this many times as long where other work keeps the cores busy (two busy loops
    on two cores)."""
    thread_left_share: float = 0.15
    """Share of the time that is left which such a step may take, or else more threads are not tried: a trial of steps
    of 0.8 s took 5 s."""
    thread_share: float = 0.05
    """Share of the training time that trials may take where they bring nothing."""

    # The flip-invariance test.
    flip_test_share: float = 0.02
    """For the flip-invariance test: a guess, as `benchmark_share`."""
    flip_test_min_seconds: float = 1.5
    """In less time the proxy network learns too little for a verdict."""
    flip_test_images: int = 20_000
    """Images to train on, at most: after 5,000 the verdicts on the digits, MNIST, Fashion-MNIST and CIFAR-10 are
    right."""
    flip_test_batch_size: int = 125
    flip_test_gpu_step_seconds: float = 0.005
    """Seconds that a step of the proxy network takes on a GPU, where a benchmark would take longer than the test: the
    host starts some 300 kernels of about 10 us. A slower one is stopped by `flip_test_max_share`."""
    flip_test_min_steps: int = 10
    flip_test_held_out: int = 1000
    """Held-out images that are classified, as they are and flipped: a standard error of at most 1.6 points."""
    flip_test_significance: float = 0.01
    """The p-value below which the two accuracies differ: with 100 classes, 3.2 and 3.6 % are chance."""
    flip_test_max_share: float = 1.5
    """Training of the proxy network stops after this many times its seconds: a machine may become slow."""
    flip_test_whitening_images: int = 1000
    """Images of which the proxy network's whitening layer is computed."""
    same_class: float = 0.85
    """From this ratio of the accuracy on flipped images to that on images as they are, flipping keeps the class and
    the look of an image. Measured ratios: CIFAR-10 1.02, Fashion-MNIST 0.75, MNIST 0.59, digits 0.46."""
    same_class_other_look: float = 2 / 3
    """Between this ratio and `same_class`, flipped images are of the same class but look different (Fashion-MNIST,
    whose shoes all point the same way): a network has to learn both. Below it, they are of another class."""
    other_look_min_epochs: float = 8
    """A run must have this many epochs to learn flipped images that look different: a guess between 4 epochs of
    Fashion-MNIST, where flips cost 0.3 points, and 17, where they gain 0.4."""
    other_look_gain: float = 0.08
    """Gain of such flips, in log error, from twice `other_look_min_epochs` on: measured on Fashion-MNIST after 17
    epochs. In between, the gain is assumed to grow from 0 with the logarithm of the epochs."""

    # The trial of a pretrained network.
    pretrained_share: float = 0.03
    """For the trial, the flip-invariance test aside, whose network from scratch it is compared with: together 5 %."""
    pretrained_min_seconds: float = 3.0
    """In less time too few images have features: torchvision takes one second to import, timm two."""
    pretrained_min_side: int = 24
    """Pixels of an image's shorter side from which on it is tried: that of the smallest images to which one's own are
    scaled without `dataset.image_size`. Smaller ones, scaled up, are no photographs: a judgement."""
    pretrained_features: int = 2000
    """Training images whose features are computed, at most: a linear classifier of them is solved in a tenth of a
    second."""
    pretrained_min_images: int = 5
    """Training images at least, for each class, unless there are fewer: good features of less than that tell little."""
    pretrained_held_out: int = 500
    """Held-out images that are classified, at most: a standard error of at most 2.2 points."""
    pretrained_batch_size: int = 32
    """Images whose features are computed at once: a few of these fit into a short trial."""
    pretrained_ridge: float = 3.0
    """Ridge penalty of the linear classifier, as a multiple of the features' mean squared length. Fitted to 700, 300
    and 100 images of CIFAR-10 at 96 pixels (EfficientNet-Lite0), it classifies 73, 69 and 59 % of 300 others correctly;
    71, 67 and 58 % with a penalty of 1, 67, 63 and 57 % with 0.1."""
    pretrained_error_ratio: float = 0.5
    """The pretrained network is taken if it makes at most this many times the errors of a network from scratch in the
    trial: a judgement, since both learn more in the rest of the budget, and the one from scratch has more to learn."""
    finetune_min_epochs: float = 3.0
    """Epochs that must fit into the budget for all layers to be trained; with fewer, only the head is: a judgement."""

    # Data pruning by a proxy network.
    pruning_share: float = 0.06
    """For training the proxy network and scoring all images with it. On Fashion-MNIST, 1000 s and two cores, it took
    4.6 %, and pruning gained all the same."""
    pruning_max_share: float = 1.5
    """Training of the proxy network stops after this many times its seconds: a machine may become slow."""
    pruned_images: float = 0.3
    """Share of the images that an epoch skips. On Fashion-MNIST 0.2 and 0.4 gained no more, 0.5 cost accuracy."""
    pruning_epochs: tuple[float, float] = (5, 40)
    """Fewest and most epochs of a run with pruning: a gain was measured from 6 to 20 epochs, which is less with more
    of them (benchmarks/research/equal_work.py)."""
    pruning_gain: float = 0.03
    """Gain of pruning, in log error: the mean of 0.005 to 0.06 on CIFAR-10 and Fashion-MNIST."""
    proxy_steps: int = 100
    """Steps of the proxy network at least; it learns from all images once where that is more. A second epoch was no
    better on Fashion-MNIST (95.24 % instead of 95.30 %)."""
    proxy_min_batch_size: int = 125
    proxy_max_batch_size: int = 500
    proxy_label_smoothing: float = 0.2
    """As `experiment=best` trains the network itself."""
    scoring_batch_size: int = 500
    """Images that a proxy network scores at once: their activations stay small."""

    # The settings of the run.
    steps_for_batch_size: Mapping[int, int] = field(
        default_factory=lambda: MappingProxyType({2000: 1000, 1000: 180, 500: 180, 250: 180, 125: 40, 64: 0})
    )
    """Batch sizes, the largest first, and the optimizer steps that a run must have to take each. The 1000 steps are a
    guess; with 400 steps or fewer, smaller batches than 2000 were better. After 4,000 images or fewer, 64 were as good
    as 125 or better, and 32 and 16 no better (8-32-32, CIFAR-10 and Fashion-MNIST, two seeds each)."""
    few_images: int = 5_000
    """With fewer training images than this, the smallest network is a candidate only where the next one has no time:
    8-32-32 got 88 to 98 % of the digits right after 12,000 images, 16-64-64 95 to 99 % after 4,000 (batches of 125,
    three seeds, no augmentation). Nor are the fast sizes: of 500 images of CIFAR-10, the larger one learned 58.2 % (79
    epochs), plain 16-64-64 60.3 and 32-128-128 61.3 % (30 s on two AVX2 cores, n = 1)."""
    fitted_classes: int = 10
    """Classes of the data sets that the scaling law was fitted to."""
    classes_exponent: float = 0.5
    """With k times as many classes, n images count as n over k to this power: each class has fewer. With 100 classes
    (CIFAR-10 in clusters, 60 s on two AVX2 cores), 16-64-64 and 32-128-128 with a stride of two are level, and plain
    32-128-128 makes 27 % more errors: the law says 3 and 18 % with 1/2, 9 and 8 % with 1/4, 16 and -3 % with 0."""
    least_steps: int = 20
    """Optimizer steps that a larger network than the smallest must have: with fewer, none learns, and the scaling law
    says nothing."""
    cpu_micro_batch_size: int = 500
    """Images over which batch norm takes its statistics on a CPU: their activations stay near its caches."""
    max_epochs: float = 100
    """Epochs after which more bring nothing, for `max_epochs_images` images or more. For n images there are
    sqrt(max_epochs_images / n) times as many. They do not count for a network; a CPU trains on all the same, until the
    time is over, but for a GPU so many epochs would take long to precompute."""
    max_epochs_images: int = 45_000
    """Training images of CIFAR-10 less a held-out tenth."""
    strong_augmentation_epochs: float = 16
    """From this many epochs on, large networks begin to memorise images, and get stronger augmentation."""
    shift_part: int = 16
    """Images are shifted by up to one 16th of their side: airbench94's 2 pixels for CIFAR-10."""
    strong_shift_part: int = 8
    """The same with stronger augmentation: airbench96's 4 pixels."""
    strong_cutout: float = 3 / 8
    """Share of an image's side that stronger augmentation cuts out: airbench96's 12 pixels."""
    resized_share: float = 0.35
    """Share of a training's time at whose start images are small: about half of the images that it sees. With three
    quarters of them, 32-128-128 gained nothing on CIFAR-10 in the time of 100,000 whole ones, with half 0.7 points."""
    resizing_epochs: float = 6
    """Epochs without resizing up to which it is used: more were not measured."""
    compile_saves: float = 0.3
    """Share of a run's time that a compiled step saves on a GPU: a guess. Without a CUDA graph, compiled steps of
    `speedrun` took 0.5 of the time of others on an H100 (n = 10 and 5), but much of that was the host's time."""
    compile_seconds: float = 29.0
    """Compiling the step takes so long where the compiler has kept nothing of it: one run on an H100."""
    compile_kept_seconds: float = 8.0
    """Compiling the step takes so long where the compiler has kept it: one run of the same network on an H100."""
    device_stream_share: float = 0.25
    """Share of a GPU's free memory that the images of `stream=device` may take: the rest is for training. A quarter of
    8 GB is 13 times CIFAR-10."""

    # Test-time augmentation.
    flip_view_share: float = 0.2
    """For scoring each image and its flipped view, which gain most."""
    diagonal_views_share: float = 0.1
    """For views shifted along the diagonal, which gain less."""
    neighbor_views_share: float = 0.05
    """For views shifted in all eight directions, which gain 0.05 points more on average."""
    confidence_threshold: float = 0.85
    """Share of the highest probability that smoothed labels allow, above which an image gets no further views: with
    them, the accuracy changes by at most 0.01 points."""


AUTOTUNE = Autotune()
