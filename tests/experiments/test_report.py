"""What is printed and drawn, from runs whose numbers are made up here."""

import io
import math
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import nearlin as nl
from nearlin.complexity.claims.table import Series
from nearlin.experiments import Config, build, records, tuning
from nearlin.experiments.loop import Snapshot, Trainer
from nearlin.experiments.problems import Error
from nearlin.experiments.records import Record
from nearlin.experiments.result import message
from nearlin.experiments.verification import Verification, _family_table, _record

report = pytest.importorskip("nearlin.experiments.report")
cost_report = pytest.importorskip("nearlin.experiments.cost_report")
comparison_report = pytest.importorskip("nearlin.experiments.comparison_report")
tables = pytest.importorskip("nearlin.experiments.tables")
plots = pytest.importorskip("nearlin.experiments.plots")
claim_plots = pytest.importorskip("nearlin.experiments.claim_plots")
canvas = pytest.importorskip("nearlin.experiments.canvas")


def record(step, **fields):
    """A step of a first-order method that took a quarter of a second, but for ``fields``."""
    empty = dict.fromkeys(Record._fields)
    known = {"step": step, "loss": 9.0 - step, "accepted": True, "reason": "accepted", "seconds": 0.25, "cpu_seconds": 0.5}
    return {**empty, **known, "gradients": 1.5, **fields}


def run(records=(), task="labels", recipe=True, **fields):
    """A run of so many records on a problem whose targets have an entropy of 1 and 2."""
    problem = SimpleNamespace(
        name="made up", recipe=recipe, task=task, least=1.0, test_least=2.0, train=(np.empty((23, 5)),), wide=True, diagnosis=None
    )
    known = {"initial_loss": 9.0, "final_loss": 4.0, "final_test_loss": 6.0, "relative_residual": 0.5, "ended": "steps"}
    known |= {"train_error": Error("error rate", 10.0, 1, 10), "test_error": Error("error rate", 30.0, 3, 10), "message": "Done."}
    known["config"] = SimpleNamespace(
        whole_batch=True, batch_size=None, optimizer="sgd", activation="tanh", dtype="float64", width=16, hidden=None
    )
    known |= dict.fromkeys(("optimizer", "folder", "log", "checkpoint", "plot", "validation_error", "best_step"))
    known |= {
        "unwritten": (),
        "waited": None,
        "steps": len(records),
        "seconds": 0.25 * len(records),
        "params": (),
        "records": tuple(records),
        "problem": problem,
    }
    problem.describe = lambda: {"features": 5, "train_rows": 23}
    return SimpleNamespace(**(known | fields))


def cells(text, **names):
    """The cells of the first row of every optimizer, by column; ``names`` are columns of two words."""
    lines = [line for line in text.replace("wrong %", "wrong").replace("/ sgd", "over").splitlines() if line.strip()]
    head = lines[0].split()
    rows = {}
    for line in lines[2:]:
        words = line.split()
        if len(words) == len(head) and "[" not in line:
            rows[words[0]] = dict(zip(head, words, strict=True))
    return rows


def compared(runs):
    stream = io.StringIO()
    comparison_report.print_comparison(SimpleNamespace(runs=runs, folder=None, json=None, plot=None, unwritten=()), stream)
    return stream.getvalue()


def test_the_live_line_tells_the_latest_loss_that_is_known():
    made = SimpleNamespace(**record(3, relative_residual=None))
    assert records.line(made) == "loss 6.000e+00"
    made.loss_after, made.relative_residual, made.inner_iterations = 0.5, 0.25, 4
    assert records.line(made) == "loss 5.000e-01  relative residual 2.5e-01  4 inner"


def test_the_time_of_a_verification_is_the_one_it_took():
    stream = io.StringIO()
    cost_report.print_claims(Verification((), {"seconds": 83.4}), stream)
    assert stream.getvalue().rstrip().endswith("; 83.4 s")


def test_known_failures_are_counted_one_by_one():
    def result(verdict, should_hold):
        return SimpleNamespace(verdict=verdict, claim=SimpleNamespace(should_hold=should_hold))

    found = [result("holds", True), result("fails", False), result("fails", True), result("fails", False)]
    assert Verification(tuple(found), {}).summary == "4 claims: 1 holds, 3 fail (2 of the failures known)"


