"""A step whose rows lie in a file: that of rows in memory to the last bit, without a page of the file, some rows at a time."""

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import nearlin as nl

NearLinear = nl.optim.NearLinearGaussNewton
CASES = {  # steps; n, d, m, outputs, activation, dtype: sums over samples by tiles, or of all samples that a file has
    "by tiles": (1, (9000, 300, 520, 1, "relu", "float32")),
    "two outputs": (2, (5000, 420, 72, 2, "relu", "float64")),
    "whole": (2, (3000, 400, 64, 1, "relu", "float64")),
}


def saved(folder, n, d, m, outputs, activation, dtype):
    """Objective, and the batch in memory and by maps."""
    g = np.random.default_rng(0)
    x = g.standard_normal((n, d))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)
    y = g.standard_normal((n, outputs) if outputs > 1 else n).astype(dtype)
    for name, a in (("x", x), ("y", y)):
        np.save(folder / f"{name}.npy", a)
    objective = nl.nn.Objective(nl.nn.TwoLayer(d, m, activation, outputs), nl.nn.SquaredLoss())
    return objective, (x, y), tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")


def run(opt, objective, batch, steps=1):
    params = objective.network.init(0, batch[0])
    state, infos = opt.init(params, objective), []
    for t in range(steps):
        params, state, info = opt.step(params, state, objective, batch, key=t)
        infos.append(info)
    return params[0], state, infos


@pytest.mark.parametrize("case", CASES)
def test_steps_by_map_are_those_in_memory_to_the_last_bit(tmp_path, case):
    steps, sizes = CASES[case]
    objective, batch, maps = saved(tmp_path, *sizes)
    opt = NearLinear(preconditioner="pivoted")
    (want, _, infos), (found, _, by_map) = (run(opt, objective, one, steps) for one in (batch, maps))
    assert np.array_equal(found, want)
    for a, b in zip(infos, by_map, strict=True):
        assert (a.loss, a.new_loss, a.damping, a.ratio) == (b.loss, b.new_loss, b.damping, b.ratio)
        assert (a.solve.residual, a.solve.iterations, a.solve.condition) == (
            b.solve.residual,
            b.solve.iterations,
            b.solve.condition,
        )
    assert infos[0].accepted
    assert infos[0].solve.residual <= 1 / 6


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("n", [3000, 5000])
def test_every_walk_by_map_is_that_in_memory_to_the_last_bit(tmp_path, n, activation):
    """n = 5000 in float64: sums by tiles, in three chunks."""
    objective, batch, maps = saved(tmp_path, n, 450, 72, 2, activation, "float64")
    params = objective.network.init(0, batch[0])
    a, b = (objective.at(params, one) for one in (batch, maps))
    J, K, u = a.jacobian(), b.jacobian(), np.random.default_rng(1).standard_normal(2 * n)
    assert np.array_equal(a.outputs, b.outputs)
    assert np.array_equal(a.grads()[0], b.grads()[0])
    for name, given in (("matvec", params), ("rmatvec", u), ("gram_matvec", u), ("gram_matvec_with_adjoint", u)):
        for one, other in zip(flat(getattr(J, name)(given)), flat(getattr(K, name)(given)), strict=True):
            assert np.array_equal(one, other), name
    assert J.mean_square() == K.mean_square()
    S = J.pooled().draw(nl.sketch.NeuronSigns(), 0, 24, batch[0])
    assert np.array_equal(J.fold_left(0, S), K.fold_left(0, S))
    sources = [nl.nn.FactorEntries.of(one, S) for one in (J, K)] + [nl.nn.KernelEntries(one[0]) for one in (batch, maps)]
    for rows in (slice(0, n), slice(100, 1101), np.array([5, 2999, 5])):
        one, other, *kernels = (source.entries(rows, np.array([0, 17, 2998])) for source in sources)
        assert np.array_equal(one, other)
        assert np.array_equal(*kernels)
    assert np.array_equal(sources[0].diagonal, sources[1].diagonal)
    assert np.array_equal(sources[2].diagonal, sources[3].diagonal)


