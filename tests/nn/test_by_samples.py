"""Samples split over ranks: every method that reads sums over samples beside the same method on one rank, and what it sends."""

import dataclasses
import functools
import importlib
import threading

import numpy as np
import pytest

import nearlin as nl
from nearlin import nn
from nearlin._array import fold_in

N, STEPS = 64, 5
DRAW = np.random.default_rng(5)
X, IMAGES = DRAW.standard_normal((N, 6)), DRAW.standard_normal((N, 2, 5, 5))
NUMBERS, LABELS, SHARES = DRAW.standard_normal((N, 5)), DRAW.integers(0, 5, N), DRAW.random((N, 5))
WEIGHTS = DRAW.random(N) + 0.1
WEIGHTS /= WEIGHTS.mean()
TANH = nn.Elementwise(nn.activation("tanh"))

DEEP = nn.Objective(nn.MLP((6, 9, 7, 5), "tanh"), nn.SoftmaxCrossEntropy()), (X, LABELS)
FEW = nn.Objective(nn.MLP((6, 9, 3), "tanh"), nn.SquaredLoss(), l2=1e-3), (X, NUMBERS[:, :3])
CONV = (
    nn.Objective(
        nn.Sequential(
            (nn.Conv2d(2, 4, 3, pad=1, groups=2), nn.LayerNorm(4), TANH, nn.Flatten(), nn.Dense(100, 5)), shape=(2, 5, 5)
        ),
        nn.SigmoidCrossEntropy(),
    ),
    (IMAGES, SHARES),
)
PLAIN = (
    nn.Objective(nn.Sequential((nn.Conv2d(2, 3, 3), TANH, nn.Flatten(), nn.Dense(27, 5)), shape=(2, 5, 5)), nn.SquaredLoss()),
    (IMAGES, NUMBERS),
)
BOUNDED = nn.Objective(nn.Sequential((nn.Dense(6, 8), TANH, nn.Dense(8, 5), TANH)), nn.SquaredLoss()), (X, NUMBERS)
SQUARE = nn.Objective(nn.Sequential((nn.Dense(5, 5), TANH, nn.Dense(5, 5))), nn.SquaredLoss()), (X[:, :5], NUMBERS)

optim = nl.optim
METHODS = {
    "sgd": optim.SGD(0.1), "adam": optim.Adam(), "adamw": optim.AdamW(), "adagrad": optim.AdaGrad(),
    "rmsprop": optim.RMSprop(epsilon_hat=1e-2), "muon": optim.Muon(),
    "ginger": optim.Ginger(lr=0.1, damping=1e-2), "qng": optim.QNG(),
    "shampoo": optim.Shampoo(lr=0.1), "tnt": optim.TNT(lr=0.1), "kbfgs": optim.KBFGS(), "kbfgsl": optim.KBFGSL(),
    "kfac": optim.KFAC(lr=0.1), "kfac-type-2": optim.KFAC(lr=0.1, fisher="type-2"),
    "kfac-exact": optim.KFAC(lr=0.1, inverse="exact"),
    "e-kfac": optim.KFAC(lr=0.1, inverse="rescaled"), "mbf": optim.MiniBlockFisher(lr=1e-2),
    "mbf-sample": optim.MiniBlockFisher(lr=0.1, damping=0.1, statistic="sample"),
    "mbf-blocks": optim.MiniBlockFisher(lr=0.1, damping=0.1, statistic="sample", average=False),
    "mbf-chunk": optim.MiniBlockFisher(lr=0.1, damping=0.1, statistic="sample", layout="chunk"),
    "gn-kfac": optim.GaussNewton(plan="kfac", momentum=0.5),
    "gn-diagonal": optim.GaussNewton(plan="diagonal", standardize="always"),
    "gn-cg": optim.GaussNewton(plan="parameter-cg", epsilon=0.3),
}  # fmt: skip
DSGD = {
    "dsgd": optim.DSGD(verify=True), "dsgd-1": optim.DSGD(q=1), "dsgd-inf": optim.DSGD(q="inf", form="stochastic", lr=0.5),
}  # fmt: skip
CASES = {f"{method}-{name}": (opt, case) for method, opt in METHODS.items() for name, case in [("deep", DEEP), ("conv", CONV)]}
CASES = {name: case for name, case in CASES.items() if not name.startswith("kbfgs") or case[1] is DEEP}  # it knows no groups
CASES |= {"kbfgs-plain": (METHODS["kbfgs"], PLAIN)}
CASES |= {f"{method}-few": (METHODS[method], FEW) for method in ("sgd", "kfac", "kbfgs", "gn-kfac", "gn-cg")}
CASES |= {name: (opt, BOUNDED) for name, opt in DSGD.items()}
# the first gradient is diagonal in its own bases: SOAP divides rounding by epsilon_hat, and a basis of a null space is anyone's
CASES |= {"soap": (optim.SOAP(epsilon_hat=0.1), SQUARE)}


