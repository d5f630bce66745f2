"""Counting arrays: NumPy's numbers, exact counts, the memory that tracemalloc sees, and no way out uncounted."""

import gc
import sys
import threading
import tracemalloc
from collections import Counter, namedtuple
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import threadpoolctl

import nearlin as nl
from nearlin import _array
from nearlin.complexity import count, counting, counting_like, flop_models, flops_of, wrap
from nearlin.complexity.counting import Array, _leaves, xp
from tests.optim.test_laws import OPTIMIZERS

LIKE = counting_like()
HOST = np.arange(12.0).reshape(3, 4) + 1


def counts(f, *args):
    """Flops, bytes and calls by primitive."""
    with count() as tally:
        f(*args)
    return dict(tally.flops), dict(tally.bytes), dict(tally.calls)


# -------------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize(
    "network",
    [nl.nn.TwoLayer(5, 200), nl.nn.TwoLayer(5, 100, "tanh"), nl.nn.MLP((5, 20, 1))],
    ids=["two layers", "two layers, tanh", "perceptron"],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_are_those_of_numpy_to_the_bit(name, network):
    opt, host = OPTIMIZERS[name], nl.data.sphere(n=20, d=5, seed=1)
    if isinstance(opt, nl.optim.DSGD) and opt.p is None and not isinstance(network, nl.nn.Sequential):
        pytest.skip("its guarantee is for chains of dense layers and smooth activations")
    objective = nl.nn.Objective(network, nl.nn.SquaredLoss())
    ends = []
    with threadpoolctl.threadpool_limits(1):
        for batch, like in ((host, host[0]), (wrap(host), LIKE)):
            params = network.init(0, like)
            state = opt.init(params, objective)
            for t in range(2):
                params, state, info = opt.step(params, state, objective, batch, key=t)
            ends.append((params, info))
    (want, want_info), (got, got_info) = ends
    assert all(np.array_equal(nl.to_numpy(a), b) for a, b in zip(got, want, strict=True))
    assert repr(got_info) == repr(want_info)


def test_the_backend_is_called_counting():
    assert _array.backend_name(wrap(HOST)) == "counting"
    assert _array.describe(wrap(HOST)) == "float64 counting array of shape (3, 4) on cpu"


# ----------------------------------------------------------------------------------------------------------- exact counts

A, B, V = wrap(HOST), wrap(HOST.T), wrap(np.arange(4.0))
S = wrap(np.eye(4) * 3 + 1)
QR = (12 * 4 * 9 - 4 * 27 + 6 * 12 + 3 * 9 + 10 * 3) // 3


