"""Statistics of layer-wise methods: where their labels come from, and how batches of different sizes are weighed."""

import numpy as np
import pytest

import nearlin as nl
from tests.crosscheck.networks import Case, error


def squared(n=60, d=5, c=4, seed=0):
    """One dense layer under the squared loss, whose output factor is the identity: drawn labels are the outputs plus noise."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, c))
    network = nl.nn.Sequential((nl.nn.Dense(d, c),))
    return nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, x), (x, y)


def test_the_statistics_of_kfac_converge_at_the_default_key():
    objective, params, batch = squared()
    opt = nl.optim.KFAC(lr=1e-6, decay=0.99, inverse_every=500)
    state, apart = opt.init(params, objective), []
    for _ in range(400):
        params, state, info = opt.step(params, state, objective, batch)
        assert info.accepted
        apart.append(np.linalg.norm(state.layers[0].G - np.eye(4)) / 2)
    assert apart[-1] <= 0.12 * apart[0]
    assert (
        np.sqrt(np.mean(np.square(apart[200:]))) < 1.5 * (20 / 60 / 199) ** 0.5 / 2
    )  # (c² + c) / n by (1 - decay) / (1 + decay)


@pytest.mark.parametrize("make", [nl.optim.KFAC, nl.optim.TNT, nl.optim.Ginger, nl.optim.QNG], ids=lambda make: make.__name__)
def test_labels_differ_from_step_to_step_at_one_key(make):
    objective, params, batch = squared()
    seen = []

    class Watched:
        layers, network = objective.layers, objective.network

        def at(self, params, batch):
            point = objective.at(params, batch)
            draw = point.draw

            def drawn(key):
                seen.append(draw(key) - point.outputs)
                return seen[-1] + point.outputs

            point.draw = drawn
            return point

    opt, watched = make(lr=1e-6), Watched()
    state = opt.init(params, watched)
    if hasattr(opt, "warm_start"):
        state = opt.warm_start(params, state, watched, [batch, batch, batch])
    for _ in range(4):
        params, state, _ = opt.step(params, state, watched, batch)
    assert len(seen) >= 4
    noise = np.stack([s.ravel() for s in seen])
    alike = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(alike).max() < 0.35  # equal draws have 1, independent ones .065 in the root mean square


def expected(case, k):
    """The output factor of layer k under the labels' own distribution: Σ over classes of p g gᵀ, mean over rows."""
    f = case.walk(case.params)[0].real
    p = np.exp(f - f.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    total = 0
    for label in range(f.shape[1]):
        g = case.reference(case.params, np.tile(np.eye(f.shape[1])[label], (case.n, 1))).g[k]
        total = total + np.einsum("n,nti,ntj->ij", p[:, label], g, g)
    return total / (case.n * g.shape[1])


@pytest.mark.parametrize("name", ["plain", "stride 2 pad 1", "dense", "wide output"])
@pytest.mark.parametrize("fisher", ["type-2", "empirical"])
def test_the_fisher_of_kfac_is_what_it_says(name, fisher):
    case = Case(name, "softmax")
    opt = nl.optim.KFAC(fisher=fisher, damping=0.3)
    state = opt.init(case.params, case.objective)
    _, one, info = opt.step(case.params, state, case.objective, case.batch, key=1)
    _, two, _ = opt.step(case.params, state, case.objective, case.batch, key=2)
    assert info.accepted
    true = case.reference(case.params)
    for k, (layer, again) in enumerate(zip(one.layers, two.layers, strict=True)):
        empirical = np.einsum("nti,ntj->ij", true.g[k], true.g[k]) / (case.n * true.g[k].shape[1])
        want, other = expected(case, k), empirical
        want, other = (want, other) if fisher == "type-2" else (other, want)
        assert error(layer.G, want) <= 1e-10
        assert error(layer.G, other) > 1e-3
        assert np.array_equal(layer.G, again.G)  # nothing is drawn


def test_drawn_labels_give_the_type_2_factor_in_the_mean():
    case = Case("dense", "softmax")
    opt, total = nl.optim.KFAC(), 0
    state = opt.init(case.params, case.objective)
    for key in range(400):
        total = total + opt.step(case.params, state, case.objective, case.batch, key=key)[1].layers[1].G / 400
    assert error(total, expected(case, 1)) < 0.1


@pytest.mark.parametrize("parts", [(5, 3), (1, 7), (2, 2, 4), (1, 3, 4)])
def test_a_warm_start_on_unequal_parts_is_that_on_all_rows(parts):
    """Input factors are means over rows, whatever is drawn."""
    objective, params, (x, y) = squared(n=8)
    batches, start = [], 0
    for size in parts:
        batches.append((x[start : start + size], y[start : start + size]))
        start += size
    opt = nl.optim.KFAC()
    got = opt.warm_start(params, opt.init(params, objective), objective, batches).layers[0].A
    homogeneous = np.concatenate([x, np.ones((8, 1))], axis=1)
    np.testing.assert_allclose(got, homogeneous.T @ homogeneous / 8, atol=1e-14)


@pytest.mark.parametrize(
    ("opt", "traces"),
    [
        (nl.optim.MiniBlockFisher(statistic="batch"), lambda state: np.sum(np.diagonal(state.layers[0].F.reshape(-1, 6, 6)[0]))),
        (nl.optim.TNT(), lambda state: np.trace(state.layers[0].grams[0])),
        (nl.optim.Shampoo(), lambda state: np.trace(state.layers[0].grams[0])),
    ],
    ids=["mini-block Fisher", "TNT", "Shampoo"],
)
def test_a_small_last_batch_does_not_swamp_the_statistics(opt, traces):
    """The square of a mean gradient over one row is 64 times that over 64 in the mean, and weighs 64² times less."""
    ratios = []
    for seed in range(12):
        objective, params, (x, y) = squared(n=65, seed=seed)
        y = objective.at(params, (x, y)).outputs + 0.5 * y  # the gradient is noise
        state = opt.init(params, objective)
        whole = opt.warm_start(params, state, objective, [(x[:64], y[:64])], key=seed)
        both = opt.warm_start(params, state, objective, [(x[:64], y[:64]), (x[64:], y[64:])], key=seed)
        ratios.append(traces(both) / traces(whole))
    assert 0.9 < np.median(ratios) < 1.3


def test_ginger_reports_the_stiffness_that_its_step_has():
    rng = np.random.default_rng(0)
    opt = nl.optim.Ginger(decay=0.9, damping=1e-3, rank=2, relative_damping=0.1, correct_curvature=True)
    objective, params, batch = squared()
    _, state, info = opt.step(params, opt.init(params, objective), objective, batch, key=int(rng.integers(100)))
    sigma = max(float(block.curvature.sigma[-1]) / (1 - 0.9) for block in state.blocks)
    assert info.stiffness == pytest.approx(sigma / max(1e-3, 0.1 * sigma))
    assert info.stiffness <= 10.0000001


def test_qng_says_where_it_diverges():
    objective, params, batch = squared()
    opt, said = nl.optim.QNG(lr=50.0), []
    state = opt.init(params, objective)
    losses = []
    for t in range(12):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        losses.append(float(info.loss))
        said.append("diverging" in info.kept)
    assert said == [bool(loss > 10 * losses[0]) for loss in losses]
    assert any(said)
    assert not all(said)


@pytest.mark.parametrize("start", ["mean", "zero"])
def test_kbfgs_averages_from_the_first_statistic_or_from_zero(start):
    objective, params, (x, y) = squared(n=8)
    opt = nl.optim.KBFGS(start=start, decay=0.9)
    state = opt.step(params, opt.init(params, objective), objective, (x, y))[1]
    homogeneous = np.concatenate([x, np.ones((8, 1))], axis=1)
    want = homogeneous.T @ homogeneous / 8 * (1 if start == "mean" else 0.1)
    np.testing.assert_allclose(state.layers[0].A, want, atol=1e-14)


def test_qng_takes_the_root_of_the_samples_times_the_gradient_at_drawn_labels():
    objective, params, batch = squared()
    opt = nl.optim.QNG(lr=0.1)
    state = opt.init(params, objective)
    got, after, _ = opt.step(params, state, objective, batch, key=3)
    point = objective.at(params, batch)
    h = tuple(np.sqrt(60) * g for g in point.grads(targets=point.draw(nl.steps.label_key(3, 0))))
    want, same = opt.update(state, point.grads(), h)
    np.testing.assert_allclose(got[0] - params[0], want[0], atol=1e-14)
    np.testing.assert_allclose(after.vectors[0], same.vectors[0], atol=1e-14)


@pytest.mark.parametrize("make", [nl.optim.KFAC, nl.optim.TNT, nl.optim.MiniBlockFisher], ids=lambda make: make.__name__)
def test_batches_of_a_warm_start_draw_labels_of_their_own(make):
    """The same rows twice: with equal draws, the mean of two statistics would be the first."""
    objective, params, batch = squared()
    opt = make()
    once, twice = (opt.warm_start(params, opt.init(params, objective), objective, [batch] * k, key=1) for k in (1, 2))
    leaves = lambda state: np.concatenate([np.ravel(a) for a in _arrays(state)])  # noqa: E731
    assert not np.allclose(leaves(once), leaves(twice), rtol=1e-3, atol=1e-6)


def _arrays(tree):
    if isinstance(tree, np.ndarray):
        return [tree]
    return [a for part in tree for a in _arrays(part)] if isinstance(tree, tuple) else []


def test_qng_says_how_far_it_diverged():
    """Losses that grow by a factor of less than 10 a step, so that neither the last loss nor another limit will do."""
    objective, params, batch = squared()
    opt, losses, words = nl.optim.QNG(lr=2.0, momentum=0.0, decay=0.999, rank=1), [], []
    state = opt.init(params, objective)
    for t in range(30):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        losses.append(info.loss)
        words.append(info.kept)
    growth = np.array(losses) / losses[0]
    assert growth.max() > 100
    assert np.max(growth[1:] / growth[:-1]) < 10
    assert words == [f"diverging: the loss is {g:.3g} times that of the first step" if g > 10 else "" for g in growth]


STEPS = {  # the method, what is kept of the first layer, the power of n that a batch counts by, and the statistic of gradients
    "SOAP": (nl.optim.SOAP(lr=1e-12, decay=0.6), lambda state: state.modes[0].grams[1], 2, "mean"),
    "Shampoo": (nl.optim.Shampoo(lr=1e-12, decay=0.6), lambda state: state.layers[0].grams[1], 2, "mean"),
    "TNT": (nl.optim.TNT(lr=1e-12, decay=0.6), lambda state: state.layers[0].grams[1], 2, "mean"),
    "MBF": (nl.optim.MiniBlockFisher(lr=1e-12, decay=0.6, statistics_every=1), lambda state: 4 * state.layers[0].F, 2, "mean"),
    "K-FAC": (nl.optim.KFAC(lr=1e-12, decay=0.6), lambda state: state.layers[0].A, 1, "inputs"),
    "K-BFGS": (nl.optim.KBFGS(lr=1e-12, decay=0.6), lambda state: state.layers[0].A, 1, "inputs"),
}


class TrueLabels:
    """An objective whose drawn labels are the true ones."""

    def __init__(self, objective):
        self.objective, self.layers = objective, objective.layers

    def at(self, params, batch):
        point = self.objective.at(params, batch)
        point.draw = lambda key: point.y
        return point


@pytest.mark.parametrize("name", STEPS)
def test_batches_of_a_run_count_by_their_samples(name):
    """A weighted mean of the batches' statistics: n or n² of each times the weights of an average of equal batches."""
    opt, kept, power, what = STEPS[name]
    objective, params, (x, y) = squared(n=23)
    state, total, weight = opt.init(params, objective), 0.0, 0.0
    for t, rows in enumerate([slice(0, 8), slice(8, 9), slice(9, 20), slice(20, 23)]):
        (W,), batch = params, (x[rows], y[rows])
        params, state, _ = opt.step(params, state, TrueLabels(objective), batch)
        inputs = np.concatenate([batch[0], np.ones((len(batch[0]), 1))], axis=1)
        G = (inputs @ W.T - batch[1]).T @ inputs / len(inputs)
        G = G if name == "MBF" else G[:, :-1]
        S = G.T @ G if what == "mean" else inputs.T @ inputs / len(inputs)
        new = max(0.4, 1 / (t + 1))
        total, weight = (1 - new) * total + new * len(inputs) ** power * S, (1 - new) * weight + new * len(inputs) ** power
        np.testing.assert_allclose(kept(state), total / weight, rtol=1e-7, atol=1e-10)


def test_type_2_scalings_are_the_diagonal_of_the_whole_matrix():
    """One layer under the squared loss: Σ a aᵀ / n for every output, so that each row of S holds the eigenvalues of A."""
    objective, params, batch = squared()
    opt = nl.optim.KFAC(fisher="type-2", inverse="rescaled")
    layer = opt.step(params, opt.init(params, objective), objective, batch)[1].layers[0]
    inputs = np.concatenate([batch[0], np.ones((60, 1))], axis=1)
    np.testing.assert_allclose(layer.S, np.tile(np.linalg.eigvalsh(inputs.T @ inputs / 60), (4, 1)), atol=1e-12)
