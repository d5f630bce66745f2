"""arXiv:1802.09568: the numbers of another code, the exponent -1/2K in closed form, schedules, warm start, and the cost."""

import dataclasses

import numpy as np
import pytest

import nearlin as nl
from nearlin.nn import LayerSpec
from tests.optim.given import Given
from tests.optim.replay import batch, mlp, oracle, parameters, warm_batches

PLAIN = nl.optim.Shampoo(lr=1.0, momentum=0.0, damping=1e-2, accumulate="sum")


def test_the_numbers_of_the_authors_of_tnt(be):
    data, objective = oracle("mbfrepo_shampoo_mlp_exactroot"), mlp()
    opt = nl.optim.Shampoo(
        lr=float(data["hp_lr"]), damping=float(data["hp_damping"]), statistics_every=int(data["hp_T1"]),
        inverse_every=int(data["hp_T2"]), early=False, weight_decay=float(data["hp_weight_decay"]),
    )  # fmt: skip
    params = parameters(be, objective.layers, data, "init")
    state = opt.warm_start(params, opt.init(params, objective), objective, warm_batches(be, data))
    for i, rows in enumerate(data["batch_index"]):
        params, state, info = opt.step(params, state, objective, batch(be, data, rows))
        assert info.loss == pytest.approx(float(data[f"loss_step{i}"]), rel=be.tol(1e-12))
        for W, want in zip(params, parameters(be, objective.layers, data, f"step{i}"), strict=True):
            np.testing.assert_allclose(be.numpy(W), be.numpy(want), rtol=be.tol(1e-8), atol=be.tol(1e-10))
        for variable, name in zip(state.layers, (f"H{kind}{l}" for l in range(4) for kind in "Wb"), strict=True):
            for mode, H in enumerate(variable.grams):
                np.testing.assert_allclose(be.numpy(H), data[f"{name}_mode{mode}_step{i}"], atol=be.tol(1e-10))


# ------------------------------------------------------------------------------------------------------------ closed forms


def power(H, exponent, damping):
    values, vectors = np.linalg.eigh(H)
    return (vectors * (values + damping) ** exponent) @ vectors.T


def one_step(opt, layers, gradients, key=0):
    """The sum of the directions' last one: what the last of several steps adds to parameters of zeros."""
    objective, state = Given(tuple(layers)), opt.init((), None)
    for g in gradients:
        params = tuple(np.zeros_like(one) for one in g)
        params, state, info = opt.step(params, state, objective, (g, g), key=key)
        assert info.accepted
    return tuple(-W for W in params)


def spread(rng, shape):
    """A matrix whose singular values spread over three decades."""
    U, s, V = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (U * np.geomspace(1, 1e-3, len(s))) @ V


def test_one_gradient_matrix_is_orthogonalised(rng):
    """U diag(s) Vᵀ becomes U diag(s / √(s² + damping)) Vᵀ: both sides with the exponent -1/4."""
    G = spread(rng, (4, 6))
    (step,) = one_step(PLAIN, [LayerSpec("dense", 4, 6, bias=False)], [(G,)])
    U, s, V = np.linalg.svd(G, full_matrices=False)
    np.testing.assert_allclose(step, (U * (s / np.sqrt(s**2 + 1e-2))) @ V, atol=1e-12)


@pytest.mark.parametrize("wrong", [-1 / 2, -1 / 6, -1])
def test_another_exponent_would_not(rng, wrong):
    G = spread(rng, (4, 6))
    (step,) = one_step(PLAIN, [LayerSpec("dense", 4, 6, bias=False)], [(G,)])
    other = power(G @ G.T, wrong, 1e-2) @ G @ power(G.T @ G, wrong, 1e-2)
    assert np.linalg.norm(step - other) > 0.1 * np.linalg.norm(step)


def test_a_bias_has_one_axis_and_the_exponent_one_half(rng):
    """g becomes g / √(|g|² + damping), beside weights with two axes of their own."""
    g = rng.standard_normal((3, 5))
    (step,) = one_step(PLAIN, [LayerSpec("dense", 3, 4)], [(g,)])
    np.testing.assert_allclose(step[:, 4], g[:, 4] / np.sqrt(g[:, 4] @ g[:, 4] + 1e-2), atol=1e-12)
    alone = one_step(PLAIN, [LayerSpec("dense", 3, 4, bias=False)], [(g[:, :4],)])
    np.testing.assert_allclose(step[:, :4], alone[0], atol=1e-12)


def test_scale_and_shift_are_two_variables(rng):
    g = rng.standard_normal((5, 2))
    (step,) = one_step(PLAIN, [LayerSpec("norm", 5, 1)], [(g,)])
    np.testing.assert_allclose(step, g / np.sqrt((g**2).sum(0) + 1e-2), atol=1e-12)


@pytest.mark.parametrize(("reshape", "axes"), [("filter", (3, 2, 4)), ("matrix", (3, 8))])
def test_kernels_have_the_exponent_of_their_axes(rng, reshape, axes):
    """Sums over three gradients, every Gram matrix by its definition."""
    gradients = [5 * spread(rng, (3, 8)) for _ in range(3)]
    layers = [LayerSpec("conv", 3, 2, 2, bias=False)]
    (step,) = one_step(dataclasses.replace(PLAIN, reshape=reshape), layers, [(g,) for g in gradients])

    def direction(exponent):
        T = gradients[-1].reshape(axes)
        for mode, size in enumerate(axes):
            fibres = [np.moveaxis(g.reshape(axes), mode, 0).reshape(size, -1) for g in gradients]
            X = power(sum(F @ F.T for F in fibres), exponent, 1e-2)
            T = np.moveaxis(np.tensordot(X, T, axes=(1, mode)), 0, mode)
        return T.reshape(3, 8)

    np.testing.assert_allclose(step, direction(-1 / (2 * len(axes))), atol=1e-11)
    wrong = direction(-1 / 4 if len(axes) == 3 else -1 / 6)
    assert np.linalg.norm(step - wrong) > 0.1 * np.linalg.norm(step)


