"""Muon: the update written out, PyTorch's steps, what does not depend on scale, and who takes Adam's steps."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl
from nearlin.nn import LayerSpec
from nearlin.optim import Muon
from tests.optim.given import Given

PLAIN = LayerSpec("dense", 4, 6, bias=False)


def run(opt, gradients, specs=(PLAIN,), start=None):
    """Parameters after every step; gradients are tuples with one matrix per layer."""
    params, state, path = start or tuple(0 * g for g in gradients[0]), opt.init((), None), []
    for g in gradients:
        params, state, info = opt.step(params, state, Given(specs), (g, g))
        assert info.accepted
        path.append(params)
    return path


def gradients(rng, steps=6, shape=(4, 6)):
    return [(np.geomspace(3, 0.3, shape[0])[:, None] * rng.standard_normal(shape),) for _ in range(steps)]


def quintic(M, steps):
    X = M / np.linalg.norm(M)
    for _ in range(steps):
        U, s, V = np.linalg.svd(X, full_matrices=False)
        X = U * (3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5) @ V
    return X


@pytest.mark.parametrize(("scale", "c"), [("rms", 0.2 * 6**0.5), ("shape", 1.0), ("none", 1.0)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_update_as_it_is_written(be, rng, nesterov, scale, c):
    G = gradients(rng)
    opt = Muon(lr=0.1, momentum=0.8, nesterov=nesterov, scale=scale, weight_decay=0.5)
    path = run(opt, [(be.array(g),) for (g,) in G], start=(be.array(np.ones((4, 6))),))
    W, v = np.ones((4, 6)), 0.0
    for (g,), (got,) in zip(G, path, strict=True):
        v = 0.8 * v + g
        W = (1 - 0.1 * 0.5) * W - 0.1 * c * quintic(g + 0.8 * v if nesterov else v, 5)
        np.testing.assert_allclose(be.numpy(got), W, atol=be.tol(1e-12))


def test_tall_weights_take_longer_steps_by_shape(rng):
    G = [(g.T,) for (g,) in gradients(rng, 1)]
    spec = LayerSpec("dense", 6, 4, bias=False)
    long, plain = (run(Muon(scale=scale), G, (spec,))[-1][0] for scale in ("shape", "none"))
    np.testing.assert_allclose(long, 1.5**0.5 * plain)


@pytest.mark.parametrize(("scale", "adjust"), [("shape", "original"), ("rms", "match_rms_adamw")])
def test_pytorchs_steps_are_met_up_to_its_half_precision(rng, scale, adjust):
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    G = gradients(rng, 8)
    theirs = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.float64))
    optimizer = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn=adjust)
    for (g,) in G:
        theirs.grad = torch.asarray(g)
        optimizer.step()
    ours = run(Muon(lr=0.01, scale=scale, weight_decay=0.1), G, start=(np.ones((4, 6)),))[-1][0]
    moved = np.abs(ours - 1).max()
    assert np.abs(ours - theirs.detach().numpy()).max() < 0.02 * moved
    other = run(Muon(lr=0.01, scale=scale, weight_decay=0.1, nesterov=False), G, start=(np.ones((4, 6)),))[-1][0]
    assert np.abs(other - theirs.detach().numpy()).max() > 0.04 * moved


def test_the_length_of_gradients_does_not_matter(rng):
    G = gradients(rng)
    a, b = run(Muon(), G)[-1][0], run(Muon(), [(1e3 * g,) for (g,) in G])[-1][0]
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_polished_steps_have_equal_singular_values(rng):
    (W,) = run(Muon(lr=1.0, momentum=0.0, ns_steps=5, polish=6, scale="none"), gradients(rng, 1))[-1]
    np.testing.assert_allclose(np.linalg.svd(W, compute_uv=False), 1, atol=1e-6)
    (rough,) = run(Muon(lr=1.0, momentum=0.0, scale="none"), gradients(rng, 1))[-1]
    assert np.ptp(np.linalg.svd(rough, compute_uv=False)) > 0.05


def test_biases_and_norms_take_adams_steps(be, rng):
    specs = (LayerSpec("dense", 4, 5), LayerSpec("norm", 4, 1))
    G = [(rng.standard_normal((4, 6)), rng.standard_normal((4, 2))) for _ in range(5)]
    got = run(Muon(lr=0.01, adam_scale=2.0), [tuple(map(be.array, g)) for g in G], specs)[-1]
    want = run(nl.optim.Adam(lr=0.02, betas=(0.9, 0.95)), G, specs)[-1]
    np.testing.assert_allclose(be.numpy(got[0])[:, -1], want[0][:, -1], atol=be.tol(1e-12))
    np.testing.assert_allclose(be.numpy(got[1]), want[1], atol=be.tol(1e-12))
    assert np.abs(be.numpy(got[0])[:, :-1] - want[0][:, :-1]).max() > 1e-3
    plain = run(Muon(lr=0.01), [(g[0][:, :-1].copy(),) for g in G], (LayerSpec("dense", 4, 5, bias=False),))[-1][0]
    np.testing.assert_allclose(be.numpy(got[0])[:, :-1], plain, atol=be.tol(1e-12))


def test_the_head_may_be_left_to_adam(rng):
    specs = (PLAIN, LayerSpec("dense", 3, 4, bias=False))
    G = [(rng.standard_normal((4, 6)), rng.standard_normal((3, 4))) for _ in range(4)]
    both, hidden = (run(Muon(lr=0.01, head=head), G, specs)[-1] for head in (True, False))
    np.testing.assert_array_equal(both[0], hidden[0])
    np.testing.assert_allclose(hidden[1], run(nl.optim.Adam(lr=0.01, betas=(0.9, 0.95)), G, specs)[-1][1], atol=1e-12)
    assert np.abs(both[1] - hidden[1]).max() > 1e-3


def test_kernels_are_matrices_of_filters(rng):
    spec = LayerSpec("conv", 4, 2, kernel=3, bias=False)
    G = [(rng.standard_normal((4, 18)),) for _ in range(3)]
    np.testing.assert_array_equal(run(Muon(), G, (spec,))[-1][0], run(Muon(), G, (LayerSpec("dense", 4, 18, bias=False),))[-1][0])


def test_a_dead_layer_stays(be):
    (W,) = run(Muon(), [(be.array(np.zeros((4, 6))),)] * 3, start=(be.array(np.ones((4, 6))),))[-1]
    np.testing.assert_array_equal(be.numpy(W), np.ones((4, 6)))


def test_a_gradient_that_is_not_finite_is_rejected(rng):
    (g,) = gradients(rng, 1)[0]
    opt, params = Muon(), (np.ones((4, 6)),)
    state = opt.step(params, opt.init((), None), Given((PLAIN,)), ((g,), (g,)))[1]
    new, after, info = opt.step(params, state, Given((PLAIN,)), ((g * np.nan,), None))
    assert (info.accepted, info.reason) == (False, "rejected: the gradient is not finite")
    assert new is params
    assert after is state


def test_a_step_that_is_not_finite_is_rejected(rng):
    (g,) = gradients(rng, 1)[0]
    opt, params = Muon(lr=1e308, scale="none", weight_decay=1e10), (np.full((4, 6), 1e100),)
    state = opt.init((), None)
    with np.errstate(over="ignore", invalid="ignore"):
        new, after, info = opt.step(params, state, Given((PLAIN,)), ((g,), (g,)))
    assert (info.accepted, info.reason) == (False, "rejected: the step is not finite")
    assert new is params
    assert after is state


def test_biases_may_be_left_out_of_the_weight_decay():
    """Gradients of zero: the decay alone moves the parameters."""
    spec, G = LayerSpec("dense", 4, 5), (np.zeros((4, 6)),)
    for exempt in (False, True):
        W = run(Muon(lr=0.5, weight_decay=0.2, exempt_bias=exempt), [G], (spec,), start=(np.ones((4, 6)),))[-1][0]
        np.testing.assert_allclose(W[:, :5], 0.9)
        np.testing.assert_allclose(W[:, 5], 1.0 if exempt else 0.9)


def test_networks_of_all_kinds_are_trained(be, rng):
    network = nl.nn.Sequential(
        (
            nl.nn.Conv2d(1, 3, 3, pad=1), nl.nn.BatchNorm(3), nl.nn.Elementwise(nl.nn.activation("relu")),
            nl.nn.Conv2d(3, 2, 1, bias=False), nl.nn.GlobalAvgPool(), nl.nn.Dense(2, 1),
        ),
        shape=(1, 4, 4),
    )  # fmt: skip
    objective = nl.nn.Objective(network, nl.nn.SquaredLoss())
    params, batch = network.init(0, be.like), (be.array(rng.standard_normal((6, 1, 4, 4))), be.array(rng.standard_normal((6, 1))))
    opt = Muon(lr=0.02)
    state = opt.init(params, objective)
    first = float(objective.at(params, batch).loss)
    for t in range(10):
        params, state, info = opt.step(params, state, objective, batch, t)
    assert info.loss < first
    assert type(state.variables[0]).__name__ == "Velocity"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0), ("momentum", 1.0), ("ns_steps", -1), ("polish", 0.5), ("scale", "spectral"), ("weight_decay", -1.0),
        ("adam_scale", 0.0), ("betas", (0.9, 1.0)), ("epsilon_hat", 0.0),
        ("betas", 0.9), ("betas", (0.9, "1")), ("betas", (0.9,)), ("momentum", True), ("nesterov", 1), ("head", None),
        ("exempt_bias", "no"),
    ],
)  # fmt: skip
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} (is|are) "):
        dataclasses.replace(Muon(), **{field: value})
