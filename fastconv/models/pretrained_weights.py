"""Weights of pretrained networks: found on this machine or fetched once, checked, and loaded into a network."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastconv.models.backbones import TIMM, import_timm, timm_config, torchvision_weights
from fastconv.models.configs import Pretrained as Settings
from fastconv.models.pretrained import Pretrained
from fastconv.models.weights import load_weights_by_name
from fastconv.system.downloads import limited_waiting
from fastconv.system.errors import InputError, reason

# Keys under which training scripts keep the weights in a file of more than that.
WRAPPED = ("state_dict", "model", "model_state_dict")
# Keys of heads that are only for training from scratch (see `backbones.ARGUMENTS`).
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# Names in torchvision's files of DenseNets and vision transformers, and how its networks call these weights by now. It
# renames them itself where it loads them.
RENAMED = (
    (re.compile(r"(\.denselayer[0-9]+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp\.)linear_1\."), r"\g<1>0."),
    (re.compile(r"(\.mlp\.)linear_2\."), r"\g<1>3."),
)


def weights_name(model: object) -> str | None:
    """The weights that a run started from, for its results: the network and the name of its weights or of their file.

    None for a network that is trained from scratch.
    """
    if not isinstance(model, Settings):
        return None
    if model.weights is not None:
        return f"{model.backbone} {Path(model.weights).name}"
    if model.backbone.startswith(TIMM):
        tag = timm_config(model.backbone).tag
        return f"{model.backbone} {tag}" if tag and not model.backbone.endswith(tag) else model.backbone
    return f"{model.backbone} {torchvision_weights(model.backbone).name}"


def read_weights(model: Settings) -> dict[str, Tensor]:
    """The pretrained weights of a network, by the names of its parameters and buffers.

    They are fetched, if no file is given and the library's are not on this machine yet. Raises InputError if that
    fails, saying which file to put where, and for a file that holds no weights.
    """
    if model.weights is not None:
        require_file(model.backbone, model.weights)
        state = _read(Path(model.weights), f"model.weights={model.weights}")
        return state if model.backbone.startswith(TIMM) else _renamed(state)
    if model.backbone.startswith(TIMM):
        return _of_timm(model.backbone)
    url = torchvision_weights(model.backbone).url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.is_file():
        _fetch(url, path, model.backbone)
    return _renamed(_read(path, str(path)))


def require_file(backbone: str, weights: str, key: str = "model") -> None:
    """Raise InputError, saying what to put where, unless the file of a network's weights is there.

    Args:
        key: the section of the setting `weights`, for the message.
    """
    path = Path(weights)
    if path.is_file():
        return
    if backbone.startswith(TIMM):
        source = f"model.safetensors or pytorch_model.bin of {_timm_place(timm_config(backbone))}"
    else:
        source = str(torchvision_weights(backbone).url)
    raise InputError(
        f"{key}.weights={weights} is not there: put the weights of {backbone} at {path.absolute()}, such as {source},"
        " or leave it out"
    )


def require_weights(model: Settings, network: nn.Module) -> None:
    """Read the weights of a network, and fetch them if need be. Raises InputError as `start_from` does.

    Args:
        network: the network, which stays as it is; it may be without memory.
    """
    if isinstance(network, Pretrained):
        _require_fit(network, read_weights(model), source_of(model))


def load_weights(network: Pretrained, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights into all of a network but its head. Raises InputError, naming `source`, unless all of them fit.

    Args:
        state: weights by their names in the library's network.
        source: where they are from, for messages.
    """
    _require_fit(network, state, source)
    wanted = network.network.state_dict()
    kept = {name: value for name, value in state.items() if name in wanted and name not in network.head}
    load_weights_by_name(network.network, {**wanted, **kept})


def _require_fit(network: Pretrained, state: Mapping[str, Tensor], source: str) -> None:
    wanted = network.network.state_dict()
    needed = {name for name in wanted if name not in network.head and not name.endswith("num_batches_tracked")}
    lacking = [name for name in wanted if name in needed and name not in state]
    other = [name for name in wanted if name in needed and name in state and state[name].shape != wanted[name].shape]
    surplus = [name for name in state if name not in wanted and not name.startswith(AUXILIARY)]
    for names, verb in ((lacking, "lacks"), (other, "has other shapes of"), (surplus, "has, beyond them,")):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise InputError(
                f"{source} does not have the weights of this model.backbone: it {verb} {names[0]}{more}. Give the"
                " file of the"
                " same network of the same library, or its name as model.backbone"
            )
    bad = [name for name in needed if state[name].is_floating_point() and not torch.isfinite(state[name]).all()]
    if bad:
        raise InputError(f"{source} is damaged: {min(bad)} has values that are not finite")


def start_from(network: nn.Module, model: object, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Give a pretrained network its weights, and the statistics by which its images are normalised.

    Does nothing for other networks. Raises InputError as `read_weights` and `load_weights` do.
    """
    if isinstance(network, Pretrained) and isinstance(model, Settings):
        load_weights(network, read_weights(model), source_of(model))
        network.draw_head()
        network.normalised_by(mean, std)


def source_of(model: Settings) -> str:
    """Where the weights of a network are from, for messages."""
    return f"model.weights={model.weights}" if model.weights is not None else f"the weights of {model.backbone}"


def _read(path: Path, named: str) -> dict[str, Tensor]:
    """The tensors of a file, by name. No code in it runs."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except ImportError as error:
        raise InputError(f"{named} needs the package safetensors: pip install 'fastconv[timm]'") from error
    except Exception as error:  # torch and pickle raise many kinds
        raise InputError(
            f"{named} is no file of weights that torch reads without running code in it (torch.save of a state dict),"
            " or is damaged"
        ) from error
    for key in WRAPPED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{named} holds no weights by name: give the file of a state dict")
    # DistributedDataParallel puts this before each name.
    return {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision by the names that its networks have now."""
    names = {name: name for name in state}
    for earlier, now in RENAMED:
        names = {name: earlier.sub(now, known) for name, known in names.items()}
    return {names[name]: value for name, value in state.items()}


def _fetch(url: str, path: Path, backbone: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = path.stem.rpartition("-")[2]
        with limited_waiting():
            torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_prefix, progress=False)
    except Exception as error:  # of the network, of the disk, or of a wrong hash
        raise InputError(
            f"the weights of {backbone} cannot be fetched ({reason(error)}): put {url} at {path}, or give"
            " model.weights=FILE"
        ) from error


def _of_timm(backbone: str) -> dict[str, Tensor]:
    """The weights of a network of timm, which finds them on this machine or fetches them."""
    config, timm = timm_config(backbone), import_timm(backbone)
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(None):
            made = timm.create_model(backbone.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # of the network, of the disk, or timm's own
        raise InputError(
            f"the weights of {backbone} cannot be fetched ({reason(error)[:200]}): download model.safetensors or"
            f" pytorch_model.bin from {_timm_place(config)}, and give model.weights=FILE"
        ) from error
    state: dict[str, Tensor] = made.state_dict()
    return state


def _timm_place(config: Any) -> str:
    """Where timm has the weights of a network."""
    return f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or "its weights")