@pytest.mark.parametrize(
    ("f", "flops"),
    [
        (lambda: A + A, {"add": 12}),
        (lambda: 2.0 * A, {"multiply": 12}),
        (lambda: A[:, :1] * V, {"getitem": 0, "multiply": 12}),
        (lambda: A > 3, {"greater": 12}),
        (lambda: xp.where(A > 3, A, -A), {"greater": 12, "negative": 12, "where": 12}),
        (lambda: xp.sum(A), {"sum": 11}),
        (lambda: xp.sum(A, axis=1), {"sum": 9}),
        (lambda: xp.all(A > 0, axis=0), {"greater": 12, "all": 8}),
        (lambda: xp.mean(A), {"mean": 12}),
        (lambda: xp.var(A, axis=0), {"var": 4 * 12}),
        (lambda: xp.std(A), {"std": 4 * 12}),
        (lambda: A @ B, {"matmul": 2 * 3 * 3 * 4}),
        (lambda: A @ V, {"matmul": 2 * 3 * 4}),
        (lambda: V @ V, {"matmul": 8}),
        (lambda: xp.stack([A, A]) @ xp.stack([B, B]), {"stack": 0, "matmul": 2 * 72}),
        (lambda: xp.tensordot(A, B, axes=1), {"tensordot": 72}),
        (lambda: xp.vecdot(A, V), {"vecdot": 24}),
        (lambda: xp.linalg.outer(V, V), {"outer": 16}),
        (lambda: xp.linalg.trace(S), {"trace": 3}),
        (lambda: xp.linalg.vector_norm(A), {"vector_norm": 24}),
        (lambda: xp.linalg.cholesky(S), {"cholesky": 4 * 5 * 9 // 6}),
        (lambda: _array.cholesky(S, shift=1.0), {"shifted_cholesky": 30 + 4}),
        (lambda: _array.solve_triangular(S, V), {"solve_triangular": 16}),
        (lambda: _array.solve_triangular(S, B), {"solve_triangular": 16 * 3}),
        (lambda: xp.linalg.solve(S, B), {"solve": 6 + 28 + 3 * (32 - 4)}),
        (lambda: xp.linalg.inv(S), {"inv": 128}),
        (lambda: xp.linalg.eigh(S), {"eigh": 9 * 64}),
        (lambda: xp.linalg.eigvalsh(S), {"eigvalsh": Fraction(256, 3)}),
        (lambda: xp.linalg.qr(B), {"qr": QR}),
        (lambda: xp.linalg.svd(B), {"svd": 14 * 4 * 9 + 8 * 27}),
        (lambda: xp.linalg.svdvals(B), {"svdvals": 4 * 4 * 9 - 4 * 27 // 3}),
        (lambda: xp.linalg.pinv(A), {"pinv": 14 * 4 * 9 + 8 * 27 + 2 * 4 * 9}),
        (lambda: xp.linalg.det(S), {"det": 6 + 28 + 4}),
        (lambda: xp.linalg.slogdet(S), {"slogdet": 6 + 28 + 4}),
        (lambda: xp.linalg.eigh(xp.stack([S, S, S])), {"stack": 0, "eigh": 3 * 9 * 64}),
        (lambda: xp.linalg.cholesky(xp.stack([S, S])), {"stack": 0, "cholesky": 2 * 30}),
        (lambda: nl.linalg.fwht(B), {"ones": 0, "negative": 1 + 4, "concat": 0, "reshape": 0, "matmul": 2 * 4 * 12}),
        (lambda: nl.linalg.fwht(V), {"ones": 0, "negative": 1 + 4, "concat": 0, "reshape": 0, "matmul": 2 * 4 * 4}),
        (lambda: xp.sort(V), {"sort": 8}),
        (lambda: xp.searchsorted(V, V), {"searchsorted": 12}),
        (lambda: xp.concat([A, A]), {"concat": 0}),
        (lambda: xp.astype(A, xp.float32), {"astype": 0}),
        (lambda: xp.take(A, xp.arange(2), axis=0), {"arange": 0, "take": 0}),
        (lambda: xp.astype(1 - 2 * (xp.arange(4) % 2), xp.float64), {"arange": 0, "remainder": 4, "multiply": 4, "subtract": 4,
                                                                       "astype": 0}),
    ],
)  # fmt: skip
def test_flops_are_those_of_the_cost_model(f, flops):
    assert counts(f)[0] == flops


@pytest.mark.parametrize(
    ("f", "moved"),
    [
        (lambda: A + A, {"add": 3 * 96}),
        (lambda: A > 0, {"greater": 96 + 12}),
        (lambda: A @ B, {"matmul": 96 + 96 + 72}),
        (lambda: A[1:, :], {"getitem": 0}),
        (lambda: xp.reshape(A, (12,)), {"reshape": 0}),
        (lambda: A.mT, {}),
        (lambda: xp.matrix_transpose(A), {"matrix_transpose": 0}),
        (lambda: xp.astype(A, xp.float32), {"astype": 96 + 48}),
        (lambda: xp.astype(A, xp.float64, copy=False), {"astype": 0}),
        (lambda: xp.concat([A, A]), {"concat": 2 * 192}),
        (lambda: xp.zeros((2, 2)), {"zeros": 32}),
        (lambda: xp.take(A, xp.asarray([0]), axis=0), {"take": 2 * 32 + 8}),
        (lambda: xp.asarray(A, copy=True), {"asarray": 192}),
        (lambda: xp.broadcast_arrays(A, xp.astype(A, xp.float32, copy=False)), {"astype": 96 + 48, "broadcast_arrays": 0}),
    ],
)
def test_bytes_are_those_read_and_written_and_views_move_none(f, moved):
    assert counts(f)[1] == moved


def test_in_place_operations_count_like_the_others_and_write_where_they_should():
    def plain(x):
        return x * 2.0 + 1.0

    def in_place(x):
        y = x
        y *= 2.0
        y += 1.0
        return y

    x = wrap(HOST)
    assert counts(in_place, xp.asarray(x, copy=True)) == counts(plain, x)
    y = in_place(x)
    assert y is x
    np.testing.assert_array_equal(nl.to_numpy(y), HOST * 2 + 1)


def test_writes_into_a_part_count_their_bytes():
    x = wrap(HOST)

    def write():
        x[:, 1:3] += xp.ones((3, 2))

    flops, moved, _ = counts(write)
    assert flops == {"ones": 0, "getitem": 0, "add": 6, "setitem": 0}
    assert moved == {"ones": 48, "getitem": 0, "add": 3 * 48, "setitem": 2 * 48}
    np.testing.assert_array_equal(nl.to_numpy(x)[:, 1:3], HOST[:, 1:3] + 1)


def test_blocks_nest_and_nothing_counts_outside():
    with count() as outer:
        A + A
        with count() as inner:
            A + A
        A + A
    A + A
    assert (outer.total, inner.total) == (36, 12)
    assert outer.calls["add"] == 3


def test_a_tally_closes_when_the_block_fails():
    with pytest.raises(ZeroDivisionError), count() as tally:
        raise ZeroDivisionError
    A + A
    assert tally.total == 0


def test_host_draws_count_nothing_but_their_memory():
    with count() as tally:
        x = _array.normal(1, (8, 4), LIKE)
        signs = _array.signs(2, 16, LIKE)
        order = _array.permutation(3, 16, LIKE)
    assert (tally.total, sum(tally.calls.values())) == (0, 0)
    assert all(isinstance(a, Array) for a in (x, signs, order))
    assert tally.live == 8 * (32 + 16 + 16)


def test_blocks_of_work_are_walked_in_this_thread():
    thread = threading.get_ident()
    assert set(_array.map_blocks(lambda _: threading.get_ident(), range(4), LIKE)) == {thread}


def test_flops_of_brings_numpy_arrays_in():
    assert flops_of(lambda x, y: x @ y, HOST, HOST.T) == 72
    assert flops_of(lambda pair, *, k: pair[0] * k, (HOST, 1), k=2.0) == 12


def test_a_tally_reads_as_a_table():
    with count() as tally:
        A @ B
    assert str(tally).splitlines()[1].split() == ["matmul", "1", "72", "264"]
    assert repr(tally) == "Tally(total=72, bytes=264, peak=72)"


# ---------------------------------------------------------------------------------------------------------------- memory


def test_live_bytes_follow_the_owner_of_the_memory():
    with count() as tally:
        x = xp.ones((100,))
        view = x[10:20]
        assert tally.live == 800
        del x
        assert tally.live == 800
        del view
        gc.collect()
        assert tally.live == 0
    assert tally.peak == 800


def test_views_of_arrays_from_before_the_block_make_no_live_bytes():
    x = wrap(np.ones(100))
    with count() as tally:
        y = x[:50]
        z = xp.reshape(x, (10, 10))
        assert (tally.peak, y.size, z.size) == (0, 50, 100)


def gradient(objective, params, batch):
    """Loss and gradient: no bits, no blocks, the same arrays on every backend."""
    point = objective.at(params, batch)
    return point.loss, point.grads()


def gram_step(objective, params, batch):
    """One exact natural-gradient step."""
    method = nl.optim.NaturalGradient(damping=1.0)
    return method.step(params, method.init(params, objective), objective, batch)


@pytest.mark.parametrize("f", [gradient, gram_step], ids=lambda f: f.__name__)
def test_peak_bytes_are_those_of_tracemalloc(f):
    network = nl.nn.MLP((16, 300, 200, 1))
    objective, batch = nl.nn.Objective(network, nl.nn.SquaredLoss()), nl.data.sphere(n=256, d=16)
    params = network.init(0, batch[0])
    f(objective, params, batch)
    tracemalloc.start()
    try:
        f(objective, params, batch)
        measured = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    params, batch = wrap((params, batch))
    with count() as tally:
        f(objective, params, batch)
    assert tally.peak == pytest.approx(measured, rel=0.01)


class Recorder:
    """Flops of what array_api_strict does, by the models of the counting namespace; calls inside of calls do not count again."""

    def __init__(self):
        self.flops, self._inside = Counter(), False

    def watch(self, name, function, model):
        def watched(*args, **kwargs):
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            try:
                result = function(*args, **kwargs)
            finally:
                self._inside = False
            given, made = _leaves(bare((*args, *kwargs.values()))), _leaves(bare((result,)))
            if given and result is not NotImplemented:
                self.flops[name] += model(given, made, **{key: value for key, value in kwargs.items() if key == "axis"})
            return result

        return watched


def bare(x):
    """The NumPy arrays behind array_api_strict's."""
    return tuple(map(bare, x)) if isinstance(x, tuple | list) else getattr(x, "_array", x)


@pytest.fixture
def recorder(monkeypatch):
    strict, found = pytest.importorskip("array_api_strict"), Recorder()
    for space, table in ((strict, flop_models.FUNCTIONS), (strict.linalg, flop_models.LINALG)):
        for (model, _), names in table.items():
            for name in set(names.split()) & set(dir(space)):
                monkeypatch.setattr(space, name, found.watch(name, getattr(space, name), model))
    kind = type(strict.ones(1))
    for symbol, name in counting.OPERATORS.items():
        model = flop_models.product if symbol == "matmul" else flop_models.each_output
        plain = symbol.rstrip("_")
        for method in (f"__{plain}__", f"__r{plain}__", f"__i{plain}__"):
            if hasattr(kind, method):
                monkeypatch.setattr(kind, method, found.watch(name, getattr(kind, method), model))
    for name, (function, model) in counting.PRIMITIVES.items():  # each namespace has its own way there
        for module in [module for key, module in sys.modules.items() if key.startswith("nearlin")]:
            for attribute, value in list(vars(module).items()):
                if value is function and attribute != "PRIMITIVES":
                    monkeypatch.setattr(module, attribute, found.watch(name, function, model))
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_array_api_strict_is_asked_for_the_same_flops(name, recorder):
    """So the counts do not depend on the namespace: on counting arrays the library takes the way of any other."""
    import array_api_strict as strict

    opt, host = OPTIMIZERS[name], nl.data.sphere(n=20, d=5, seed=1)
    objective, totals = nl.nn.Objective(nl.nn.MLP((5, 20, 1)), nl.nn.SquaredLoss()), []
    for like in (LIKE, strict.ones(1, dtype=strict.float64)):
        batch = tuple(nl.asarray(a, like=like) for a in host)
        params = objective.network.init(0, like)
        state = opt.init(params, objective)
        recorder.flops.clear()
        with count() as tally:
            for t in range(2):
                params, state, _ = opt.step(params, state, objective, batch, key=t)
        totals.append({key: flops for key, flops in (tally if like is LIKE else recorder).flops.items() if flops})
    assert totals[0] == totals[1]


def test_matrix_products_are_those_of_torch():
    torch = pytest.importorskip("torch")
    counter = pytest.importorskip("torch.utils.flop_counter")
    network = nl.nn.MLP((6, 30, 20, 3))
    objective = nl.nn.Objective(network, nl.nn.SquaredLoss())

    def everything(like):
        x, y = (nl.asarray(a, like=like) for a in (np.ones((9, 6)), np.ones((9, 3))))
        point = objective.at(network.init(0, like), (x, y))
        J, gradient = point.jacobian(), point.grads()
        return J.gram(), J.matvec(gradient), J.gram_matvec(point.residual), point.jvp(gradient)

    with counter.FlopCounterMode(display=False) as want:
        everything(torch.empty(0, dtype=torch.float64))
    with count() as got:
        everything(LIKE)
    assert got.flops["matmul"] == want.get_total_flops() > 0


# ------------------------------------------------------------------------------------------------------------ no way out

X = wrap(np.eye(3) + 1)
N = np.eye(3)


@pytest.mark.parametrize(
    "escape",
    [
        lambda: np.sum(X),
        lambda: np.add(X, X),
        lambda: np.concatenate([X, X]),
        lambda: np.linalg.inv(X),
        lambda: np.linalg.cholesky(X),
        lambda: scipy.linalg.inv(X),
        lambda: scipy.linalg.solve_triangular(X, N),
        lambda: scipy.linalg.solve_triangular(N, X),
        lambda: scipy.special.expit(X),
        lambda: np.asarray(X),
        lambda: np.array([X, X]),
        lambda: np.float64(X),
        lambda: np.where(X > 0, 1, 0),
        lambda: np.testing.assert_array_equal(X, N),
        lambda: X + N,
        lambda: N + X,
        lambda: X @ N,
        lambda: N @ X,
        lambda: X == N,
        lambda: X + np.float64(1),
        lambda: np.float64(1) * X,
        lambda: X + [1.0, 2.0, 3.0],  # noqa: RUF005
        lambda: X == "a",
        lambda: xp.add(X, N),
        lambda: xp.asarray([X, X]),
        lambda: xp.take(X, np.array([0]), axis=0),
        lambda: X[np.array([0])],
        lambda: N[X],
        lambda: X.__setitem__(0, N[0]),
        lambda: N.copy().__setitem__(0, X[0, :]),
        lambda: X.__iadd__(N),
        lambda: N.copy().__iadd__(X),
        lambda: len(X),
        lambda: memoryview(X),
        lambda: sum([N, X]),
    ],
)
def test_escapes_are_loud(escape):
    with pytest.raises(TypeError):
        escape()


def test_export_and_foreign_functions_are_refused():
    with pytest.raises(BufferError, match=r"nearlin.to_numpy is the way back"):
        np.from_dlpack(X)
    with pytest.raises(AttributeError, match="einsum"):
        xp.einsum("ij->i", X)
    with pytest.raises(ValueError, match="device is 'gpu'; expected 'cpu'"):
        xp.asarray(X, device="gpu")


def test_tensors_do_not_mix_in():
    torch = pytest.importorskip("torch")
    for mix in (lambda: torch.ones(3, 3) + X, lambda: X + torch.ones(3, 3)):
        with pytest.raises(TypeError):
            mix()
    with pytest.raises(nl.BackendError, match="x is a float32 torch array"):
        wrap(torch.ones(3))


def test_the_explicit_ways_in_and_out_copy():
    host = HOST.copy()
    x = nl.asarray(host, like=LIKE)
    back = nl.to_numpy(x)
    np.testing.assert_array_equal(back, host)
    host[0, 0] = back[0, 0] = 99
    assert float(x[0, 0]) == 1.0


def test_wrapping_keeps_the_shape_of_a_tree():
    Pair = namedtuple("Pair", "a b")
    tree = wrap({"x": (HOST, Pair(HOST, None)), "k": 3, "y": [X]})
    assert isinstance(tree["x"][1], Pair)
    assert isinstance(tree["x"][1].a, Array)
    assert tree["k"] == 3
    assert tree["y"][0] is X


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype is 'float16'; expected 'float32' or 'float64'"):
        counting_like("float16")