def weighed(case):
    """A case with sample weights."""
    objective, (x, y) = case
    return objective, (x, y, WEIGHTS)


CASES |= {f"{name}-weights": (METHODS[name], weighed(DEEP)) for name in ("sgd", "kfac-type-2", "gn-kfac", "gn-cg")}


def rows(batch, chosen):
    """Some rows of a batch, with weights of mean 1."""
    x, y, *weights = (a[chosen] for a in batch)
    return x, y, *(w / w.mean() for w in weights)


def own(batch, ranks):
    """A batch of which a rank has its rows of x alone."""
    mine = ranks.share(len(batch[1]))
    return nn.OwnRows(batch[0][mine], mine), *batch[1:]


def run(ranks, opt, case, alone=False, steps=None):
    """What the parameters change by in some steps on all rows and mini-batches, flat, and every step's ``info``."""
    objective, whole = case
    if ranks is not None:
        objective = nn.by_samples(objective, ranks)
    first = params = objective.network.init(1, whole[0])
    state, infos = opt.init(params, objective), []
    for t in range(steps or (STEPS if whole[0].ndim == 2 else 3)):
        batch = whole if t % 2 else rows(whole, slice(0, N - 3))
        params, state, info = opt.step(params, state, objective, own(batch, ranks) if alone else batch, fold_in(3, t))
        infos.append(info)
    return np.concatenate([(W - V).ravel() for W, V in zip(params, first, strict=True)]), infos