def test_a_claim_stands_in_the_report_beside_what_was_measured_and_what_was_expected():
    claim = SimpleNamespace(id="a-claim", statement="It is | so.", paper="arXiv:1", expected="at most 2", should_hold=True)
    result = SimpleNamespace(claim=claim, outcome=SimpleNamespace(value="1.5"), verdict="holds")
    assert _family_table([result])[2] == "| `a-claim` | It is \\| so. | arXiv:1 | 1.5 | at most 2 | **holds** |"
    claim.should_hold, result.verdict, result.outcome.value = False, "fails", ""
    assert _family_table([result])[2].endswith("| arXiv:1 | - | at most 2 | **fails** (known) |")
    assert _family_table([])[0] == "| claim | says | source | measured | expected | verdict |"


def test_losses_before_and_after_and_of_the_test_rows_stand_in_lines_of_their_own():
    lines = printed(run([record(0)], initial_loss=4.0, final_loss=2.0, final_test_loss=0.75)).splitlines()
    assert "loss           4.000e+00 before, 2.000e+00 after" in lines
    assert "test loss      7.500e-01" in lines


@pytest.mark.parametrize(("rate", "step"), [(lambda t: 1e300, 0), (lambda t: 1e300 if t == 2 else 0.1, 2)])
def test_the_step_that_a_run_is_said_to_stop_at_is_the_one_that_blew_up(rate, step):
    x, y = nl.data.sphere(n=12, d=3, seed=1)
    problem, config = build((x, y), Config(optimizer="sgd", width=8, steps=5, test_fraction=0))
    params = problem.network.init(key=0, like=x)
    opt = nl.optim.SGD(lr=rate)
    setup = config, problem, opt, problem.batches(config.batch_size, config.seed)
    result = Trainer(setup, Snapshot(0, params, opt.init(params, problem.objective))).run(progress=False)
    assert (result.ended, len(result.records)) == ("non-finite", step + 1)
    assert result.message.startswith(f"Stopped at step {step}: the loss is no longer finite; the last finite parameters are kept")


def test_a_limit_of_time_is_told_as_it_was_given():
    result = SimpleNamespace(
        config=SimpleNamespace(time_limit=5.0, tol=1e-3, dtype="float32"), steps=3, problem=SimpleNamespace(least=1.5),
        checkpoint=None, ended="time limit", relative_residual=0.5, initial_loss=8.0, final_loss=2.0, best_step=None,
    )  # fmt: skip
    words = "Stopped after 3 steps at the time limit of 5 s of processor time: "
    assert message(result, None) == words + "the relative residual is 5.00e-01."
    result.relative_residual = None
    assert message(result, None) == words + "the loss is 0.5 above the least possible."
    for dtype, loss, says in (
        ("float32", 1.5 - 4e-8, "the loss is the least possible, 1.5, to the digits of float32."),
        ("float64", 1.5 - 1e-15, "the loss is the least possible, 1.5, to the digits of float64."),
        ("float64", 1.5 + 4e-8, "the loss is 4e-08 above the least possible."),
        ("float32", 1.5e-6 + 4e-8, "the loss is 4e-08 above the least possible."),
    ):
        result.problem.least = 1.5e-6 if loss < 1 else 1.5
        result.config.dtype, result.final_loss = dtype, loss
        assert message(result, None) == words + says
    result.ended, result.relative_residual, result.config.tol = "steps", 0.5, 0.1
    for steps, says in ((1, "Took 1 step; "), (3, "Took all 3 steps; ")):
        result.steps = steps
        assert message(result, None).startswith(says)


def test_the_seconds_of_a_claim_are_in_its_record():
    names = ("id", "number", "family", "paper", "statement", "quantity", "how", "expected", "condition", "should_hold")
    outcome = SimpleNamespace(value="1.5", verdict="holds", detail="n = 4", series=())
    made = _record(SimpleNamespace(claim=SimpleNamespace(**{name: name for name in names}), outcome=outcome, seconds=1.23456))
    told = {"value": "1.5", "verdict": "holds", "detail": "n = 4", "seconds": 1.235, "series": []}
    assert made == {**{name: name for name in names}, **told}


