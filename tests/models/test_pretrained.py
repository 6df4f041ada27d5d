"""Pretrained networks: their new head, their weights, the normalisation of their images and what of them learns."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import normalize, resize

from fastconv.models import blueprint, build_model, count_parameters
from fastconv.models.configs import HEAD_WORK
from fastconv.models.configs import Pretrained as Settings
from fastconv.models.pretrained_weights import load_weights, read_weights, start_from, weights_name
from fastconv.optim import SGD, AdamW
from fastconv.system.errors import InputError

# Of ImageNet, as every network of torchvision here has them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS = ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
HEADS = {
    "resnet18": {"fc.weight", "fc.bias"},
    "squeezenet1_1": {"classifier.1.weight", "classifier.1.bias"},
    "mobilenet_v3_small": {"classifier.3.weight", "classifier.3.bias"},
    "mnasnet0_5": {"classifier.1.weight", "classifier.1.bias"},  # which asks for the version of its weights
}
LIGHT = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A function that writes a library's network with other random weights than the tests', once for each name."""
    folder = tmp_path_factory.mktemp("weights")

    def write(name=LIGHT):
        path = folder / f"{name}.pth"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(11)
                torch.save(torchvision.models.get_model(name).state_dict(), path)
        return path

    return write


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_what_depends_on_the_classes(name, file):
    network = build_model("pretrained", 3, 7, backbone=name)
    assert network.head == HEADS[name]
    load_weights(network, torch.load(file(name), weights_only=True), "the file")
    theirs = torchvision.models.get_model(name)
    theirs.load_state_dict(torch.load(file(name), weights_only=True))
    for key, value in theirs.state_dict().items():
        assert (key in network.head) != torch.equal(network.network.state_dict()[key], value), key
    assert network.eval()(torch.randn(2, 3, 40, 40)).shape == (2, 7)
    assert network.lr_layers()[-1].lr_scale == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_normalisation_of_the_weights(channels, file):
    """The whole way from bytes, against torchvision's own network, normalisation and head."""
    settings, (mean, std) = Settings(backbone=LIGHT, weights=str(file())), (each[:channels] for each in OURS)
    network = build_model("pretrained", channels, 1000, backbone=LIGHT).eval()
    start_from(network, settings, mean, std)
    head = network.network.classifier[3]
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.01)
    torch.nn.init.normal_(head.weight)  # else the logits are near zero, and tell nothing
    theirs = torchvision.models.get_model(LIGHT).eval()
    theirs.load_state_dict({**torch.load(file(), weights_only=True),
                            **{name: network.network.state_dict()[name] for name in network.head}})  # fmt: skip
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, channels, 33, 29))).float() / 255
    expected = theirs(normalize(pixels.expand(3, 3, 33, 29), MEAN, STD))
    torch.testing.assert_close(network(normalize(pixels, mean, std)), expected, rtol=1e-4, atol=1e-4)


