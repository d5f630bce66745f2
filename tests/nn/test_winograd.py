"""Winograd's filtering beside sums of products by the definition, and which convolutions go that way."""

import dataclasses

import numpy as np
import pytest

from nearlin import nn
from nearlin.nn import images, winograd


def direct(x, kernels):
    """A 3 x 3 convolution with pad 1: nine shifted products, in float64."""
    h, w = x.shape[2:]
    image = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [np.einsum("ncij,oc->noij", image[:, :, i : i + h, j : j + w], kernels[:, :, i, j].astype(float))
               for i in range(3) for j in range(3)]  # fmt: skip
    return sum(shifted)


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_it_equals_the_definition(be, size):
    """For even and odd sides; both gradients as adjoints of the definition, which is linear in images and in kernels."""
    g = np.random.default_rng(0)
    x, dx, dy = g.standard_normal((3, 2, *size)), g.standard_normal((3, 2, *size)), g.standard_normal((3, 4, *size))
    K, dK, b = g.standard_normal((4, 2, 3, 3)), g.standard_normal((4, 2, 3, 3)), g.standard_normal(4)
    spec, tol = nn.Conv2d(2, 4, 3, pad=1).spec, be.tol(1e-12)
    y = winograd.forward(be.array(x), be.array(K), be.array(b), spec)
    np.testing.assert_allclose(be.numpy(y), direct(x, K) + b[None, :, None, None], atol=tol)
    back = be.numpy(winograd.backward(be.array(dy), be.array(K), x.shape, spec))
    assert np.sum(back * dx) == pytest.approx(np.sum(dy * direct(dx, K)), abs=10 * tol)
    weights, bias = winograd.gradient(be.array(dy), be.array(x), spec)
    assert np.sum(be.numpy(weights) * dK.reshape(4, -1)) == pytest.approx(np.sum(dy * direct(x, dK)), abs=10 * tol)
    np.testing.assert_allclose(be.numpy(bias), dy.sum((0, 2, 3)), atol=tol)


def test_many_channels_go_this_way_and_others_do_not():
    plain = nn.Conv2d(80, 80, 3, pad=1).spec
    assert winograd.serves(plain)
    assert winograd.serves(nn.Conv2d(64, 128, 3, pad=1).spec)
    others = (
        {"inp": 79},
        {"out": 79},
        {"kernel": 5},
        {"kernel": (3, 1)},
        {"stride": 2},
        {"pad": 0},
        {"dilation": 2},
        {"groups": 2},
    )
    assert not any(winograd.serves(dataclasses.replace(plain, **change)) for change in others)


@pytest.mark.parametrize("channels", [64, 65], ids=["winograd", "patches"])
def test_float32_errs_little(channels, monkeypatch):
    """Of many channels, against float64: 2e-6 of the largest entry is asked for, 4e-7 and less were measured."""
    monkeypatch.setattr(winograd, "CHANNELS", channels)
    g, layer = np.random.default_rng(0), nn.Conv2d(64, 64, 3, pad=1, bias=False)
    x, W = g.standard_normal((2, 64, 8, 8)).astype("f"), g.standard_normal((64, 576)).astype("f")
    y, want = layer.forward(W, x)[0], direct(x, W.reshape(64, 64, 3, 3))
    assert y.dtype == np.float32
    assert np.max(np.abs(y - want)) < 2e-6 * np.max(np.abs(want))


def test_a_layer_of_many_channels_equals_torch_in_float64(monkeypatch):
    """Forward and both gradients through `Conv2d`, in one block and in many."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(winograd, "CHANNELS", 64)
    g, layer = np.random.default_rng(0), nn.Conv2d(64, 65, 3, pad=1)
    x, W, dy = g.standard_normal((5, 64, 5, 6)), g.standard_normal((65, 577)), g.standard_normal((5, 65, 5, 6))
    tx, tW = torch.tensor(x, requires_grad=True), torch.tensor(W, requires_grad=True)
    ty = torch.nn.functional.conv2d(tx, tW[:, :-1].reshape(65, 64, 3, 3), tW[:, -1], padding=1)
    ty.backward(torch.tensor(dy))
    for blocks in (images.sample_blocks, lambda n, *_, **__: [slice(0, 2), slice(2, n)]):
        for module in (images, winograd):
            monkeypatch.setattr(module, "sample_blocks", blocks)
        y, cache = layer.forward(W, x)
        dx, trace = layer.backward(W, cache, dy)
        for ours, theirs in ((y, ty.detach()), (dx, tx.grad), (trace.grad(), tW.grad)):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-12 * float(theirs.abs().max()))
