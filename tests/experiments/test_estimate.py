"""`nearlin estimate`: its numbers are those of the count, and what does not fit is refused with what would."""

import gc
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import slices
from nearlin.complexity import cost, counting
from nearlin.experiments import Config, estimate, estimation
from nearlin.experiments.estimation import KNOWN
from nearlin.experiments.refusals import in_words
from nearlin.experiments.registry import make_optimizer
from nearlin.nn.network import FEW_OUTPUTS
from nearlin.optim import GaussNewton, kbfgs

pytest.importorskip("rich")
CliRunner = pytest.importorskip("click.testing").CliRunner
cli = pytest.importorskip("nearlin.experiments.commands").cli
GIB = 2**30


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = nl.data.sphere(n=40, d=3, seed=1)
    np.savez(tmp_path / "xy.npz", x=x, y=y)


def nearlin(*arguments):
    return CliRunner().invoke(cli, ["estimate", *map(str, arguments)])


def flops(step):
    return sum(step.flops.values())


N, D, M = 16, 8, 1024
ODD = {"rows": 7, "features": 5, "width": 37}
NEAR = ("--optimizer", "near-linear-gauss-newton")


def second_step(optimizer, **options):
    """Counted flops of the first two steps, and the inner iterations of each; both take one attempt."""
    x, y = (counting.wrap(a) for a in nl.data.sphere(n=N, d=D, seed=1))
    objective = nl.nn.Objective(nl.nn.TwoLayer(D, M), nl.nn.SquaredLoss())
    opt = make_optimizer(optimizer, **options)
    params, found = objective.network.init(0, x), []
    state = opt.init(params, objective)
    for t in range(2):
        with counting.count() as tally:
            params, state, info = opt.step(params, state, objective, (x, y), key=t)
        assert getattr(info, "attempts", 1) == 1
        found.append((tally.total, info.solve.iterations if info.solve else None))
    return found


def estimated(kind, **options):
    return flops(estimate(rows=N, features=D, width=M, **options).steps[kind])


def floats(tree):
    """Numbers in the arrays of a nested state."""
    return sum(map(floats, tree)) if isinstance(tree, tuple) else getattr(tree, "size", 0)


def layerwise_steps(name, sizes, steps, **options):
    """Counted flops and bytes of steps of a layer-wise method: of the arrays made, and of those held before."""
    x, y = (counting.wrap(a) for a in nl.data.sphere(n=sizes["rows"], d=sizes["features"], seed=1))
    objective = nl.nn.Objective(nl.nn.TwoLayer(sizes["features"], sizes["width"]), nl.nn.SquaredLoss())
    opt, params = make_optimizer(name, **options), objective.network.init(0, x)
    state, found = opt.init(params, objective), []
    for t in range(steps):
        held = 8 * floats((x, y, params, state))
        with counting.count() as tally:
            params, state, _ = opt.step(params, state, objective, (x, y), key=t)
        found.append((tally.total, tally.peak + held))
    return found