def test_features_are_those_of_torchvisions_network(file):
    """Bit for bit, of one file that both read: images in the normalisation of the weights stay as they are."""
    network = build_model("pretrained", 3, 7, backbone="resnet18", mode="head").eval()
    start_from(network, Settings(backbone="resnet18", weights=str(file("resnet18"))), MEAN, STD)
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(torch.load(file("resnet18"), weights_only=True))
    theirs.fc = torch.nn.Identity()
    images = torch.rand(4, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    expected = theirs(normalize(images, MEAN, STD)).detach()
    assert expected.std(0).mean() > 0.1, "they tell images apart"
    assert torch.equal(network.features(normalize(images, MEAN, STD)), expected)


@pytest.mark.parametrize(("height", "width", "size"), [(20, 20, (40, 40)), (32, 20, (64, 40)), (40, 50, (40, 50))])
def test_small_images_are_scaled_up(height, width, size):
    network = build_model("pretrained", 3, 4, backbone=LIGHT, least_side=40).eval()
    images = torch.randn(2, 3, height, width)
    larger = resize(images, list(size), InterpolationMode.BILINEAR, antialias=False)
    torch.testing.assert_close(network(images), network.network(larger), rtol=1e-4, atol=1e-5)
    assert Settings().least_side == 96


def test_a_network_without_memory_has_the_same_parameters():
    for name in (LIGHT, "regnet_y_400mf"):  # the latter computes with values during construction
        made = blueprint("pretrained", 3, 5, backbone=name)
        assert next(made.parameters()).is_meta
        theirs = torchvision.models.get_model(name, num_classes=5)
        assert count_parameters(made) == sum(each.numel() for each in theirs.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_given_the_features(name):
    network = build_model("pretrained", 3, 7, backbone=name, mode="head")
    images = torch.randn(2, 3, 64, 48)
    features = network.features(images)
    assert features.shape == (2, {"resnet18": 512, "squeezenet1_1": 512, LIGHT: 1024, "mnasnet0_5": 1280}[name])
    ends = name != "squeezenet1_1"  # whose head is a convolution before a mean
    assert network.ends_with_head(64, 48, 3) == ends
    assert network.training
    if ends:
        torch.testing.assert_close(network.classify(features), network(images))


def trained(network, steps=2, **optimizer):
    optimizer = SGD(max_lr=0.05, **optimizer).build(network)  # in the mode in which it was made, as Lightning does
    for _ in range(steps):
        network(torch.randn(4, 3, 32, 32)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


@pytest.mark.parametrize(
    ("settings", "statistics", "weights"),
    [
        ({"mode": "head"}, False, False),
        ({"mode": "finetune"}, False, True),
        ({"mode": "finetune", "norm_statistics": "batch"}, True, True),
    ],
)
def test_what_changes_in_training(settings, statistics, weights):
    torch.manual_seed(0)
    network = build_model("pretrained", 3, 4, backbone=LIGHT, **settings)
    before = {name: value.clone() for name, value in network.network.state_dict().items()}
    after = trained(network).network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert network.head <= changed
    assert {name for name in changed if "running" in name} == {
        name for name in before if "running" in name and statistics
    }
    assert bool({name for name, _ in network.network.named_parameters() if name in changed} - network.head) == weights
    if not weights:
        assert count_parameters(network) == 1024 * 4 + 4
        # Computed as in evaluation, without dropout: the same features for the same images.
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(network.train()(images), network.eval()(images))


@pytest.mark.parametrize("name", HEADS)
def test_each_layer_has_its_learning_rate(name):
    network = build_model("pretrained", 3, 4, backbone=name, backbone_lr_scale=0.2, first_lr_scale=0.05)
    layers = network.lr_layers()
    listed = [id(each) for layer in layers for each in layer.parameters]
    assert sorted(listed) == sorted(map(id, network.parameters()))
    order = [id(each) for each in network.parameters()]
    assert [order.index(each) for each in listed] == sorted(order.index(each) for each in listed)
    scales = [layer.lr_scale for layer in layers]
    assert scales[0] == pytest.approx(0.01)
    assert scales[-2:] == [pytest.approx(0.2), 1]
    ratios = [after / before for before, after in itertools.pairwise(scales[:-1])]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert [layer.schedule_start for layer in layers] == [0.25] * (len(layers) - 1) + [0]
    assert AdamW(max_lr=0.5).build(network).param_groups[0]["max_lr"] == 0.5  # the first group's is the setting
    rates = {id(each): group["max_lr"] for group in AdamW(max_lr=0.5).build(network).param_groups
             for each in group["params"]}  # fmt: skip
    assert rates == {id(each): pytest.approx(0.5 * layer.lr_scale) for layer in layers for each in layer.parameters}


def test_the_gain_counts_steps_that_train_the_last_layer_alone():
    assert HEAD_WORK == 1 / 3  # of three passes of equal work, the forward pass
    assert Settings(head_share=0.5).gain == pytest.approx(0.5 * 3 + 0.5)
    assert Settings(mode="head").gain == 1


def test_a_file_of_another_kind_is_one_line(tmp_path, file):
    network = build_model("pretrained", 3, 4, backbone=LIGHT)
    whole = torch.load(file(), weights_only=True)

    def told(content, name="file.pth"):
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(InputError) as error:
            start_from(network, Settings(backbone=LIGHT, weights=str(path)), *OURS)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        return str(error.value)

    first = "features.0.0.weight"
    assert "no file of weights" in told(b"no weights")
    assert "no file of weights" in told(torch.nn.Linear(1, 1))  # it would run code
    assert "holds no weights by name" in told([1, 2])
    assert "holds no weights by name" in told({"epoch": 3})
    assert f"lacks {first} and " in told(torchvision.models.squeezenet1_1().state_dict())
    assert f"other shapes of {first}." in told({**whole, first: torch.zeros(1)})
    assert "beyond them, more.weight." in told({**whole, "more.weight": torch.zeros(1)})
    assert f"{first} has values that are not finite" in told({**whole, first: whole[first] * float("nan")})
    with pytest.raises(InputError) as error:
        read_weights(Settings(weights="none.pth"))
    place, url = Path("none.pth").absolute(), "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert str(error.value) == (
        f"model.weights=none.pth is not there: put the weights of resnet18 at {place}, such as {url}, or leave it out"
    )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_of_training_scripts_are_read(tmp_path, file, prefix):
    whole = torch.load(file(), weights_only=True)
    torch.save({"state_dict": {f"{prefix}{name}": value for name, value in whole.items()}, "epoch": 3}, tmp_path / "f")
    assert read_weights(Settings(backbone=LIGHT, weights=str(tmp_path / "f"))).keys() == whole.keys()


def test_names_that_torchvisions_files_still_have(tmp_path):
    """Those of DenseNets and vision transformers are older than its networks, which it lets load them all the same."""
    dense = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 1), num_init_features=8, num_classes=3)
    vit = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=3)
    names = {"norm1.": "norm.1.", "conv1.": "conv.1.", "norm2.": "norm.2.", "conv2.": "conv.2."}
    blocks = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}

    def earlier(network, old):
        """Weights by their earlier names: the inner layers alone had them."""
        return {
            re.sub(rf"(?<=\.)({'|'.join(map(re.escape, old))})", lambda found: old[found[0]], name): value + 1
            for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")  # which is younger than they are
        }

    for network, old, backbone in ((dense, names, "densenet121"), (vit, blocks, "vit_b_16")):
        state = earlier(network, old)
        assert len(state.keys() - network.state_dict().keys()) > 4
        torch.save(state, tmp_path / "old.pth")
        found = read_weights(Settings(backbone=backbone, weights=str(tmp_path / "old.pth")))
        if network is dense:
            weights = SimpleNamespace(get_state_dict=lambda state=state, **_: dict(state))
            torchvision.models.densenet._load_state_dict(network, weights, progress=False)
        else:
            network.load_state_dict(state)
        assert found.keys() == {name for name in network.state_dict() if "num_batches" not in name}
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in found.items())


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch, file):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    url = torchvision.models.get_model_weights(LIGHT).DEFAULT.url
    place = tmp_path / "checkpoints" / url.rpartition("/")[2]

    def unreachable(url, dst, hash_prefix, progress):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError) as error:
        read_weights(Settings(backbone=LIGHT))
    assert f"put {url} at {place}, or give model.weights=FILE" in str(error.value)
    assert "no route to host" in str(error.value)
    # As the line says; and then nothing is fetched.
    place.write_bytes(file().read_bytes())
    assert read_weights(Settings(backbone=LIGHT)).keys() == torch.load(file(), weights_only=True).keys()


