"""What the data say stands in the head of a run, in its checkpoint, and again where the loss did not halve."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

import nearlin as nl
from nearlin.data import Dataset
from nearlin.experiments import Config, build, train
from nearlin.experiments.result import message
from nearlin.experiments.training import begin, set_up

report = pytest.importorskip("nearlin.experiments.report")

INPUTS = Path(__file__).parents[1] / "data" / "inputs"
QUIET = {"progress": False, "width": 128}
RNG = np.random.default_rng(2)


def head(data, **options):
    """The facts at the head of a run, by name; of one that occurs twice a list."""
    stream, found = io.StringIO(), {}
    problem, config = build(data, Config(**options))
    report.print_header(begin(set_up(problem, config), problem.init(0)), stream)
    for line in stream.getvalue().splitlines():
        found.setdefault(line[:14].strip(), []).append(line[15:])
    return found


def told(result):
    """The sentences below the table of a run."""
    stream = io.StringIO()
    report.print_result(result, stream)
    return stream.getvalue()


def conflict(path=INPUTS / "dup_conflict.csv"):
    """Rows and targets of the file to train on, and to test."""
    dataset = nl.data.load(path, "y")
    return [(part.x, part.y) for part in nl.data.split(dataset, 0.2, seed=0)]


def unexplained(x, y):
    """Squares of what targets of equal rows differ by from their mean."""
    return sum(np.sum((y[same] - y[same].mean()) ** 2) for same in ((x == row).all(axis=1) for row in np.unique(x, axis=0)))


def test_conflicting_duplicates_set_a_floor_that_a_run_ends_at():
    (x, y), (test_x, test_y) = conflict()
    mean, deviation = y.mean(), y.std()
    left, test_left = unexplained(x, (y - mean) / deviation), unexplained(test_x, (test_y - mean) / deviation)
    assert math.sqrt(left / 96) == pytest.approx(0.659, abs=5e-4)
    facts = head(INPUTS / "dup_conflict.csv", target="y", width=128)
    assert facts["rows"][0].startswith(f"59 of 96 rows distinct, least loss {left / 192:.3g}; 0.73 of the energy outside")
    assert "so that 0.659 of its residual stay" in facts["warning"][0]
    result = train(INPUTS / "dup_conflict.csv", target="y", steps=8, **QUIET)
    assert result.problem.least == pytest.approx(left / 192, rel=1e-9)
    assert result.problem.test_least == pytest.approx(test_left / 48, rel=1e-9)
    assert test_left > 0
    assert result.final_loss == pytest.approx(left / 192, rel=0.02)
    assert f"From the data: {facts['warning'][0]}." in told(result)
    aim = math.sqrt(left / 192 / result.initial_loss)
    batches = result.problem.batches(None, 0)
    assert message(result, batches).endswith(f"(least possible {aim:.2e}).") == (result.ended == "steps")


def test_classes_of_equal_rows_have_the_floor_of_their_entropy():
    x, labels = np.repeat(RNG.normal(size=(20, 2)), 4, axis=0), np.tile([0, 0, 0, 1], 20)
    result = train(Dataset("torn", x, labels, "classification"), hidden=8, test_fraction=0, steps=30, progress=False)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert result.problem.least == pytest.approx(entropy, rel=1e-12)
    assert result.final_loss >= entropy * (1 - 1e-12)
    assert "rows that are equal for the network have different targets" in told(result)


def test_a_row_that_outshines_all_others_is_named():
    (warning,) = head(INPUTS / "outlier_x.csv", target="y", width=128)["warning"]
    x = nl.data.load(INPUTS / "outlier_x.csv", "y").x
    assert f"row {np.argmax(np.sum(x**2, axis=1))} (counted from 0) alone holds 98.96 %" in warning
    assert warning in told(train(INPUTS / "outlier_x.csv", target="y", steps=3, **QUIET))


def test_the_longest_row_is_that_before_rows_are_normalised():
    x = np.column_stack([np.ones(40), 1e-9 * RNG.normal(size=40)])
    x[7] *= 100
    options = {"test_fraction": 0, "validation_fraction": 0, "center": False, "scale": False, "normalize": True, "width": 128}
    (warning,) = (w for w in head(Dataset("one direction", x, RNG.normal(size=40)), **options)["warning"] if "parallel" in w)
    assert warning.endswith(f"row 7 (counted from 0) alone holds {100 * 1e4 / (1e4 + 39):.4g} % before rows are normalised")


def test_one_feature_is_two_rows_where_rows_are_normalised_and_all_of_them_where_not():
    facts = head(INPUTS / "one_feature.csv", target="y", width=128, normalize=True)
    assert facts["rows"][0].startswith("2 of 96 rows distinct")
    assert [warning[:10] for warning in facts["warning"]] == ["rows that ", "of 96 dist"]
    facts = head(INPUTS / "one_feature.csv", target="y", width=128)
    assert facts["rows"] == ["all 96 rows distinct; 256 parameters for 96 outputs"]
    assert "warning" not in facts


def test_a_class_of_one_row_is_missed_in_the_test_rows(tmp_path):
    facts = head(INPUTS / "imbalanced.csv", target="y", hidden=4)
    assert facts["classes"] == ["no 1/0, yes 95/24 (training/test rows)"]
    assert facts["warning"] == ["no test row is of class 'no', of which the test error says nothing"]
    result = train(INPUTS / "imbalanced.csv", target="y", hidden=4, steps=2, progress=False, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "run.jsonl").read_text().splitlines()]
    assert lines[0]["data"]["diagnosis"]["counts"] == {"training": [1, 95], "test": [0, 24]}
    assert lines[-1]["train_error"]["majority"] == pytest.approx(100 / 96)
    assert lines[-1]["test_error"]["majority"] == 0
    assert str(result.train_error).endswith("; the most frequent class alone 1.04 %)")


@pytest.mark.parametrize("options", [{"hidden": 4}, {"width": 64}])
def test_the_majority_is_that_of_the_training_rows(options):
    labels = np.array([0] * 30 + [1] * 45 + [2] * 25)
    data = Dataset("kinds", RNG.normal(size=(100, 3)), labels, "classification")
    problem, _ = build(data, Config(test_fraction=0.2, validation_fraction=0.1, **options))
    params = problem.init(0)
    for batch, total in ((problem.train, 72), (problem.validation, 8), (problem.test, 20)):
        y = np.asarray(batch[1]) if batch[1].ndim == 1 else np.argmax(batch[1], axis=1)
        error = problem.error(params, batch)
        assert (error.total, error.majority) == (total, pytest.approx(100 * np.mean(y != 1)))
    rare = np.flatnonzero(np.asarray(y) == 2)
    assert problem.error(params, tuple(np.asarray(a)[rare] for a in problem.test)).majority == 100


def test_fewer_parameters_than_rows_and_the_side_of_the_system():
    data = Dataset("long", RNG.normal(size=(1500, 3)), RNG.normal(size=1500))
    facts = head(data, width=8, normalize=True, validation_fraction=0.0)
    assert "24 parameters for 1200 outputs" in facts["rows"][0]
    assert facts["warning"][0].startswith("24 parameters cannot fit 1200 targets exactly")
    assert "factors a matrix of 1200 x 1200; --optimizer gauss-newton one of 24 x 24" in facts["hint"][0]
    assert "hint" not in head(data, width=8, normalize=True, optimizer="gauss-newton")


def test_mapped_files_are_not_looked_at(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(30, 3)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert head((x, RNG.normal(size=30)), width=64)["rows"] == ["not looked at, as x is a mapped file"]
    assert head((np.array(x), RNG.normal(size=30)), width=64)["rows"][0].startswith("all 24 rows distinct")


def test_a_run_that_halves_repeats_nothing():
    x = RNG.normal(size=(60, 3))
    result = train(Dataset("line", x, x @ [1.0, 2.0, 3.0]), test_fraction=0, steps=1, width=14, progress=False)
    assert result.problem.diagnosis.limits()[0].startswith("56 parameters cannot fit 60 targets")
    assert result.final_loss < 0.25 * result.initial_loss
    assert "From the data" not in told(result)