SCHEDULES = {"mini-block-fisher": (2, 25), "kfac": (1, 20), "shampoo": (1, 20), "tnt": (1, 20)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_flops_of_layerwise_steps_are_those_of_the_count(name):
    """Statistics and inverses at the defaults' ratio of schedules, seen early: at steps 2 and 4."""
    every, inverses = SCHEDULES[name]
    schedule = {"statistics_every": every, "inverse_every": 4, "early": False}
    found = [flops for flops, _ in layerwise_steps(name, ODD, 5, **schedule)]
    steps = estimate(optimizer=name, **ODD).steps
    statistics = "statistics, every step" if every == 1 else f"statistics, 1 in {every}"
    assert flops(steps[statistics]) == found[2]
    assert flops(steps[f"inverses too, 1 in {inverses}"]) == found[4]
    if every > 1:
        assert flops(steps["nothing due"]) == found[1] == found[3]


@pytest.mark.parametrize(("name", "steps"), [("kbfgs", 3), ("kbfgs-l", 103)])
def test_flops_of_quasi_newton_steps_are_those_of_the_count_less_their_dampings(name, steps, monkeypatch):
    words, plain = [], kbfgs.double_damping

    def recorded(*args):
        pair = plain(*args)
        words.append(pair.word)
        return pair

    monkeypatch.setattr(kbfgs, "double_damping", recorded)
    found = layerwise_steps(name, ODD, steps, lr=1e-3)[-1][0]
    (step,) = estimate(optimizer=name, **ODD).steps.values()
    dampings = {"kept": 0, "s damped": 1, "y damped": 1, "s and y damped": 2}[words[-1]]
    assert found - flops(step) == 3 * ODD["width"] * dampings


@pytest.mark.parametrize("name", cost.LAYERS)
def test_bytes_of_layerwise_steps_are_near_those_of_the_arrays(name):
    sizes = {"rows": 9, "features": 40, "width": 250}
    schedule = {} if name.startswith("kbfgs") else {"statistics_every": 1, "inverse_every": 2, "early": False}
    counted = layerwise_steps(name, sizes, 102 if name == "kbfgs-l" else 3, lr=1e-3, **schedule)[-1][1]
    masks = sizes["rows"] * sizes["width"] // 8 * 7  # in bytes on counting arrays
    assert 0.75 <= counted / (estimate(optimizer=name, **sizes).peak + masks) <= 1.0


@pytest.mark.parametrize("optimizer", [name for name in KNOWN if not name.endswith("-newton") and name not in cost.LAYERS])
def test_flops_are_those_of_the_count(optimizer):
    _, (counted, _) = second_step(optimizer)
    assert estimated("every step", optimizer=optimizer) == counted


def test_flops_of_the_near_linear_step_are_those_of_the_count():
    (first, few), (later, more) = second_step("near-linear-gauss-newton")
    assert estimated("first step", iterations=few) == first
    assert estimated("later, R reused", iterations=more) == later
    _, (fresh, more) = second_step("near-linear-gauss-newton", reuse=False)
    assert estimated("later, R fresh", iterations=more) == fresh


def test_many_samples_take_pivoted_columns_and_no_array_of_their_square():
    done = nearlin("--rows", 65536, "--features", 16, "--width", 65536, "--dtype", "float32", *NEAR)
    assert "1449 pivoted columns of the kernel, as planned for the first step" in done.stdout
    found = estimate(rows=65536, features=16, width=65536, dtype="float32", optimizer=NEAR[1])
    assert list(found.steps) == ["first step", "later, more columns", "later, columns kept"]
    made, more = (found.steps[name].flops["columns"] for name in list(found.steps)[:2])
    assert 2.5 * made < more < 3.5 * made  # of 2 n (4 k² - k²)
    assert found.peak < 3 * GIB
    batch = estimate(rows=10**6, features=16, width=4096, batch_size=8192, optimizer=NEAR[1])
    assert list(batch.steps) == ["every step (columns fresh)"]
    assert batch.preconditioner.name == "pivoted"


def test_columns_that_the_memory_caps_do_not_grow():
    found = estimate(rows=10**6, features=16, width=65536, dtype="float32", optimizer=NEAR[1], memory=2**40)
    assert found.preconditioner == cost.Preconditioner("pivoted", 500, 500)
    assert list(found.steps) == ["first step", "later, columns kept"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_of_neurons_are_those_of_the_dtype(dtype):
    """2048 rows: 1024 neurons a block in float32, and 512 in float64, each with sums of its own."""
    x, y = (counting.wrap(a.astype(dtype)) for a in nl.data.sphere(n=2048, d=2, seed=1))
    objective = nl.nn.Objective(nl.nn.TwoLayer(2, 3000), nl.nn.SquaredLoss())
    opt, params = make_optimizer("sgd"), objective.network.init(0, x)
    params, state, _ = opt.step(params, opt.init(params, objective), objective, (x, y))
    with counting.count() as tally:
        opt.step(params, state, objective, (x, y))
    found = estimate(rows=2048, features=2, width=3000, optimizer="sgd", dtype=dtype)
    assert flops(found.steps["every step"]) == tally.total


def test_every_worker_of_numpy_has_a_block_of_its_own(monkeypatch):
    """Fewer neurons than fill the walk's memory otherwise: the peak grows with the workers, and with them alone."""
    peaks = {}
    for workers in (1, 64):
        monkeypatch.setattr(estimation, "blas_threads", lambda workers=workers: workers)
        for backend in ("numpy", "array_api_strict"):
            peaks[backend, workers] = estimate(rows=512, features=2, width=8192, optimizer="sgd", backend=backend).peak
    assert peaks["numpy", 64] > 4 * peaks["numpy", 1]
    assert peaks["array_api_strict", 64] == peaks["array_api_strict", 1]


def test_sizes_are_read_from_the_data():
    found = estimate("xy.npz", width=64)
    assert (found.source, found.rows, found.features, found.parameters) == ("xy.npz", 32, 4, 256)  # 3 features and a constant
    assert estimate("xy.npz", width=64, test_fraction=0).rows == 40
    batch = estimate("xy.npz", width=64, batch_size=8)
    assert batch.rows == 8
    assert list(batch.steps) == ["every step (R fresh)"]


@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (3, 3)])
def test_outputs_are_read_from_the_data(tmp_path, classes, outputs):
    """Of two classes there is one, whose sign decides; every other class has one of its own."""
    path = tmp_path / "table.csv"
    path.write_text("a,b,label\n" + "".join(f"{i / 7},{(i * i) % 11},c{i % classes}\n" for i in range(30)))
    found = estimate(path, target="label", optimizer="gram-gauss-newton", width=640)
    (step,) = found.steps.values()
    block = cost.neurons_per_block(24)
    assert found.outputs == outputs
    assert step.flops == cost.gram_gauss_newton_step(cost.two_layer(24, 3, 640, block, outputs=outputs))
    assert step.bytes == cost.gram_memory(24, 3, 640, outputs=outputs, workers=found.workers)