def test_averages_start_as_plain_means_and_then_forget(rng):
    gradients = [rng.standard_normal((2, 3)) for _ in range(6)]
    opt = nl.optim.Shampoo(decay=0.75, damping=1e-2)
    objective, state = Given((LayerSpec("dense", 2, 3, bias=False),)), opt.init((), None)
    for g in gradients:
        _, state, _ = opt.step((np.zeros((2, 3)),), state, objective, ((g,), (g,)))
    H = 0.0
    for k, g in enumerate(gradients):
        w = max(1 / (k + 1), 0.25)
        H = (1 - w) * H + w * g @ g.T
    np.testing.assert_allclose(state.layers[0].grams[0], H, rtol=1e-12)


def test_newton_gives_the_roots_of_the_eigendecomposition(be, rng):
    layers = [LayerSpec("conv", 3, 2, 2), LayerSpec("dense", 1, 4, bias=False)]
    g = tuple(be.array(rng.standard_normal(spec.shape)) for spec in layers)
    steps = []
    for root in ("eigh", "newton"):
        opt = dataclasses.replace(PLAIN, root=root, damping=0.1)
        steps.append(opt.step(tuple(0 * one for one in g), opt.init(g, None), Given(tuple(layers)), (g, g))[0])
    for A, B in zip(*steps, strict=True):
        np.testing.assert_allclose(be.numpy(A), be.numpy(B), atol=1e-5 if be.eps < 1e-10 else 1e-3)


# ---------------------------------------------------------------------------------------------------- schedule, warm start


@pytest.mark.parametrize(
    ("early", "refreshed"),
    [(True, [0, 2, 4, 5, 10]), (False, [0, 5, 10])],
)
@pytest.mark.parametrize(("warm", "statistics"), [(True, [2, 4, 6, 8, 10]), (False, [0, 2, 4, 6, 8, 10])])
def test_statistics_and_roots_are_renewed_when_due(rng, early, refreshed, warm, statistics):
    opt = nl.optim.Shampoo(statistics_every=2, inverse_every=5, early=early)
    objective = Given((LayerSpec("dense", 2, 3),))
    g = (rng.standard_normal((2, 4)),)
    state = opt.init(g, objective)
    if warm:
        state = opt.warm_start(g, state, objective, [(g, g)])
    seen, made = [], []
    for t in range(12):
        before = state
        _, state, info = opt.step((np.zeros((2, 4)),), state, objective, (g, g))
        if state.statistics > before.statistics:
            seen.append(t)
        if info.refreshed:
            made.append(t)
    assert (seen, made) == (statistics, refreshed)


def test_a_warm_start_is_the_mean_over_batches(rng):
    opt, objective = nl.optim.Shampoo(), Given((LayerSpec("dense", 2, 3, bias=False),))
    gradients = [(rng.standard_normal((2, 3)),) for _ in range(4)]
    state = opt.warm_start(gradients[0], opt.init((), None), objective, [(g, g) for g in gradients])
    np.testing.assert_allclose(state.layers[0].grams[1], sum(g[0].T @ g[0] for g in gradients) / 4, rtol=1e-12)
    with pytest.raises(ValueError, match="batches is empty"):
        opt.warm_start(gradients[0], opt.init((), None), objective, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("statistics_every", 0),
        ("inverse_every", 2.0),
        ("accumulate", "product"),
        ("root", "qr"),
        ("reshape", "flat"),
        ("damping", 0),
    ],
)
def test_a_field_outside_its_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is"):
        nl.optim.Shampoo(**{field: value})


# ------------------------------------------------------------------------------------------------------------ Newton's misses


def test_a_root_that_newton_misses_is_taken_by_eigenvalues_and_named(rng):
    """float32 Gram matrices of rank one have eigenvalues below 0; the step is that of the eigendecomposition, nothing is kept."""
    layers = (LayerSpec("dense", 6, 9),)
    g = (np.outer(np.linspace(-1, 1, 6), rng.permutation(10) / 3.0).astype("float32"),)
    steps, said, roots = [], [], []
    for root in ("newton", "eigh"):
        opt = nl.optim.Shampoo(root=root, damping=1e-4)
        params, state, info = opt.step((0 * g[0],), opt.init(g, None), Given(layers), (g, g))
        steps.append(params[0])
        said.append(info.kept)
        roots.append([X for variable in state.layers for X in variable.matrices])
        assert state.kept == 0
    assert said[1] == ""
    names = [one for one in said[0].split("; ") if one]
    assert names
    assert all("Newton indefinite, error" in one and one.endswith("root by eigendecomposition") for one in names)
    assert {one.split(":")[0] for one in names} <= {f"layer 0 {v}, axis {k}" for v in ("weights", "bias") for k in (0, 1)}
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-3, atol=1e-6)
    places = ["layer 0 weights, axis 0", "layer 0 weights, axis 1", "layer 0 bias, axis 0"]
    same = [np.array_equal(*pair) for pair in zip(*roots, strict=True)]
    assert same == [place in said[0] for place in places]


def test_roots_that_newton_finds_are_not_named(rng):
    g = (rng.standard_normal((3, 4)),)
    info = nl.optim.Shampoo(root="newton", damping=0.1).step(
        g, nl.optim.Shampoo().init(g, None), Given((LayerSpec("dense", 3, 3),)), (g, g)
    )[2]
    assert info.kept == ""