def test_a_run_that_ends_without_a_finite_loss_is_no_better_than_any_other():
    """Its last finite parameters have a loss, which says nothing about the settings."""
    x, y = nl.data.sphere(n=12, d=3, seed=1)
    problem, config = build((x, y), Config(optimizer="sgd", width=8, steps=3, test_fraction=0))
    params = problem.network.init(key=0, like=x)
    ends = [tuning._run("sgd", problem, config, params, {"lr": lr}, None, False) for lr in (1e300, 0.1)]
    assert [(one.ended, math.isfinite(one.excess)) for one in ends] == [("non-finite", False), ("steps", True)]


def test_the_shares_of_an_estimate_are_of_its_total():
    stream = io.StringIO()
    parts = {"walk": 30, "guard": 60, "checks": 10, "none": 0}
    tables.console(stream).print(cost_report._parts("flops", {"every step": parts}, str))
    rows = [line.split() for line in stream.getvalue().splitlines() if line.strip()][2:]
    assert rows == [["walk", "30", "30%"], ["guard", "60", "60%"], ["checks", "10", "10%"], ["none"], ["total", "100", "100%"]]


def test_the_plans_of_a_run_are_counted_and_the_last_one_is_told():
    made = [
        record(t, plan=f"{name}: {t} s predicted", side="sample") for t, name in enumerate(("sketch", "exact", "sketch", "cg"))
    ]
    assert report._plans(made) == "sketch in 2, exact in 1, cg in 1 of 4 steps; at the end cg: 3 s predicted"
    assert report._plans([record(0)]) is None


def test_a_step_of_a_planned_method_is_told_in_columns_of_its_own():
    known = {"damping": 0.02, "effective_dimension": 12.34, "side": "sample", "plan": "sketch: 1 s predicted", "loss_after": 0.5}
    solve = {"inner_iterations": 7, "inner_residual": 0.031, "inner_reason": "converged", "refreshed": True, "attempts": 2}
    cells = lambda row: tuple(column.cell(row) for column in report.STEPS if column.when(run([row])))  # noqa: E731
    told = ("2.0e-02", "12.3", "S sketch", "7", "3.1e-02", "fresh")
    one = record(3, **known, **solve)
    assert cells(one) == ("3", "6.000e+00", "5.000e-01", *told, "0.250", "2 tries")
    kept = {**one, "refreshed": False, "side": "parameter", "effective_dimension": 1234.5, "inner_reason": "maxiter"}
    told = ("2.0e-02", "1234", "P sketch", "7", "3.1e-02", "reused")
    assert cells(kept)[3:] == (*told, "0.250", "2 tries, inner solve: maxiter")


def test_the_row_of_a_recipe_holds_medians_over_the_seeds():
    def seed(loss, seconds, wrong, steps=8, **fields):
        error = Error("error rate", wrong, 1, 10)
        return run(
            [record(t) for t in range(steps)],
            final_loss=loss,
            final_test_loss=2 * loss,
            seconds=seconds,
            test_error=error,
            **fields,
        )

    text = compared(
        {
            "sgd": [seed(4.0, 0.8, 10.0), seed(5.0, 0.4, 50.0, 4), seed(11.0, 1.6, 30.0, 20)],
            "kfac": [seed(2.0, 3.2, 5.0, 4), seed(2.0, 3.2, 5.0, 4), seed(2.0, 3.2, 5.0, 4, ended="stalled")],
        }
    )
    rows = cells(text)
    assert rows["sgd"] == {
        "optimizer": "sgd", "train": "4", "test": "8", "wrong": "30.00", "steps": "8", "seconds": "0.800", "grads": "12",
        "ms/step": "100", "over": "1", "end": "steps",
    }  # fmt: skip
    assert rows["kfac"] == {
        "optimizer": "kfac", "train": "1", "test": "2", "wrong": "5.00", "steps": "4", "seconds": "3.20", "grads": "6",
        "ms/step": "800", "over": "8", "end": "steps/stalled",
    }  # fmt: skip
    assert "[3, 10]" in text
    assert "[6, 20]" in text
    assert "[10.00, 50.00]" in text
    assert "losses above the least possible ones, 1.0000 and 2.0000" in text
    assert "medians of 3 seeds" in text


@pytest.mark.parametrize(
    ("counts", "says"), [((1, 3, 2), "medians of 1 to 3 seeds ["), ((2, 2, 2), "of 2 seeds ["), ((1, 1, 1), None)]
)
def test_seeds_that_failed_are_in_no_median(counts, says):
    text = compared({name: [run()] * count for name, count in zip(("sgd", "kfac", "tnt"), counts, strict=True)})
    assert says in text if says else "seeds" not in text


