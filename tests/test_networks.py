"""Networks of the reproductions, by name."""

from types import SimpleNamespace

import pytest
import torch
from paper import networks
from torch import nn
from torch._dynamo.testing import CompileCounter

PARAMETERS = {  # of torchvision's models of these names, with 1,000 classes
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
}


@pytest.mark.parametrize("name", ["cnn7", "resnet18-cifar", "resnet50-cifar", "resnet18"])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits(name, channels):
    network = networks.build(name, classes=7, channels=channels, size=32).eval()
    assert network(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_any_size_fits_the_stride():
    for size in (22, 24, 46, 47, 48):
        network = networks.build("cnn7", classes=7, channels=1, size=size, width=8, stride=3).eval()
        assert network(torch.zeros(1, 1, size, size)).shape == (1, 7)
    with pytest.raises(ValueError, match="size must be over 21 for a stride of 3, got 21"):
        networks.build("cnn7", classes=7, channels=1, size=21, stride=3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_size_of_resnets(name):
    network = networks.build(name, classes=1000)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    assert "layer4.1.conv2.weight" in network.state_dict()
    assert "layer2.0.downsample.0.weight" in network.state_dict()


def test_weights_from_a_file(tmp_path):
    file = tmp_path / "faces.pt"
    source = networks.build("resnet18", classes=100)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, file)
    network = networks.build("resnet18", classes=7, weights=file)
    assert torch.equal(network.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    assert network.fc.out_features == 7
    grey = networks.build("resnet18", classes=7, channels=1, weights=file)
    assert torch.equal(grey.conv1.weight, source.conv1.weight.sum(1, keepdim=True))
    torch.save({"other": torch.zeros(1)}, file)
    deeper = tmp_path / "deeper.pt"
    torch.save(networks.build("resnet50", classes=7).state_dict(), deeper)
    for weights in (file, deeper):
        with pytest.raises(ValueError, match=r"the weights are of another network: .* [0-9]+ more"):
            networks.build("resnet18", classes=7, weights=weights)
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        networks.build("resnet18", classes=7, weights=tmp_path / "missing.pt")


def test_weights_from_before_batches_were_counted():
    """As of torch before 0.4.1."""
    state = networks.build("resnet18", classes=7).state_dict()
    old = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    network = networks.build("resnet18", classes=7)
    assert networks.load_matching(network, old) == len(old) == len(state) - 20
    assert torch.equal(network.bn1.weight, state["bn1.weight"])


def test_weights_beside_an_object(tmp_path):
    """As in the files of face networks that keep a meter of their training."""
    torch.save({"state_dict": {}, "recorder": SimpleNamespace()}, file := tmp_path / "faces.pt")
    with pytest.raises(ValueError, match=r'which .*faces\.pt is not: .* save {"state_dict": '):
        networks.build("resnet18", classes=7, weights=file)


def test_files_that_are_no_weights(tmp_path):
    file = tmp_path / "page.pt"
    for content in (b"", b"hello", b"<html>", bytes(300)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"page\.pt cannot be read as weights: "):
            networks.build("resnet18", classes=7, weights=file)
    for content, kind in (([1, 2], "list"), (torch.zeros(3), "Tensor"), ({"state_dict": 1}, "int")):
        torch.save(content, file)
        with pytest.raises(ValueError, match=f"must hold a state dict, got {kind}"):
            networks.build("resnet18", classes=7, weights=file)


def test_weights_of_imagenet_are_the_plain_ones(monkeypatch):
    """Not those of the newer recipe, which torchvision takes for some networks by default."""
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        return networks.build(name, classes=1000)

    monkeypatch.setattr(
        networks, "_torchvision_models", lambda: SimpleNamespace(get_model=get_model)
    )
    networks.build("resnet50", classes=7, weights="imagenet")
    assert asked == [("resnet50", "IMAGENET1K_V1")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("mobilenet", "mobilenet_v2"),
        ("vgg16", "vgg16_bn"),
    ],
)
def test_weights_of_torchvision_give_its_outputs(name, theirs, tmp_path):
    models = pytest.importorskip("torchvision.models")
    source = models.get_model(theirs)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    torch.save(source.state_dict(), file := tmp_path / "weights.pt")
    network = networks.build(name, classes=1000, weights=file)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), source.eval()(x))
    grey = networks.build(name, classes=7, channels=1, weights=file)
    assert grey(x[:, :1]).shape == (2, 7)


def test_unknown_network():
    with pytest.raises(ValueError, match="network must be one of cnn7"):
        networks.build("alexnet", 10)


@pytest.mark.parametrize("name", ["cnn2", "cnn7", "resnet18-cifar"])
def test_compile_reaches_the_networks(name):
    counter = CompileCounter()
    network = networks.build(name, classes=3, channels=1, size=8)
    network.compile(backend=counter)
    network(torch.zeros(2, 1, 8, 8))
    assert counter.frame_count > 0
