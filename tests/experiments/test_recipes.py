"""Problems by name: their loop over mini-batches, checkpoints with running statistics, comparison over seeds, and the search."""

import gzip
import importlib
import io
import itertools
import json
import math
import struct

import numpy as np
import pytest

from nearlin import nn
from nearlin._array import to_numpy
from nearlin.data import DataError, planted_graph
from nearlin.experiments import OPTIMIZERS, RECIPES, Config, build, compare, train, tune, tuning
from nearlin.experiments.registry import make_optimizer

pytest.importorskip("sklearn")
HERE = ("digits", "digits-ae", "digits-cnn", "planted-graph")


def comparable(records):
    return [{name: value for name, value in record.items() if name not in ("seconds", "cpu_seconds")} for record in records]


@pytest.fixture
def mnist(tmp_path):
    """Files of MNIST's form: 40 training and 20 test images of 28 x 28."""
    g = np.random.default_rng(0)
    for stem, n in (("train", 1200), ("t10k", 20)):
        images = g.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        with gzip.open(tmp_path / f"{stem}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes())
        labels = (np.arange(n) % 10).astype(np.uint8)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + labels.tobytes())
    return tmp_path


@pytest.mark.parametrize("name", HERE)
def test_the_loss_falls_on_every_problem(name):
    epochs = 30 if name == "planted-graph" else 6  # its epoch is one step
    result = train(name, optimizer="adam", lr=0.01, epochs=epochs, progress=False)
    assert result.ended == "steps"
    assert result.final_loss < 0.9 * result.initial_loss
    assert result.config.dtype == "float32"
    assert all(W.dtype == np.float32 for W in result.params)
    assert result.final_test_loss > result.problem.test_least
    known = [record for record in result.records if record["loss_after"] is not None]
    assert len(known) == epochs
    assert all(record["test_loss"] is not None for record in known)
    assert sum(record["gradients"] for record in result.records) == pytest.approx(result.steps)


def test_the_entropy_of_the_digits_is_what_is_known():
    problem, config = build("digits-ae", Config())
    assert problem.least == pytest.approx(13.671, abs=5e-4)
    assert [tuple(a.shape) for a in (*problem.train, *problem.test)] == [(1437, 64)] * 2 + [(360, 64)] * 2
    assert (config.batch_size, config.activation, config.steps) == (200, "tanh", 350)