def test_the_row_of_a_two_layer_network_holds_medians_over_the_seeds():
    def seed(loss, residual, seconds, train, test):
        errors = {"train_error": Error("rmse", train, None, 9), "test_error": Error("rmse", test, None, 9)}
        return run(
            [record(t) for t in range(4)], recipe=False, final_loss=loss, relative_residual=residual, seconds=seconds, **errors
        )

    text = compared({"adam": [seed(1.0, 0.1, 2.0, 5.0, 7.0), seed(3.0, 0.3, 6.0, 6.0, 9.0), seed(2.0, 0.2, 4.0, 8.0, 8.0)]})
    assert cells(text)["adam"] == {
        "optimizer": "adam", "loss": "2.000e+00", "residual": "2.0e-01", "steps": "4", "seconds": "4.00", "s/step": "1.00",
        "train": "6", "test": "8", "end": "steps",
    }  # fmt: skip
    assert "[1.000e+00, 3.000e+00]" in text
    assert "root mean squared errors in the units of the data" in text


def printed(result):
    stream = io.StringIO()
    report.print_result(result, stream)
    return stream.getvalue()


def certified(step, **fields):
    known = {"loss_after": 8.0 - step, "contraction": 0.25, "inner_iterations": 3 + step, "inner_residual": 0.1, "damping": 1e-3}
    return record(
        step, **(known | {"inner_reason": "converged", "refreshed": step == 0, "preconditioner": "signs", "attempts": 1} | fields)
    )


def test_the_table_of_steps_holds_the_records():
    records = [
        certified(0, contraction=0.375),
        certified(1, contraction=0.7),
        certified(2, inner_reason="maxiter", inner_residual=0.02),
        certified(3, accepted=False, reason="rejected: no decrease"),
        certified(4, contraction=0.9, attempts=3),
        certified(5, contraction=0.5),
    ]
    text = printed(run(records, recipe=False, optimizer=SimpleNamespace(guard=True)))
    rows = [line.strip().split(maxsplit=7) for line in text.splitlines() if line[:6].split()[:1] and line.split()[0].isdigit()]
    assert rows[:6] == [
        ["0", "9.000e+00", "0.375", "3", "1.0e-01", "fresh", "0.250"],
        ["1", "8.000e+00", "0.700", "4", "1.0e-01", "reused", "0.250", "not halved"],
        ["2", "7.000e+00", "0.250", "5", "2.0e-02", "reused", "0.250", "inner solve: maxiter"],
        ["3", "6.000e+00", "0.250", "6", "1.0e-01", "reused", "0.250", "rejected: no decrease"],
        ["4", "5.000e+00", "0.900", "7", "1.0e-01", "reused", "0.250", "3 tries, not halved"],
        ["5", "4.000e+00", "0.500", "8", "1.0e-01", "reused", "0.250"],
    ]
    assert rows[6] == ["6", "4.000e+00", "end"]
    assert "The residual did not halve at 2 of 6 steps (worst contraction 0.90, at step 4)." in text
    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines() if line[:1].isalpha() and " " in line}
    assert facts["loss"] == "9.000e+00 before, 4.000e+00 after"
    assert facts["train"] == "10.00 % wrong (1 of 10)"
    assert "30.00 % wrong (3 of 10)" in text
    assert facts["time"] == "1.50 s in 6 steps"
    assert facts["preconditioner"] == "signs"
    assert text.splitlines()[-1] == "Done."


def test_of_a_long_run_the_first_and_the_last_steps_are_shown():
    text = printed(run([record(t, loss=100.0 + t) for t in range(50)]))
    shown = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [int(row[0]) for row in shown] == [*range(20), *range(30, 51)]
    assert [row[1] for row in shown[:-1]] == [f"{100 + t:.3e}" for t in (*range(20), *range(30, 50))]
    assert "10 steps not shown" in text