def far(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@functools.cache
def serial(name, steps=None):
    """What `run` gives without ranks."""
    return run(None, *CASES[name], steps=steps)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_one_rank(name):
    """On one rank to the bit; on two with whole inputs (but for convolutions), on three with own ones."""
    wanted, infos = serial(name)
    ((found, _),) = nl.together(1, lambda ranks: run(ranks, *CASES[name]))
    assert np.array_equal(found, wanted)
    for P in (3,) if name.endswith("-conv") else (2, 3):
        made = nl.together(P, lambda ranks, P=P: run(ranks, *CASES[name], alone=P == 3))
        assert far(made[0][0], wanted) < 1e-12
        assert all(np.array_equal(found, made[0][0]) for found, _ in made)
        assert [(info.accepted, info.reason) for info in made[0][1]] == [(info.accepted, info.reason) for info in infos]


@pytest.mark.parametrize("name", ["kfac-deep", "gn-kfac-few", "mbf-sample-deep"])
@pytest.mark.parametrize("P", [7, 61])
def test_steps_are_those_of_one_rank_on_many(P, name):
    assert far(nl.together(P, lambda ranks: run(ranks, *CASES[name], alone=True))[0][0], serial(name)[0]) < 1e-12


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("P", [2, 3, 7, 61])
def test_five_steps_of_every_method_are_those_of_one_rank(P, name):
    """On two ranks with whole inputs."""
    made = nl.together(P, lambda ranks: run(ranks, *CASES[name], alone=P != 2, steps=STEPS))
    assert far(made[0][0], serial(name, STEPS)[0]) < 1e-12
    assert all(np.array_equal(found, made[0][0]) for found, _ in made)


def test_a_warm_start_is_that_of_one_rank():
    objective, batch = DEEP
    batches = [rows(batch, slice(0, 20)), rows(batch, slice(20, N))]
    for opt in (METHODS["kfac"], METHODS["kbfgs"], METHODS["mbf-sample"], METHODS["tnt"]):

        def start(ranks, opt=opt):
            mine = objective if ranks is None else nn.by_samples(objective, ranks)
            params = objective.network.init(1, X)
            given = batches if ranks is None else [own(one, ranks) for one in batches]
            state = opt.warm_start(params, opt.init(params, mine), mine, given, key=2)
            return opt.step(params, state, mine, batch, 4)[0]

        wanted, first = start(None), objective.network.init(1, X)
        for found, W, V in zip(nl.together(3, start)[0], wanted, first, strict=True):
            assert far(found - V, W - V) < 1e-12


def test_dsgd_starts_warm_as_on_one_rank():
    (objective, batch), opt = BOUNDED, DSGD["dsgd-inf"]

    def start(ranks):
        mine = nn.by_samples(objective, ranks)
        params = objective.network.init(1, X)
        return opt.warm_start(params, opt.init(params, mine), mine, [own(batch, ranks)]).seen

    wanted = start(nl.Alone())
    assert np.allclose(nl.together(3, start)[0].inputs, wanted.inputs, rtol=1e-14)


# ------------------------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize(
    "loss", [nn.SoftmaxCrossEntropy(), nn.SigmoidCrossEntropy(), nn.SquaredLoss(), nn.SquaredLoss(average=True)], ids=repr
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_draw_the_targets_of_one_to_the_bit(loss, dtype):
    objective = nn.Objective(DEEP[0].network, loss)
    x, y = X[:37].astype(dtype), SHARES[:37].astype(dtype)
    y /= y.sum(axis=1, keepdims=True)
    params = objective.network.init(1, x)
    wanted = objective.at(params, (x, y)).draw(9)

    def draw(ranks):
        return nn.by_samples(objective, ranks).at(params, (x, y)).draw(9)

    for P in (2, 3, 7):
        drawn = nl.together(P, draw)
        outputs = nl.together(P, lambda ranks: nn.by_samples(objective, ranks).at(params, (x, y)).outputs)[0]
        if isinstance(loss, nn.SquaredLoss):  # beside outputs that may differ in their last digits
            noise, found = wanted - objective.at(params, (x, y)).outputs, np.concatenate([one.x for one in drawn]) - outputs
            assert np.allclose(found, noise, atol=20 * np.finfo(dtype).eps)
        else:
            assert np.array_equal(np.concatenate([one.x for one in drawn]), wanted)


def test_a_rank_draws_no_more_than_its_rows(monkeypatch):
    """Of uniform draws and signs at most a block of 256 bits too many."""
    drawn, (objective, batch) = [], DEEP
    generator = nl._array.random.generator

    class Watched:
        def __init__(self, *args):
            self._of = generator(*args)

        def random(self, count):
            drawn.append(count)
            return self._of.random(count)

        def integers(self, *args, size, **more):
            drawn.append(size)
            return self._of.integers(*args, size=size, **more)

    params = objective.network.init(1, X)
    monkeypatch.setattr(nl._array.random, "generator", Watched)

    def draw(ranks):
        point = nn.by_samples(objective, ranks).at(params, batch)
        point.draw(1)
        point.signed_traces(1)

    nl.together(4, draw)
    assert max(drawn) < N // 4 * 5 + 32
    assert len(drawn) == 8


# ---------------------------------------------------------------------------------------------------------------- what is sent


def sent(opt, case, P=3):
    """Bytes by name that a rank receives in one step after another."""
    objective, batch = case

    def work(ranks):
        mine = nn.by_samples(objective, ranks)
        params = objective.network.init(1, batch[0])
        params, state, _ = opt.step(params, opt.init(params, mine), mine, batch, 0)
        ranks.bytes.clear()
        _, _, info = opt.step(params, state, mine, batch, 1)
        return dict(ranks.bytes), info

    return nl.together(P, work)[0]


def half(k):
    return k * (k + 1) // 2


def sizes(objective):
    """(numbers of parameters, of the lower triangles of all Kronecker factors)."""
    shapes = [spec.shape for spec in objective.layers]
    return sum(o * D for o, D in shapes), sum(half(o) + half(D) for o, D in shapes)


def test_a_gradient_step_sends_outputs_and_gradients():
    p, _ = sizes(DEEP[0])
    assert sent(METHODS["sgd"], DEEP)[0] == {"outputs": 8 * N * 5, "grads": 8 * p}


def test_kfac_sends_lower_triangles():
    p, triangles = sizes(DEEP[0])
    opt = dataclasses.replace(METHODS["kfac"], inverse_every=50, early=False)
    assert sent(opt, DEEP)[0] == {"outputs": 8 * N * 5, "grads": 8 * p, "statistics": 8 * triangles}


def test_gauss_newton_sends_a_vector_each_way_for_a_product():
    (p, _), opt = sizes(DEEP[0]), dataclasses.replace(METHODS["gn-cg"], epsilon=0.3)
    bytes_, info = sent(opt, DEEP)
    products = info.solve.products
    assert products > 1
    assert bytes_["matvec"] == 8 * N * 5 * products
    assert bytes_["rmatvec"] == 8 * p * products


INVERSES = {
    "kfac": (METHODS["kfac"], "nearlin.optim.kfac.damped_factors"),
    "shampoo": (METHODS["shampoo"], "nearlin.optim.shampoo.inverse_root"),
    "tnt": (METHODS["tnt"], "nearlin.optim.tnt.block_inverse"), "soap": (optim.SOAP(), "nearlin.optim.soap.symmetric_eigh"),
    "mbf": (METHODS["mbf"], "nearlin.optim.mini_block_fisher.block_inverse"),
    "e-kfac": (METHODS["e-kfac"], "nearlin.optim.kfac.eigenbasis"),
    "gn-kfac": (METHODS["gn-kfac"], "nearlin.curvature.kronecker_curvature.symmetric_eigh"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVERSES)
def test_an_inverse_is_made_by_one_rank(name, monkeypatch):
    """All ranks together make as many as one rank alone, each of them some."""
    opt, place = INVERSES[name]
    name, _, function = place.rpartition(".")
    module, made = importlib.import_module(name), []
    original = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *args, **more: (made.append(threading.get_ident()), original(*args, **more))[1])
    counts = {}
    for P in (1, 3):
        made.clear()
        nl.together(P, lambda ranks: run(ranks, opt, DEEP))
        counts[P] = len(made)
        assert len(set(made)) == P
    assert counts[3] == counts[1]


def test_derivatives_of_outputs_are_those_of_one_rank():
    objective, (x, y) = DEEP
    params, tangents = (objective.network.init(key, x) for key in (1, 2))
    wanted = objective.at(params, (x, y)).jvp(tangents)
    for found in nl.together(3, lambda ranks: nn.by_samples(objective, ranks).at(params, (x, y)).jvp(tangents)):
        np.testing.assert_allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
def test_inputs_are_standardised_by_rows_of_moments(weights, bias):
    """Of NumPy's mean and deviation; the squares of a feature overflow, and the last two are constant, and zero."""
    objective, (x, y) = DEEP
    x = x * [1.0, 3e-4, 1e200, 1.0, 0.0, 0.0] + [0.0, 5e-4, -7e201, 0.2, 3.0, 0.0]
    params, p = objective.network.init(1, x), np.full(N, 1 / N) if weights is None else weights / N
    mean = p @ x if bias else np.zeros(6)
    deviation = np.sqrt(p @ (x - mean).astype("longdouble") ** 2).astype("float64")
    deviation[5] = 1.0
    if bias:
        deviation[4] = 1.0

    def found(ranks):
        batch = (x, y) if weights is None else (x, y, weights)
        point = nn.by_samples(objective, ranks).at(params, own(batch, ranks))
        before = ranks.bytes.copy()
        return point.several_units(), point.standardisation(bias), ranks.bytes - before

    for units, by, moved in nl.together(3, found):
        assert units
        assert np.allclose(by.mean, mean, rtol=1e-12, atol=0)
        assert np.allclose(by.deviation, deviation, rtol=1e-9, atol=0)
        assert moved == {"moments": 8 * 6 * (3 + 1) + 8 * 6 * (3 + 1 + bias)}  # largest entries of each rank, and sums


# ------------------------------------------------------------------------------------------------------------- what is refused


def test_samples_that_depend_on_each_other_are_not_split():
    norm = nn.Sequential((nn.Dense(6, 4), nn.BatchNorm(4), nn.Dense(4, 3)))
    with pytest.raises(
        ValueError, match="batch normalisation by batch statistics couples samples, and they are split over ranks"
    ):
        nn.by_samples(nn.Objective(norm, nn.SquaredLoss()), nl.Alone())
    fixed = norm.normalized_by((nn.Statistics(np.zeros(4), np.ones(4)),))
    assert nn.by_samples(nn.Objective(fixed, nn.SquaredLoss()), nl.Alone()).layers == norm.layers


SAMPLE_SIDE = [
    optim.GramGaussNewton(), optim.NaturalGradient(), optim.NearLinearGaussNewton(), optim.GaussNewton(plan="exact"),
    optim.GaussNewton(plan="cg"), optim.GaussNewton(plan="nystrom"), optim.GaussNewton(plan="direct"),
    optim.GaussNewton(plan="pivoted"),
]  # fmt: skip


@pytest.mark.parametrize("opt", SAMPLE_SIDE, ids=lambda opt: f"{type(opt).__name__}-{getattr(opt, 'plan', '')}")
def test_methods_on_the_side_of_the_samples_are_refused_with_the_reason(opt):
    objective, batch = nn.Objective(FEW[0].network, nn.SquaredLoss()), FEW[1]

    def step(ranks):
        mine = nn.by_samples(objective, ranks)
        params = objective.network.init(1, X)
        with pytest.raises(ValueError, match="samples are split over ranks"):
            opt.step(params, opt.init(params, mine), mine, batch, 0)

    nl.together(2, step)


def test_gauss_newton_plans_the_same_on_any_number_of_ranks():
    objective, batch = nn.Objective(FEW[0].network, nn.SquaredLoss()), FEW[1]

    def plan(ranks):
        mine = nn.by_samples(objective, ranks)
        params, opt = objective.network.init(1, X), optim.GaussNewton()
        return opt.step(params, opt.init(params, mine), mine, batch, 0)[2].plan

    plans = {P: set(nl.together(P, plan)) for P in (1, 2, 3)}
    assert plans[1] == plans[2] == plans[3]
    assert len(plans[1]) == 1


def test_the_two_layer_network_takes_gradients_by_samples_and_no_products():
    objective = nn.Objective(nn.TwoLayer(6, 32), nn.SquaredLoss())
    params, batch = objective.network.init(0, X), (X, NUMBERS[:, 0])
    wanted = objective.at(params, batch).grads()[0]
    found = nl.together(3, lambda ranks: nn.by_samples(objective, ranks).at(params, batch).grads())[0][0]
    assert far(found, wanted) < 1e-14
    with pytest.raises(ValueError, match="samples are split over ranks, and the two-layer network"):
        nn.by_samples(objective, nl.Alone()).at(params, batch).jacobian()


def test_an_objective_is_split_once():
    """The network of a rank's neurons would see a rank's rows alone."""
    objective = nn.Objective(nn.TwoLayer(6, 32), nn.SquaredLoss())
    with pytest.raises(ValueError, match="the network is split by neurons already; expected an objective that is not split"):
        nn.by_samples(nn.by_neurons(objective, nl.Alone()), nl.Alone())
    with pytest.raises(ValueError, match="the objective is split by samples already; expected one that is not split"):
        nn.by_neurons(nn.by_samples(objective, nl.Alone()), nl.Alone())


def test_rows_that_are_not_a_ranks_share_are_refused_on_all():
    objective, (x, y) = DEEP
    params = objective.network.init(1, X)

    def at(ranks):
        mine = slice(0, 32) if ranks.rank == 0 else slice(31, 64)
        with pytest.raises(ValueError, match=r"expected 32:64, the share of rank 1|cannot be used on another rank") as found:
            nn.by_samples(objective, ranks).at(params, (nn.OwnRows(x[mine], mine), y))
        return str(found.value)

    other, own = nl.together(2, at)
    assert own == "x holds the rows 31:64 of 64, 33 in number; expected 32:64, the share of rank 1"
    assert other == "x holds what cannot be used on another rank, which says what"


def test_rows_that_are_not_finite_are_refused_on_all():
    objective, (x, y) = DEEP
    params, bad = objective.network.init(1, X), x.copy()
    bad[-1, 2] = np.nan

    def at(ranks):
        with pytest.raises(ValueError, match="x holds") as found:
            nn.by_samples(objective, ranks).at(params, own((bad, y), ranks))
        return str(found.value)

    assert "NaN" in nl.together(2, at)[1]


def test_fewer_samples_than_ranks_are_passed_whole_by_all():
    objective, batch = DEEP
    params, two = objective.network.init(1, X), rows(batch, slice(0, 2))
    wanted = objective.at(params, two).grads()

    def grads(ranks):
        return nn.by_samples(objective, ranks).at(params, two).grads(), dict(ranks.bytes)

    for found, sent in nl.together(3, grads):
        assert all(map(np.array_equal, found, wanted))
        assert sent == {}
    with pytest.raises(
        ValueError, match=r"the batch has 2 sample\(s\), and there are 3 ranks; expected x whole, or at least one"
    ):
        nl.together(3, lambda ranks: nn.by_samples(objective, ranks).at(params, own(two, ranks)))


def test_rows_of_a_trace_are_not_to_be_had():
    objective, batch = DEEP
    params = objective.network.init(1, X)
    trace = nn.by_samples(objective, nl.Alone()).at(params, batch).traces()[0]
    with pytest.raises(AttributeError, match="the signals of a trace lie on other ranks too"):
        _ = trace.signals