def test_fetched_weights_are_kept_where_torch_keeps_them(tmp_path, monkeypatch, file):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked = []

    def fetch(url, dst, hash_prefix, progress):
        asked.append((url, hash_prefix))
        with open(dst, "wb") as kept:
            kept.write(file().read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    for _ in range(2):
        read_weights(Settings(backbone=LIGHT))
    assert asked == [("https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth", "047dcff4")]


@pytest.mark.parametrize("name", ["resnet19", "timm", "fasterrcnn_resnet50_fpn", "../resnet18"])
def test_unknown_networks_are_one_line(name):
    with pytest.raises(InputError, match=r"model\.backbone=.* is unknown"):
        build_model("pretrained", 3, 4, backbone=name)


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"needs the package timm .*: pip install 'fastconv\[timm\]'"):
        build_model("pretrained", 3, 4, backbone="timm:resnet18")


def test_timm_networks():
    pytest.importorskip("timm")
    network = build_model("pretrained", 1, 4, backbone="timm:tf_efficientnet_lite0")
    assert network.head == {"classifier.weight", "classifier.bias"}
    network.normalised_by((0.5,), (0.5,))  # the weights' own
    assert torch.equal(network.scale, torch.ones(3, 1, 1))
    for name in ("timm:hf-hub:timm/resnet18", "timm:local-dir:.", "timm:resnet19"):
        with pytest.raises(InputError, match="is unknown"):
            build_model("pretrained", 3, 4, backbone=name)


def test_the_name_of_the_weights():
    assert weights_name(Settings()) == "resnet18 IMAGENET1K_V1"
    assert weights_name(Settings(weights="of/mine.pth")) == "resnet18 mine.pth"
    assert weights_name(object()) is None


def test_the_settings_do_not_import_torch():
    line = "import sys; from fastconv.models import configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0
