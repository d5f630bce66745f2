"""Laws of every optimizer: pure, deterministic, resumable, the same on every backend, and downhill."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest

import nearlin as nl

OPTIMIZERS = {
    "near-linear": nl.optim.NearLinearGaussNewton(),
    "near-linear-superlinear": nl.optim.NearLinearGaussNewton(forcing="superlinear"),
    "near-linear-kronecker": nl.optim.NearLinearGaussNewton(sketch=nl.sketch.KroneckerSRHT()),
    "near-linear-chebyshev": nl.optim.NearLinearGaussNewton(inner="chebyshev", sketch_size=8),
    "gauss-newton": nl.optim.GaussNewton(),
    "gauss-newton-parameter-side": nl.optim.GaussNewton(plan="parameter-cg"),
    "gauss-newton-momentum": nl.optim.GaussNewton(plan="sketch", momentum=0.5),
    "gram": nl.optim.GramGaussNewton(),
    "gram-mini-batch-form": nl.optim.GramGaussNewton(gram_weight=0.9, damping=1e-2, guard=False),
    "natural-gradient": nl.optim.NaturalGradient(),
    "sgd": nl.optim.SGD(),
    "sgd-average": nl.optim.SGD(lr=1.0, form="average", weight_decay=1e-2, exempt_bias=True),
    "adam": nl.optim.Adam(lr=1e-2),
    "adam-of-the-mean": nl.optim.Adam(lr=1e-2, second_moment_of="mean"),
    "adamw": nl.optim.AdamW(lr=nl.steps.StepDecay(1e-2, 0.5, 3)),
    "adagrad": nl.optim.AdaGrad(lr=3e-2),
    "rmsprop": nl.optim.RMSprop(lr=3e-3),
    "mini-block-fisher": nl.optim.MiniBlockFisher(lr=3e-3, damping=1e-2),
    "mini-block-fisher-chunk": nl.optim.MiniBlockFisher(lr=3e-3, damping=1e-2, layout="chunk", inverse_every=4, early=False),
    "mini-block-fisher-sample": nl.optim.MiniBlockFisher(lr=0.03, damping=0.1, statistic="sample"),
    "k-fac": nl.optim.KFAC(lr=0.05, damping=0.3, inverse_every=4),
    "k-fac-exact": nl.optim.KFAC(lr=0.03, damping=0.3, inverse="exact", statistics_every=2, inverse_every=4, early=False),
    "shampoo": nl.optim.Shampoo(lr=0.03, damping=1e-2, inverse_every=4),
    "shampoo-sum": nl.optim.Shampoo(lr=0.1, momentum=0.0, damping=1e-2, accumulate="sum", inverse_every=1),
    "soap": nl.optim.SOAP(lr=0.02, inverse_every=4),
    "tnt": nl.optim.TNT(lr=0.01, damping=0.3, inverse_every=4),
    "k-bfgs": nl.optim.KBFGS(lr=0.5, damping=0.3),
    "k-bfgs-limited": nl.optim.KBFGSL(lr=0.5, damping=0.3, memory=3),
    "dsgd": nl.optim.DSGD(),
    "dsgd-newton-schulz": nl.optim.DSGD(orth="newton_schulz", layers="cyclic", bias="separate", verify=True),
    "dsgd-stochastic": nl.optim.DSGD(q=1, lr=0.5, form="stochastic"),
    "dsgd-given": nl.optim.DSGD(p=3.0),
    "muon": nl.optim.Muon(lr=0.05),
    "ginger": nl.optim.Ginger(lr=0.05, damping=0.1, clip=None),
    "ginger-all": nl.optim.Ginger(lr=0.05, damping=0.1, rank=3, block="all", correct_curvature=True, statistics_every=2),
    "qng": nl.optim.QNG(lr=0.1, decay=0.9, rank=3),
}
NETWORKS = {"two-layer": nl.nn.TwoLayer(6, 128), "mlp": nl.nn.MLP((6, 30, 20, 1), "tanh")}


def pytest_generate_tests(metafunc):
    """``opt`` is every optimizer, and ``net`` every network, but for DSGD the two-layer one: its guarantee is for chains of dense
    layers and smooth activations."""
    if "net" in metafunc.fixturenames:
        metafunc.parametrize(("opt", "net"), [
            pytest.param(opt, net, id=f"{name}-{kind}")
            for (name, opt), (kind, net) in itertools.product(OPTIMIZERS.items(), NETWORKS.items())
            if kind != "two-layer" or not isinstance(opt, nl.optim.DSGD) or opt.p is not None
        ])  # fmt: skip
    elif "opt" in metafunc.fixturenames:
        metafunc.parametrize("opt", OPTIMIZERS.values(), ids=OPTIMIZERS)


def problem(be, net, n=24):
    x, y = nl.data.sphere(n=n, d=6, seed=1)
    x, y = be.array(x), be.array(y)
    return nl.nn.Objective(net, nl.nn.SquaredLoss()), net.init(2, be.like), (x, y)


def run(opt, objective, params, batch, steps, state=None, first=0):
    state = opt.init(params, objective) if state is None else state
    infos = []
    for t in range(first, first + steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        infos.append(info)
    return params, state, infos


@functools.cache
def reference(opt, net, numpy_backend):
    """Five steps on NumPy, which every backend is compared with."""
    return run(opt, *problem(numpy_backend, net), 5)


def test_nothing_given_is_changed(opt, net, numpy_backend):
    objective, params, batch = problem(numpy_backend, net)
    before = [W.copy() for W in (*params, *batch)]
    state = opt.init(params, objective)
    run(opt, objective, params, batch, 2, state)
    assert all(np.array_equal(a, b) for a, b in zip(before, (*params, *batch), strict=True))
    assert state == opt.init(params, objective)


def test_the_same_key_gives_the_same_step_to_the_bit(opt, net, numpy_backend):
    objective, params, batch = problem(numpy_backend, net)
    first, second = (run(opt, objective, params, batch, 3)[0] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_run_continues_from_any_state_to_the_bit(opt, net, numpy_backend):
    """What a state marks as transient is dropped, as a checkpoint does."""
    objective, params, batch = problem(numpy_backend, net)
    whole = run(opt, objective, params, batch, 4)[0]
    half, state, _ = run(opt, objective, params, batch, 2)
    state = state._replace(**dict.fromkeys(getattr(state, "transient", ())))
    resumed = run(opt, objective, half, batch, 2, state, first=2)[0]
    assert all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))


def takes_schedules(opt):
    try:
        dataclasses.replace(opt, lr=lambda t: 1.0)
    except (TypeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("name", [name for name, opt in OPTIMIZERS.items() if takes_schedules(opt)])
def test_a_scheduled_step_is_one_of_the_rate_that_its_counter_asks_for(name, numpy_backend):
    """Two steps at one rate and a third at a third of it: by a schedule, or by a method of that rate that goes on from there."""
    opt = OPTIMIZERS[name]
    lr = opt.lr(0) if callable(opt.lr) else opt.lr
    objective, params, batch = problem(numpy_backend, NETWORKS["mlp"])
    plain, lower, scheduled = (dataclasses.replace(opt, lr=rate) for rate in (lr, lr / 3, lambda t: lr / 3 if t == 2 else lr))
    after, state, _ = run(plain, objective, params, batch, 2)
    wanted = run(lower, objective, after, batch, 1, state, first=2)[0]
    found, other = (run(one, objective, params, batch, 3)[0] for one in (scheduled, plain))
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(found, other, strict=True))


def test_the_iterates_are_those_of_numpy(be, opt, net, numpy_backend):
    """Five steps from the same seed agree to 1e-9 in float64 (float32 devices: to their rounding, in the loss)."""
    if isinstance(opt, nl.optim.SOAP) and be.name.split(":")[0] in ("torch", "cupy"):
        pytest.skip("another LAPACK spans the null space of a singular Gram matrix by another basis, and Adam depends on it")
    got_params, _, got = run(opt, *problem(be, net), 5)
    want_params, _, want = reference(opt, net, numpy_backend)
    if be.eps < 1e-10:
        for a, b in zip(got_params, want_params, strict=True):
            np.testing.assert_allclose(be.numpy(a), b, atol=1e-9)
    else:
        start = want[0].loss
        assert [i.loss for i in got[:3]] == pytest.approx([i.loss for i in want[:3]], rel=5e-2, abs=1e-3 * start)


def test_the_loss_falls(opt, net, numpy_backend):
    objective, params, batch = problem(numpy_backend, net)
    params, _, infos = run(opt, objective, params, batch, 12)
    assert float(objective.at(params, batch).loss) < 0.9 * infos[0].loss


def test_one_sample_is_enough(opt, net, numpy_backend):
    objective, params, (x, y) = problem(numpy_backend, net)
    params, _, _ = run(opt, objective, params, (x[:1, :], y[:1]), 3)
    assert np.isfinite(float(objective.at(params, (x[:1, :], y[:1])).loss))


def test_float32_stays_float32(opt, net):
    x, y = (a.astype(np.float32) for a in nl.data.sphere(n=24, d=6, seed=1))
    objective = nl.nn.Objective(net, nl.nn.SquaredLoss())
    params, state, _ = run(opt, objective, net.init(2, x), (x, y), 3)
    assert all(W.dtype == np.float32 for W in params)

    def arrays(tree):
        if isinstance(tree, tuple):
            return [a for part in tree for a in arrays(part)]
        return [tree] if isinstance(tree, np.ndarray) else []

    assert all(a.dtype == np.float32 for a in arrays(state))


@pytest.mark.parametrize(
    "field",
    [
        "lr", "epsilon", "damping", "momentum", "betas", "forcing", "inner", "gram_weight",
        "weight_decay", "decay", "epsilon_hat", "form", "second_moment_of",
    ],
)  # fmt: skip
def test_a_hyper_parameter_outside_its_range_is_named(opt, field):
    if field not in {f.name for f in dataclasses.fields(opt)}:
        pytest.skip("not a field of this optimizer")
    with pytest.raises(ValueError, match=f"{field} "):
        dataclasses.replace(opt, **{field: (2.0, 2.0) if field == "betas" else -1.0})


# ------------------------------------------------------------------------------------------------ weight decay and schedules


def first_step(opt):
    """SOAP makes its first bases at step 0, and moves from step 1 on."""
    return 1 if isinstance(opt, nl.optim.SOAP) else 0


@pytest.fixture
def decaying(opt):
    if "weight_decay" not in {f.name for f in dataclasses.fields(opt)}:
        pytest.skip("the method has no weight decay")
    return dataclasses.replace(opt, lr=nl.steps.StepDecay(0.5, 0.5, 2), weight_decay=0.2)


@pytest.mark.parametrize("exempt", [False, True])
def test_without_a_gradient_parameters_shrink_by_one_minus_lr_times_weight_decay(decaying, exempt):
    """Targets are the outputs, at every step anew; step sizes are .5, .5, .25. A normalisation and a layer without bias among
    the layers."""
    rng, opt = np.random.default_rng(0), dataclasses.replace(decaying, exempt_bias=exempt)
    modules = (nl.nn.Dense(4, 3), nl.nn.BatchNorm(3), nl.nn.Elementwise(nl.nn.activation("tanh")), nl.nn.Dense(3, 2, bias=False))
    net, x = nl.nn.Sequential(modules), rng.standard_normal((6, 4))
    objective, start = nl.nn.Objective(net, nl.nn.SquaredLoss()), tuple(rng.standard_normal(s.shape) for s in net.layers)
    params, state = start, opt.init(start, objective)
    for t in range(3):
        outputs, _ = net.forward(params, x)
        params, state, info = opt.step(params, state, objective, (x, outputs), key=t)
        assert info.accepted
    for spec, W, new in zip(net.layers, start, params, strict=True):
        keep = np.full(W.shape, np.prod([0.9, 0.9, 0.95][first_step(opt) :]))
        if exempt:
            keep[:, slice(None) if spec.kind == "norm" else slice(spec.inp, None)] = 1.0
        np.testing.assert_allclose(new, keep * W, rtol=1e-13)


def test_the_decay_comes_before_the_step(decaying, net, numpy_backend):
    """W⁺ = (1 - lr weight_decay) W + d with the step d of no decay."""
    objective, start, batch = problem(numpy_backend, net)
    plain = dataclasses.replace(decaying, lr=0.01, weight_decay=0.0)
    params, state, _ = run(plain, objective, start, batch, first_step(decaying))
    without, decayed = (
        run(dataclasses.replace(plain, weight_decay=wd), objective, params, batch, 1, state, first_step(decaying))[0]
        for wd in (0.0, 2.0)
    )
    for W, new, shrunk in zip(params, without, decayed, strict=True):
        np.testing.assert_allclose(shrunk, 0.98 * W + (new - W), atol=1e-14)
    assert max(np.abs(new - W).max() for new, W in zip(without, params, strict=True)) > 1e-6


@pytest.fixture
def scheduled(opt):
    fixed = (nl.optim.NearLinearGaussNewton, nl.optim.GaussNewton, nl.optim.GramGaussNewton, nl.optim.NaturalGradient)
    if isinstance(opt, fixed):
        pytest.skip("a method of fixed step size")
    return opt


def test_a_schedule_sees_the_steps_taken_before(scheduled, net, numpy_backend):
    seen = []
    opt = dataclasses.replace(scheduled, lr=lambda t: seen.append(t) or 0.01)
    run(opt, *problem(numpy_backend, net), 4)
    assert list(dict.fromkeys(seen)) == [0, 1, 2, 3]
    assert seen == sorted(seen)


def test_a_schedule_is_the_number_that_it_gives(scheduled, net, numpy_backend):
    """To the bit; and a step size of half the length at step 2 gives another step."""
    fixed, varied, halved = (
        run(dataclasses.replace(scheduled, lr=lr), *problem(numpy_backend, net), 3)[0]
        for lr in (0.01, lambda t: np.float64(0.01), lambda t: 0.01 if t < 2 else 0.005)
    )
    assert all(np.array_equal(V, W) for V, W in zip(fixed, varied, strict=True))
    assert any(np.abs(V - W).max() > 1e-7 for V, W in zip(fixed, halved, strict=True))
