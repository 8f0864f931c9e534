"""Convolutions with less work: they equal PyTorch's, and run only where they pay."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from stylekit.networks import convolutions
from stylekit.networks.convolutions import Conv2d, sum_rows, winograd


@pytest.mark.parametrize(("size", "strip"), [((3, 3), 2**25), ((6, 6), 2**25), ((9, 16), 2**25), ((15, 9), 1)])
def test_winograd_equals_the_direct_convolution_in_values_and_gradients(monkeypatch, size, strip):
    monkeypatch.setattr(convolutions, "STRIP", strip)
    x, weight, bias = torch.randn(2, 5, *size), torch.randn(4, 5, 3, 3), torch.randn(4)
    results = []
    for function in (functional.conv2d, winograd):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        y = function(*inputs)
        assert y.is_contiguous()
        results.append([y, *torch.autograd.grad((y * torch.arange(y.numel()).view_as(y).cos()).sum(), inputs)])
    for direct, found in zip(*results, strict=True):
        torch.testing.assert_close(found, direct, rtol=1e-4, atol=1e-3)


def test_winograd_computes_no_gradient_that_is_not_needed():
    x, weight = torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(4, 4, 3, 3)
    y = winograd(x, weight)
    assert y.grad_fn.saved_tensors[0] is None, "the tiles are kept only for the gradient of a kernel"
    y.sum().backward()
    assert x.grad is not None and weight.grad is None
    assert not winograd(x.detach(), weight).requires_grad


def test_the_sum_of_rows_equals_the_direct_convolution():
    x, weight, bias = torch.randn(2, 5, 9, 11), torch.randn(3, 5, 7, 7), torch.randn(3)
    torch.testing.assert_close(sum_rows(x, weight, bias), functional.conv2d(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize(("inputs", "outputs", "side"), [(64, 64, 3), (8, 3, 7)])
def test_the_layer_pads_like_pytorch_and_has_the_same_parameters(mode, inputs, outputs, side):
    ours = Conv2d(inputs, outputs, side, padding=side // 2, padding_mode=mode)
    theirs = nn.Conv2d(inputs, outputs, side, padding=side // 2, padding_mode=mode)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, inputs, 24, 23)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("convolution", "x", "expected"),
    [
        (Conv2d(64, 64, 3), torch.rand(1, 64, 24, 24), "winograd"),
        (Conv2d(64, 64, 3), torch.rand(1, 64, 6, 6), None),
        (Conv2d(8, 3, 7), torch.rand(1, 8, 9, 9), "sum_rows"),
        (Conv2d(64, 32, 3), torch.rand(1, 64, 24, 24), None),
        (Conv2d(64, 64, 3, stride=2), torch.rand(1, 64, 24, 24), None),
        (Conv2d(64, 64, 3, groups=64), torch.rand(1, 64, 24, 24), None),
        (Conv2d(64, 64, 3).double(), torch.rand(1, 64, 24, 24).double(), None),
        (Conv2d(64, 64, 3), torch.rand(1, 64, 24, 24).to(memory_format=torch.channels_last), None),
    ],
)
def test_the_cheaper_way_is_taken_only_where_it_pays(monkeypatch, convolution, x, expected):
    taken = []
    for name in ("winograd", "sum_rows"):
        monkeypatch.setattr(convolutions, name, lambda x, *rest, name=name: taken.append(name))
    convolution(x)
    assert taken == ([expected] if expected else [])


def test_bfloat16_uses_the_convolution_of_pytorch():
    with torch.autocast("cpu", torch.bfloat16):
        assert Conv2d(64, 64, 3)(torch.rand(1, 64, 6, 6)).dtype == torch.bfloat16