def test_the_command_prints_parts_and_totals():
    done = nearlin("xy.npz", "--width", 64)
    assert done.exit_code == 0, done.output
    for words in (
        "32 rows a step, 4 features",
        "4 inner iterations",
        "products",
        "factorisation",
        "masks",
        "KiB",
        "total",
        "R reused",
    ):
        assert words in done.stdout
    done = nearlin("--rows", 4096, "--features", 16, "--width", 131072, "--dtype", "float32", "--optimizer", "gram-gauss-newton")
    assert done.exit_code == 0, done.output
    assert "J Jᵀ" in done.stdout
    assert "the interpreter and its libraries take" in done.stdout
    assert "seconds depend on the machine and are not estimated" in done.stdout


def test_the_closed_form_equals_what_the_command_prints():
    done = nearlin("--rows", 24, "--features", 3, "--width", 64, "--optimizer", "sgd")
    step = estimate(rows=24, features=3, width=64, optimizer="sgd").steps["every step"]
    totals = re.findall(r"^total +(\S+)", done.stdout, flags=re.MULTILINE)
    assert totals == [f"{flops(step):.3e}", in_words(sum(step.bytes.values())).split()[0]]


def printed(text):
    """Two tables: a dict of rows, each the numbers of its cells in order, by its first words."""
    tables = []
    for line in text.splitlines():
        if line.startswith(("flops", "bytes")):
            tables.append({})
        elif tables and (cells := re.findall(r"(\d[\d.e+]*)(?: (B|KiB|MiB|GiB))?(?=\s|$)", line)):
            scale = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
            tables[-1].setdefault(re.match(r"[a-z ]*", line)[0].strip(), [float(cell) * scale[unit] for cell, unit in cells])
    return tables


def test_the_near_linear_table_has_the_counted_flops_and_the_bytes_of_the_arrays():
    """Columns: the first step, a later one with R made anew, one with R kept; totals are the sums of what stands above them."""
    found, sizes = [], ("--rows", N, "--features", D, "--width", M)
    runs = [second_step("near-linear-gauss-newton", reuse=reuse) for reuse in (True, False)]
    for (counted, iterations), column in ((runs[0][0], 0), (runs[1][1], 1), (runs[0][1], 2)):
        found = printed(nearlin(*sizes, "--iterations", iterations).stdout)
        assert found[0]["total"][column] == pytest.approx(counted, rel=1e-3)
    parts = {name: cells for name, cells in found[0].items() if name != "total"}
    for column in range(3):
        partial = {"sketch": 2, "factorisation": 2, "forward": 1}  # columns in which they stand, the first ones
        total = sum(cells[column] for name, cells in parts.items() if column < partial.get(name, 3))
        assert found[0]["total"][column] == pytest.approx(total, rel=1e-2)
    steps = estimate(rows=N, features=D, width=M, optimizer=NEAR[1]).steps.values()
    assert found[1]["total"] == pytest.approx([sum(step.bytes.values()) for step in steps], rel=1e-2)
    held = {"data": N * D + N, "parameters": M * D, "masks": N * M / 64}
    assert {name: found[1][name][0] for name in held} == pytest.approx(
        {name: 8 * floats for name, floats in held.items()}, rel=6e-3
    )
    assert found[1]["recall"] == pytest.approx([8 * (M * D + N * D + N)] * 2, rel=1e-3)
    single = printed(nearlin(*sizes, "--dtype", "float32").stdout)
    assert single[1]["parameters"][0] == 4 * M * D