def test_the_head_of_a_run_says_what_is_about_to_happen():
    pictures = {"name": "pets", "train_rows": 23, "test_rows": 9, "features": 5, "class_names": ("cat", "dog"), "spread": 400.0}
    pictures |= {"validation_rows": 4, "outputs": 1, "target": "the target is taken for 2 classes"}
    header = {"parameters": 80, "data": {**pictures, "task": "classification", "preprocessing": "inputs centred"}}
    config = SimpleNamespace(width=16, activation="relu", backend="numpy", dtype="float64", seed=3, batch_size=7, optimizer="sgd")
    config.hidden, constant = None, SimpleNamespace(constant=True)
    said = SimpleNamespace(line=lambda: "9 of 23 rows", classes=lambda: "cat 3", warnings=lambda: ["one", "two"])
    batches, snapshot = SimpleNamespace(full=False, per_epoch=4), SimpleNamespace(step=12)
    stream = io.StringIO()
    report.print_header(
        SimpleNamespace(header=header, config=config,
                        problem=SimpleNamespace(recipe=False, train=(np.empty((23, 5)),), preprocessing=constant, diagnosis=said),
                        optimizer=nl.optim.SGD(lr=0.25), batches=batches, snapshot=snapshot, folder="runs/pets"),
        stream,
    )  # fmt: skip
    text = stream.getvalue()
    for words in (
        "pets: 23 training, 4 validation, 9 test rows, 5 features, classification (cat = -1, dog = +1)",
        "target         the target is taken for 2 classes",
        "rows           9 of 23 rows",
        "classes        cat 3",
        "warning        one\nwarning        two",
        "inputs centred",
        "differ up to 4.0e+02 times; --scale",
        "5 inputs and a constant, 16 relu neurons, 80 parameters",
        "SGD(lr=0.25, momentum=0.9",
        "numpy, float64, seed 3",
        "of 7 rows, 4 an epoch",
        "at step 12",
        "runs/pets",
    ):
        assert words in text


def test_the_claims_are_drawn_with_what_was_predicted(figures):
    series = Series(
        "cost", (8, 16, 32), (60.0, 250.0, 1000.0), (64, 256, 1024), "n", "flops", says="n²", high=(1e4,) * 3, bound="at most"
    )
    claim = SimpleNamespace(id="cost-of-it", should_hold=True)
    result = SimpleNamespace(claim=claim, verdict="fails", outcome=SimpleNamespace(series=(series,)))
    claim_plots.plot_claims([result], "counted", "claims.png")
    (panel,) = figures[0].axes
    predicted, lower, upper, measured = panel.get_lines()
    assert (list(measured.get_xdata()), list(measured.get_ydata())) == ([8, 16, 32], [60.0, 250.0, 1000.0])
    assert (list(predicted.get_xdata()), list(predicted.get_ydata())) == ([8, 16, 32], [64, 256, 1024])
    assert list(upper.get_ydata()) == [1e4] * 3
    assert np.isnan(lower.get_ydata()).all()
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["cost", "n²", "at most"]
    assert panel.get_title() == "cost-of-it: fails"
    claim.should_hold = False
    claim_plots.plot_claims([result], "counted", "claims.png")
    assert figures[1].axes[0].get_title() == "cost-of-it: fails, as known"


def limits(figures, *series):
    """x and y of what is drawn besides the measured points."""
    claim = SimpleNamespace(id="it", should_hold=True)
    claim_plots.plot_claims(
        [SimpleNamespace(claim=claim, verdict="holds", outcome=SimpleNamespace(series=series))], "counted", "it.png"
    )
    drawn = [line for line in figures[-1].axes[0].get_lines() if line.get_label().startswith("_") and line.get_zorder() < 2]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in drawn]


def test_limits_that_agree_are_drawn_once_and_others_each(figures):
    one = Series("a", (8, 16), (1.0, 2.0), (3.0, 4.0))
    other = Series("b", (8, 16), (1.5, 2.5), (3.0, 4.0))
    assert limits(figures, one, other) == [([8, 16], [3.0, 4.0])]
    assert limits(figures, one, replace(other, predicted=(3.0, 5.0))) == [([8, 16], [3.0, 4.0]), ([8, 16], [3.0, 5.0])]
    assert limits(figures, one, replace(other, x=(9, 17))) == [([8, 16], [3.0, 4.0]), ([9, 17], [3.0, 4.0])]
    level = [Series("a", x, (1.0, 2.0), high=(4.0, 4.0), log="x", bound="b") for x in ((8, 16), (9, 17))]
    assert [x for x, y in limits(figures, *level) if y == [4.0] * 4] == [[8, 9, 16, 17]]
    several = limits(figures, Series("a", (8, 8), (1.0, 2.0), (3.0, 4.0)))
    assert several == [([8, 8], [3.0, 4.0])]


