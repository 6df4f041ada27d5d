"""Attribution maps of a network, by Captum, in batches."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import captum.attr
import numpy as np
import torch
from captum.attr import DeepLift, DeepLiftShap, IntegratedGradients, LayerAttribution, NoiseTunnel, Occlusion
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from captum.attr._core.guided_backprop_deconvnet import ModifiedReluGradientAttribution
from captum.attr._core.guided_grad_cam import GuidedGradCam
from captum.attr._utils.attribution import Attribution
from torch import Tensor, nn

from fastconv.analysis.attribution.network import PixelNetwork, Pixels
from fastconv.analysis.scoring import batches
from fastconv.config.commands import Method
from fastconv.data.dataset import images_at_once
from fastconv.system.errors import InputError, message_of, nearest

# Linear layers, for which DeepLIFT needs no rule.
LINEAR = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)
# Arguments of Captum's methods that say how many copies of an image are computed at once.
COPIES = ("n_steps", "n_samples")
# DeepLIFT's maps sum to the change of the logit, up to rounding, and for overlapping pools up to Captum's rule. A share
# above this is wrong.
INCOMPLETE = 0.1


class Attributor:
    """A method, ready to explain a network.

    Args:
        method: the method.
        network: the network to explain.
        pixels: baselines for absent pixels.
        shape: height, width and channels of an image.
        batch_size: images, counting the copies that the method makes, to compute at once; fewer of large images.
        seed: of the random draws of the method.

    Raises InputError for a method that Captum does not have, or one that would be silently wrong on this network.
    """

    def __init__(
        self,
        method: Method,
        network: PixelNetwork,
        pixels: Pixels,
        shape: tuple[int, int, int],
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        self.method, self._network, self._pixels, self._shape, self._seed = method, network, pixels, shape, seed
        available = [name for name in captum.attr.__all__ if _is_method(getattr(captum.attr, name))]
        if method.captum not in available:
            raise InputError(
                f"unknown method {method.captum}{nearest(method.captum, available)} Choose from: {', '.join(available)}"
            )
        self.title = method.title or method.captum
        kind = getattr(captum.attr, method.captum)
        layered = "layer" in inspect.signature(kind).parameters
        if layered != (method.layer is not None):
            rule = "needs a layer: set layer=last" if layered else "attributes to pixels: set layer=null"
            raise InputError(f"method {self.title}: {method.captum} {rule}")
        self._require_supported(kind)
        layer: nn.Module | None = None
        self.grid: tuple[int, int] = shape[:2]
        if method.layer is not None:
            layer, self.grid = network.layer(method.layer, shape)
        if method.window:
            rows, columns = (-(-(size - self._window()) // self._stride()) + 1 for size in shape[:2])
            self.grid = rows, columns
        self._plain = kind(*(each for each in (network, layer) if each is not None))
        self._ask = NoiseTunnel(self._plain).attribute if method.noise_samples else self._plain.attribute
        self.images_at_once = max(1, min(batch_size, images_at_once(shape)) // self._copies())
        self.is_layered = layered and not isinstance(self._plain, GuidedGradCam)
        if layered and not self.is_layered:  # it multiplies the layer's map by one of pixels
            self.grid = shape[:2]
        # A local method attributes a small change of a pixel, rather than its absence.
        self.is_local = not self.is_layered and not getattr(self._plain, "multiplies_by_inputs", False)

    def _require_supported(self, kind: type) -> None:
        """Refuse methods that Captum would compute although their result has no meaning on this network."""
        modules = [module for module in self._network.model.modules() if not list(module.children())]
        if issubclass(kind, ModifiedReluGradientAttribution | GuidedGradCam) and not any(
            isinstance(module, nn.ReLU) for module in modules
        ):
            raise InputError(
                f"method {self.title}: the network has no ReLU modules to guide, so that it would be the plain gradient"
                " under another name: leave it out"
            )
        if "DeepLift" in kind.__name__:  # of pixels or of a layer
            supported = (*SUPPORTED_NON_LINEAR, *LINEAR)
            if unknown := sorted({type(module).__name__ for module in modules if not isinstance(module, supported)}):
                raise InputError(
                    f"method {self.title}: Captum has no rule for {', '.join(unknown)} and would be"
                    " silently wrong: use method=gradient_shap"
                )

    def _copies(self) -> int:
        """Return how many copies of an image are computed at once."""
        defaults = inspect.signature(self._plain.attribute).parameters
        steps = [self.method.arguments.get(name, defaults[name].default) for name in COPIES if name in defaults]
        if isinstance(self._plain, DeepLiftShap):  # it compares each image with each baseline
            steps = [len(self._pixels.absent(self.method.baseline))]
        return max(1, self.method.noise_samples) * max([1, *(each for each in steps if isinstance(each, int))])

    def _window(self) -> int:
        """Return the side of the occluded square in pixels."""
        return max(1, round((self.method.window or 0.0) * min(self._shape[:2])))

    def _stride(self) -> int:
        return max(1, self._window() // 2)

    def __call__(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return attributions float [B, C, H, W] (one channel for a layer's method) of pixels float [B, C, H, W].

        `target` int64 [B] are the classes explained. The same batch gives the same attributions.
        """
        with seeded(self._seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="captum")  # that it sets hooks and gradients, as it must
            try:
                found = self._ask(inputs.detach().requires_grad_(), target=target, **self._arguments(inputs))
                if not isinstance(found, Tensor):
                    raise TypeError(f"it gives a {type(found).__name__} instead of attributions")
            except (TypeError, ValueError, AssertionError, LookupError, ArithmeticError, RuntimeError) as error:
                raise InputError(
                    f"method {self.title} does not work here ({message_of(error)}): check its arguments, or leave it"
                    " out"
                ) from error
        found = found.detach()
        if not self.is_layered:
            return found
        size = (inputs.shape[2], inputs.shape[3])
        interpolated: Tensor = LayerAttribution.interpolate(found.sum(1, keepdim=True), size, "bilinear")
        return interpolated

    def _arguments(self, inputs: Tensor) -> dict[str, object]:
        """Return the keyword arguments of Captum's `attribute`."""
        method = self.method
        arguments: dict[str, object] = dict(method.arguments)
        parameters = inspect.signature(self._plain.attribute).parameters
        if "baselines" in parameters and "baselines" not in arguments:
            baseline = self._pixels.absent(method.baseline)
            arguments["baselines"] = baseline if method.baseline == "images" else baseline.expand_as(inputs)[:1]
            if isinstance(self._plain, Occlusion):
                arguments["baselines"] = baseline.expand_as(inputs)
        if method.window:
            side, channels = self._window(), self._shape[2]
            arguments["sliding_window_shapes"] = (channels, side, side)
            arguments["strides"] = (channels, self._stride(), self._stride())
        if method.noise_samples:
            arguments |= {"nt_type": "smoothgrad", "nt_samples": method.noise_samples, "stdevs": method.noise}
        return arguments

    def gap(self, inputs: Tensor, target: Tensor, attributions: Tensor) -> Tensor | None:
        """Return the relative error of completeness, float [B]: the attributions should sum to the change of the logit.

        The change is that from the baseline to the image, or from the mean over several baselines. None for a method
        without completeness (Sundararajan et al. 2017, section 3).

        Raises InputError for DeepLIFT of a network whose functions Captum does not see.
        """
        complete = isinstance(self._plain, IntegratedGradients | DeepLift) and not self.is_layered
        if not complete or self.method.noise_samples or "baselines" in self.method.arguments:
            return None
        rows = torch.arange(len(inputs), device=inputs.device)
        with torch.no_grad():
            baselines = self._pixels.absent(self.method.baseline).expand(-1, *inputs.shape[1:])
            difference: Tensor = self._network(inputs)[rows, target] - self._network(baselines).mean(0)[target]
        error: Tensor = (attributions.sum(dim=(1, 2, 3)) - difference).abs() / difference.abs().clamp_min(1e-6)
        if isinstance(self._plain, DeepLift) and error.median() > INCOMPLETE:
            raise InputError(
                f"method {self.title}: its maps miss the change of the logit, which they are to sum to, by"
                f" {float(error.median()):.0%}: Captum has no rule for functions (torch.relu instead of nn.ReLU), and"
                " no exact one for overlapping pools. Use method=gradient_shap"
            )
        return error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch and numpy, from which Captum's methods draw their noise, and restore both afterwards."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def _is_method(kind: object) -> bool:
    """Say whether a member of `captum.attr` is a method that explains images, alone or by a layer."""
    if not inspect.isclass(kind) or not issubclass(kind, Attribution) or not callable(getattr(kind, "attribute", None)):
        return False
    required = [
        name
        for name, parameter in list(inspect.signature(kind).parameters.items())
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return required in (["forward_func"], ["model"], ["forward_func", "layer"], ["model", "layer"])


def attribute(
    attributor: Attributor, inputs: Tensor, target: Tensor, on_images: Callable[[int], None] = lambda count: None
) -> tuple[Tensor, Tensor | None]:
    """Return attributions float [N, C or 1, H, W] on the CPU and, of a method with completeness, its errors float [N].

    Raises InputError for attributions that are not finite.
    """
    found, gaps = [], []
    for part in batches(len(inputs), attributor.images_at_once):
        some = attributor(inputs[part], target[part])
        if not torch.isfinite(some).all():
            raise InputError(
                f"method {attributor.title} gives values that are not finite on this network: leave it out"
            )
        gap = attributor.gap(inputs[part], target[part], some)
        found.append(some.cpu())
        gaps += [] if gap is None else [gap.cpu()]
        on_images(part.stop - part.start)
    return torch.cat(found), torch.cat(gaps) if gaps else None