SIZES = {"rows": 60000, "features": 64, "width": 2**17}


@pytest.mark.parametrize(
    ("options", "gib", "names"),
    [
        ({"optimizer": "gram-gauss-newton"}, 50, ["--dtype float32", "--optimizer sgd", "--batch-size 32768"]),
        ({"optimizer": "gram-gauss-newton", "dtype": "float32"}, 20, ["--batch-size"]),
        ({"optimizer": "gram-gauss-newton", "rows": 8192, "width": 2**20}, 4, ["--dtype float32", "--width 524288"]),
        ({"optimizer": "sgd", "rows": 1024, "width": 2**22}, 7, ["--dtype float32", "--width"]),
        ({"backend": "torch", "rows": 4096, "width": 2**20}, 7, ["--backend numpy, which keeps masks in bits"]),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(options, gib, names):
    options = SIZES | options
    with pytest.raises(ValueError, match=f"this machine has {gib}.00 GiB; what would fit: ") as refused:
        estimate(**options, memory=gib * GIB)
    advice = str(refused.value).partition("what would fit: ")[2]
    for name in names:
        assert name in advice
    assert all(float(size) <= gib for size in re.findall(r"\(([0-9.]+) GiB\)", advice))
    for option, value in re.findall(r"--(batch-size|width|dtype|optimizer|ranks) ([\w-]+)", advice):
        value = int(value) if value.isdigit() else value
        estimate(**(options | {option.replace("-", "_"): value}), memory=gib * GIB)  # each advice does fit


def test_nothing_fits():
    with pytest.raises(ValueError, match="no smaller variant fits"):
        estimate(rows=10, features=10, width=10, memory=10)


BAD = {
    "nothing": ([], "name the DATA, or give both --rows and --features"),
    "rows alone": (["--rows", 5], "give both --rows and --features"),
    "both": (["xy.npz", "--rows", 5, "--features", 3], "give one or the other"),
    "missing file": (["no.npz"], "does not exist"),
    "no closed form": (["xy.npz", "--optimizer", "ginger"], "nearlin.complexity.count() counts one of ginger"),
    "optimizer": (["xy.npz", "--optimizer", "sdg"], "did you mean 'sgd'"),
    "iterations": (["xy.npz", "--optimizer", "sgd", "--iterations", 3], "sgd has no inner iterations"),
    "half": (["xy.npz", "--dtype", "float16"], "half precision"),
    "backend": (["xy.npz", "--backend", "jax"], "unknown backend 'jax'"),
    "batch": (["xy.npz", "--batch-size", 33], "batch_size is 33 and there are 32 rows"),
    "width": (["xy.npz", "--width", 0], "--width"),
    "far too wide": (["xy.npz", "--width", 10**12], "what would fit: "),
    "far too many": (["--rows", 10**12, "--features", 1000, "--width", 10**5], "no smaller variant fits"),
    "too many for each output": (["--rows", 10**12, "--features", 9, "--outputs", 3, "--width", 64], "no smaller variant fits"),
    "far too many for ranks": (["--rows", 10**12, "--features", 10, "--hidden", 64], "no smaller variant fits"),
    "far too many ranks": (["--rows", 10**12, "--features", 10, "--hidden", 64, "--ranks", 10**11], "no smaller variant fits"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_exit_code_2(case):
    arguments, says = BAD[case]
    done = nearlin(*arguments)
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 3))
    rows = {
        "classes": ("a,b,c,kind", [f"k{i % 6}" for i in range(150)]),
        "two": ("a,b,c,kind", [f"k{i % 2}" for i in range(150)]),
        "numbers": ("a,b,c,y", [f"{value}" for value in np.sin(x[:, 0])]),
        "targets": ("a,b,c,y,z", [f"{value},{i}" for i, value in enumerate(np.sin(x[:, 0]))]),
    }
    for name, (head, ends) in rows.items():
        lines = (",".join([*map(str, row), end]) for row, end in zip(x, ends, strict=True))
        (tmp_path / f"{name}.csv").write_text("\n".join([head, *lines]) + "\n")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("classes", {"target": "kind"}),
        ("classes", {"target": "kind", "width": 72, "validation_fraction": 0.0}),
        ("two", {"target": "kind", "hidden": "8,5"}),
        ("two", {"target": "kind", "width": 64, "test_fraction": 0.5}),
        ("numbers", {"target": "y"}),
        ("numbers", {"target": "y", "l2": 1e-6}),
        ("numbers", {"target": "y", "normalize": True, "width": 64}),
        ("numbers", {"target": "y", "hidden": 8}),
        ("targets", {"target": "y,z", "dtype": "float32"}),
        ("numbers", {"target": "y", "optimizer": "adam", "width": 64}),
        ("digits-parity", {}),
    ],
)
def test_what_is_estimated_is_what_train_chooses(tables, name, options):
    data = name if name in nl.data.NAMES else f"{name}.csv"
    found = estimate(data, **options)
    problem, config = nl.experiments.build(data, Config(**options))
    x, y = problem.train
    assert (found.rows, found.features) == (config.batch_size or x.shape[0], x.shape[1])
    assert (found.optimizer, found.hidden, found.width) == (config.optimizer, config.hidden, config.width)
    assert (found.outputs, found.labels, found.dtype) == (problem.outputs, "int" in str(y.dtype), str(x.dtype))
    assert found.parameters == sum(W.size for W in problem.init(0))


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({"hidden": "8,5"}, 4 * 8 + 9 * 5 + 6 * 2), ({"width": 64}, 64 * 4), ({}, 4 * 256 + 257 * 2)],
)
def test_two_classes_have_two_outputs_of_a_perceptron_and_one_of_the_wide_network(tables, options, parameters):
    """By three features, with a constant beside them for the wide network."""
    assert estimate("two.csv", target="kind", **options).parameters == parameters


