"""Plans a run: measures the machine and works out what fits into the budget."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import lightning as L

from fastconv.budget.autotune.data_pruning import most_seconds, skip_schedule
from fastconv.budget.benchmark import BenchmarkKey, SpeedProfile, benchmark, forget_peak_memory
from fastconv.budget.bounds import least_needs, least_seconds, require_seconds
from fastconv.budget.clock import Clock
from fastconv.budget.flops import training_flops
from fastconv.budget.forecast import Forecast, forecast, scored_images
from fastconv.budget.hardware import Device, prepare_in_time
from fastconv.budget.pacing import PACING
from fastconv.budget.threads import default_threads
from fastconv.config.prerequisites import require_room
from fastconv.config.schema import Config
from fastconv.data.dataset import ImageData
from fastconv.data.splits import Splits
from fastconv.data.stream.device import does_not_fit
from fastconv.data.stream.spec import StreamSpec, stream_spec
from fastconv.models import count_parameters, model_settings
from fastconv.models.configs import Pretrained
from fastconv.models.resizing import Resizing
from fastconv.models.tta import views_of
from fastconv.optim import optimizer_key
from fastconv.system.distributed import check_world, from_first_rank
from fastconv.system.errors import InputError
from fastconv.training.callbacks.custom import make_callbacks
from fastconv.training.graph_choice import choose_graph
from fastconv.training.planned_network import (
    check_optimizer,
    checked_network,
    count_winograd_layers,
    has_fused_norms,
    pretrained_weights,
)
from fastconv.training.stored_stream import training_images

# What depends on how long a run has taken so far.
EXPECTED = ("steps", "epochs", "seconds", "stream_epochs")
# If fewer optimizer steps than this fit into the budget, something is wrong: the plan says so.
FEW_STEPS = 10


@dataclass(frozen=True)
class Run:
    """A planned run that is ready to start."""

    config: Config
    clock: Clock
    device: Device
    train: ImageData
    holdout: ImageData
    unseen: ImageData
    """Images that the network is not trained on, to fit the temperature on; may be none."""
    test: ImageData
    spec: StreamSpec
    speed: SpeedProfile
    plan: Forecast
    parameters: int
    benchmark_key: BenchmarkKey
    callbacks: tuple[L.Callback, ...] = ()
    """The user's own callbacks."""
    winograd_layers: int = 0
    """Number of convolutions that are Winograd's."""
    fused_norms: bool = False
    """Whether norms and activations are computed in one pass."""
    graph: bool = False
    """Whether the training step is to be a CUDA graph."""
    no_graph: str = ""
    """Why it is not, where one would expect it."""
    stream_grows: bool = True
    """Whether the stream is extended while training; if not, what it lacks is computed in the training process."""
    pretrained: str | None = None
    """The weights that the network begins with (`Results.pretrained`)."""

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of the network."""
        return model_settings(self.config.model)

    @property
    def validated(self) -> ImageData | None:
        """The images on which the network is scored while it trains; None if it is not."""
        return _validated(self.config, self.holdout, self.test)

    @property
    def validate_images(self) -> int:
        """Number of images that one validation during training scores; 0 for none."""
        return _validate_images(self.config, self.validated)

    @property
    def seems_busy(self) -> bool:
        """Whether other work seems to keep the machine busy: a benchmark was disturbed, or few steps fit."""
        few = self.config.budget.seconds is not None and self.plan.steps < min(
            FEW_STEPS, self.plan.max_steps or FEW_STEPS
        )
        return not self.speed.is_steady or few

    @property
    def may_adjust_threads(self) -> bool:
        """Whether the number of CPU threads may change while the run trains."""
        trainer, is_limited = self.config.trainer, self.config.budget.seconds is not None
        is_open = trainer.num_threads == "auto" and is_limited and default_threads() > 1
        return is_open and self.device.kind == "cpu" and trainer.world == 1

    @property
    def feature_share(self) -> float | None:
        """Share of the run after which the head of a frozen network may be trained on its features again; None for no
        such network.

        Not on a GPU, where batches are moved ahead of their use, nor on several devices.
        """
        model, trainer = self.config.model, self.config.trainer
        if not isinstance(model, Pretrained) or model.mode != "head" or model.feature_share == 1:
            return None
        return model.feature_share if self.device.kind == "cpu" and trainer.world == 1 else None

    @property
    def resizing(self) -> Resizing:
        """Which training images are small."""
        return Resizing(self.config.progressive_resizing)

    def petaflop(self, steps: float) -> float:
        """10^15 floating-point operations of this many steps of training, with whole images."""
        each = training_flops(self.config.model.name, self.model_settings, self.spec.shape, len(self.spec.classes))
        return each * steps * self.config.batch_size / 1e15


def plan_run(
    config: Config,
    data: Splits,
    clock: Clock,
    speed: SpeedProfile | None = None,
    threads: int | None = None,
    has_trained: bool = False,
    needs_weights: bool = True,
) -> Run:
    """Work out what a run will do on this machine.

    Args:
        config: a config that has been checked, also against the data by `fastconv.config.prerequisites.check_data`.
        data: the images to train on and to score.
        clock: the run's clock: the benchmark goes to its segment `benchmark`, the choice of images to skip
            and the fetching of weights to `precompute`.
        speed: the speed at which this machine trains the network; None to measure it.
        threads: the number of CPU threads that autotune has measured; None to measure it, if the config leaves it open.
        has_trained: whether an earlier process has left a checkpoint: then the run ends as well as it can, however long
            this start took.
        needs_weights: whether a pretrained network without a checkpoint needs its weights; not if nothing trains.

    Raises InputError for missing hardware, a budget that is too short, or too little room for the stream.
    """
    check_world(config.trainer.devices, config.trainer.nodes)
    callbacks = tuple(make_callbacks(config.callbacks))
    with clock.segment("benchmark"):
        device = prepare_in_time(config, threads)
    graph, no_graph = choose_graph(config, device, callbacks)
    forget_peak_memory()
    holdout, test = data.holdout, data.test
    train, unseen = training_images(config, data)
    train, spec = _stream_of(config, train, device, clock)
    network = checked_network(config, spec)
    parameters = count_parameters(network)
    pretrained = pretrained_weights(config, network, clock, needs_weights and not has_trained)
    check_optimizer(config, network, device)
    key = _benchmark_key(config, spec)
    if speed is None:
        with clock.segment("benchmark"):
            cache, limit = config.benchmarks_folder, config.budget.seconds
            found = from_first_rank("benchmark", lambda: dataclasses.asdict(benchmark(key, device, cache, limit)))
            speed = SpeedProfile(**found)
            # The ranks share the images to score, as they share those of a step.
            speed = dataclasses.replace(speed, score_seconds=speed.score_seconds / config.trainer.world)
    plan = forecast(
        config,
        spec,
        speed,
        validate_images=_validate_images(config, _validated(config, holdout, test)),
        scored=scored_images(config, len(holdout), len(test)),
        views=views_of(config.tta, config.augment.mirrors),
        begin_seconds=PACING.begin_scoring_seconds[device.kind],
        already_counted=clock.counted(tuple(config.budget.counts)),
    )
    # Clocks differ, but ranks must expect the same: all of them take part in each row of the curves.
    plan = dataclasses.replace(plan, **from_first_rank("plan", lambda: {key: getattr(plan, key) for key in EXPECTED}))
    if plan.stream_epochs:
        require_room(config, plan.stream_epochs * spec.epoch_bytes)
    run = Run(
        config,
        clock,
        device,
        *(train, holdout, unseen, test),
        spec,
        speed,
        plan,
        parameters,
        key,
        callbacks,
        winograd_layers=count_winograd_layers(config, spec, device) if device.winograd else 0,
        fused_norms=has_fused_norms(network, device),
        graph=graph,
        no_graph=no_graph,
        pretrained=pretrained,
    )
    from_first_rank("time", lambda: None if has_trained else require_time(run))  # clocks differ
    return run


def _validated(config: Config, holdout: ImageData, test: ImageData) -> ImageData | None:
    """The images on which a network is scored while it trains, held-out or test images; None if it is not."""
    return {"test": test, "holdout": holdout, "none": None}[config.validate.on]


def _validate_images(config: Config, validated: ImageData | None) -> int:
    """Number of images that one validation during training scores; 0 for none."""
    return 0 if validated is None else min(len(validated), config.validate.samples or len(validated))


def _stream_of(config: Config, train: ImageData, device: Device, clock: Clock) -> tuple[ImageData, StreamSpec]:
    """The training images, with what `data_pruning` skips of them, and the definition of their stream.

    Raises InputError if the images are to be kept on the device and do not fit there.
    """
    spec = stream_spec(train, config.augment, config.stream.seed)
    if config.stream.mode == "device":
        free = device.free_memory()
        if free is not None and train.images.nbytes > free:
            raise InputError(does_not_fit(spec, train.images.nbytes, f"and {free / 1e9:.3g} GB are free"))
    if config.data_pruning:
        with clock.segment("precompute"):  # the skipped images are part of the stream's definition
            cache, seconds = config.benchmarks_folder, most_seconds(config.budget)
            skips = skip_schedule(spec, train, device, config.data_pruning, cache, seconds=seconds)
        train = dataclasses.replace(train, skip_schedule=skips)
        spec = stream_spec(train, config.augment, config.stream.seed)
    return train, spec


def _benchmark_key(config: Config, spec: StreamSpec) -> BenchmarkKey:
    """Everything but the device that the speed of training depends on."""
    return BenchmarkKey(
        config.model.name,
        model_settings(config.model),
        spec.shape,
        len(spec.classes),
        config.batch_size // config.trainer.world,
        config.micro_batch_size,
        config.trainer.channels_last,
        optimizer_key(config.optimizer),
    )


def require_time(run: Run) -> None:
    """Raise InputError if the budget of a run that has taken no step has no time left for one."""
    limit, device, cache = run.config.budget.seconds, run.device, run.config.benchmarks_folder
    if limit is None:
        return
    spent = {
        segment: seconds for segment, seconds in run.clock.seconds().items() if segment in run.config.budget.counts
    }
    left, least = limit - sum(spent.values()), 0.0
    if device.kind == "cpu" and 0 < left < run.speed.step_seconds:  # the benchmark may have been disturbed
        least = least_seconds(least_needs(run.benchmark_key, device)[1], device, cache)
    require_seconds(limit, least, spent)
