"""`nearlin verify`: what it prints, writes and exits with, on a small table of claims of these tests' own."""

import json
import re

import numpy as np
import pytest

from nearlin._array import BackendError, unusable
from nearlin.complexity import asv_results
from nearlin.complexity import claims as table
from nearlin.complexity.asv_results import Curve, Run
from nearlin.complexity.claims.table import FAILS, HOLDS, OUT_OF_REGIME, Claim, Outcome, Series
from nearlin.experiments import folders, verification

pytest.importorskip("rich")
CliRunner = pytest.importorskip("click.testing").CliRunner
pytest.importorskip("matplotlib")
commands = pytest.importorskip("nearlin.experiments.commands")
claim_plots = pytest.importorskip("nearlin.experiments.claim_plots")

CURVE = Series("cost", (8, 16, 32), (np.float64(64.0), 256, 1024.0), (64, 256, 1024), "n", "flops")
STEPS = Series("ratio", (np.int64(0), 1, 2), (0.5, float("nan"), 0.4), None, "step", "ratio", "y")


def claim(id, outcome=None, how="count", family="cost, counted", **options):
    measure = outcome if callable(outcome) or outcome is None else lambda full: outcome
    statement, condition = "A product costs |m| n.", "any size"
    return Claim(
        id, 4, family, "arXiv:2006.11648, abstract", statement, "degree", how, "2, exactly", condition, measure, **options
    )


GOOD = claim("good", Outcome("2", HOLDS, "n = 8 ... 32", (CURVE,)))
BAD = claim("bad", Outcome("3", FAILS, "n = 8 ... 32", (CURVE,)))
KNOWN = claim("known-to-fail", Outcome("3", FAILS, "noise | drift"), should_hold=False)
EDGE = claim("edge", Outcome("?", OUT_OF_REGIME, "too narrow", (STEPS,)), how="convergence", family="outer loop")
TIMED = claim("timed", Outcome("1.0", HOLDS), how="time", family="times")
LATER = claim("later", None)
BROKEN = claim("broken", lambda full: 1 / 0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def claims(monkeypatch):
    """Put these claims in the place of the table."""
    return lambda *some: monkeypatch.setattr(table, "CLAIMS", some, raising=False)


def nearlin(*arguments):
    return CliRunner().invoke(commands.cli, [str(argument) for argument in arguments])


def test_every_claim_gets_a_verdict_a_report_and_a_plot(tmp_path, claims):
    claims(GOOD, KNOWN, EDGE, TIMED, LATER)
    done = nearlin("verify", "--out", "report")
    assert done.exit_code == 0, done.output
    for words in (
        "good",
        "2, exactly",
        "out of regime",
        "5 claims: 1 holds, 1 fails, 1 out of regime, 1 not measured, 1 not built",
    ):
        assert words in done.stdout
    assert "known-to-fail fails, as it is known to: noise | drift" in done.stdout
    assert "edge out of regime: too narrow" in done.stdout
    assert "not measured (timed: --full measures it, --from-asv judges what asv measured): timed" in done.stdout
    report = tmp_path / "report"
    plots = {"claims-cost-counted.png", "claims-outer-loop.png"}
    assert {path.name for path in report.glob("[!.]*")} == {"claims.json", "claims.md"} | plots  # and the lock
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in plots)


def test_the_json_report_holds_everything(tmp_path, claims):
    claims(GOOD, EDGE)
    assert nearlin("verify", "--out", "report").exit_code == 0
    content = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert (content["mode"], content["interrupted"]) == ("quick", False)
    good, edge = content["claims"]
    assert (good["id"], good["verdict"], good["value"], good["number"]) == ("good", "holds", "2", 4)
    assert good["series"][0]["y"] == [64.0, 256, 1024.0]
    assert good["series"][0]["predicted"] == [64, 256, 1024]
    assert edge["series"][0]["x"] == [0, 1, 2]
    assert edge["series"][0]["y"] == [0.5, None, 0.4]
    assert edge["series"][0]["log"] == "y"


def test_the_markdown_report_is_a_table_that_pipes_do_not_break(tmp_path, claims):
    claims(GOOD, KNOWN)
    assert nearlin("verify", "--out", "report").exit_code == 0
    text = (tmp_path / "report" / "claims.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {8}
    assert "**fails** (known)" in text
    assert "![cost, counted](claims-cost-counted.png)" in text
    assert "noise \\| drift" in text


@pytest.mark.parametrize(
    ("some", "code"), [((GOOD,), 0), ((GOOD, KNOWN, EDGE, LATER), 0), ((GOOD, BAD), 1), ((BROKEN,), 1)],
    ids=["holds", "known failure", "failure", "error"],
)  # fmt: skip
def test_only_a_claim_that_should_hold_makes_the_exit_code_1(claims, some, code):
    claims(*some)
    done = nearlin("verify")
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    if some == (BROKEN,):
        assert "the measurement failed: ZeroDivisionError: division by zero" in done.stdout


def test_full_and_only(claims):
    seen = []
    claims(GOOD, TIMED, claim("sized", lambda full: seen.append(full) or Outcome("", HOLDS)))
    done = nearlin("verify", "--full", "--only", "timed, sized")
    assert done.exit_code == 0, done.output
    assert "2 claims: 2 hold" in done.stdout
    assert seen == [True]


def test_a_second_report_gets_its_own_folder(tmp_path, claims):
    claims(GOOD)
    for _ in range(2):
        assert nearlin("verify").exit_code == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"verify-quick", "verify-quick-2"}