PERCEPTRONS = [  # rows, sizes, whether classes, dtype
    (400, (20, 64, 6), True, "float32"),
    (400, (40, 64, 32, FEW_OUTPUTS), True, "float64"),
    (150, (10, 128, 2), False, "float64"),
    (600, (5, 40, 1), False, "float64"),
    (60, (30, 64, 8), False, "float32"),
    (100, (8, 60, 60, 6), True, "float32"),
    (300, (8, 60, 60, 6), False, "float64"),
]


def perceptron(n, sizes, classes, dtype, wrapped=lambda a: a):
    """Batch, objective, and the estimate of the same."""
    rng, c = np.random.default_rng(0), sizes[-1]
    x = rng.normal(size=(n, sizes[0])).astype(dtype)
    y = rng.integers(0, c, n) if classes else rng.normal(size=(n, c)).astype(dtype)
    loss = nl.nn.SoftmaxCrossEntropy() if classes else nl.nn.SquaredLoss()
    task = "classification" if classes else "regression"
    found = estimate(rows=n, features=sizes[0], outputs=c, hidden=sizes[1:-1], task=task, dtype=dtype)
    return (wrapped(x), wrapped(y)), nl.nn.Objective(nl.nn.MLP(sizes, "relu"), loss), found


def traced(make):
    """What `make` returns, of which the first is (batch, objective), and the peak bytes of three Gauss-Newton steps with them."""
    gc.collect()
    tracemalloc.start()
    batch, objective, found = make()
    opt, params = GaussNewton(plan=found.route.name), objective.network.init(0, batch[0])
    state = opt.init(params, objective)
    for t in range(3):
        params, state, _ = opt.step(params, state, objective, batch, key=t)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found, peak


@pytest.mark.parametrize("case", PERCEPTRONS)
def test_bytes_of_gauss_newton_on_a_perceptron_are_those_that_are_traced(case):
    found, peak = traced(lambda: perceptron(*case))
    assert (0.9 if peak > 1e6 else 0.85) <= found.peak / peak <= 1.1