@pytest.mark.parametrize("y", [(-1.0, -2.0), (0.0, 0.0), (math.nan, math.nan), (math.inf, -1.0)])
@pytest.mark.parametrize("predicted", [None, (math.inf, math.inf), (-1.0, math.nan)])
def test_a_claim_without_a_positive_number_is_drawn_too(tmp_path, y, predicted):
    outcome = SimpleNamespace(series=(Series("cost", (8, 16), y, predicted),))
    result = SimpleNamespace(claim=SimpleNamespace(id="cost-of-it", should_hold=True), verdict="fails", outcome=outcome)
    assert claim_plots.plot_claims([result], "counted", tmp_path / "claims.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("last", "guarded", "says"),
    [(9.0, False, None), (9.5, False, "a smaller --lr may help"), (9.5, True, "grew from batch to batch"), (8.0, True, None)],
)
def test_a_loss_that_grew_is_said_so(last, guarded, says):
    optimizer = SimpleNamespace(guard=True) if guarded else SimpleNamespace()
    text = printed(run([record(0, loss_after=last)], final_loss=last, optimizer=optimizer))
    assert ("grew" in text) == (says is not None)
    assert says is None or says in text


def test_a_search_is_listed_with_its_best_run_marked():
    runs = (
        tuning.Run(0.1, 1e-2, 3.0, 4.0, 7, "steps"), tuning.Run(0.3, 1e-2, 1.5, 6.0, 8, "steps"),
        tuning.Run(1.0, None, math.inf, None, 2, "non-finite"),
    )  # fmt: skip
    stream = io.StringIO()
    found = tuning.Tuning("made up", {"kfac": tuning.Search(runs, "damping")})
    comparison_report.print_tuning(found, stream)
    rows = [line.split() for line in stream.getvalue().splitlines()]
    assert ["1", "0.1", "0.01", "3.000e+00", "4.000e+00", "7", "steps"] in rows
    assert ["2*", "0.3", "0.01", "1.500e+00", "6.000e+00", "8", "steps"] in rows
    assert ["3", "1", "inf", "2", "non-finite"] in rows
    assert "kfac: 3 runs; best: lr 0.3, damping 0.01, excess loss 1.5" in stream.getvalue()


def test_the_command_after_a_search_is_for_what_was_found():
    """A comparison with the others would be refused."""
    found = lambda loss: tuning.Search((tuning.Run(0.1, None, loss, None, 7, "steps"),), None)  # noqa: E731
    searches = {"kfac": found(3.0), "adam": found(math.inf), "sgd": found(2.0)}
    said = []
    for names in (("kfac", "adam", "sgd"), ("adam",)):
        some = tuning.Tuning("my data.csv", {name: searches[name] for name in names}, Path("my runs", "tune.json"))
        comparison_report.print_tuning(some, stream := io.StringIO())
        said.append(stream.getvalue().splitlines()[-1].partition("; "))
    (wrote, _, command), (*alone, nothing) = said
    assert wrote == f"wrote '{some.path}'"
    words = shlex.split(command.removesuffix(" takes the best of each"))
    assert words == ["nearlin", "compare", "my data.csv", "--optimizers", "kfac,sgd", "--tuned", str(some.path)]
    assert (alone, nothing) == ([wrote, ""], "")


