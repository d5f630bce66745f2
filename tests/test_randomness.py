"""One law for all that takes a key: other streams where draws must differ, the same where they must not, none opened twice."""

import dataclasses
import functools
import sys
from collections import defaultdict
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import nearlin as nl
from nearlin import _array, linalg, nn, optim, sketch
from nearlin.complexity.claims import data as families
from nearlin.curvature import diagonal_curvature, kronecker_curvature
from nearlin.data import dataset
from nearlin.experiments import recipes
from nearlin.experiments.comparison import compare
from nearlin.experiments.registry import LEAST_SQUARES, OPTIMIZERS, make_optimizer
from nearlin.linalg.triangular_blocks import TriangularBlocks

PACKAGE = Path(nl.__file__).parent
LIKE = np.empty(0)
SKETCHES = (
    sketch.NeuronSigns(), sketch.KroneckerSRHT(), sketch.SRHT(), sketch.CountSketch(), sketch.SparseSign(), sketch.Gaussian(),
)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- the recorder


class Recorder(list):
    """The streams that were opened: (key, counter) of every Philox generator, and who asked for it."""

    def __call__(self, key=None, counter=None):
        assert key is not None, "a generator without a key draws something else in every process"
        frame = sys._getframe(1)
        while frame.f_code.co_filename == _array.random.__file__:
            frame = frame.f_back
        self.append(((int(key), counter), frame.f_code.co_qualname))
        return REAL(key=key, counter=counter)

    @property
    def streams(self):
        """The streams, in the order in which they were opened."""
        return [stream for stream, _ in self]

    def twice(self, *on_purpose):
        """Who opened a stream that was opened before; ``on_purpose`` may."""
        by = defaultdict(list)
        for stream, caller in self:
            by[stream].append(caller)
        return [callers for callers in by.values() if len(callers) > 1 and set(callers) - set(on_purpose)]


REAL = np.random.Philox


@pytest.fixture
def recorder(monkeypatch):
    """Records from here on."""
    record = Recorder()
    monkeypatch.setattr(np.random, "Philox", record)
    return record


def arrays(value):
    """All arrays of a nest of tuples and dataclasses, on the host."""
    if _array.is_array(value):
        yield _array.to_numpy(value)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from arrays(item)


# ------------------------------------------------------------------------------------------------------- what takes a key

SHAPES, CONV = ((40, 8), (40, 8), (6, 3)), partial(nn.Conv2d, kernel=3, pad=1)
TANH = nn.Elementwise(nn.activation("tanh"))
RESIDUAL = nn.Residual(nn.Sequential((CONV(4, 4), TANH, CONV(4, 4))))
IMAGES = nn.Sequential((CONV(1, 4), RESIDUAL, RESIDUAL, nn.GlobalAvgPool(), nn.Dense(4, 4), nn.Dense(4, 4)), shape=(1, 6, 6))
MLP = nn.MLP((5, 5, 5, 3), "tanh")
OUTPUTS = np.array([[0.3, -0.2, 0.1]] * 40)
SPD = np.diag(np.linspace(1.0, 40.0, 40) ** 2)


