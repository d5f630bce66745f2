"""Losses, gradients, traces and Jacobians of awkward networks against complex steps, and the complex steps against PyTorch."""

import numpy as np
import pytest

from tests.crosscheck.networks import LOSSES, NETWORKS, Case, Conv, cases, error, output_hessians, worst

EVERY = cases(NETWORKS, LOSSES)


@pytest.mark.parametrize(("name", "loss"), EVERY)
def test_losses_gradients_and_traces(name, loss):
    case = Case(name, loss)
    want, point = case.reference(case.params), case.objective.at(case.params, case.batch)
    assert error(float(point.loss), want.loss) <= 1e-12
    assert worst(point.grads(), want.G) <= 1e-11
    assert worst([trace.grad() / case.n for trace in point.traces()], want.G) <= 1e-11


@pytest.mark.parametrize(("name", "loss"), cases(NETWORKS, LOSSES, every=3))
def test_gradients_of_the_samples_one_weight_at_a_time(name, loss):
    case = Case(name, loss)
    assert worst(case.reference(case.params).S, case.per_sample_gradients(case.params)) <= 1e-12


@pytest.mark.parametrize(("name", "loss"), cases(NETWORKS, LOSSES, every=2))
def test_jacobians_and_their_products(name, loss):
    case = Case(name, loss)
    J, f = case.jacobian(case.params)
    point = case.objective.at(case.params, case.batch)
    plain, weighted = point.jacobian(), point.jacobian(weighted=True)
    draw = np.random.default_rng(1)
    v, u = tuple(draw.standard_normal(W.shape) for W in case.params), draw.standard_normal(len(J))
    flat = np.concatenate([W.ravel() for W in v])
    assert error(plain.to_dense(), J) <= 1e-11
    assert error(plain.matvec(v), J @ flat) <= 1e-11
    assert error(np.concatenate([W.ravel() for W in plain.rmatvec(u)]), J.T @ u) <= 1e-11
    assert error(plain.gram_matvec(u), J @ (J.T @ u)) <= 1e-11
    rows = J.reshape(*f.shape, -1)
    curvature = np.einsum("iap,iab,ibq->pq", rows, output_hessians(loss, f), rows)
    assert error(np.concatenate([W.ravel() for W in weighted.ggn_matvec(v)]), curvature @ flat) <= 1e-10
    rows = weighted.to_dense()
    assert error(rows.T @ rows, curvature) <= 1e-10
    assert error(weighted.gram(), rows @ rows.T) <= 1e-11


@pytest.mark.parametrize(("name", "loss"), cases(NETWORKS, LOSSES, every=2))
def test_complex_steps_agree_with_pytorch(name, loss):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    case = Case(name, loss)
    h, Ws = torch.tensor(case.x), [torch.tensor(W, requires_grad=True) for W in case.params]
    for k, (layer, W) in enumerate(zip(case.layers, Ws, strict=True)):
        weights, bias = (W[:, :-1], W[:, -1]) if layer.bias else (W, None)
        if isinstance(layer, Conv):
            kernels = weights.reshape(layer.out, layer.inp, layer.kernel, layer.kernel)
            h = F.conv2d(h, kernels, bias, stride=layer.stride, padding=layer.pad)
        else:
            h = F.linear(h.flatten(1), weights, bias)
        h = torch.tanh(h) if k < len(Ws) - 1 else h
    f, y = h.flatten(1), torch.tensor(case.y)
    value = {
        "squared": lambda: 0.5 * ((f - y) ** 2).sum(1).mean(),
        "softmax": lambda: F.cross_entropy(f, y),
        "sigmoid": lambda: F.binary_cross_entropy_with_logits(f, y, reduction="none").sum(1).mean(),
    }[loss]()
    want = case.reference(case.params)
    assert error(want.loss, float(value.detach())) <= 1e-13
    assert worst(want.G, [g.numpy() for g in torch.autograd.grad(value, Ws)]) <= 1e-12