@pytest.mark.parametrize("outputs", [1, 4])
def test_bytes_of_gauss_newton_on_the_wide_network_are_those_that_are_traced(outputs):
    def make():
        x = np.random.default_rng(0).normal(size=(200, 12))
        found = estimate(rows=200, features=12, outputs=outputs, width=4096, optimizer="gauss-newton", dtype="float64")
        network = nl.nn.TwoLayer(12, 4096, outputs=outputs)
        y = np.sin(x[:, :outputs]) if outputs > 1 else np.sin(x[:, 0])
        return (x, y), nl.nn.Objective(network, nl.nn.SquaredLoss(), l2=1e-6), found

    found, peak = traced(make)
    assert 0.75 <= found.peak / peak <= 1.25


@pytest.mark.parametrize("case", PERCEPTRONS)
def test_leading_flops_of_gauss_newton_on_a_perceptron_are_near_the_count(case):
    (x, y), objective, found = perceptron(*case, wrapped=counting.wrap)
    opt, params = GaussNewton(plan=found.route.name), objective.network.init(0, x)
    sizes, state = (*case[1][:1], *found.hidden, found.outputs), opt.init(params, objective)
    for recalled in (False, True):
        with counting.count() as tally:
            params, state, info = opt.step(params, state, objective, (x, y), key=1)
        kind = {"fresh": info.solve.refreshed, "recalled": recalled}
        parts = cost.gauss_newton_step(sizes, case[0], found.route.name, info.solve.iterations, **kind)
        assert info.attempts == 1
        assert 0.86 <= sum(parts.values()) / tally.total <= 1.0


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("route", ["exact", "kernel", "cg"])
def test_leading_flops_of_gauss_newton_on_the_wide_network_are_near_the_count(route, outputs):
    n, d, m = 64, 8, 1024
    x = np.random.default_rng(0).normal(size=(n, d))
    batch = counting.wrap(x), counting.wrap(np.sin(x[:, :outputs] if outputs > 1 else x[:, 0]))
    network = nl.nn.TwoLayer(d, m, **({"outputs": outputs} if outputs > 1 else {}))
    objective, opt = nl.nn.Objective(network, nl.nn.SquaredLoss()), GaussNewton(plan=route)
    params = network.init(0, batch[0])
    state = opt.init(params, objective)
    for recalled in (False, True):
        with counting.count() as tally:
            params, state, info = opt.step(params, state, objective, batch, key=1)
        kind = {"fresh": info.solve.refreshed, "recalled": recalled, "outputs": outputs}
        parts = cost.wide_gauss_newton_step(n, d, m, route, info.solve.iterations, **kind)
        assert info.attempts == 1
        assert 0.965 <= sum(parts.values()) / tally.total <= 1.0


def wide_steps(route, activation, n, d, m, wrapped=lambda a: a):
    """(flops, peak bytes, what `cost` takes) of three Gauss-Newton steps on the two-layer network."""
    x = np.random.default_rng(0).normal(size=(n, d))
    batch, network = (wrapped(x), wrapped(np.sin(x[:, 0]))), nl.nn.TwoLayer(d, m, activation)
    objective, opt = nl.nn.Objective(network, nl.nn.SquaredLoss()), GaussNewton(plan=route)
    params = network.init(0, batch[0])
    state, made = opt.init(params, objective), 0
    for recalled in (False, True, True):
        tracemalloc.reset_peak()
        with counting.count() as tally:
            params, state, info = opt.step(params, state, objective, batch, key=1)
        kind = {"fresh": info.solve.refreshed, "recalled": recalled}
        if route == "pivoted":
            kind["rank"] = int(info.solve.preconditioner.split()[1])
            kind["made"], made = (made if kind["fresh"] and activation == "relu" else 0), kind["rank"]
        assert info.attempts == 1
        yield tally.total, tracemalloc.get_traced_memory()[1], info.solve.iterations, kind


FREE = [("pivoted", "relu"), ("pivoted", "tanh"), ("cg", "relu")]  # routes without a matrix, and activations


@pytest.mark.parametrize(("route", "activation"), FREE)
def test_leading_flops_of_wide_gauss_newton_without_a_matrix_are_near_the_count(route, activation):
    sizes = 512, 8, 256
    for counted, _, iterations, kind in wide_steps(route, activation, *sizes, counting.wrap):
        parts = cost.wide_gauss_newton_step(*sizes, route, iterations, phi=activation, **kind)
        assert 0.965 <= sum(parts.values()) / counted <= 1.005