@functools.cache
def _given(network=MLP):
    """An objective, its parameters, and three batches."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((24, *(network.inputs if isinstance(network.inputs, tuple) else (network.inputs,))))
    loss = nn.SquaredLoss() if isinstance(network, nn.TwoLayer) else nn.SoftmaxCrossEntropy()
    y = rng.standard_normal(24) if isinstance(network, nn.TwoLayer) else rng.integers(0, network.outputs, 24)
    params = tuple(0.5 * rng.standard_normal(spec.shape) for spec in network.layers)
    return nn.Objective(network, loss), params, [(x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16)]


def _point():
    objective, params, batches = _given()
    return objective.at(params, batches[0]), objective.layers


def _first_pass(optimizer):
    objective, params, batches = _given()
    return lambda key: optimizer.warm_start(params, optimizer.init(params, objective), objective, iter(batches), key)


def _step(optimizer, network=MLP):
    objective, params, batches = _given(network)
    return lambda key: optimizer.step(params, optimizer.init(params, objective), objective, batches[0], key=key)


def _sample(distribution, s, shape):
    return lambda key: distribution.sample(key, s, shape, like=LIKE)


class _Seen:
    """An operator that keeps what it is given."""

    shape = (6, 5)

    def __init__(self):
        self.seen = []

    def matvec(self, v):
        self.seen += [*v]
        return np.ones(6) * (v[0].sum() + v[1].sum())

    def rmatvec(self, u):
        self.seen.append(u)
        return np.ones(2), np.ones(3)


def _dot_test(key):
    operator = _Seen()
    linalg.dot_test(operator, key, LIKE)
    return operator.seen


def _dot_test_of_vectors(key):
    seen = []
    operator = SimpleNamespace(shape=(7, 7), matvec=lambda v: seen.append(v) or v, rmatvec=lambda u: seen.append(u) or u)
    linalg.dot_test(operator, key, LIKE)
    return seen


def _effective_dimension(key):
    return np.array([TriangularBlocks((np.triu(np.ones((9, 9))),), 1, 0.1).effective_dimension(key)])


def _preconditioner(key):
    source = nn.KernelEntries(np.random.default_rng(0).random((90, 5)))
    return linalg.PivotedCholesky(source, key).grow(40).grow(80).preconditioner(1e-3)


DRAWN = {
    "uniform": lambda key: _array.uniform(key, (9,), LIKE),
    "normal": lambda key: _array.normal(key, (9,), LIKE),
    "signs": lambda key: _array.signs(key, 30, LIKE),
    "permutation": lambda key: _array.permutation(key, 9, LIKE),
    "Gaussian": _sample(sketch.Gaussian(), 4, 9),
    "SRHT": _sample(sketch.SRHT(), 16, 32),
    "CountSketch": _sample(sketch.CountSketch(), 8, 32),
    "SparseSign": _sample(sketch.SparseSign(nnz=4), 16, 32),
    "KroneckerSRHT": _sample(sketch.KroneckerSRHT(), 16, ((8, 8), (8, 8), (9, 3), 20)),
    "KroneckerSRHT without oversampling": _sample(sketch.KroneckerSRHT(1), 24, ((8, 8), (8, 8))),
    "NeuronSigns": _sample(sketch.NeuronSigns(), 4, SHAPES),
    "NeuronSamples": _sample(sketch.NeuronSamples(), 4, SHAPES[:2]),
    "TwoLayer": lambda key: nn.TwoLayer(3, 2**16 + 2**9).init(key, LIKE),
    "perceptron": lambda key: MLP.init(key, LIKE),
    "auto-encoder": lambda key: nn.autoencoder((4, 4, 4)).init(key, LIKE),
    "residual network": lambda key: IMAGES.init(key, LIKE),
    "graph network": lambda key: nn.GraphNetwork(np.eye(4), np.ones((4, 4)), (4, 4), "relu").init(key, LIKE),
    "squared targets": lambda key: nn.SquaredLoss().draw(key, OUTPUTS),
    "averaged squared targets": lambda key: nn.SquaredLoss(average=True).draw(key, OUTPUTS),
    "sigmoid targets": lambda key: nn.SigmoidCrossEntropy().draw(key, OUTPUTS),
    "softmax targets": lambda key: nn.SoftmaxCrossEntropy().draw(key, OUTPUTS),
    "targets at a point": lambda key: _point()[0].draw(key),
    "probe of an effective dimension": _effective_dimension,
    "Nyström": lambda key: linalg.nystrom(lambda Z: SPD @ Z, 40, key, 1e-3, like=LIKE, rank=2).U,
    "pivoted Cholesky, grown twice": lambda key: _preconditioner(key).factor.F,
    "groups of near rows": lambda key: np.concatenate(linalg.nearby_groups(np.random.default_rng(0).random((90, 5)), key, 8)),
    "dot test": _dot_test,
    "dot test of vectors": _dot_test_of_vectors,
    "rows of a split": lambda key: dataset.split_rows(30, 0.3, key),
    "sphere": lambda key: nl.data.sphere(9, 3, key),
    "curves": lambda key: nl.data.curves(4, 4, key),
    "graph": lambda key: nl.data.planted_graph(60, 20, 3, 4, 9, 9, seed=key),
    "crops and flips": lambda key: nl.data.augment(np.arange(360.0).reshape(10, 1, 6, 6), key),
    "claims, sphere": lambda key: families.sphere(9, 3, key),
    "claims, near-duplicates": lambda key: families.near_duplicates(8, 3, key),
    "claims, offset": lambda key: families.offset(9, 3, key),
    "claims, sparse pairs": lambda key: families.sparse_pairs(9, 8, key),
    "claims, pair": lambda key: families.pair_at_angle(0.1, 4, key),
    "claims, labels": lambda key: families.labels(9, key),
    "claims, mask": lambda key: families.relu_mask(np.eye(3), 30, key),
}
STEPS = {  # what draws on the way to something else, which need not differ everywhere
    "curvature in Kronecker factors": lambda key: kronecker_curvature(*_point(), key),
    "diagonal curvature": lambda key: diagonal_curvature(*_point(), key),
    "K-FAC, first pass": _first_pass(optim.KFAC()),
    "TNT, first pass": _first_pass(optim.TNT()),
    "mini-block Fisher, first pass": _first_pass(optim.MiniBlockFisher()),
    "K-FAC": _step(optim.KFAC()),
    "TNT": _step(optim.TNT()),
    "Ginger": _step(optim.Ginger()),
    "QNG": _step(optim.QNG()),
    **{
        f"near-linear, {type(one).__name__}": _step(optim.NearLinearGaussNewton(sketch=one), nn.TwoLayer(5, 64))
        for one in SKETCHES
    },
    **{f"Gauss-Newton, {type(one).__name__}": _step(optim.GaussNewton(plan="sketch", sketch=one)) for one in SKETCHES},
    **{f"Gauss-Newton, {plan}": _step(optim.GaussNewton(plan=plan)) for plan in ("nystrom", "kfac", "diagonal", "exact")},
    "Gauss-Newton on images": _step(optim.GaussNewton(plan="sketch"), IMAGES),
}
EVERYTHING = DRAWN | STEPS


@pytest.mark.parametrize("name", EVERYTHING)
def test_one_key_draws_one_thing_from_streams_that_no_other_key_opens(recorder, name):
    """The streams of a call are all its own: none ignores the key, none is opened for two purposes."""
    draw, first = EVERYTHING[name], list(arrays(EVERYTHING[name](5)))
    streams = recorder.streams
    assert streams, "nothing was drawn"
    assert recorder.twice() == []
    again = list(arrays(draw(5)))
    assert recorder.streams == 2 * streams
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))
    recorder.clear()
    draw(6)
    assert not set(recorder.streams) & set(streams)


@pytest.mark.parametrize("name", DRAWN)
def test_another_key_draws_something_else_in_every_part(name):
    """Of what one call draws, too, no two parts are alike."""
    first, other = list(arrays(DRAWN[name](5))), list(arrays(DRAWN[name](6)))
    varied = [a for a, b in zip(first, other, strict=True) if a.size > 1 or a[0] != b[0]]
    assert varied
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.size > 1)
    assert not any(np.array_equal(a, b) for a, b in combinations(varied, 2))


def test_the_recorder_sees_a_stream_that_is_opened_twice(recorder, monkeypatch):
    for where in (_array, _array.random):
        monkeypatch.setattr(where, "fold_in", lambda key, *_: key)
    sketch.CountSketch().sample(0, 4, 4, like=LIKE)
    assert recorder.twice() == [["CountSketch._drawn"] * 2]


def test_generators_are_opened_in_one_place():
    """But for the split of the digits, on whose rows a published entropy depends, and scikit-learn's ``random_state``."""
    elsewhere = {
        "sklearn/base.py",
        "data/named.py",
        "complexity/claims/damped.py",
        *(f"complexity/claims/{name}.py" for name in ("layerwise", "layerwise_rates")),
    }
    opens = ("default_rng", "RandomState", "np.random.Generator", "np.random.Philox", "np.random.seed")
    found = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if any(word in p.read_text() for word in opens)}
    assert "_array/random.py" in found
    assert found <= {"_array/random.py", *elsewhere}