def flat(found):
    return [a for one in found for a in (one if isinstance(one, tuple) else (one,))] if isinstance(found, tuple) else [found]


OPEN = open


class Watched(io.FileIO):
    """A file that tells the sizes of its reads."""

    sizes = ()

    def readinto(self, buffer):
        Watched.sizes = (*Watched.sizes, len(buffer))
        return super().readinto(buffer)


def opening(path, *mode, **how):
    """`open`, which watches files without a buffer."""
    return Watched(path) if how.get("buffering") == 0 else OPEN(path, *mode, **how)


def reads(monkeypatch, work):
    """The sizes of all reads that ``work`` makes of files without a buffer."""
    Watched.sizes = ()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", opening)
        work()
    return Watched.sizes


def test_no_read_takes_more_than_a_chunk(tmp_path, monkeypatch):
    """8 MB of rows, where a file holds 31; and a negative control: one read of all."""
    objective, _, (x, y) = saved(tmp_path, 5000, 784, 264, 1, "relu", "float64")
    sizes = reads(monkeypatch, lambda: run(NearLinear(preconditioner="pivoted"), objective, (x, y)))
    assert x.nbytes > 31e6
    assert max(sizes) <= 2**23
    assert sum(sizes) > 6 * x.nbytes  # checks, forward, products, columns, guard, certificate
    assert max(reads(monkeypatch, lambda: nl._array.rows_of(x, slice(0, 5000)))) == x.nbytes


