"""Laws of layers: dot tests and finite differences of every layer, and second implementations of convolution and pooling."""

import copy
import itertools
import math

import numpy as np
import pytest

from nearlin import _array, nn

RELU, TANH = (nn.Elementwise(nn.activation(name)) for name in ("relu", "tanh"))
IMAGE = (2, 7, 6)  # channels, rows, columns
NETWORKS = {
    "dense": (nn.Sequential((nn.Dense(5, 3),)), (5,)),
    "dense-without-bias": (nn.Sequential((nn.Dense(5, 4, bias=False), TANH, nn.Dense(4, 3, scheme="uniform"))), (5,)),
    "conv": (nn.Sequential((nn.Conv2d(2, 3, 3), nn.Flatten()), shape=IMAGE), IMAGE),
    "conv-pad": (nn.Sequential((nn.Conv2d(2, 3, 3, pad=1), TANH, nn.Conv2d(3, 2, 2), nn.Flatten()), shape=IMAGE), IMAGE),
    "conv-stride": (nn.Sequential((nn.Conv2d(2, 3, 3, stride=2, pad=1, bias=False), nn.Flatten()), shape=IMAGE), IMAGE),
    "conv-stride-3": (nn.Sequential((nn.Conv2d(2, 3, 2, 3, 2), TANH, nn.Flatten(), nn.Dense(36, 2)), shape=IMAGE), IMAGE),
    "conv-1x1": (nn.Sequential((TANH, nn.Conv2d(2, 3, 1), TANH, nn.Conv2d(3, 2, 1, stride=2), nn.Flatten()), shape=IMAGE), IMAGE),
    "conv-fan-out": (nn.Sequential((nn.Conv2d(2, 4, 3, scheme="fan-out"), nn.GlobalAvgPool()), shape=IMAGE), IMAGE),
    "conv-options": (
        nn.Sequential((nn.Conv2d(2, 4, (3, 2), (1, 2), (0, 1), dilation=(2, 1)), TANH, nn.GlobalAvgPool()), shape=IMAGE), IMAGE
    ),
    "conv-groups": (
        nn.Sequential((nn.Conv2d(2, 4, 3, groups=2), TANH, nn.Conv2d(4, 4, 2, 2, 0, False, groups=4), nn.Flatten()), shape=IMAGE),
        IMAGE,
    ),
    "layer-norm": (nn.Sequential((nn.Dense(5, 4), nn.LayerNorm(4), TANH, nn.Dense(4, 2))), (5,)),
    "layer-norm-conv": (
        nn.Sequential((nn.LayerNorm(2), nn.Conv2d(2, 3, 3), nn.LayerNorm(3), TANH, nn.Flatten()), shape=IMAGE), IMAGE
    ),
    "norm": (nn.Sequential((nn.Dense(5, 4), nn.BatchNorm(4), TANH, nn.Dense(4, 2))), (5,)),
    "norm-first": (nn.Sequential((nn.BatchNorm(5), TANH, nn.Dense(5, 2)), shape=(5,)), (5,)),
    "norm-conv": (nn.Sequential((nn.Conv2d(2, 3, 3), nn.BatchNorm(3), TANH, nn.Flatten()), shape=IMAGE), IMAGE),
    "max-pool": (nn.Sequential((nn.Conv2d(2, 3, 3, pad=1), nn.MaxPool(2), nn.Flatten()), shape=IMAGE), IMAGE),
    "max-pool-overlapping": (nn.Sequential((nn.Conv2d(2, 3, 3), nn.MaxPool(3, 2, 1), nn.Flatten()), shape=IMAGE), IMAGE),
    "average-pool": (nn.Sequential((nn.Conv2d(2, 3, 3), nn.AvgPool(2), nn.Flatten()), shape=IMAGE), IMAGE),
    "average-pool-overlapping": (
        nn.Sequential((nn.Conv2d(2, 3, 3), nn.AvgPool(3, stride=1, pad=1), nn.Flatten()), shape=IMAGE), IMAGE
    ),
    "residual": (
        nn.Sequential(
            (
                nn.Conv2d(2, 3, 3, pad=1),
                nn.Residual(nn.Sequential((nn.Conv2d(3, 3, 3, pad=1), nn.BatchNorm(3), TANH, nn.Conv2d(3, 3, 3, pad=1)))),
                TANH,
                nn.Residual(nn.Sequential((nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm(6))), nn.ZeroPadShortcut()),
                nn.GlobalAvgPool(),
                nn.Dense(6, 2),
            ),
            shape=IMAGE,
        ),
        IMAGE,
    ),
    "residual-first": (nn.Sequential((nn.Residual(nn.Sequential((nn.Dense(5, 5), TANH))), nn.Dense(5, 2)), shape=(5,)), (5,)),
}  # fmt: skip
LOSSES = {"squared": nn.SquaredLoss(), "averaged": nn.SquaredLoss(average=True), "sigmoid": nn.SigmoidCrossEntropy()}
N = 6