def test_interruption_leaves_a_report(tmp_path, claims):
    def interrupt(full):
        raise KeyboardInterrupt

    claims(GOOD, claim("stopped", interrupt), claim("next", Outcome("", FAILS)))
    done = nearlin("verify", "--out", "report")
    assert done.exit_code == 130, done.output
    assert "holds what was measured" in done.stderr
    content = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert content["interrupted"]
    assert [one["verdict"] for one in content["claims"]] == ["holds", "not measured", "not measured"]
    assert "interrupted" in (tmp_path / "report" / "claims.md").read_text()


def test_interruption_before_the_first_verdict_leaves_nothing(tmp_path, claims):
    def interrupt(full):
        raise KeyboardInterrupt

    claims(LATER, claim("stopped", interrupt), GOOD)
    done = nearlin("verify")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "\nInterrupted before the first verdict; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_each_file_of_a_report_may_fail_and_the_others_and_the_table_are_there(tmp_path, claims, monkeypatch):
    claims(GOOD)

    def broken(*_):
        raise OSError("disk full")

    whole = {"claims.json", "claims.md", "claims-cost-counted.png"}
    ways = {
        "claims.md": (verification, "write_atomically"),
        "claims.json": (folders, "write_json"),
        "claims-cost-counted.png": (claim_plots, "plot_claims"),
    }
    for missing, (room, name) in ways.items():
        with monkeypatch.context() as patch:
            patch.setattr(room, name, broken)
            done = nearlin("verify", "--out", f"without-{missing}")
        assert (done.exit_code, done.stderr) == (1, "")
        assert "1 claim: 1 holds" in done.stdout
        assert f"without-{missing}/{missing} could not be written: disk full." in done.stdout
        assert {path.name for path in (tmp_path / f"without-{missing}").glob("[!.]*")} == whole - {missing}


def test_another_backend_is_said_to_be_measured_on_numpy(claims):
    pytest.importorskip("array_api_strict")
    claims(GOOD)
    done = nearlin("verify", "--backend", "array_api_strict")
    assert done.exit_code == 0
    assert "measured on NumPy" in done.stderr


def asv_run(exponent, backend="numpy"):
    sizes = tuple(2**k for k in range(10, 18))
    curve = Curve(sizes, tuple(1e-6 * n**exponent for n in sizes), 0)
    return Run("desk", "abcdef1234", {("solvers.CG.time_cg", backend, ()): curve})


@pytest.mark.parametrize(("exponent", "code"), [(1, 0), (2, 1)])
def test_asv_results_are_judged(claims, monkeypatch, exponent, code):
    claims(GOOD)
    monkeypatch.setattr(asv_results, "read", lambda folder: asv_run(exponent, "cupy"))
    done = nearlin("verify", "--from-asv", "results", "--only", "cg-time", "--backend", "cupy", "--out", "report")
    assert done.exit_code == code, done.output
    assert f"exponent {exponent}.00" in done.stdout
    with open("report/claims.json") as file:
        assert json.load(file)["source"] == "asv results of machine desk, commit abcdef12, backend cupy"


BAD_INPUT = {
    "unknown id": (["--only", "god"], "unknown claim 'god'; did you mean 'good'?"),
    "no id": (["--only", " , "], "--only names no claim"),
    "unknown backend": (["--backend", "jax"], "unknown backend 'jax'"),
    "report there": (["--out", "old"], "holds an earlier run (claims.json)"),
    "folder below a file": (["--out", "file/report"], "cannot write into the folder"),
    "from-asv and full": (["--from-asv", ".", "--full"], "leave --quick and --full out"),
}
WITH_ASV = {
    "no results folder": (["--from-asv", "none"], "none does not exist"),
    "empty results folder": (["--from-asv", "."], "holds no results of nearlin's asv suites"),
}


@pytest.mark.parametrize("case", BAD_INPUT | WITH_ASV)
def test_bad_input_gets_one_sentence_and_exit_code_2(case, claims, tmp_path):
    if case in WITH_ASV:
        pytest.importorskip("asv")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "claims.json").touch()
    (tmp_path / "file").touch()
    before = set(tmp_path.rglob("*"))
    claims(GOOD)
    arguments, says = (BAD_INPUT | WITH_ASV)[case]
    done = nearlin("verify", *arguments)
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert set(tmp_path.rglob("*")) == before


def test_a_backend_without_a_device_is_refused(claims):
    if unusable("cupy") is None:
        pytest.skip("there is a device")
    claims(GOOD)
    done = nearlin("verify", "--backend", "cupy")
    assert (done.exit_code, "backend 'cupy' cannot be used" in done.stderr) == (2, True)
    with pytest.raises(BackendError, match="cannot be used"):
        verification.verify(backend="cupy")


def test_too_few_sizes_of_asv_are_an_error_of_the_input(claims, monkeypatch):
    claims(GOOD)
    run = asv_run(1)
    short = Run("desk", "c", {key: Curve(curve.sizes[:4], curve.seconds[:4], 0) for key, curve in run.curves.items()})
    monkeypatch.setattr(asv_results, "read", lambda folder: short)
    done = nearlin("verify", "--from-asv", "results")
    assert (done.exit_code, "4 sizes are too few" in done.stderr) == (2, True)


def test_counts_of_the_real_table_hold():
    found = verification.verify(["step-linear-in-width", "gram-quadratic-in-samples", "step-closed-form"])
    assert [result.verdict for result in found.results] == [HOLDS] * 3
    assert found.passed
    assert found.folder is None
