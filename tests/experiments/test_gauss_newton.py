"""`gauss-newton` through `train`, `compare`, `tune` and the command line."""

import io
import json
import math

import numpy as np
import pytest

import nearlin as nl
from nearlin.data import Dataset
from nearlin.experiments import Interrupted, compare, train, tune
from nearlin.experiments.measuring import write_rates
from nearlin.linalg import Rates

pytest.importorskip("sklearn")
SPHERE = Dataset("small sphere", *nl.data.sphere(n=40, d=6, seed=1))
GN = {"optimizer": "gauss-newton", "progress": False}
FEW = {**GN, "batch_size": 50}
SETTINGS = {
    "planned": {},
    "momentum": {"momentum": 0.5},
    "sketched": {"plan": "sketch"},
    "frozen": {"plan": "frozen"},
    "averaged": {"plan": "class-averaged", "momentum": 0.5},
    "low rank": {"plan": "nystrom"},
    "by passes": {"plan": "parameter-cg"},
}
LEFT_OUT = ("seconds", "cpu_seconds", "gradients")


def comparable(records):
    return [{name: value for name, value in record.items() if name not in LEFT_OUT} for record in records]


@pytest.fixture
def nearlin(monkeypatch, tmp_path):
    """Runs the command line in an empty folder."""
    pytest.importorskip("rich")
    runner = pytest.importorskip("click.testing").CliRunner()
    cli = pytest.importorskip("nearlin.experiments.commands").cli
    monkeypatch.chdir(tmp_path)
    return lambda arguments: runner.invoke(cli, arguments.split())


def test_records_tell_side_route_damping_and_effective_dimension():
    result = train("digits", steps=4, settings=(("plan", "exact"),), **FEW)
    first = result.records[0]
    assert (first["side"], first["plan"], first["inner_iterations"]) == ("sample", "exact: by name", 0)
    assert 0 < first["effective_dimension"] < 500
    assert all(record["damping"] > 0 for record in result.records)
    assert all(record["attempts"] >= 1 for record in result.records)
    planned = train("digits", steps=2, **FEW).records[1]
    assert planned["side"] == "parameter"
    assert planned["plan"].startswith("kfac: ")


@pytest.mark.parametrize("optimizer", ["near-linear-gauss-newton", "adam"])
def test_other_methods_choose_no_side(optimizer):
    record = train(SPHERE, optimizer=optimizer, steps=1, width=64, progress=False).records[0]
    assert [record[name] for name in ("side", "effective_dimension")] == [None] * 2
    assert (record["plan"] or "").partition(":")[0] == ("" if optimizer == "adam" else "kernel")
    assert record["attempts"] == (None if optimizer == "adam" else 1)


def test_a_route_without_an_estimate_has_no_effective_dimension(tmp_path):
    result = train("digits", steps=1, settings=(("plan", "parameter-cg"),), out=tmp_path / "run", **FEW)
    assert result.records[0]["effective_dimension"] is None
    assert "NaN" not in result.log.read_text()


@pytest.mark.parametrize("name", ["digits", "digits-cnn", "digits-ae"])
def test_the_loss_falls_on_the_problems(name):
    """The batch's loss: running statistics follow the steps of a normalised network slowly."""
    records = train(name, steps=6, **FEW).records
    assert all(record["accepted"] for record in records)
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]


def test_full_batches_reach_a_small_loss_in_few_steps():
    result = train("digits", batch_size="all", steps=15, seed=1, **GN)
    assert result.final_loss < 1e-4
    assert [record["loss_after"] is not None for record in result.records] == [True] * 15


# -------------------------------------------------------------------------------------------------------- resume and Ctrl-C