@pytest.fixture(params=NETWORKS)
def case(request):
    return NETWORKS[request.param]


def make(be, case, loss=LOSSES["squared"], seed=5):
    net, shape = case
    g = np.random.default_rng(seed)
    x = be.array(g.standard_normal((N, *shape)))
    params = tuple(W + 0.3 * _array.normal(9, tuple(W.shape), W) for W in net.init(3, be.like))
    y = be.array(g.random(net.forward(params, x)[0].shape))
    return nn.Objective(net, loss), params, (x, y)


def random_like(be, arrays, seed=1):
    g = np.random.default_rng(seed)
    return tuple(be.array(g.standard_normal(tuple(a.shape))) for a in arrays)


def inner(be, a, b):
    return sum(float(np.sum(be.numpy(x) * be.numpy(y))) for x, y in zip(a, b, strict=True))


def test_forward_and_backward_derivatives_are_adjoint(be, case):
    """⟨J v, u⟩ = ⟨v, Jᵀ u⟩ for parameters, and for inputs through the modules themselves."""
    objective, params, (x, _) = make(be, case)
    net = objective.network
    outputs, tape = net.forward(params, x)
    v, (u,), (dx,) = random_like(be, params), random_like(be, (outputs,), 2), random_like(be, (x,), 3)
    scale = max(1.0, abs(inner(be, (u,), (u,))))
    assert inner(be, (net.jvp(params, tape, v),), (u,)) == pytest.approx(
        inner(be, v, net.grads(params, tape, u)), abs=be.tol(1e-12) * scale
    )
    back, _ = net.backward(params, tape, u)
    zeros = tuple(0 * W for W in params)
    assert inner(be, (net.jvp(params, tape, zeros, dx),), (u,)) == pytest.approx(
        inner(be, (dx,), (back,)), abs=be.tol(1e-12) * scale
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_matches_central_differences(case, loss, numpy_backend):
    objective, params, batch = make(numpy_backend, case, LOSSES[loss])
    grads, v, eps = objective.at(params, batch).grads(), random_like(numpy_backend, params), 1e-6

    def value(t):
        return float(objective.at(tuple(W + t * V for W, V in zip(params, v, strict=True)), batch).loss)

    assert (value(eps) - value(-eps)) / (2 * eps) == pytest.approx(inner(numpy_backend, grads, v), rel=1e-6, abs=1e-7)


def test_traces_accumulate_to_the_gradient(be, case):
    objective, params, batch = make(be, case)
    point = objective.at(params, batch)
    for trace, grad, spec in zip(point.traces(), point.grads(), objective.layers, strict=True):
        want, tol = be.numpy(grad) * N, be.tol(1e-11)
        np.testing.assert_allclose(be.numpy(trace.grad()), want, atol=tol)
        if spec.kind != "norm" and spec.groups == 1:
            got = trace.accumulate(lambda A, G: G @ be.xp.matrix_transpose(A))
            np.testing.assert_allclose(be.numpy(got), want, atol=tol)


def test_the_rows_of_a_layer_are_the_places_that_its_weights_are_used_at(be, case):
    """For a sample one, or one for each position of a convolution's output: of normalised images too."""
    objective, params, batch = make(be, case)
    point = objective.at(params, batch)
    places = [math.prod(trace.signals.shape) // trace.signals.shape[1] for trace in point.traces()]
    assert [trace.rows for trace in point.traces()] == places
    assert list(objective.network.rows(point._tape)) == places


def test_every_backend_gives_the_numbers_of_numpy(be, case, numpy_backend):
    for loss in LOSSES.values():
        (objective, params, batch), (_, theirs, other) = make(be, case, loss), make(numpy_backend, case, loss)
        got, want = objective.at(params, batch), objective.at(theirs, other)
        assert float(got.loss) == pytest.approx(float(want.loss), rel=be.tol(1e-12))
        for a, b in zip(got.grads(), want.grads(), strict=True):
            np.testing.assert_allclose(be.numpy(a), b, atol=be.tol(1e-11))


def test_no_layer_is_changed_by_use(case, numpy_backend):
    before = copy.deepcopy(case[0])
    objective, params, batch = make(numpy_backend, case)
    kept = [W.copy() for W in (*params, *batch)]
    objective.at(params, batch).grads()
    assert case[0] == before
    assert all(np.array_equal(a, b) for a, b in zip(kept, (*params, *batch), strict=True))


def test_float32_stays_float32(case, numpy_backend):
    objective, params, batch = make(numpy_backend, case)
    params, batch = (tuple(a.astype(np.float32) for a in group) for group in (params, batch))
    point = objective.at(params, batch)
    assert all(g.dtype == np.float32 for g in (*point.grads(), point.outputs, point.jvp(params)))


# ------------------------------------------------------------------------------------------------- second implementations


def convolved(x, W, spec):
    """Convolution by its definition: an entry of a kernel and a group at a time."""
    (n, c, h, w), g = x.shape, spec.groups
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = spec.kernel, spec.stride, spec.pad, spec.dilation
    image = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    rows, columns = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    kernels, out = W[:, : c // g * kh * kw].reshape(-1, c // g, kh, kw), W.shape[0] // g
    y = np.zeros((n, W.shape[0], rows, columns))
    for group, (a, b), (i, j) in itertools.product(range(g), np.ndindex(kh, kw), np.ndindex(rows, columns)):
        pixel = image[:, group * (c // g) : (group + 1) * (c // g), i * sh + a * dh, j * sw + b * dw]
        here = slice(group * out, (group + 1) * out)
        y[:, here, i, j] += pixel @ kernels[here, :, a, b].T
    return y + (W[:, -1][None, :, None, None] if spec.bias else 0)


OPTIONS = [
    {"kernel": 3, "pad": 1},
    {"kernel": 3, "stride": 2, "pad": 1, "bias": False},
    {"kernel": 2, "stride": 3, "pad": 2},
    {"kernel": 1, "stride": 2},
    {"kernel": 1, "pad": 2},
    {"kernel": 5, "bias": False},
    {"kernel": (3, 2), "stride": (1, 2), "pad": (0, 1)},
    {"kernel": (1, 3), "pad": (2, 1), "dilation": (1, 2)},
    {"kernel": 2, "stride": (2, 1), "pad": 3, "dilation": 3},
    {"kernel": 3, "pad": 1, "groups": 2},
    {"kernel": (2, 3), "stride": 2, "dilation": (2, 1), "groups": 2, "bias": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()).replace(" ", ""))
def test_convolution_equals_its_definition(be, options):
    """Forward, and the gradients by inputs and matrix as adjoints of the definition, which is linear in each."""
    layer, g = nn.Conv2d(4, 6, **options), np.random.default_rng(0)
    x, W = g.standard_normal((3, 4, 7, 6)), g.standard_normal(layer.spec.shape)
    y, cache = layer.forward(be.array(W), be.array(x))
    want = convolved(x, W, layer.spec)
    np.testing.assert_allclose(be.numpy(y), want, atol=be.tol(1e-12))
    dy, dx, dW = g.standard_normal(want.shape), g.standard_normal(x.shape), g.standard_normal(W.shape)
    back, trace = layer.backward(be.array(W), cache, be.array(dy))
    unbiased = np.concatenate([W[:, :-1], 0 * W[:, -1:]], axis=1) if layer.bias else W
    along = convolved(dx, unbiased, layer.spec)
    assert np.sum(be.numpy(back) * dx) == pytest.approx(np.sum(dy * along), abs=be.tol(1e-11))
    assert np.sum(be.numpy(trace.grad()) * dW) == pytest.approx(np.sum(dy * convolved(x, dW, layer.spec)), abs=be.tol(1e-11))
    jvp = layer.jvp(be.array(W), cache, be.array(dx), be.array(dW))
    np.testing.assert_allclose(be.numpy(jvp), along + convolved(x, dW, layer.spec), atol=be.tol(1e-12))
    assert layer.rows(cache) == trace.rows == want.shape[0] * want.shape[2] * want.shape[3]


@pytest.mark.parametrize(
    "name", ["conv-pad", "conv-stride", "conv-groups", "residual", "max-pool-overlapping", "layer-norm-conv"]
)
def test_blocks_of_samples_do_not_change_the_numbers(name, monkeypatch, numpy_backend):
    objective, params, batch = make(numpy_backend, NETWORKS[name])
    whole = objective.at(params, batch)
    for limit in ("BLOCK", "LIGHT"):
        monkeypatch.setattr(nn.images, limit, 8)  # one sample at a time
    parts = objective.at(params, batch)
    np.testing.assert_allclose(parts.outputs, whole.outputs, atol=1e-13)
    for a, b in zip(parts.grads(), whole.grads(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5, 7, 13])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 100])
def test_blocks_of_samples_are_all_samples_and_even(n, blocks, numpy_backend):
    """As many as there is work for, or one more where that is odd: workers are mostly two or four."""
    found = nn.images.sample_blocks(n, blocks * nn.images.BLOCK // 8 // n, numpy_backend.like)
    assert [i for rows in found for i in range(n)[rows]] == list(range(n))
    sizes = [rows.stop - rows.start for rows in found]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == min(n, blocks + (blocks % 2 if blocks > 1 else 0))


def test_patches_in_blocks_are_those_of_all_samples(numpy_backend, monkeypatch):
    objective, params, batch = make(numpy_backend, NETWORKS["conv-pad"])
    traces = objective.at(params, batch).traces()
    monkeypatch.setattr(_array.blocks, "CPU_BLOCK_BYTES", 1)  # one sample at a time
    for trace in traces:
        np.testing.assert_allclose(trace.accumulate(lambda A, G: G @ A.T), trace.grad(), atol=1e-11)


def test_layers_agree_with_torch(numpy_backend):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    net = nn.Sequential(
        (
            *(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm(4), RELU, nn.MaxPool(3, 2, 1)),
            *(nn.Conv2d(4, 3, 2), RELU, nn.AvgPool(2), nn.Flatten(), nn.Dense(3, 3)),
        ),
        shape=(2, 9, 9),
    )  # fmt: skip
    g = np.random.default_rng(0)
    x, y = g.standard_normal((5, 2, 9, 9)), np.array([0, 2, 1, 1, 0])
    params = tuple(W + 0.3 * g.standard_normal(W.shape) for W in net.init(0, x))
    point = nn.Objective(net, nn.SoftmaxCrossEntropy()).at(params, (x, y))
    W1, bn, W2, W3 = (torch.tensor(W, requires_grad=True) for W in params)
    z = f.conv2d(torch.tensor(x), W1[:, :-1].reshape(4, 2, 3, 3), W1[:, -1], 2, 1)
    z = f.max_pool2d(f.relu(f.batch_norm(z, None, None, bn[:, 0], bn[:, 1], True)), 3, 2, 1)
    z = f.avg_pool2d(f.relu(f.conv2d(z, W2[:, :-1].reshape(3, 4, 2, 2), W2[:, -1])), 2).flatten(1)
    loss = f.cross_entropy(z @ W3[:, :-1].T + W3[:, -1], torch.tensor(y))
    loss.backward()
    assert float(point.loss) == pytest.approx(loss.item(), rel=1e-13)
    for ours, theirs in zip(point.grads(), (W1, bn, W2, W3), strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), atol=1e-13)


@pytest.mark.parametrize("level", [0.0, -1.0, 1.0])
def test_the_frame_of_a_pool_wins_nothing(be, level):
    """Level images, 0 like a frame of zeros too: every window gives its slope to a pixel, and takes its tangent from one."""
    layer, x = nn.MaxPool(3, 2, 1), be.array(np.full((2, 1, 5, 5), level))
    y, cache = layer.forward(None, x)
    assert be.numpy(y).tolist() == np.full((2, 1, 3, 3), level).tolist()
    dx, _ = layer.backward(None, cache, be.xp.ones_like(y))
    assert be.numpy(dx).sum() == 2 * 9
    assert be.numpy(layer.jvp(None, cache, be.xp.ones_like(x), None)).tolist() == np.ones((2, 1, 3, 3)).tolist()


def test_a_tie_goes_to_the_first_entry(be):
    x = be.array(np.zeros((1, 1, 2, 2)))
    layer = nn.MaxPool(2)
    _, cache = layer.forward(None, x)
    dx, _ = layer.backward(None, cache, be.array(np.ones((1, 1, 1, 1))))
    assert be.numpy(dx).tolist() == [[[[1, 0], [0, 0]]]]


def test_relu_passes_nothing_on_at_zero(be):
    (_, cache), change = RELU.forward(None, be.array([-1.0, 0.0, 2.0])), be.array([3.0, 4.0, 5.0])
    for found in (RELU.backward(None, cache, change)[0], RELU.jvp(None, cache, change, None)):
        assert be.numpy(found).tolist() == [0, 0, 5]


# --------------------------------------------------------------------------------------------------------- normalisation


def test_evaluation_uses_the_running_statistics(be):
    objective, params, (x, y) = make(be, NETWORKS["norm-conv"])
    with pytest.raises(ValueError, match="no running statistics"):
        objective.evaluation()
    point = objective.at(params, (x, y))
    observed = objective.observe(point.statistics)
    same = observed.evaluation().at(params, (x, y))
    np.testing.assert_allclose(be.numpy(same.outputs), be.numpy(point.outputs), atol=be.tol(1e-13))
    first, rest = (
        be.numpy(observed.evaluation().at(params, (x[rows, ...], y[rows, ...])).outputs) for rows in (slice(0, 1), slice(1, N))
    )
    np.testing.assert_allclose(np.concatenate([first, rest]), be.numpy(point.outputs), atol=be.tol(1e-12))
    assert not np.allclose(be.numpy(objective.at(params, (x[:1, ...], y[:1, ...])).outputs), first)


def test_running_statistics_follow_batches_by_their_momentum(be):
    objective, params, (x, y) = make(be, NETWORKS["norm"])
    one, two = (objective.at(params, (x + shift, y)).statistics for shift in (0.0, 1.0))
    ((mean, variance),) = objective.observe(one).observe(two).statistics
    np.testing.assert_allclose(be.numpy(mean), 0.9 * be.numpy(one[0].mean) + 0.1 * be.numpy(two[0].mean), atol=be.tol(1e-13))
    np.testing.assert_allclose(be.numpy(variance), be.numpy(one[0].variance), atol=be.tol(1e-12))
    assert objective.statistics == ()


def test_frozen_normalisation_passes_the_laws(be):
    objective, params, batch = make(be, NETWORKS["residual"])
    frozen = objective.observe(objective.at(params, batch).statistics).evaluation()
    net, x = frozen.network, batch[0]
    outputs, tape = net.forward(params, x)
    v, (u,) = random_like(be, params), random_like(be, (outputs,), 2)
    assert inner(be, (net.jvp(params, tape, v),), (u,)) == pytest.approx(
        inner(be, v, net.grads(params, tape, u)), abs=be.tol(1e-11)
    )


def test_a_constant_channel_is_no_accident(be):
    layer = nn.BatchNorm(2)
    x = be.array(np.stack([np.full(4, 3.0), np.arange(4.0)], axis=1))
    y, cache = layer.forward(layer.init(0, be.like), x)
    dx, _ = layer.backward(layer.init(0, be.like), cache, y)
    assert np.isfinite(be.numpy(dx)).all()
    assert be.numpy(y)[:, 0].tolist() == [0.0] * 4


def test_what_is_asked_is_counted_with_the_first_statistics(numpy_backend):
    objective, params, (x, y) = make(numpy_backend, NETWORKS["norm"])
    counted = nn.Counted(objective)
    counted.at(params, (x, y))
    counted.at(params, (x + 1, y))
    assert np.array_equal(counted.statistics_seen[0].mean, objective.at(params, (x, y)).statistics[0].mean)
    assert counted.observe(counted.statistics_seen).statistics_seen == ()


# ----------------------------------------------------------------------------------------------------- losses and labels


def test_the_softmax_loss_takes_labels_and_probabilities(be):
    g = np.random.default_rng(0)
    z, labels = g.standard_normal((4, 3)), np.array([0, 2, 1, 2])
    loss, outputs = nn.SoftmaxCrossEntropy(), be.array(z)
    onehot = loss.targets(be.array(labels, "int64"), outputs)
    assert be.numpy(onehot).tolist() == np.eye(3)[labels].tolist()
    logs = z - np.log(np.exp(z).sum(1, keepdims=True))
    assert float(loss.value(outputs, onehot)) == pytest.approx(-np.mean(logs[np.arange(4), labels]), rel=be.tol(1e-13))
    np.testing.assert_allclose(be.numpy(loss.gradient(outputs, onehot)), np.exp(logs) - np.eye(3)[labels], atol=be.tol(1e-14))
    assert float(loss.value(be.array([[1e4, 0.0]]), be.array([[1.0, 0.0]]))) == 0  # no overflow


@pytest.mark.parametrize("name", ["squared", "averaged", "sigmoid", "softmax"])
def test_drawn_targets_follow_the_model(name, numpy_backend):
    """Mean and variance of many draws equal those of the output distribution."""
    loss = {**LOSSES, "softmax": nn.SoftmaxCrossEntropy()}[name]
    z = np.array([[0.3, -1.0, 2.0]])
    p = {"sigmoid": 1 / (1 + np.exp(-z)), "softmax": np.exp(z) / np.exp(z).sum()}.get(name)
    mean, var = (z, np.full_like(z, 3.0 if name == "averaged" else 1.0)) if p is None else (p, p * (1 - p))
    drawn = loss.draw(7, np.repeat(z, 40000, axis=0))
    np.testing.assert_allclose(drawn.mean(0), mean[0], atol=5 * np.sqrt(var.max() / 40000))
    np.testing.assert_allclose(drawn.var(0), var[0], rtol=0.1, atol=0.01)
    if name == "softmax":
        assert set(drawn.sum(1)) == {1.0}


@pytest.mark.parametrize("name", ["squared", "averaged", "sigmoid", "softmax"])
def test_the_mean_gradient_at_drawn_targets_vanishes(name, numpy_backend):
    """The score has mean zero, and its covariance is the output Hessian: the identity of the Fisher matrix."""
    loss = {**LOSSES, "softmax": nn.SoftmaxCrossEntropy()}[name]
    z = np.repeat(np.array([[0.3, -1.0, 2.0]]), 100000, axis=0)
    score = loss.gradient(z, loss.draw(3, z))
    np.testing.assert_allclose(score.mean(0), 0, atol=0.02)
    p = np.exp(z[0]) / np.exp(z[0]).sum() if name == "softmax" else 1 / (1 + np.exp(-z[0]))
    hessian = {
        "squared": np.eye(3),
        "averaged": np.eye(3) / 3,
        "sigmoid": np.diag(p * (1 - p)),
        "softmax": np.diag(p) - np.outer(p, p),
    }
    np.testing.assert_allclose(score.T @ score / len(z), hessian[name], atol=0.02)


def test_draws_are_those_of_numpy(be, numpy_backend):
    z = np.random.default_rng(0).standard_normal((9, 4))
    for loss in (*LOSSES.values(), nn.SoftmaxCrossEntropy()):
        np.testing.assert_allclose(be.numpy(loss.draw(5, be.array(z))), loss.draw(5, z), atol=be.tol(1e-14))


def test_the_least_loss_is_reached_by_the_targets_themselves(be):
    t = be.array([[0.25, 0.5], [0.0, 1.0]])
    z = be.array([[np.log(1 / 3), 0.0], [-800.0, 800.0]])
    loss = nn.SigmoidCrossEntropy()
    assert float(loss.value(z, t)) == pytest.approx(loss.least(t), rel=be.tol(1e-12))
    assert nn.SoftmaxCrossEntropy().least(be.array([[0.5, 0.5]])) == pytest.approx(np.log(2), rel=be.tol(1e-13))


@pytest.mark.parametrize(
    ("loss", "y", "error", "words"),
    [
        ("softmax", np.array([0, 1, 3, 0, 1, 2]), ValueError, r"y holds 3; expected integers in \[0, 3\)"),
        ("softmax", np.array([0, 1, -1, 0, 1, 2]), ValueError, "y holds -1"),
        ("softmax", np.zeros(6, dtype=np.int8), TypeError, "y has dtype int8"),
        ("softmax", np.zeros((6, 2)), ValueError, r"expected shape \(6, 3\)"),
        ("softmax", np.zeros(5, dtype=np.int64), ValueError, "y has 5 rows"),
        ("softmax", np.full((6, 3), np.nan), ValueError, "y holds 18 NaN"),
        ("sigmoid", np.full((6, 3), 1.5), ValueError, r"y lies in \[1.5, 1.5\]; expected numbers in \[0, 1\]"),
        ("sigmoid", np.zeros(6, dtype=np.int64), TypeError, "y has dtype int64"),
    ],
)  # fmt: skip
def test_bad_targets_get_one_clear_sentence(loss, y, error, words):
    net = nn.Sequential((nn.Dense(5, 3),))
    objective = nn.Objective(net, {**LOSSES, "softmax": nn.SoftmaxCrossEntropy()}[loss])
    with pytest.raises(error, match=words):
        objective.at(net.init(0, np.ones(1)), (np.ones((6, 5)), y))


@pytest.mark.parametrize(
    ("make_layer", "words"),
    [
        (lambda: nn.Conv2d(0, 3), "inp is 0; expected an integer of at least 1"),
        (lambda: nn.Conv2d(2, 3, 3, pad=-1), "pad is -1"),
        (lambda: nn.Conv2d(2, 3, scheme="xavier"), "scheme is 'xavier'; expected one of 'normal'"),
        (lambda: nn.MaxPool(2, pad=2), "pad is 2; expected at most half of the kernel"),
        (lambda: nn.BatchNorm(0), "channels is 0"),
        (lambda: nn.autoencoder((8,)), "sizes is"),
    ],
)
def test_bad_sizes_are_named(make_layer, words):
    with pytest.raises(ValueError, match=words):
        make_layer()


def test_images_that_do_not_fit_are_named(numpy_backend):
    objective, params, (_, y) = make(numpy_backend, NETWORKS["conv"])
    with pytest.raises(ValueError, match=r"x has shape \(6, 2, 7, 7\); expected \(n, 2, 7, 6\)"):
        objective.at(params, (np.ones((6, 2, 7, 7)), y))
    with pytest.raises(ValueError, match="smaller than the kernel, 3"):
        nn.Conv2d(1, 1, 3).forward(np.ones((1, 10)), np.ones((1, 1, 2, 2)))
    with pytest.raises(ValueError, match=r"layers of kind conv; expected dense layers for a Jacobian in factors"):
        objective.at(params, (np.ones((6, 2, 7, 6)), y)).jacobian(factors=True)
    with pytest.raises(ValueError, match=r"a dense layer of 3 inputs was given an array of shape \(6, 4\)"):
        nn.Dense(3, 2).forward(np.ones((2, 4)), np.ones((6, 4)))
    with pytest.raises(ValueError, match="a convolution of 2 channels was given"):
        nn.Conv2d(2, 2).forward(np.ones((2, 19)), np.ones((6, 4, 5, 5)))
    with pytest.raises(ValueError, match="the body of a Residual gives"):
        nn.Residual(nn.Sequential((nn.Dense(5, 4),))).forward((np.ones((4, 6)),), np.ones((2, 5)))


# ------------------------------------------------------------------------------------------------------ graphs and models


def graph(be, bias=True):
    g = np.random.default_rng(0)
    A = np.triu(g.random((8, 8)) < 0.4, 1)
    A = A + A.T + np.eye(8)
    S = A / np.sqrt(np.outer(A.sum(0), A.sum(0)))
    net = nn.GraphNetwork(be.array(S), be.array(g.standard_normal((8, 5))), (4, 3), bias=bias)
    params = tuple(W + 0.3 * _array.normal(9, tuple(W.shape), W) for W in net.init(3, be.like))
    batch = (be.array([1, 6, 3], "int64"), be.array([0, 2, 2], "int64"))
    return nn.Objective(net, nn.SoftmaxCrossEntropy()), params, batch, S


def test_a_graph_network_is_the_formula(be):
    objective, params, (x, y), S = graph(be)
    W1, W2 = (be.numpy(W) for W in params)
    H = be.numpy(objective.network.H)
    hidden = np.maximum(S @ H @ W1[:, :-1].T + W1[:, -1], 0)
    z = S @ hidden @ W2[:, :-1].T + W2[:, -1]
    np.testing.assert_allclose(be.numpy(objective.at(params, (x, y)).outputs), z[[1, 6, 3]], atol=be.tol(1e-12))


def test_a_graph_network_passes_the_laws(be):
    objective, params, (x, y), _ = graph(be)
    point, net = objective.at(params, (x, y)), objective.network
    outputs, tape = net.forward(params, x)
    v, (u,) = random_like(be, params), random_like(be, (outputs,), 2)
    assert inner(be, (net.jvp(params, tape, v),), (u,)) == pytest.approx(
        inner(be, v, net.grads(params, tape, u)), abs=be.tol(1e-11)
    )
    for trace, grad in zip(point.traces(), point.grads(), strict=True):
        assert trace.rows == 8
        np.testing.assert_allclose(be.numpy(trace.grad()) / 3, be.numpy(grad), atol=be.tol(1e-12))
    assert [spec.kind for spec in objective.layers] == ["graph", "graph"]


def test_the_gradient_of_a_graph_network_matches_central_differences(numpy_backend):
    objective, params, batch, _ = graph(numpy_backend, bias=False)
    grads, v, eps = objective.at(params, batch).grads(), random_like(numpy_backend, params), 1e-6
    value = lambda t: float(objective.at(tuple(W + t * V for W, V in zip(params, v, strict=True)), batch).loss)  # noqa: E731
    assert (value(eps) - value(-eps)) / (2 * eps) == pytest.approx(inner(numpy_backend, grads, v), rel=1e-6)


def test_a_node_that_does_not_exist_is_named(numpy_backend):
    objective, params, (_, y), _ = graph(numpy_backend)
    with pytest.raises(ValueError, match=r"x holds 8; expected integers in \[0, 8\)"):
        objective.at(params, (np.array([0, 8, 1]), y))
    with pytest.raises(TypeError, match="x has dtype float64"):
        objective.at(params, (np.ones(3), y))
    with pytest.raises(ValueError, match=r"S has shape \(3, 3\)"):
        nn.GraphNetwork(np.eye(3), np.ones((4, 2)), (2,))


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (nn.MNIST_autoencoder(), 2837314),
        (nn.FACES_autoencoder(), 7537655),
        (nn.CURVES_autoencoder(), 842340),
        (nn.ResNet32(), 464154),
        (nn.VGG11(), 28144010),
        (nn.VGG16(), 34015396),
    ],
)
def test_models_have_their_sizes(net, parameters):
    assert sum(out * columns for out, columns in (spec.shape for spec in net.layers)) == parameters


def parts(module):
    """All modules in order; a residual block as its body and itself."""
    inner = module.modules if isinstance(module, nn.Sequential) else (module.body,) if isinstance(module, nn.Residual) else ()
    return [part for one in inner for part in parts(one)] + ([] if isinstance(module, nn.Sequential) else [module])


def test_resnet32_is_fifteen_blocks_each_followed_by_relu():
    net = nn.ResNet32()
    names = [type(part).__name__ for part in net.modules]
    assert names == ["Conv2d", "BatchNorm", "Elementwise"] + ["Residual", "Elementwise"] * 15 + ["GlobalAvgPool", "Dense"]
    convs = [part for part in parts(net) if isinstance(part, nn.Conv2d)]
    widths = [16] * 11 + [32] * 10 + [64] * 10
    assert [(c.out, c.stride) for c in convs] == [(out, 2 if i in (11, 21) else 1) for i, out in enumerate(widths)]
    assert {(c.kernel, c.pad, c.bias, c.scheme) for c in convs} == {(3, 1, False, "normal")}
    blocks = [part for part in net.modules if isinstance(part, nn.Residual)]
    assert [block.shortcut is not None for block in blocks] == [i in (5, 10) for i in range(15)]
    assert {tuple(type(m).__name__ for m in block.body.modules) for block in blocks} == {
        ("Conv2d", "BatchNorm", "Elementwise", "Conv2d", "BatchNorm")
    }


@pytest.mark.parametrize(
    ("net", "widths", "normalised"),
    [
        (nn.VGG11(), "64 M 128 M 256 256 M 512 512 M 512 512 M", False),
        (nn.VGG16(), "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M", True),
    ],
)
def test_vgg_is_the_published_table(net, widths, normalised):
    found = parts(net)
    seen = [str(p.out) if isinstance(p, nn.Conv2d) else "M" for p in found if isinstance(p, nn.Conv2d | nn.MaxPool)]
    assert " ".join(seen) == widths
    assert {p.scheme for p in found if isinstance(p, nn.Conv2d)} == {"fan-out"}
    assert [(p.scheme, p.out) for p in found if isinstance(p, nn.Dense)][:-1] == [("uniform", 4096)] * 2
    relus = sum(isinstance(p, nn.Elementwise) for p in found)
    assert relus == len([w for w in seen if w != "M"]) + 2
    assert sum(isinstance(p, nn.BatchNorm) for p in found) == normalised * (relus - 2)


def test_the_code_and_the_output_of_an_auto_encoder_are_linear():
    names = [phi.name for phi in nn.chain(nn.autoencoder((9, 7, 5, 3), "tanh"))]
    assert names == ["tanh", "tanh", "identity", "tanh", "tanh", "identity"]


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2), ("tanh", 1), ("sigmoid", 1)])
def test_relu_networks_start_with_twice_the_variance(activation, gain):
    x = np.ones((1, 1))
    nets = [nn.MLP((400, 300, 2), activation), nn.autoencoder((400, 300), activation, scheme="normal")]
    nets.append(nn.GraphNetwork(np.eye(3), np.ones((3, 400)), (300, 2), activation))
    for net in nets:
        assert net.init(1, x)[0][:, :-1].var() == pytest.approx(gain / 400, rel=0.02)


