"""Ctrl-C leaves what the live line says that it would, in every command; and nothing that is being written is broken by it."""

import contextlib
import itertools
import json
import re
import shlex
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import Interrupted, checkpoint, comparison, folders, loop, train, training, tuning, verification

X, Y = nl.data.sphere(n=8, d=2, seed=1)
TINY = {"width": 4, "steps": 3, "tol": 0, "test_fraction": 0}
CLAIMS = ("gram-quadratic-in-samples", "step-linear-in-width")


@pytest.fixture
def interrupted_at(monkeypatch):
    """Ctrl-C at the k-th time that a live line changes, 0: before any; the list of what the line promised."""

    def at(room, k):
        said, calls = [], itertools.count(1)

        @contextlib.contextmanager
        def bar(total, counter, promise, completed=0, shown=True):
            def show(*what):
                said.append(promise())
                if next(calls) == k:
                    raise KeyboardInterrupt

            said.append(promise())
            if k == 0:
                raise KeyboardInterrupt
            yield show

        monkeypatch.setattr(room, "bar", bar)
        return said

    return at


def promised(sentence):
    """The file in which a promise says that things will be, or None."""
    found = re.search(r"leaves .+? in (.+?)(, for --resume)?$", sentence)
    return found and Path(*shlex.split(found[1]))


@pytest.mark.parametrize("k", [0, 1, 2])
def test_train_keeps_the_complete_steps(tmp_path, interrupted_at, k):
    said = interrupted_at(loop, k)
    with pytest.raises(Interrupted) as caught:
        train((X, Y), out=tmp_path / "my run", optimizer="sgd", **TINY)
    if k == 0:
        assert said == ["Ctrl-C ends the run before its first step, and leaves nothing"]
        assert list(tmp_path.iterdir()) == []
        return
    path = promised(said[-1])
    assert checkpoint.load(path)["step"] == k == caught.value.result.steps
    rest, whole = (train((X, Y), progress=False, **one) for one in ({"resume": path}, {"optimizer": "sgd", **TINY}))
    assert np.array_equal(rest.params[0], whole.params[0])


def test_train_without_a_folder_raises_the_complete_steps(interrupted_at):
    said = interrupted_at(loop, 2)
    with pytest.raises(Interrupted) as caught:
        train((X, Y), optimizer="sgd", **TINY)
    assert said[-1] == "Ctrl-C ends the run; the exception that it raises holds the complete steps"
    assert len(caught.value.result.records) == 2


@pytest.mark.parametrize("k", [1, 3, 5])
def test_compare_keeps_all_steps(tmp_path, interrupted_at, k):
    said = interrupted_at(comparison, k)
    with pytest.raises(KeyboardInterrupt, match="what was done is in"):
        comparison.compare((X, Y), ["sgd", "adam"], out=tmp_path / "my run", **TINY)
    content = json.loads(promised(said[-1]).read_text())
    assert sum(len(run["records"]) for runs in content.values() for run in runs) == k


