"""The command line: what a stranger types, and what they read."""

import json
import subprocess
import sys

import numpy as np
import pytest

import nearlin as nl

pytest.importorskip("rich")
CliRunner = pytest.importorskip("click.testing").CliRunner
cli = pytest.importorskip("nearlin.experiments.commands").cli
SMALL = ["--width", "128", "--steps", "3"]
X, Y = nl.data.sphere(n=24, d=3, seed=1)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """A folder of files to name, as the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = np.column_stack([X, Y]).tolist()
    (tmp_path / "h.csv").write_text("a,b,c,y\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    (tmp_path / "empty.csv").touch()
    (tmp_path / "nan.csv").write_text("a,y\n1,2\nnan,3\n")
    (tmp_path / "one.csv").write_text("a,b,y\n1,2,3\n")
    (tmp_path / "const.csv").write_text("a,b,y\n1,2,3\n3,4,3\n5,1,3\n7,0,3\n")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "xy.npz", x=X, y=Y)


def nearlin(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("pictures")
def test_train_writes_tells_and_resumes(tmp_path):
    done = nearlin("train", "h.csv", "--target", "y", *SMALL)
    assert done.exit_code == 0, done.output
    for word in ("contraction", "inner", "true res.", "fresh", "RMSE", "Took all 3 steps", "NeuronSigns"):
        assert word in done.stdout
    run = tmp_path / "runs" / "h-near-linear-gauss-newton-0"
    written = ["checkpoint.npz", "curvature.png", "fit.png", "run.jsonl", "run.png"]
    assert sorted(path.name for path in run.glob("[!.]*")) == written
    more = nearlin("train", "--resume", run / "checkpoint.npz", "--steps", 5)
    assert more.exit_code == 0, more.output
    assert "at step 3" in more.stdout
    whole = nearlin("train", "h.csv", "--target", "y", "--width", 128, "--steps", 5)
    assert whole.exit_code == 0, whole.output
    again = tmp_path / "runs" / "h-near-linear-gauss-newton-0-2"
    ends = [json.loads((folder / "run.jsonl").read_text().splitlines()[-1]) for folder in (run, again)]
    assert ends[0]["final_loss"] == ends[1]["final_loss"]


def test_an_option_that_is_given_explicitly_must_agree_even_if_it_is_the_default():
    assert nearlin("train", "xy.npz", *SMALL, "--out", "run").exit_code == 0
    refused = nearlin("train", "--resume", "run/checkpoint.npz", "--steps", 4, "--width", 8192)
    assert refused.exit_code == 2
    assert "width is 8192 here and 128 in the checkpoint" in refused.stderr


def test_compare_and_predict(tmp_path):
    done = nearlin("compare", "xy.npz", "--optimizers", "gram-gauss-newton,adam", "--lr", "adam=0.01", *SMALL)
    assert done.exit_code == 0, done.output
    assert "gram-gauss-newton" in done.stdout
    assert (tmp_path / "runs" / "compare-xy-0" / "compare.png").exists()
    assert nearlin("train", "h.csv", "--target", "y", *SMALL, "--out", "run").exit_code == 0
    done = nearlin("predict", "run/checkpoint.npz", "h.csv", "--target", "y", "--out", "p.csv")
    assert done.exit_code == 0, done.output
    assert "Wrote 24 predictions to p.csv" in done.stdout
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 25


def test_named_data():
    pytest.importorskip("sklearn")
    done = nearlin("train", "digits-4v9", "--width", 1024)
    assert done.exit_code == 0, done.output
    assert "Converged" in done.stdout
    assert "did not halve" not in done.stdout


def test_info_and_version():
    done = nearlin("info")
    assert done.exit_code == 0
    for word in ("numpy", "backend cupy", "BLAS threads", "cores"):
        assert word in done.stdout
    assert nl.__version__ in nearlin("--version").stdout


@pytest.mark.parametrize("command", [[], ["train"], ["compare"], ["predict"], ["info"]])
def test_help(command):
    done = nearlin(*command, "--help")
    assert done.exit_code == 0
    assert "nearlin" in done.stdout


BAD = {
    "no data": (["train"], "name the DATA"),
    "unknown data": (["train", "digitz"], "did you mean 'digits'"),
    "missing file": (["train", "no.csv"], "does not exist"),
    "empty file": (["train", "empty.csv", "--target", "y"], "is empty"),
    "nan": (["train", "nan.csv", "--target", "y"], "line 3, column 'a'"),
    "no target": (["train", "h.csv"], "the columns are a, b, c, y"),
    "missing column": (["train", "h.csv", "--target", "z"], "no column 'z'"),
    "one sample": (["train", "one.csv", "--target", "y"], "has 1 row; expected at least 2 to train on"),
    "one sample, all of it": (["train", "one.csv", "--target", "y", "--test-fraction", "0"], "has 1 row; expected at least 2"),
    "truncated": (["train", "cut.npz"], "truncated"),
    "optimizer": (["train", "xy.npz", "--optimizer", "sdg"], "did you mean 'sgd'"),
    "no such hyper-parameter": (["train", "xy.npz", "--optimizer", "sgd", "--epsilon", ".1"], "sgd has no epsilon"),
    "epsilon": (["train", "xy.npz", "--epsilon", "3"], "epsilon is 3.0"),
    "width": (["train", "xy.npz", "--width", "0"], "--width"),
    "far too wide": (["train", "xy.npz", "--width", "1000000000000"], "expected a smaller width"),
    "steps": (["train", "xy.npz", "--steps", "0"], "--steps"),
    "fraction": (["train", "xy.npz", "--test-fraction", "1"], "--test-fraction"),
    "tol": (["train", "xy.npz", "--tol", "-1"], "--tol"),
    "batch": (["train", "xy.npz", "--batch-size", "100"], "the training set has 19 rows"),
    "half": (["train", "xy.npz", "--dtype", "float16"], "half precision"),
    "backend": (["train", "xy.npz", "--backend", "jax"], "unknown backend 'jax'"),
    "activation": (["train", "xy.npz", "--activation", "gelu"], "--activation"),
    "folder below a file": (["train", "xy.npz", "--out", "h.csv/run"], "cannot write into the folder"),
    "no checkpoint": (["train", "--resume", "no.npz"], "does not exist"),
    "foreign checkpoint": (["train", "--resume", "xy.npz"], "not a nearlin checkpoint"),
    "truncated checkpoint": (["train", "--resume", "cut.npz"], "truncated"),
    "unknown option": (["train", "xy.npz", "--wdith", "3"], "No such option"),
    "compare: unknown": (["compare", "xy.npz", "--optimizers", "adam,sdg"], "did you mean 'sgd'"),
    "compare: lr": (["compare", "xy.npz", "--lr", "adam=fast"], "not a number"),
    "predict: foreign": (["predict", "xy.npz", "xy.npz", "--out", "p.csv"], "not a nearlin checkpoint"),
    "predict: suffix": (["predict", "xy.npz", "xy.npz", "--out", "p.txt"], "suffix '.txt'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_exit_code_2(case, tmp_path):
    arguments, says = BAD[case]
    before = {path.name for path in tmp_path.rglob("*")}
    done = nearlin(*arguments)
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.output
    assert {path.name for path in tmp_path.rglob("*")} == before


def test_a_run_that_blows_up_has_exit_code_1():
    done = nearlin("train", "xy.npz", "--optimizer", "sgd", "--lr", "1e200", *SMALL)
    assert done.exit_code == 1, done.output
    assert "no longer finite" in done.stdout


def test_warnings_are_one_line():
    done = nearlin("train", "const.csv", "--target", "y", *SMALL)
    assert done.exit_code == 0, done.output
    assert done.stderr == "Warning: const.csv: all training targets are 3; they are centred but not scaled\n"


def test_debug_shows_the_error():
    done = nearlin("--debug", "train", "no.csv")
    assert isinstance(done.exception, nl.data.DataError)


def test_importing_nearlin_imports_nothing_heavy():
    heavy = ["click", "rich", "matplotlib", "sklearn", "torch", "cupy"]
    ask = "print([name for name in {} if name in sys.modules])"
    script = f"import sys, nearlin; {ask.format([*heavy, 'numpy', 'email'])}; import nearlin.experiments; {ask.format(heavy)}"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.split() == ["[]", "[]"]


def test_without_click_the_extra_is_named():
    script = "import sys; sys.modules['click'] = None; from nearlin.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == 'Error: the command line needs click, which is missing: pip install "nearlin[cli]"\n'