def test_resnet_and_vgg_run(numpy_backend):
    g = np.random.default_rng(0)
    for net in (nn.ResNet32(size=8), nn.VGG16(hidden=16), nn.VGG11(hidden=16)):
        x, y = g.standard_normal((2, *net.shape)).astype(np.float32), np.array([1, 3])
        point = nn.Objective(net, nn.SoftmaxCrossEntropy()).at(net.init(0, x), (x, y))
        assert np.isfinite(float(point.loss))
        assert all(np.isfinite(g).all() for g in point.grads())
        assert len(point.statistics) == sum(spec.kind == "norm" for spec in net.layers)


def test_schemes_have_their_variances(numpy_backend):
    x = np.ones(1)
    uniform = nn.Dense(400, 300, scheme="uniform").init(0, x)
    assert np.abs(uniform).max() <= 1 / 20
    assert uniform[:, :-1].var() == pytest.approx(1 / 1200, rel=0.02)
    assert uniform[:, -1].std() > 0.02
    assert nn.Conv2d(8, 64, 3, scheme="fan-out").init(0, x)[:, :-1].var() == pytest.approx(2 / (9 * 64), rel=0.05)
    assert nn.Dense(400, 300).init(0, x, gain=2.0)[:, :-1].var() == pytest.approx(2 / 400, rel=0.02)