# ------------------------------------------------------------------------------------------------------------------ plots


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in place of their files."""
    drawn = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, title="": drawn.append(figure))
    return drawn


def lines(panel):
    return [(line.get_linestyle(), list(line.get_xdata()), list(line.get_ydata())) for line in panel.get_lines()]


EPOCHS = [record(t, loss_after=7.0 - t if t % 3 == 2 else None, test_loss=8.0 - t if t % 3 == 2 else None) for t in range(7)]


def test_a_curve_is_the_training_loss_above_the_least_one_where_it_is_known():
    """After 0, 3, 6 steps, and at the end of a run that ended inside an epoch; seconds are those of all steps up to there."""
    steps, seconds, losses, accepted = plots.curve(run(EPOCHS, final_loss=1.5))
    assert (steps, seconds, losses, accepted) == ([0, 3, 6, 7], [0.0, 0.75, 1.5, 1.75], [8.0, 4.0, 1.0, 0.5], [True] * 4)
    whole = [record(0, loss_after=5.0), record(1, loss_after=math.nan), record(2, loss_after=5.0, accepted=False)]
    steps, seconds, losses, accepted = plots.curve(run(whole))
    assert (steps, seconds, losses, accepted) == ([0, 1, 3], [0.0, 0.25, 0.75], [8.0, 4.0, 4.0], [True, True, False])


def test_a_run_is_drawn_over_epochs_and_over_seconds_with_its_test_loss(figures):
    result = run(EPOCHS[:6], final_loss=2.0)
    result.config.whole_batch, result.config.batch_size = False, 7  # 3 batches of 23 rows
    plots.plot_result(result, "run.png")
    by_epoch, by_time = figures[0].axes
    assert lines(by_epoch) == [("-", [0, 1, 2], [8.0, 4.0, 1.0]), (":", [1, 2], [4.0, 1.0])]
    assert lines(by_time) == [("-", [0.0, 0.75, 1.5], [8.0, 4.0, 1.0]), (":", [0.75, 1.5], [4.0, 1.0])]
    assert (by_epoch.get_xlabel(), by_epoch.get_yscale()) == ("epoch", "log")
    assert by_epoch.get_ylabel() == "loss above the least"
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["training", "test"]


def test_rejected_steps_are_crossed(figures):
    whole = [record(0, loss_after=5.0), record(1, loss_after=5.0, accepted=False), record(2, loss_after=3.0)]
    plots.plot_result(run(whole, recipe=False, final_loss=3.0), "run.png")
    losses, least, crosses = figures[0].axes[0].get_lines()
    assert list(losses.get_ydata()) == [9.0, 5.0, 5.0, 3.0]
    assert list(least.get_ydata()) == [1.0, 1.0]
    assert (list(crosses.get_xdata()), list(crosses.get_ydata()), crosses.get_marker()) == ([2], [5.0], "x")


def test_the_shares_of_the_layers_are_of_the_steps_so_far(figures):
    chosen = [0, 1, 1, 0, 1]
    result = run([record(t, layer=layer) for t, layer in enumerate(chosen)], params=(np.ones((2, 2)), np.ones((1, 3))))
    plots.plot_layers(result, "layers.png")
    layers, shares = figures[0].axes
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in layers.get_lines()] == [
        ([0, 3], [0, 0]), ([1, 2, 4], [1, 1, 1])
    ]  # fmt: skip
    for layer, line in enumerate(shares.get_lines()):
        assert list(line.get_xdata()) == [0, 1, 2, 3, 4]
        assert list(line.get_ydata()) == pytest.approx([chosen[: t + 1].count(layer) / (t + 1) for t in range(5)])
        assert line.get_label() == f"layer {layer}: {chosen.count(layer)} steps"


def test_damping_and_iterations_are_drawn_at_their_steps(figures):
    records = [certified(t, damping=10.0**-t, effective_dimension=None) for t in range(4)]
    plots.plot_curvature(run(records), "curvature.png")
    damping, inner = figures[0].axes
    assert [panel.get_ylabel() for panel in (damping, inner)] == ["damping λ", "inner iterations"]
    for panel, field in ((damping, "damping"), (inner, "inner_iterations")):
        path, fresh, kept = panel.get_lines()
        assert list(path.get_ydata()) == [r[field] for r in records]
        assert (list(fresh.get_xdata()), list(kept.get_xdata())) == ([0], [1, 2, 3])
        assert list(kept.get_ydata()) == [r[field] for r in records[1:]]


def test_a_comparison_draws_every_seed_of_every_optimizer(figures):
    whole = lambda *losses: run([record(t, loss_after=loss) for t, loss in enumerate(losses)], final_loss=losses[-1])  # noqa: E731
    plots.plot_comparison({"sgd": [whole(5.0, 4.0), whole(6.0, 3.0)], "adam": [whole(2.0, 1.5)]}, "compare.png")
    drawn = [(line.get_label(), list(line.get_ydata())) for line in figures[0].axes[0].get_lines() if line.get_linestyle() == "-"]
    sgd = "sgd (2 seeds)"
    assert drawn == [(sgd, [8.0, 4.0, 3.0]), (sgd, [8.0, 5.0, 2.0]), ("adam", [8.0, 1.0, 0.5])]