PROTECTED = """
import ctypes, os, sys
import numpy as np
import nearlin as nl
libc = ctypes.CDLL(None, use_errno=True)
maps = [np.load(sys.argv[1] + name, mmap_mode="r") for name in ("/x.npy", "/y.npy")]
for a in maps:
    start = np.frombuffer(a._mmap, np.uint8).ctypes.data
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(len(a._mmap)), 0) == 0
x, y = maps
network = nl.nn.TwoLayer(x.shape[1], 64)
objective, params = nl.nn.Objective(network, nl.nn.SquaredLoss()), network.init(0, x)
opt = nl.optim.NearLinearGaussNewton(preconditioner="pivoted")
state = opt.init(params, objective)
for t in range(2):
    params, state, info = opt.step(params, state, objective, (x, y), key=t)
print(info.accepted, flush=True)
for touch in (lambda: x[:100].sum(), lambda: y[0] + 1):
    child = os.fork()
    if not child:
        touch()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by Linux")
def test_no_page_of_a_map_is_touched(tmp_path):
    """Pages that may not be read end the process that touches one: as two do, which are negative controls."""
    saved(tmp_path, 5000, 300, 64, 1, "relu", "float64")
    done = subprocess.run([sys.executable, "-c", PROTECTED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", *[str(-signal.SIGSEGV)] * 2]


def test_a_file_that_ends_in_the_middle_of_a_step_leaves_everything_as_it_was(tmp_path):
    objective, _, maps = saved(tmp_path, 5000, 300, 64, 1, "relu", "float64")
    opt, params = NearLinear(preconditioner="pivoted"), objective.network.init(0, maps[0])
    params, state, _ = opt.step(params, opt.init(params, objective), objective, maps, key=0)
    want = opt.step(params, state, objective, maps, key=1)[0][0]
    before, whole = params[0].copy(), (tmp_path / "x.npy").read_bytes()
    stamp = os.stat(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", len(whole) - 10**6)
    with pytest.raises(OSError, match=r"x.npy ends in row \d+ of the 5000 that it had when it was mapped; expected the whole"):
        opt.step(params, state, objective, maps, key=1)
    assert np.array_equal(params[0], before)
    (tmp_path / "x.npy").write_bytes(whole)
    os.utime(tmp_path / "x.npy", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert np.array_equal(opt.step(params, state, objective, maps, key=1)[0][0], want)


def test_a_file_that_changes_between_steps_is_evaluated_anew(tmp_path):
    objective, (x, y), maps = saved(tmp_path, 900, 20, 64, 1, "relu", "float64")
    opt = NearLinear(preconditioner="pivoted")
    params = objective.network.init(0, x)
    params, state, _ = opt.step(params, opt.init(params, objective), objective, maps, key=0)
    with open(tmp_path / "x.npy", "r+b") as file:
        np.save(file, x[::-1].copy())
    os.utime(tmp_path / "x.npy", ns=(0, 1))
    info = opt.step(params, state, objective, maps, key=1)[2]
    assert info.solve.refreshed
    assert info.loss == float(objective.at(params, (x[::-1].copy(), y)).loss)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones((9, 3), "int64"), TypeError, "x has dtype int64; expected float32 or float64"),
        (np.ones((9, 3), "float16"), TypeError, "x has dtype float16; expected float32 or float64"),
        (np.ones((9, 3), ">f8"), TypeError, "x has dtype >f8; expected float32 or float64"),
        (np.ones((9, 3), "float32"), nl.nn.objective.BackendError, "params.0. has dtype float64|x has dtype float32"),
        (np.ones((9, 4)), ValueError, r"x has shape \(9, 4\); expected \(n, 3\), the network's inputs"),
        (np.ones(9), ValueError, r"x has shape \(9,\); expected 2 dimension"),
        (np.ones((8, 3)), ValueError, "y has 9 rows, x has 8; expected the same number of samples"),
    ],
    ids=["int64", "float16", "byte order", "float32", "columns", "vector", "rows"],
)
def test_a_map_of_another_dtype_or_shape_is_one_sentence(tmp_path, x, error, words):
    objective, _, (_, y) = saved(tmp_path, 9, 3, 16, 1, "relu", "float64")
    params = objective.network.init(0, np.ones((9, 3)))
    np.save(tmp_path / "other.npy", x)
    opt = NearLinear(preconditioner="pivoted")
    with pytest.raises(error, match=words):
        opt.step(params, opt.init(params, objective), objective, (np.load(tmp_path / "other.npy", mmap_mode="r"), y), key=0)


def test_a_row_of_zeros_in_a_file_is_named(tmp_path):
    objective, (x, y), _ = saved(tmp_path, 3000, 400, 16, 1, "relu", "float64")
    x[2999] = 0
    np.save(tmp_path / "x.npy", x)
    params = objective.network.init(0, x)
    with pytest.raises(ValueError, match=r"x row 2999 is zero \(1 such row\(s\)\)"):
        NearLinear().step(params, NearLinear().init(params, objective), objective, (np.load(tmp_path / "x.npy", "r"), y), key=0)


def test_auto_takes_columns_for_a_file_and_says_so(tmp_path):
    objective, batch, maps = saved(tmp_path, 64, 8, 1024, 1, "relu", "float64")
    assert run(NearLinear(), objective, maps)[2][0].plan == "pivoted: x lies in a file"
    assert run(NearLinear(), objective, batch)[2][0].plan.startswith("sketch: ")


def test_products_in_another_dtype_than_the_file_are_refused(tmp_path):
    objective, _, maps = saved(tmp_path, 64, 8, 256, 1, "relu", "float64")
    with pytest.raises(
        ValueError, match="x lies in a file in float64, of which products in float32 need a copy; expected a file"
    ):
        run(NearLinear(preconditioner="pivoted", inner_dtype="float32"), objective, maps)


def test_near_rows_of_a_file_are_not_grouped(tmp_path):
    """Rows in memory get groups in the second step here."""
    g = np.random.default_rng(0)
    x = np.repeat(g.standard_normal((32, 4)), 8, axis=0) + 1e-2 * g.standard_normal((256, 4))
    objective, _, _ = saved(tmp_path, 256, 4, 2048, 1, "relu", "float64")
    np.save(tmp_path / "x.npy", x)
    opt = NearLinear(preconditioner="pivoted", memory=2 * 8 * 256 * 16)
    y = g.standard_normal(256)
    described = [run(opt, objective, (rows, y), 2)[2][1].solve.preconditioner for rows in (x, np.load(tmp_path / "x.npy", "r"))]
    assert described == ["pivoted, 16 columns, groups of near rows", "pivoted, 16 columns"]