def test_small_losses_keep_their_digits_in_float32():
    """Shifted before they are summed: neither large logits nor many samples cost digits."""
    z = np.random.default_rng(0).standard_normal((1000, 10)) + 1e4
    labels = np.argmax(z, axis=1)
    z[np.arange(1000), labels] += 9
    loss = nn.SoftmaxCrossEntropy()
    wanted = float(loss.value(z.astype(np.float32).astype(np.float64), loss.targets(labels, z)))
    single = z.astype(np.float32)
    assert float(loss.value(single, loss.targets(labels, single))) == pytest.approx(wanted, rel=1e-3)
    assert 0 < wanted < 1e-3


def test_the_sigmoid_keeps_its_digits_where_it_is_small(be):
    sigmoid = nn.activation("sigmoid").function
    z = np.array([-80.0, -20.0, -17.0, -1.0, 0.0, 1.0, 20.0])
    np.testing.assert_allclose(be.numpy(sigmoid(be.array(z))), 1 / (1 + np.exp(-z)), rtol=be.tol(1e-15))
    single = sigmoid(z.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, 1 / (1 + np.exp(-z)), rtol=1e-6)
    assert np.isfinite(sigmoid(np.array([-1e5, 1e5], dtype=np.float32))).all()


@pytest.mark.parametrize(("off", "fine"), [(0.0, True), (9e-4, True), (2e-3, False), (0.3, False)])
def test_probabilities_sum_to_one_within_a_thousandth(off, fine):
    loss, outputs, y = nn.SoftmaxCrossEntropy(), np.zeros((2, 3)), np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.5 - off]])
    if fine:
        assert loss.targets(y, outputs) is y
    else:
        with pytest.raises(ValueError, match="expected probabilities, which sum to 1"):
            loss.targets(y, outputs)


def test_probabilities_that_do_not_sum_to_one_are_refused():
    net = nn.Sequential((nn.Dense(5, 3),))
    objective = nn.Objective(net, nn.SoftmaxCrossEntropy())
    with pytest.raises(ValueError, match=r"rows of y sum to 1 within 0\.5"):
        objective.at(net.init(0, np.ones(1)), (np.ones((2, 5)), np.full((2, 3), 0.5)))


def test_a_class_whose_probability_vanishes_has_a_residual():
    """0 where it is no target's, although t/√p is 0/0 there."""
    loss, z = nn.SoftmaxCrossEntropy(), np.array([[0.0, -2000.0]])
    assert loss.residual(z, np.array([[1.0, 0.0]])).tolist() == [[0.0, 0.0]]
