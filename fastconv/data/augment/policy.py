"""The augmentation of a stream: the settings of all transforms, and the order in which they are applied."""

import copy
import importlib
import pkgutil
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from fastconv.data.augment import transforms as package
from fastconv.data.augment.transform import REGISTERED, DeviceTransform, Transform
from fastconv.data.augment.transforms.auto_augment import POLICIES, AutoAugment
from fastconv.data.augment.transforms.color_jitter import ColorJitter
from fastconv.data.augment.transforms.crop import Crop
from fastconv.data.augment.transforms.cutout import Cutout
from fastconv.data.augment.transforms.flip import Flip
from fastconv.system.errors import InputError, reason
from fastconv.system.settings import Range, setting
from fastconv.system.targets import import_target, source_digest

P = TypeVar("P")

# The first format described a stream by all of these settings, and a later one described colour jitter by both of its
# settings. They stay in fingerprints even at their default, so that streams of that time are still found.
ALWAYS_DESCRIBED = {"crop": {"padding", "mode"}, "flip": {"probability"}, "cutout": {"size"}}
DESCRIBED_TOGETHER = {"color_jitter": {"brightness", "contrast"}}


def _with_registered(policy: type[P]) -> type[P]:
    """Add a field for each registered transform that the class does not name, before it becomes a dataclass."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for name, kind in REGISTERED.items():
        if name not in policy.__annotations__:
            policy.__annotations__[name] = kind
            setattr(policy, name, field(default_factory=kind))
    return policy


@dataclass(frozen=True)
@_with_registered
class Policy:
    """The augmentation of a stream.

    Images are cropped, flipped and jittered in colour. Then come one of torchvision's policies, other registered
    transforms in the order of their names, cutout, and the transforms of `extra`.
    """

    crop: Crop = field(default_factory=Crop)
    flip: Flip = field(default_factory=Flip)
    cutout: Cutout = field(default_factory=Cutout)
    color_jitter: ColorJitter = field(default_factory=ColorJitter)
    auto: str = setting("none", options=POLICIES)
    """A policy of torchvision: `rand_augment`, `trivial_augment`, `augmix`, or `none`. Policies process one image at a
    time, a few thousand per second (augmix: a few hundred), and more cores do not help."""
    num_ops: int = setting(2, Range("a number of operations", 1, 16))
    """Number of operations that rand_augment applies to an image, one after the other."""
    magnitude: int = setting(9, Range("a strength", 0, 30))
    """Strength of the operations of rand_augment, in [0, 30]."""
    extra: list[dict[str, Any]] = field(default_factory=list, hash=False)
    """Transforms of your own, applied in this order after all others. `augment.extra=[{_target_: mypkg.Invert,
    probability: 0.5}]` calls `mypkg.Invert(probability=0.5)`; the class needs the methods `draw` and `apply` of
    fastconv.data.augment.transform.Transform. Their settings and source files are part of the stream's identity."""

    def transforms(self) -> dict[str, Transform]:
        """The transforms by the name of their draws, in the order in which they are applied.

        Raises InputError for an entry of `extra` that cannot be made or is not a transform.
        """
        first: dict[str, Transform] = {
            "crop": self.crop,
            "flip": self.flip,
            "color_jitter": self.color_jitter,
            "auto": AutoAugment(self.auto, self.num_ops, self.magnitude),
        }
        others = {name: getattr(self, name) for name in sorted(REGISTERED) if name not in {*first, "cutout"}}
        return {**first, **others, "cutout": self.cutout, **self._extra()}

    @property
    def mirrors(self) -> bool:
        """Whether the network is trained on mirror images too: of some images, as a transform that has `mirrors` says.

        None of torchvision's policies mirrors.
        """
        return any(getattr(transform, "mirrors", False) for transform in self.transforms().values())

    def only_on_host(self) -> list[str]:
        """The keys of the transforms in use that `stream=device` cannot do: they have no method `apply_on_device`.

        Raises InputError as `transforms` does.
        """
        plain, found = PLAIN.transforms(), []
        for name, transform in self.transforms().items():
            is_off = (name in plain and transform == plain[name]) or (name == "auto" and self.auto == "none")
            if not is_off and not isinstance(transform, DeviceTransform):
                key = f"augment.{name}" if name in plain else name
                found.append(f"{key}={self.auto}" if name == "auto" else key)
        return found

    def described(self) -> dict[str, object]:
        """The settings that identify a stream: those that differ from their defaults, and those of the first format."""
        found: dict[str, object] = {}
        for each in fields(self):
            value, plain = getattr(self, each.name), getattr(PLAIN, each.name)
            if is_dataclass(value) and not isinstance(value, type):
                always = ALWAYS_DESCRIBED.get(each.name, set())
                together = DESCRIBED_TOGETHER.get(each.name, set()) if value != plain else set()
                settings = {
                    key: setting
                    for key, setting in asdict(value).items()
                    if key in always | together or setting != getattr(plain, key)
                }
                if settings:
                    found[each.name] = settings
            elif each.name == "extra" and value:
                found["extra"] = [
                    {**entry, "source": digest} for entry, digest in zip(value, self.sources(), strict=True)
                ]
            elif value != plain:
                found[each.name] = value
        return found

    def sources(self) -> list[str]:
        """sha256 of the source file of each transform of `extra`. Raises InputError for one that does not exist."""
        return [source_digest(_target(entry)) for entry in self.extra]

    def _extra(self) -> dict[str, Transform]:
        found: dict[str, Transform] = {}
        for entry in self.extra:
            target = _target(entry)
            kind = import_target(target)
            settings = {key: value for key, value in entry.items() if key != "_target_"}
            try:
                made = kind(**copy.deepcopy(settings))
            except Exception as error:  # the user's code may raise anything
                raise InputError(f"augment.extra: {target} cannot be made of {settings}: {reason(error)}") from error
            if not isinstance(made, Transform):
                raise InputError(
                    f"augment.extra: {target} is no augmentation: it needs methods draw(draws) and"
                    " apply(images, drawn, fill)"
                )
            count = sum(name.partition("#")[0] == target for name in found)
            found[f"{target}#{count + 1}" if count else target] = made  # two of one class have separate draws
        return found


def _target(entry: dict[str, Any]) -> str:
    target = entry.get("_target_") if isinstance(entry, dict) else None
    if not isinstance(target, str):
        raise InputError(f"augment.extra: {entry} names no class: give {{_target_: package.Class, its settings}}")
    return target


PLAIN = Policy()