@pytest.mark.parametrize(("route", "activation"), FREE)
def test_bytes_of_wide_gauss_newton_without_a_matrix_are_those_that_are_traced(route, activation):
    sizes = 2048, 16, 512
    gc.collect()
    tracemalloc.start()
    for _, peak, _, kind in wide_steps(route, activation, *sizes):
        parts = cost.wide_gauss_newton_memory(*sizes, route, activation=activation, **kind)
        assert 0.9 <= sum(parts.values()) / peak <= 1.1
    tracemalloc.stop()


def test_wide_gauss_newton_on_many_samples_is_estimated_by_columns():
    for activation, last, most in (("relu", "later, columns kept", GIB), ("tanh", "later, columns anew", 2 * GIB)):
        found = estimate(rows=20000, features=16, width=65536, activation=activation, optimizer="gauss-newton", dtype="float32")
        assert list(found.steps) == ["first step", "later, more columns", last]
        assert found.route.name == "pivoted"
        assert found.peak < most
        batch = replace(found, always_fresh=True)
        assert list(batch.steps) == ["every step (columns fresh)"]
    done = nearlin("--rows", 65536, "--features", 16, "--width", 65536, "--optimizer", "gauss-newton")
    assert "pivoted, 1449 columns, as planned for the first step" in done.stdout


@pytest.mark.parametrize("case", PERCEPTRONS)
def test_the_route_is_the_one_that_a_first_step_is_planned_by(case):
    batch, objective, found = perceptron(*case)
    opt, params = GaussNewton(), objective.network.init(0, batch[0])
    info = opt.step(params, opt.init(params, objective), objective, batch)[2]
    assert info.plan.startswith(f"{found.route.name}: {found.route.seconds:.2g} s predicted")


def test_the_route_on_the_wide_network_is_the_one_that_a_first_step_is_planned_by():
    x = np.random.default_rng(0).normal(size=(40, 6))
    objective = nl.nn.Objective(nl.nn.TwoLayer(6, 1024), nl.nn.SquaredLoss())
    opt, params = GaussNewton(), objective.network.init(0, x)
    info = opt.step(params, opt.init(params, objective), objective, (x, np.sin(x[:, 0])))[2]
    route = estimate(rows=40, features=6, width=1024, optimizer="gauss-newton").route
    assert info.plan.startswith(f"{route.name}: {route.seconds:.2g} s predicted")


def test_other_methods_on_a_perceptron_are_refused(tables):
    with pytest.raises(ValueError, match=r"know steps of gauss-newton, .* on a perceptron; .* counts one of shampoo"):
        estimate("classes.csv", target="kind", optimizer="shampoo")
    assert estimate("classes.csv", target="kind", optimizer="kfac", width=66).peak > 0
    signs = estimate(rows=9, features=3, outputs=2, task="classification", width=64)
    assert (signs.outputs, signs.labels) == (1, False)
    done = nearlin("classes.csv", "--target", "kind", "--hidden", "9,8")
    assert done.exit_code == 0, done.output
    assert "perceptron 3-9-8-6, relu" in done.stdout
    assert "as planned for the first step" in done.stdout


def test_an_estimate_for_cupy_is_of_a_gpu_though_none_is_at_hand():
    sizes = {"rows": 512, "features": 8, "width": 16384, "memory": 2**50}
    assert estimate(backend="cupy", **sizes).peak > 1.5 * estimate(backend="array_api_strict", **sizes).peak


def test_rows_out_of_all_reach_are_told_without_a_list_of_their_tiles(monkeypatch):
    short = lambda n, step: slices(n, step) if n < 1000 * step else pytest.fail("a list of tiles")  # noqa: E731
    monkeypatch.setattr("nearlin.nn.two_layer_blocks.slices", short)
    for optimizer in ("adam", "gram-gauss-newton"):
        sizes = {"features": 300, "optimizer": optimizer, "width": 1024, "memory": 2**80}
        few, many = (estimate(rows=rows, **sizes).peak for rows in (10**7, 10**8))
        assert many >= 9 * few
    monkeypatch.undo()
    with pytest.raises(ValueError, match="no smaller variant fits: expected less data"):
        estimate(rows=10**8, features=300, width=1024, optimizer="gram-gauss-newton", memory=10**10)