@pytest.mark.parametrize("name", ["digits-ae", "digits-cnn"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resuming_continues_bit_for_bit(tmp_path, name, optimizer):
    """Also with running statistics, and with a schedule."""
    options = {"optimizer": optimizer, "lr": 0.01, "lr_factor": 0.5, "lr_period": 1, "progress": False}
    whole = train(name, epochs=3, **options)
    half = train(name, steps=9, out=tmp_path / "run", **options)
    rest = train(resume=half.checkpoint, epochs=3, out=half.folder, progress=False)
    for a, b in zip(whole.params, rest.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert comparable(whole.records) == comparable(rest.records)
    assert (whole.final_loss, whole.final_test_loss) == (rest.final_loss, rest.final_test_loss)
    if name == "digits-cnn":
        np.testing.assert_array_equal(whole.statistics[1].variance, rest.statistics[1].variance)


def test_the_schedule_is_in_epochs():
    options = {"optimizer": "sgd", "progress": False, "epochs": 2, "settings": (("momentum", 0.0),)}
    plain = train("digits-ae", lr=0.01, **options)
    halved = train("digits-ae", lr=0.01, lr_factor=0.5, lr_period=1, **options)
    assert halved.records[7] == {**plain.records[7], **{k: halved.records[7][k] for k in ("seconds", "cpu_seconds")}}
    assert halved.records[8]["loss"] != plain.records[8]["loss"]


def test_evaluation_of_normalised_networks_uses_running_statistics():
    result = train("digits-cnn", optimizer="adam", lr=0.01, epochs=8, progress=False)
    observed = nn.Objective(result.problem.network, nn.SoftmaxCrossEntropy(), result.statistics).evaluation()
    x, y = result.problem.test
    outputs = to_numpy(observed.at(result.params, (x, y)).outputs)
    assert 100 * np.mean(np.argmax(outputs, axis=1) != y) == pytest.approx(result.test_error.value)
    assert result.test_error.value < 20
    np.testing.assert_allclose(result.predict(x[:1]), outputs[:1], atol=1e-4)


def test_the_digits_are_centred_by_their_training_rows():
    source = importlib.import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(1797)
    rows, test_rows = sorted(order[:1437]), sorted(order[1437:])
    (x, y), (x_test, y_test), _ = RECIPES["digits"].load(Config(dtype="float64"))
    mean = sum(source.data[i] / 16 for i in rows) / 1437
    np.testing.assert_allclose(x, source.data[rows] / 16 - mean, rtol=0, atol=1e-13)
    np.testing.assert_allclose(x_test, source.data[test_rows] / 16 - mean, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(y, source.target[rows])
    np.testing.assert_array_equal(y_test, source.target[test_rows])
    for name in ("digits-ae", "digits-cnn"):  # these are not centred
        (x, y), (x_test, y_test), _ = RECIPES[name].load(Config(dtype="float64"))
        np.testing.assert_array_equal(x.reshape(1437, 64), source.data[rows] / 16)
        np.testing.assert_array_equal(x_test.reshape(360, 64), source.data[test_rows] / 16)
        np.testing.assert_array_equal(y, x if name == "digits-ae" else source.target[rows])
        np.testing.assert_array_equal(y_test, x_test if name == "digits-ae" else source.target[test_rows])


def test_cifar_is_normalised_by_the_channels_of_its_training_images(tmp_path):
    g = np.random.default_rng(1)
    images, labels = g.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8), [3, 1, 4, 1, 5, 9]
    images[:5] //= np.array([2, 3, 5], np.uint8)[:, None, None]
    for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        (tmp_path / name).write_bytes(bytes([labels[i]]) + images[i].tobytes())
    recipe = RECIPES["cifar10-resnet32"]
    (x, y), (x_test, y_test), _ = recipe.load(Config(dtype="float64", data_dir=str(tmp_path)))
    for channel in range(3):
        pixels = images[:5, channel] / 255
        for found, whole in ((x, images[:5]), (x_test, images[5:])):
            want = (whole[:, channel] / 255 - pixels.mean()) / pixels.std()
            np.testing.assert_allclose(found[:, channel], want, rtol=1e-10)
    assert (y.tolist(), y_test.tolist(), recipe.augment) == (labels[:5], labels[5:], True)


def test_the_graph_is_trained_on_its_training_nodes_and_tested_on_its_test_nodes():
    graph = planted_graph(seed=0)
    (nodes, y), (test_nodes, y_test), found = RECIPES["planted-graph"].load(Config(dtype="float64"))
    np.testing.assert_array_equal(nodes, graph.train)
    np.testing.assert_array_equal(test_nodes, graph.test)
    np.testing.assert_array_equal(y, graph.labels[graph.train])
    np.testing.assert_array_equal(y_test, graph.labels[graph.test])
    np.testing.assert_array_equal(found.S, graph.S)


def test_chunks_do_not_change_the_loss(monkeypatch):
    problem, _ = build("digits-ae", Config(dtype="float64"))
    params = problem.network.init(0, problem.train[0])
    whole, error = problem.loss(params, problem.train), problem.error(params, problem.train)
    monkeypatch.setattr("nearlin.experiments.problems.CHUNK", 64 * 100)
    assert len(problem.chunks(problem.train)) == 15
    assert problem.loss(params, problem.train) == pytest.approx(whole, rel=1e-13)
    assert problem.error(params, problem.train).value == pytest.approx(error.value, rel=1e-13)


def test_a_time_limit_is_in_processor_seconds_of_steps():
    result = train("digits-ae", optimizer="sgd", lr=0.01, time_limit=0.05, progress=False)
    assert result.ended == "time limit"
    spent = sum(record["cpu_seconds"] for record in result.records)
    assert spent >= 0.05 > spent - result.records[-1]["cpu_seconds"]
    assert "time limit of 0.05 s" in result.message


def test_mnist_is_read_from_a_folder(mnist):
    result = train("mnist-ae", optimizer="sgd", lr=1e-4, steps=1, data_dir=str(mnist), progress=False)
    assert tuple(result.problem.train[0].shape) == (1200, 784)
    assert result.records[0]["loss_after"] is not None  # 1200 rows are one batch of 1000


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("mnist-ae", {}, DataError, "four files of MNIST; name the folder with data_dir"),
        ("cifar10-resnet32", {"data_dir": "nowhere"}, DataError, "nowhere"),
        ("sphere", {"data_dir": "x"}, ValueError, "data_dir is for the problems that read a folder"),
        ("digits-ae", {"width": 5}, ValueError, "width is for networks on data sets"),
        ("digits-ae", {"scale": True}, ValueError, "scale is for networks on data sets"),
        ("digits-ae", {"data_dir": "x"}, ValueError, "data_dir is for the problems that read a folder"),
        ("cifar10-resnet32", {"activation": "tanh", "data_dir": "x"}, ValueError, "the network of cifar10-resnet32 has its own"),
        ("digits-ae", {"steps": 3, "epochs": 3}, ValueError, "steps and epochs are both given"),
        ("digits-ae", {"batch_size": 2000}, ValueError, "batch_size is 2000; the training set has 1437 rows"),
        ("digits-ae", {"lr_factor": 0.5}, ValueError, "lr_factor and lr_period make a schedule together"),
        ("digits-ae", {"time_limit": 0.0}, ValueError, "time_limit is 0.0"),
        (
            "digits-ae",
            {"optimizer": "near-linear-gauss-newton"},
            ValueError,
            "for least squares, and digits-ae has a SigmoidCrossEntropy; expected gauss-newton, which takes every loss, or sgd",
        ),
        ("digits-ae", {"optimizer": "adam", "settings": (("momentum", 0.9),)}, ValueError, "adam has no momentum; it has lr"),
        ("digits-ae", {"optimizer": "adam", "lr": 0.1, "settings": (("lr", 0.9),)}, ValueError, "lr is given twice"),
    ],
)
def test_bad_options_get_one_sentence(name, options, error, words):
    with pytest.raises(error, match=words):
        train(name, progress=False, **options)


def test_seeds_differ_in_weights_and_order_and_share_the_data(tmp_path):
    pytest.importorskip("matplotlib")
    both = compare("digits-ae", ["sgd", "adam"], lr={"sgd": 0.01, "adam": 0.003}, seeds=2, epochs=2, out=tmp_path, progress=False)
    assert [len(runs) for runs in both.runs.values()] == [2, 2]
    (sgd, other), (adam, _) = both.runs.values()
    assert sgd.initial_loss == adam.initial_loss != other.initial_loss
    assert sgd.problem is other.problem
    alone = train("digits-ae", optimizer="sgd", lr=0.01, epochs=2, seed=1, progress=False)
    assert other.final_loss == alone.final_loss
    written = json.loads(both.json.read_text())
    assert [run["final_loss"] for run in written["sgd"]] == [sgd.final_loss, other.final_loss]
    assert len(written["sgd"][0]["records"]) == 2
    assert both.plot.read_bytes()[:4] == b"\x89PNG"
    both.print()


def scripted(monkeypatch, loss):
    """A search whose runs end at ``loss(lr, damping)``."""
    seen = []

    def run(name, problem, config, params, settings, damping_name, progress):
        seen.append((settings["lr"], settings.get(damping_name)))
        return tuning.Run(*seen[-1], loss(*seen[-1]), None, 1, "steps")

    monkeypatch.setattr(tuning, "_run", run)
    return seen


@pytest.mark.usefixtures("pictures")
def test_the_search_walks_to_the_minimum_and_stops_between_worse_neighbours(monkeypatch, tmp_path):
    seen = scripted(monkeypatch, lambda lr, e: abs(np.log10(lr / 3e-2)) + abs(np.log10(e / 1e-7)))
    found = tune("digits-ae", ["adam"], out=tmp_path, progress=False)
    search = found.searches["adam"]
    assert (search.best.lr, search.best.damping) == (3e-2, 1e-7)
    assert seen == [(lr, 1e-8) for lr in (1e-3, 3e-4, 3e-3, 1e-2, 3e-2, 1e-1)] + [(3e-2, e) for e in (3e-8, 3e-9, 1e-7, 3e-7)]
    assert found.plot.read_bytes().startswith(b"\x89PNG")
    written = json.loads(found.path.read_text())
    assert written["optimizers"]["adam"]["best"] == {"lr": 0.03, "epsilon_hat": 1e-7}
    tuned = compare("digits-ae", ["adam"], tuned=found.path, steps=1, progress=False).results["adam"].optimizer
    assert (tuned.lr, tuned.epsilon_hat) == (0.03, 1e-7)
    over = compare("digits-ae", ["adam"], tuned=found.path, lr=0.5, steps=1, progress=False).results["adam"].optimizer
    assert (over.lr, over.epsilon_hat) == (0.5, 1e-7)
    with pytest.raises(ValueError, match="does not know sgd; it has adam"):
        compare("digits-ae", ["sgd"], tuned=found.path, steps=1)
    with pytest.raises(ValueError, match="is about digits-ae; expected digits-cnn"):
        compare("digits-cnn", ["adam"], tuned=found.path, steps=1)


def test_the_best_run_of_a_search_has_the_smallest_training_loss():
    """Not the smallest test loss, not the last one, and never one that is not finite."""
    losses = [(3e-2, 4.0, 0.5), (1e-2, 2.0, 3.0), (3e-3, 2.5, 0.1), (1e-1, math.nan, 0.0), (3e-1, math.inf, None)]
    runs = tuple(tuning.Run(lr, 10 * lr, loss, test, 1, "steps") for lr, loss, test in losses)
    search = tuning.Search(runs, "epsilon_hat")
    assert search.best is runs[1]
    assert search.settings == {"lr": 1e-2, "epsilon_hat": 1e-1}
    assert search.sentence == "lr 0.01, epsilon_hat 0.1, excess loss 2"
    assert tuning.Search(runs[3:], None).settings is None
    assert tuning.Search((tuning.Run(0.3, None, 1.0, None, 1, "steps"),), None).settings == {"lr": 0.3}


def test_the_runs_of_a_search_tell_losses_above_the_least_ones():
    """Each run is that of `train` with its settings; its losses are less the entropies of the targets."""
    options = {"settings": (("momentum", 0.0),), "steps": 2, "batch_size": "all", "progress": False}
    search = tune("digits-ae", ["sgd"], runs=2, **options).searches["sgd"]
    assert [run.lr for run in search.runs] == [0.1, 0.03]
    for run in search.runs:
        alone = train("digits-ae", optimizer="sgd", lr=run.lr, **options)
        for excess, loss, (_, t) in (
            (run.excess, alone.final_loss, alone.problem.train),
            (run.test_excess, alone.final_test_loss, alone.problem.test),
        ):
            t = t.astype(float)
            entropy = -np.sum(
                np.where(t > 0, t * np.log(np.maximum(t, 1e-9)), 0) + (1 - t) * np.log1p(-np.minimum(t, 1 - 1e-9))
            ) / len(t)
            assert excess == pytest.approx(loss - entropy, abs=1e-3)
        assert (run.steps, run.ended, run.damping, run.began) == (2, "steps", None, None)
        assert run.excess == alone.final_loss - alone.problem.least


def test_the_search_takes_twelve_runs_at_most_and_survives_divergence(monkeypatch):
    seen = scripted(monkeypatch, lambda lr, _: -np.log10(lr) if lr < 1e30 else np.nan)
    search = tune("digits-ae", ["sgd"], progress=False).searches["sgd"]
    assert len(seen) == len(search.runs) == 12
    scripted(monkeypatch, lambda lr, _: np.inf if lr >= 0.1 else lr)
    assert tune("digits-ae", ["sgd"], progress=False).searches["sgd"].best.lr < 0.1


def test_a_flat_valley_ends_the_search(monkeypatch):
    """A thousandth better is no step of the grid."""
    seen = scripted(monkeypatch, lambda lr, _: 1.0 + 1e-6 * lr)
    assert tune("digits-ae", ["sgd"], progress=False).searches["sgd"].best.lr == 0.03
    assert [lr for lr, _ in seen] == [0.1, 0.03, 0.3]


def test_a_grid_that_leaves_a_range_counts_as_failed(monkeypatch):
    def refuse(lr, _):
        if lr > 0.1:
            raise ValueError("lr is too large")
        return -lr

    scripted(monkeypatch, refuse)
    search = tune("digits-ae", ["sgd"], progress=False).searches["sgd"]
    assert search.best.lr == 0.1
    assert [run.ended for run in search.runs if run.lr == 0.3] == ["failed: lr is too large"]


def test_from_failures_the_search_goes_to_the_safe_side(monkeypatch):
    seen = scripted(monkeypatch, lambda lr, e: np.inf if lr > 2e-4 or e < 2e-8 else lr + e)
    tune("digits-ae", ["adam"], progress=False)
    assert seen[:3] == [(1e-3, 1e-8), (3e-4, 1e-8), (3e-3, 1e-8)]
    assert len(seen) == 12
    assert all(lr < 1e-3 for lr, _ in seen[3:])
    seen = scripted(monkeypatch, lambda lr, _: np.inf if lr > 2e-3 else -lr)
    assert tune("digits-ae", ["sgd"], progress=False).searches["sgd"].best.lr == 1e-3
    assert len(seen) == 7


def test_the_search_really_trains():
    search = tune("digits-ae", ["sgd"], epochs=1, progress=False).searches["sgd"]
    assert 3 <= len(search.runs) <= 12
    assert search.best.excess == min(run.excess for run in search.runs)
    alone = train("digits-ae", optimizer="sgd", lr=search.best.lr, epochs=1, progress=False)
    assert alone.final_loss - alone.problem.least == search.best.excess


@pytest.mark.parametrize(
    ("value", "index"), [(1.0, 0), (3.0, 1), (1e-3, -6), (3e-4, -7), (0.1, -2), (2.0, 1), (0.5, -1), (1e-8, -16)]
)
def test_the_grid_has_one_and_three_in_a_decade(value, index):
    assert tuning._index(value) == index
    assert value / 1.9 < tuning._value(index) < 1.9 * value


PAPERS = {  # widths from inputs to outputs, rows of a batch, epochs, activation
    "digits-ae": ((64, 200, 100, 50, 12, 50, 100, 200, 64), 200, 50, "tanh"),
    "curves-ae": ((784, 400, 200, 100, 50, 25, 6, 25, 50, 100, 200, 400, 784), 1000, 10, "relu"),
    "mnist-ae": ((784, 1000, 500, 250, 30, 250, 500, 1000, 784), 1000, 10, "relu"),
    "digits": ((64, 256, 256, 10), 200, 20, "relu"),
    "planted-graph": ((1433, 16, 7), None, 100, "relu"),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_sizes_of_a_recipe_are_those_that_it_names(name):
    widths, rows, epochs, activation = PAPERS[name]
    recipe, config = RECIPES[name], Config(dtype="float32", activation=activation)
    parts = recipe.load(config) if name == "planted-graph" else None
    network = recipe.network(config, parts, lambda a: a)
    assert [(layer.inp, layer.out) for layer in network.layers] == list(itertools.pairwise(widths))
    assert (recipe.batch_size, recipe.epochs, recipe.activation, recipe.dtype) == (rows, epochs, activation, "float32")
    assert isinstance(recipe.loss, nn.SigmoidCrossEntropy if name.endswith("-ae") else nn.SoftmaxCrossEntropy)
    assert (
        name == "planted-graph" or "-".join(map(str, widths[: 1 + len(widths) // 2] if "ae" in name else widths)) in recipe.about
    )


def test_the_digits_meet_two_convolutions_with_normalisation():
    recipe = RECIPES["digits-cnn"]
    network = recipe.network(Config(activation="relu"), recipe.load(Config(dtype="float32")), None)
    assert [(layer.kind, layer.out) for layer in network.layers] == [
        ("conv", 16), ("norm", 16), ("conv", 32), ("norm", 32), ("dense", 10)
    ]  # fmt: skip
    assert (recipe.batch_size, recipe.epochs, recipe.augment) == (128, 20, False)


def test_every_optimizer_is_called_what_it_is():
    for name, cls in OPTIMIZERS.items():
        assert name.replace("-", "") == cls.lower()
        assert type(make_optimizer(name)).__name__ == cls


@pytest.mark.parametrize(("options", "limit"), [({"budget": 30.0}, 6.0), ({}, 12.0), ({"budget": 30.0, "steps": 2}, None)])
def test_a_run_of_a_search_takes_a_fifth_of_the_budget(monkeypatch, options, limit):
    seen = []

    def run(name, problem, config, params, settings, damping_name, progress):
        seen.append((config.time_limit, config.steps))
        return tuning.Run(settings["lr"], None, 1.0, None, 1, "steps")

    monkeypatch.setattr(tuning, "_run", run)
    tune("digits-ae", ["sgd"], progress=False, **options)
    assert {one[0] for one in seen} == {limit}
    assert limit or {one[1] for one in seen} == {2}


def test_every_recipe_says_what_it_is():
    assert all(recipe.about and recipe.task in ("labels", "reconstruction") for recipe in RECIPES.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "digits-aa"], "did you mean 'digits-ae'"),
        (["train", "digits-ae", "--set", "lr=oops"], "lr is 'oops'; expected a positive number"),
        (["train", "digits-ae", "--set", "lr"], "'lr' is not NAME=VALUE"),
        (["tune", "digits-ae", "--optimizers", "natural-gradient", "--steps", "1"], "natural-gradient is for least squares"),
        (["train", "digits-ae", "--set", "epsilon_hat=oops"], "epsilon_hat is 'oops'; expected a positive number"),
        (["tune", "digits-ae", "--budget", "-1"], "budget is -1.0"),
        (["tune", "digits-ae", "--optimizers", "sgd", "--set", "lr=0.5"], "lr is what the search is for"),
        (["tune", "digits-ae", "--optimizers", "soap", "--set", "momentum=0.5"], "none of soap has momentum"),
        (["compare", "digits-ae", "--optimizers", "kfac,sgd", "--set", "dampin=0.1"], "none of kfac, sgd has dampin"),
        (["compare", "digits-ae", "--tuned", "nofile.json"], "nofile.json (tuned) cannot be read"),
        (["estimate", "digits-ae"], "digits-ae is another network"),
        (["predict", "run/checkpoint.npz", "x.csv", "--out", "y.csv"], "was trained on the problem digits-ae"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, words, tmp_path, monkeypatch):
    testing = pytest.importorskip("click.testing")
    from nearlin.experiments.commands import cli

    monkeypatch.chdir(tmp_path)
    if arguments[0] == "predict":
        train("digits-ae", optimizer="sgd", lr=0.01, steps=1, out="run", progress=False)
    arguments = [*arguments, *(["--optimizer", "adam"] if "train" in arguments else [])]
    result = testing.CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_tune_and_compare_from_the_command_line(tmp_path, monkeypatch):
    testing = pytest.importorskip("click.testing")
    pytest.importorskip("matplotlib")
    from nearlin.experiments.commands import cli

    monkeypatch.chdir(tmp_path)
    tuned = testing.CliRunner().invoke(
        cli, ["tune", "digits-ae", "--optimizers", "sgd", "--epochs", "1", "--runs", "3", "--out", "t"]
    )
    assert tuned.exit_code == 0, tuned.output
    assert "3 runs; best: lr" in tuned.output
    options = "--tuned t/tune.json --epochs 1 --seeds 2 --out c".split()  # noqa: SIM905
    compared = testing.CliRunner().invoke(cli, ["compare", "digits-ae", "--optimizers", "sgd", *options])
    assert compared.exit_code == 0, compared.output
    assert "medians of 2 seeds" in compared.output
    assert (tmp_path / "c" / "compare.png").exists()


@pytest.mark.usefixtures("pictures")
def test_the_layers_that_dsgd_has_changed_are_recorded_and_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("rich")
    from nearlin.experiments import report

    settings = (("verify", True), ("layers", "cyclic"))
    result = train(
        "digits-ae", optimizer="dsgd", batch_size=1437, steps=10, out=tmp_path / "run", settings=settings, progress=False
    )
    assert [record["layer"] for record in result.records] == [*range(8), 0, 1]
    assert all(record["loss_after"] <= record["loss"] for record in result.records)
    assert all(0 < record["guarantee"] <= record["decrease"] for record in result.records)
    assert '"guarantee"' in (result.folder / "run.jsonl").read_text()
    assert (result.folder / "layers.png").read_bytes()[:4] == b"\x89PNG"
    stream = io.StringIO()
    report.print_result(result, stream)
    assert "run.jsonl, checkpoint.npz, run.png, layers.png in" in stream.getvalue()
    other = train("digits-ae", optimizer="muon", steps=1, out=tmp_path / "other", progress=False)
    assert [other.records[0][name] for name in ("layer", "guarantee", "decrease")] == [None] * 3
    stream = io.StringIO()
    report.print_result(other, stream)
    assert "layers.png" not in stream.getvalue()
    assert not (other.folder / "layers.png").exists()


def test_dsgd_for_whole_batches_takes_no_mini_batches(tmp_path):
    """Its guarantee would be for another loss at every step."""
    words = "dsgd guarantees the decrease of the loss of all 1437 rows, and a step takes 20; expected --batch-size 1437, or --set"
    with pytest.raises(ValueError, match=words):
        train("digits-ae", optimizer="dsgd", batch_size=20, steps=1, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    for settings in ((("form", "stochastic"), ("lr", 0.5)), (("p", 100.0),)):
        result = train("digits-ae", optimizer="dsgd", batch_size=20, steps=1, settings=settings, progress=False)
        assert result.records[0]["accepted"]


def test_a_problem_trains_without_more_words_and_refuses_before_it_writes(tmp_path):
    result = train("digits-ae", steps=1, progress=False)
    assert type(result.optimizer).__name__ == "Adam"
    with pytest.raises(ValueError, match="is for least squares"):
        train("digits-ae", optimizer="gram-gauss-newton", steps=1, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_ctrl_c_in_a_search_keeps_the_runs_that_are_complete(tmp_path, monkeypatch):
    seen = []

    def run(name, problem, config, params, settings, damping_name, progress):
        seen.append(settings)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return tuning.Run(settings["lr"], None, 1.0, None, 1, "steps")

    monkeypatch.setattr(tuning, "_run", run)
    with pytest.raises(KeyboardInterrupt, match=r"Interrupted in sgd after 2 complete runs; they are in .*tune.json"):
        tune("digits-ae", ["sgd"], out=tmp_path, progress=False)
    assert len(json.loads((tmp_path / "tune.json").read_text())["optimizers"]["sgd"]["runs"]) == 2


def test_a_search_without_a_finite_loss_says_so(tmp_path, monkeypatch):
    scripted(monkeypatch, lambda lr, _: np.inf)
    found = tune("digits-ae", ["sgd"], out=tmp_path, progress=False)
    assert found.searches["sgd"].best is None
    assert "no run ended with a finite loss" in found.searches["sgd"].sentence
    with pytest.raises(ValueError, match="found nothing finite for sgd"):
        compare("digits-ae", ["sgd"], tuned=found.path, steps=1)


def test_ctrl_c_in_a_warm_start_keeps_the_runs_that_are_complete(tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nearlin.optim.KFAC.warm_start", interrupt)
    with pytest.raises(
        KeyboardInterrupt, match=r"Interrupted in kfac after 0 complete steps; what was done is in .*compare.json"
    ):
        compare("digits-ae", ["sgd", "kfac"], lr={"sgd": 0.01}, steps=2, out=tmp_path, progress=False)
    assert list(json.loads((tmp_path / "compare.json").read_text())) == ["sgd"]


def test_a_method_that_fails_does_not_hide_those_that_finish(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ArithmeticError("no such factor")

    monkeypatch.setattr("nearlin.optim.KFAC.warm_start", fail)
    done = compare("digits-ae", ["sgd", "kfac"], lr={"sgd": 0.01}, steps=2, progress=False)
    assert list(done.runs) == ["sgd"]
    assert done.failures == {"kfac": "kfac failed with seed 0: no such factor"}
    with pytest.raises(ValueError, match="kfac failed with seed 0: no such factor"):
        compare("digits-ae", ["kfac"], steps=2, progress=False)


def test_a_diverged_comparison_is_an_exit_code(tmp_path, monkeypatch):
    testing = pytest.importorskip("click.testing")
    from nearlin.experiments.commands import cli

    monkeypatch.chdir(tmp_path)
    arguments = "compare digits-ae --optimizers sgd --lr 1e300 --steps 8 --batch-size 50 --out c"
    result = testing.CliRunner().invoke(cli, arguments.split())
    assert result.exit_code == 1, result.output
    assert "non-finite" in result.output
    assert "Warning" not in result.output