def _made(name):
    more = {"dsgd": {"p": 3.0, "form": "stochastic", "lr": 0.5}, "gauss-newton": {"plan": "sketch"}}
    return make_optimizer(name, **more.get(name, {}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_method_uses_its_key_unless_it_says_that_it_does_not(recorder, name):
    optimizer = _made(name)
    objective, params, batches = _given(nn.TwoLayer(5, 64) if name in LEAST_SQUARES else MLP)
    state = optimizer.init(params, objective)
    optimizer.step(params, state, objective, batches[0], key=5)
    assert bool(recorder) != ("``key`` is not used" in type(optimizer).step.__doc__)
    if hasattr(optimizer, "warm_start"):
        recorder.clear()
        optimizer.warm_start(params, state, objective, iter(batches), 5)
        assert bool(recorder) != ("``key`` is not used" in type(optimizer).warm_start.__doc__)


DRAWING = {"k-fac": optim.KFAC(), "tnt": optim.TNT(), "ginger": optim.Ginger(), "qng": optim.QNG()}


@pytest.mark.parametrize("name", DRAWING)
def test_steps_that_are_given_one_key_draw_labels_of_their_own(recorder, name):
    """Nor do they meet the weights or the first pass, where these were given the same key."""
    optimizer, (objective, _, batches) = DRAWING[name], _given()
    params = objective.network.init(0, LIKE)
    state = optimizer.init(params, objective)
    if hasattr(optimizer, "warm_start"):
        state = optimizer.warm_start(params, state, objective, iter(batches))
    before = len(recorder)
    for _ in range(4):
        params, state, _ = optimizer.step(params, state, objective, batches[0])
    assert len(recorder) == before + 4 - (name == "tnt")  # whose first step after a warm start adds no statistic
    assert recorder.twice() == []


# ------------------------------------------------------------------------------------------------------------ runs of the loop

ON_PURPOSE = {
    "Batches.__call__": "the order of an epoch is drawn at each of its steps, so that none is kept in a checkpoint",
}
ROWS = nl.data.sphere(n=24, d=3, seed=1)


def _images(config):
    rng = np.random.default_rng(2)
    return recipes.Parts(*((rng.standard_normal((n, 1, 6, 6)), rng.integers(0, 4, n)) for n in (24, 8)))


@pytest.fixture
def images(monkeypatch):
    """The name of a recipe: images cropped and flipped at random, before a residual network."""
    small = recipes.Recipe(
        "small images", _images, lambda *_: IMAGES, nn.SoftmaxCrossEntropy(), "labels", 8, 3, dtype="float64", augment=True
    )
    monkeypatch.setitem(recipes.RECIPES, "small-images", small)
    return "small-images"


def _run(data, optimizer, **options):
    more = {"dsgd": {"settings": (("form", "stochastic"), ("p", 3.0)), "lr": 0.5}}.get(optimizer, {})
    options = {"batch_size": 8, "steps": 9, "tol": 1e-12, "width": 64} | options
    if isinstance(data, str):
        del options["width"]
    return nl.experiments.train(data, optimizer=optimizer, progress=False, **more, **options)


RUNS = {name: (ROWS if name in LEAST_SQUARES else "small-images", name, {}) for name in OPTIMIZERS} | {
    "near-linear-gauss-newton, all rows": (ROWS, LEAST_SQUARES[0], {"batch_size": "all", "settings": (("reuse", False),)}),
    "near-linear-gauss-newton, SRHT": (ROWS, LEAST_SQUARES[0], {"settings": (("sketch", sketch.SRHT()),)}),
    "gauss-newton, sketch": ("small-images", "gauss-newton", {"batch_size": "all", "settings": (("plan", "sketch"),)}),
    "gauss-newton, kfac": ("small-images", "gauss-newton", {"batch_size": "all", "settings": (("plan", "kfac"),)}),
    "gauss-newton, nystrom": (ROWS, "gauss-newton", {"batch_size": "all", "settings": (("plan", "nystrom"),)}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_opens_no_stream_twice(recorder, images, name):
    """Epochs with split, weights, crops, first pass, shuffles and steps, of which none meets what another drew."""
    data, optimizer, options = RUNS[name]
    _run(data, optimizer, **options)
    assert recorder.twice(*ON_PURPOSE) == []


def _by(recorder, caller):
    return [stream for stream, who in recorder if who == caller]


def test_every_epoch_has_an_order_of_its_own_and_every_step_its_own_crops(recorder, images):
    _run(images, "sgd")
    orders = _by(recorder, "Batches.__call__")
    assert [orders.count(order) for order in dict.fromkeys(orders)] == [3, 3, 3]
    assert len(set(_by(recorder, "augment"))) == 9


@pytest.mark.parametrize("optimizer", ["near-linear-gauss-newton", "tnt"])
def test_a_resumed_run_opens_the_streams_that_were_left(recorder, images, tmp_path, optimizer):
    data = ROWS if optimizer in LEAST_SQUARES else images
    _run(data, optimizer)
    whole = recorder.streams
    recorder.clear()
    _run(data, optimizer, steps=4, out=tmp_path)
    begun = recorder.streams
    recorder.clear()
    nl.experiments.train(data, resume=tmp_path / "checkpoint.npz", steps=9, progress=False)
    left = [stream for stream, who in recorder if who != "split_rows"]
    assert left
    assert begun + left == whole


@pytest.mark.parametrize("optimizer", ["near-linear-gauss-newton", "kfac"])
def test_runs_of_two_seeds_share_no_stream(recorder, images, optimizer):
    data = ROWS if optimizer in LEAST_SQUARES else images
    _run(data, optimizer)
    first = set(recorder.streams)
    recorder.clear()
    _run(data, optimizer, seed=1)
    assert not first & set(recorder.streams)


def test_a_comparison_draws_what_its_runs_draw_alone_on_one_split(recorder):
    """Each seed has weights and orders of its own, and every optimizer meets them; the split is that of the first seed."""
    names, options = (
        ["near-linear-gauss-newton", "sgd"],
        {"batch_size": 8, "steps": 6, "width": 64, "tol": 1e-12, "progress": False},
    )
    compare(ROWS, names, seeds=2, **options)
    together, split, weights = (
        set(recorder.streams),
        _by(recorder, "split_rows"),
        _by(recorder, "TwoLayer._drawn"),
    )
    alone = set()
    for name in names:
        for seed in (0, 1):
            recorder.clear()
            nl.experiments.train(ROWS, optimizer=name, seed=seed, **options)
            alone |= {stream for stream, who in recorder if who != "split_rows"}
    assert together == alone | {*split}
    assert len(split) == 1
    assert len(weights) == len({*weights}) == 2