NIGHTLY = ("planned", "sketched", "averaged", "low rank")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(pytest.param("digits", name, marks=[pytest.mark.nightly] * (name in NIGHTLY)) for name in SETTINGS),
        ("digits-cnn", "momentum"),
    ],
)
def test_resuming_continues_bit_for_bit(tmp_path, name, settings):
    options = {**FEW, "settings": tuple(SETTINGS[settings].items())}
    whole = train(name, steps=4, **options)
    half = train(name, steps=2, out=tmp_path / "run", **options)
    rest = train(resume=half.checkpoint, steps=4, out=half.folder, progress=False)
    for a, b in zip(whole.params, rest.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert comparable(whole.records) == comparable(rest.records)


def test_ctrl_c_inside_a_step_resumes_bit_for_bit(tmp_path, monkeypatch):
    attempt, calls = nl.optim.GaussNewton._attempt, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attempt(self, *arguments)

    whole = train(SPHERE, width=64, steps=5, tol=0, **GN)
    monkeypatch.setattr(nl.optim.GaussNewton, "_attempt", interrupted)
    with pytest.raises(Interrupted, match="Interrupted after 2 complete steps"):
        train(SPHERE, width=64, steps=5, tol=0, out=tmp_path / "run", **GN)
    monkeypatch.setattr(nl.optim.GaussNewton, "_attempt", attempt)
    rest = train(SPHERE, resume=tmp_path / "run" / "checkpoint.npz", progress=False)
    np.testing.assert_array_equal(rest.params[0], whole.params[0])
    assert comparable(rest.records) == comparable(whole.records)


def test_measured_rates_survive_resuming_without_their_file(tmp_path, nearlin):
    """Slow products and fast factorisations: the plan follows the table, before and after."""
    slow = Rates(matmul=(1e6, 1e6), thin=(1e6, 1e6), memory=(1e6, 1e6))
    write_rates("rates.json", slow)
    done = nearlin(
        "train digits --optimizer gauss-newton --set rates=rates.json --batch-size 50 --steps 2 --no-progress --out run"
    )
    assert done.exit_code == 0, done.output
    assert "rates=measured" in done.stdout
    (tmp_path / "rates.json").unlink()
    assert nearlin("train --resume run/checkpoint.npz --steps 3 --no-progress").exit_code == 0
    saved = nl.experiments.checkpoint.load("run/checkpoint.npz")
    assert dict(saved["config"]["settings"]) == {"rates": slow.to_dict()}
    plans = [record["plan"] for record in saved["records"]]
    assert plans == [record["plan"] for record in train("digits", steps=3, settings=(("rates", slow),), **FEW).records]
    assert plans != [record["plan"] for record in train("digits", steps=3, **FEW).records]


# -------------------------------------------------------------------------------------------------------------- endings


def test_a_refused_mini_batch_is_no_end(monkeypatch):
    """A rejected step of one batch, and a stalled one, say nothing about the next."""
    step, calls = nl.optim.GaussNewton.step, []

    def refused(self, params, *arguments, **options):
        new, state, info = step(self, params, *arguments, **options)
        calls.append(1)
        words = {2: "rejected: no decrease in 7 attempt(s)", 3: "stalled: no decrease is left above rounding"}
        if len(calls) in words:
            return params, state, info._replace(accepted=False, reason=words[len(calls)])
        return new, state, info

    monkeypatch.setattr(nl.optim.GaussNewton, "step", refused)
    result = train("digits", steps=5, **FEW)
    assert (result.ended, result.steps) == ("steps", 5)
    assert [record["accepted"] for record in result.records] == [True, False, False, True, True]


def test_a_full_batch_with_nothing_left_stalls_and_says_why():
    result = train(SPHERE, width=2048, steps=40, tol=0, **GN)
    assert result.ended == "stalled"
    assert result.message.startswith(f"Stopped after {result.steps} steps: stalled: ")
    assert result.relative_residual < 1e-12


# ----------------------------------------------------------------------------------------------------- tables and plots


def printed(result):
    report = pytest.importorskip("nearlin.experiments.report")
    stream = io.StringIO()
    report.print_result(result, stream)
    return stream.getvalue()


@pytest.mark.usefixtures("pictures")
def test_a_run_prints_its_curvature_in_lines_that_can_be_read(tmp_path):
    pytest.importorskip("matplotlib")
    result = train("digits", steps=1, settings=(("plan", "class-averaged"),), out=tmp_path / "run", **FEW)
    text = printed(result)
    (head,) = [line for line in text.splitlines() if line.lstrip().startswith("step ")]
    assert head.split() == "step batch loss training loss λ d_eff route inner true res. R seconds note".split()  # noqa: SIM905
    assert "S class-averaged" in text
    assert "at the end class-averaged: by name" in text
    assert "run.jsonl, checkpoint.npz, run.png, curvature.png in" in text
    assert max(map(len, text.split("\nloss ")[0].splitlines())) <= 120


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", ["planned", "by passes"])
def test_the_curvature_is_drawn(tmp_path, name):
    pytest.importorskip("matplotlib")
    result = train("digits", steps=3, settings=tuple(SETTINGS[name].items()), out=tmp_path / "run", **FEW)
    assert (result.folder / "curvature.png").read_bytes()[:4] == b"\x89PNG"
    assert (result.folder / "run.png").exists()


@pytest.mark.parametrize(
    ("optimizer", "panels"),
    [("near-linear-gauss-newton", ["damping λ", "inner iterations"]), ("gram-gauss-newton", ["damping λ"])],
)
def test_what_is_not_known_has_no_panel(tmp_path, monkeypatch, optimizer, panels):
    plots = pytest.importorskip("nearlin.experiments.plots")
    figures = []
    monkeypatch.setattr(plots.canvas, "save", lambda figure, path, title: figures.append(figure))
    result = train(SPHERE, optimizer=optimizer, width=64, steps=3, progress=False)
    plots.plot_curvature(result, tmp_path / "curvature.png")
    assert [panel.get_ylabel() for panel in figures[0].axes] == panels


def test_a_method_without_damping_draws_no_curvature(tmp_path):
    pytest.importorskip("matplotlib")
    result = train(SPHERE, optimizer="adam", width=64, steps=2, out=tmp_path / "run", progress=False)
    assert not (result.folder / "curvature.png").exists()
    assert "curvature.png" not in printed(result)


def test_rejected_steps_and_attempts_are_marked():
    plots = pytest.importorskip("nearlin.experiments.plots")
    figure = pytest.importorskip("matplotlib.figure").Figure()
    base = {
        "step": 0,
        "damping": 1.0,
        "side": "sample",
        "plan": "exact: by name",
        "refreshed": True,
        "accepted": True,
        "attempts": 1,
    }
    records = [
        base,
        {**base, "step": 1, "attempts": 3},
        {**base, "step": 2, "plan": "kfac: x", "side": "parameter", "accepted": False},
    ]
    panel = figure.subplots()
    plots._plot_routes(panel, records, "damping")
    lines = {line.get_label(): list(line.get_xdata()) for line in panel.get_lines()[1:]}
    assert lines == {
        "exact (sample side), new": [0, 1],
        "kfac (parameter side), new": [2],
        "attempts rejected": [1],
        "step rejected": [2],
    }


# ------------------------------------------------------------------------------------------- compare, tune, the command line


def test_compare_gives_all_methods_the_same_batches(tmp_path):
    both = compare("digits", ["gauss-newton", "sgd"], lr={"sgd": 0.1}, epochs=1, lr_factor=0.5, lr_period=1, progress=False)
    gauss, sgd = both.results.values()
    assert (gauss.config.batch_size, gauss.steps) == (sgd.config.batch_size, sgd.steps) == (200, 7)
    assert gauss.records[0]["loss"] == sgd.records[0]["loss"]
    assert (gauss.config.lr_factor, sgd.config.lr_factor) == (None, 0.5)  # a guarded step has no schedule
    whole = compare("digits", ["gauss-newton", "sgd"], batch_size="all", lr={"sgd": 0.1}, epochs=1, progress=False)
    assert [result.steps for result in whole.results.values()] == [1, 1]


def test_the_search_begins_at_the_damping_that_the_method_chose(tmp_path):
    options = {"batch_size": 100, "steps": 3, "progress": False}
    found = tune("digits", ["gauss-newton"], runs=4, out=tmp_path / "t", **options)
    first, *others = found.searches["gauss-newton"].runs
    assert (first.lr, first.damping) == (None, None)
    assert all(run.lr is None for run in others)
    assert all(0.09 < run.damping / first.began < 11 for run in others)
    alone = train("digits", optimizer="gauss-newton", **options)
    assert alone.final_loss == first.excess
    best = json.loads(found.path.read_text())["optimizers"]["gauss-newton"]["best"]
    tuned = compare("digits", ["gauss-newton"], tuned=found.path, **options)
    assert tuned.results["gauss-newton"].optimizer.damping == best.get("damping")


def test_the_search_of_a_method_without_guard_walks_in_its_step_size():
    found = tune("digits", ["gauss-newton"], runs=2, settings=(("guard", False),), batch_size=50, steps=1, progress=False)
    assert [run.lr for run in found.searches["gauss-newton"].runs] == [1.0, 0.3]


def test_a_given_first_damping_is_where_a_run_begins(nearlin, tmp_path):
    done = nearlin("train digits --optimizer gauss-newton --damping 0.5 --epsilon 0.3 --lr 0.5 --steps 1 --no-progress --out run")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run" / "run.jsonl").read_text().splitlines()[1])
    assert record["damping"] == 0.5
    assert 0.05 < record["inner_residual"] <= 0.31


def test_the_header_is_short_and_says_what_larger_batches_are_for(nearlin):
    done = nearlin("train digits --optimizer gauss-newton --steps 1 --no-progress")
    assert "rates=None)" in done.stdout
    assert "up to --batch-size all (1437 rows)" in done.stdout
    assert "hint" not in nearlin("train digits --optimizer gauss-newton --batch-size all --steps 1 --no-progress").stdout


BAD = {
    "plan": ("--set plan=gram", "plan is 'gram'; expected one of 'auto', 'exact'"),
    "kernel": ("--set plan=kernel", "plan is 'kernel', and the closed-form kernel is that of the two-layer network"),
    "rates": ("--set rates=no.json", "the file of rates no.json cannot be read"),
    "damping": ("--damping 0", "damping is 0.0; expected a positive number"),
    "epsilon": ("--epsilon 1", "epsilon is 1.0; expected a number in (0, 1)"),
    "lr": ("--lr -1", "lr is -1.0; expected a positive number"),
    "guard": ("--set guard=maybe", "guard is 'maybe'; expected True or False"),
    "schedule": ("--lr-factor 0.5 --lr-period 2", "gauss-newton takes one step size for all steps"),
    "too many rows": ("--batch-size 2000", "batch_size is 2000; the training set has 1437 rows"),
    "no rows": ("--batch-size 0", "0 is not in the range x>=1, or all"),
    "words": ("--batch-size most", "'most' is not a valid"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_get_one_sentence_and_leave_no_run(case, nearlin, tmp_path):
    options, says = BAD[case]
    done = nearlin(f"train digits --optimizer gauss-newton --no-progress {options}")
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_a_route_that_the_network_does_not_allow_is_named(nearlin):
    done = nearlin("train digits-cnn --optimizer gauss-newton --set plan=exact --no-progress")
    assert done.exit_code == 2
    assert "plan is 'exact', and" in done.stderr
    assert "there are no rows of single samples" in done.stderr


def test_the_near_linear_step_points_to_the_one_that_takes_every_loss(nearlin):
    done = nearlin("train digits --optimizer near-linear-gauss-newton")
    assert done.exit_code == 2
    assert "is for least squares, and digits has a SoftmaxCrossEntropy; expected gauss-newton" in done.stderr


def test_the_defaults_of_a_comparison_have_it(nearlin):
    assert "onaproblemgauss-newton,mini-block-fisher" in "".join(nearlin("compare --help").stdout.split())
    assert math.isfinite(compare("diabetes", width=128, steps=2, progress=False).results["gauss-newton"].final_loss)