def test_compare_leaves_nothing_before_its_first_step(tmp_path, monkeypatch):
    def pressed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(nl.optim.SGD, "step", pressed)
    with pytest.raises(KeyboardInterrupt, match=r"Interrupted in sgd after 0 complete steps; nothing was written$"):
        comparison.compare((X, Y), ["sgd", "adam"], out=tmp_path / "my run", progress=False, **TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("room", "call", "says"),
    [(comparison, comparison.compare, "steps; nothing was written"), (tuning, tuning.tune, "runs")],
    ids=["compare", "tune"],
)
def test_who_was_to_run_first_is_named(tmp_path, interrupted_at, room, call, says):
    interrupted_at(room, 0)
    with pytest.raises(KeyboardInterrupt, match=f"Interrupted in sgd after 0 complete {says}$"):
        call((X, Y), ["sgd", "adam"], out=tmp_path / "my run", **TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("k", [4, 8])
def test_tune_keeps_the_complete_runs(tmp_path, interrupted_at, k):
    said = interrupted_at(tuning, k)
    with pytest.raises(KeyboardInterrupt, match="complete runs; they are in"):
        tuning.tune((X, Y), ["sgd"], out=tmp_path / "my run", **TINY)
    content = json.loads(promised(said[-1]).read_text())
    assert len(content["optimizers"]["sgd"]["runs"]) == (k - 1) // 3


def test_verify_keeps_what_was_measured(tmp_path, interrupted_at):
    pytest.importorskip("matplotlib")
    said = interrupted_at(verification, 2)
    assert verification.verify(CLAIMS, out=tmp_path / "my run").interrupted
    verdicts = [claim["verdict"] for claim in json.loads(promised(said[-1]).read_text())["claims"]]
    assert verdicts == ["holds", "not measured"]


def test_verify_leaves_nothing_before_its_first_verdict(tmp_path, interrupted_at):
    said = interrupted_at(verification, 1)
    found = verification.verify(CLAIMS, out=tmp_path / "my run")
    assert (found.interrupted, found.folder, found.files) == (True, None, ())
    assert said[-1].endswith("leaves nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("room", "call", "count"),
    [(comparison, comparison.compare, 2), (tuning, partial(tuning.tune, runs=2), 4)],
    ids=["compare", "tune"],
)
def test_a_live_line_goes_on_from_run_to_run(monkeypatch, room, call, count):
    done, show = [], contextlib.nullcontext(lambda completed, text: done.append(completed))
    monkeypatch.setattr(room, "bar", lambda *given, **more: show)
    call((X, Y), ["sgd", "adam"], **TINY)
    assert done == pytest.approx([k / 3 for k in range(1, 3 * count + 1)])


def test_without_a_folder_the_rest_say_that_all_is_lost(interrupted_at):
    for room, call in (
        (comparison, lambda: comparison.compare((X, Y), ["sgd"], **TINY)),
        (tuning, lambda: tuning.tune((X, Y), ["sgd"], **TINY)),
    ):
        said = interrupted_at(room, 1)
        with pytest.raises(KeyboardInterrupt):
            call()
        assert promised(said[-1]) is None
        assert said[-1].endswith("and loses all runs, as no folder was given")


def test_a_measurement_leaves_nothing(tmp_path, interrupted_at, monkeypatch):
    runner, commands = pytest.importorskip("click.testing"), pytest.importorskip("nearlin.experiments.commands")
    monkeypatch.chdir(tmp_path)
    said = interrupted_at(commands, 1)
    done = runner.CliRunner().invoke(commands.cli, ["info", "--measure", "--out", "rates.json"])
    assert (done.exit_code, said[-1]) == (130, "Ctrl-C ends the measurement, and leaves nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="needs signals")
def test_ctrl_c_does_not_break_what_is_being_written(tmp_path, monkeypatch):
    """Ctrl-C comes in the middle of every file, twice."""
    pytest.importorskip("matplotlib")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    write = folders.write_atomically

    def pressed(path, write_it):
        signal.raise_signal(signal.SIGINT)
        write(path, lambda file: (write_it(file), signal.raise_signal(signal.SIGINT)))

    monkeypatch.setattr(folders, "write_atomically", pressed)
    monkeypatch.setattr(verification, "write_atomically", pressed)
    try:
        with pytest.raises(KeyboardInterrupt):
            pressed(tmp_path / "control", lambda file: None)
        comparison.compare((X, Y), ["sgd"], out=tmp_path / "a", progress=False, **TINY)
        tuning.tune((X, Y), ["sgd"], runs=2, out=tmp_path / "b", progress=False, **TINY)
        verification.verify(CLAIMS[:1], out=tmp_path / "c", progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    for name in ("a/compare.json", "b/tune.json", "c/claims.json"):
        assert json.loads((tmp_path / name).read_text())
    assert list(tmp_path.rglob(".*.part")) == []


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_ends_a_run_of_one_process_within_its_step(monkeypatch, name):
    number, step = getattr(signal, name), nl.optim.SGD.step
    before = signal.signal(number, signal.default_int_handler)
    monkeypatch.setattr(nl.optim.SGD, "step", lambda *given, **more: (signal.raise_signal(number), step(*given, **more))[1])
    try:
        with pytest.raises(Interrupted) as caught:
            train((X, Y), optimizer="sgd", progress=False, **TINY)
    finally:
        signal.signal(number, before)
    assert caught.value.result.steps == 0


def test_what_heard_ctrl_c_before_hears_it_afterwards():
    def own(*given):
        raise AssertionError

    before = signal.signal(signal.SIGINT, own)
    try:
        with folders.shielded():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        train((X, Y), optimizer="sgd", progress=False, **TINY)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [None, signal.SIG_IGN], ids=["not of Python", "ignored"])
def test_handlers_that_are_not_to_be_replaced_stay(monkeypatch, handler):
    before, look = signal.getsignal(signal.SIGINT), signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: handler)
    with folders.heard_by(lambda *given: None):
        assert look(signal.SIGINT) is before
    assert look(signal.SIGINT) is before


def test_a_disk_that_is_full_costs_no_comparison_and_no_search(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_json", full)
    compared = comparison.compare((X, Y), ["sgd"], out=tmp_path / "a", progress=False, **TINY)
    assert (len(compared.runs["sgd"][0].records), compared.json) == (3, None)
    assert compared.unwritten == (f"{tmp_path / 'a' / 'compare.json'} could not be written: No space left on device.",)
    tuned = tuning.tune((X, Y), ["sgd"], runs=2, out=tmp_path / "b", progress=False, **TINY)
    assert (len(tuned.searches["sgd"].runs), tuned.path) == (2, None)
    assert tuned.unwritten == (f"{tmp_path / 'b' / 'tune.json'} could not be written: No space left on device.",)


def test_the_promise_of_a_run_that_goes_on_holds_from_the_start(tmp_path, interrupted_at):
    done = train((X, Y), out=tmp_path / "my run", optimizer="sgd", progress=False, **TINY)
    said = interrupted_at(loop, 0)
    with pytest.raises(Interrupted):
        training.run((X, Y), {"steps": 5}, resume=done.checkpoint, out=done.folder)
    assert checkpoint.load(promised(said[0]))["step"] == 3
