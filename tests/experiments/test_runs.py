"""Runs that lose nothing: whatever call of the file system fails, and whenever the process ends."""

import builtins
import contextlib
import errno
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import nearlin as nl
from nearlin.experiments import CheckpointError, Interrupted, checkpoint, fits, folders, locks, loop, train, training
from nearlin.experiments.locks import Taken

X, Y = nl.data.sphere(n=8, d=2, seed=1)
TINY = {"optimizer": "sgd", "width": 4, "steps": 2, "tol": 0, "test_fraction": 0, "progress": False}


def run(out, **more):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*could not be written")
        return train((X, Y), out=out, **TINY | more)


def kinds(log):
    return [line["kind"] for line in folders.read_lines(log)]


WHOLE = ["header", "step", "step", "end"]


class Killed(BaseException):
    """The process has ended: nothing after it takes place."""


class Disk:
    """A disk below ``root`` whose call ``at`` fails: ``"full"`` from then on, ``"broken"`` once, ``"dead"`` with the process."""

    def __init__(self, root, at=None, fault=None):
        self.root, self.at, self.fault, self.calls, self.held, self.open = str(root), at, fault, 0, [], {}

    def check(self, frees=False):
        """Count a call, and fail where it is its turn; what ``frees`` space works on a full disk."""
        self.calls += 1
        late = self.at is not None and self.calls >= self.at
        if late and self.fault == "dead":
            raise Killed
        if (self.fault == "broken" and self.calls == self.at) or (self.fault == "full" and late and not frees):
            code = errno.EIO if self.fault == "broken" else errno.ENOSPC
            raise OSError(code, os.strerror(code))

    @contextlib.contextmanager
    def mounted(self):
        """The calls of a run are those of this disk."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "fsync", "replace", "link", "unlink", "mkdir"):
                patch.setattr(os, name, self._checked(getattr(os, name), frees=name == "unlink"))
            patch.setattr(builtins, "open", self._opened(builtins.open))
            patch.setattr(locks, "hold", self._hold(locks.hold))
            yield
        for release in self.held:  # the operating system takes them from a process that has ended
            with contextlib.suppress(OSError):
                release()

    def _here(self, path):
        return self.open.get(path, False) if isinstance(path, int) else str(path).startswith(self.root)

    def _checked(self, call, frees):
        def checked(path, *arguments, **options):
            if self._here(path):
                self.check(frees)
            done = call(path, *arguments, **options)
            if call.__name__ == "open":
                self.open[done] = self._here(path)
            return done

        return checked

    def _opened(self, call):
        def opened(path, mode="r", *arguments, **options):
            counts = self._here(path) and mode[0] != "r"
            if counts:
                self.check()
            file = call(path, mode, *arguments, **options)
            self.open[file.fileno()] = counts
            return File(file, self) if counts else file

        return opened

    def _hold(self, call):
        def hold(folder):
            self.held.append(call(folder))
            return self.held[-1]

        return hold


class File:
    """A file of a `Disk`: a write that fails has written half."""

    def __init__(self, file, disk):
        self.file, self.disk = file, disk

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        try:
            self.disk.check()
        except BaseException:
            self.file.write(content[: len(content) // 2])
            raise
        return self.file.write(content)

    def writelines(self, lines):
        for line in lines:
            self.write(line)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The folder of the system for files that a run may write where its own cannot take them."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def reference():
    return train((X, Y), **TINY)


def attempts(tmp_path, fault, every):
    """Runs on disks that fail at the first call, the second, ..., to the last: folder, `Result` or None, and what was raised."""
    for at in itertools.count(1):
        out = tmp_path / f"{fault}{at}" / "run"
        disk, result, error = Disk(out.parent, at, fault), None, None
        with disk.mounted():
            try:
                result = run(out, checkpoint_every=every)
            except (OSError, Killed) as caught:
                error = caught
        if disk.calls < at:
            assert at > 80
            return
        yield out, result, error


def parts(folder):
    return list(folder.glob(".*.part"))


EVERY = pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.nightly)])


@pytest.mark.parametrize("fault", ["full", "broken"])
@EVERY
def test_a_disk_that_fails_at_any_call_costs_no_result(tmp_path, elsewhere, reference, fault, every):
    for out, result, error in attempts(tmp_path, fault, every):
        if error is not None:  # before the first step
            assert str(out) in str(error)
            assert not out.exists() or fault == "broken"
            assert run(out).steps == 2
            continue
        assert np.array_equal(result.params[0], reference.params[0])
        assert result.final_loss == reference.final_loss
        assert np.array_equal(checkpoint.load(result.checkpoint)["params"][0], result.params[0])
        assert (result.checkpoint.parent == out) or f"The checkpoint is {result.checkpoint}." in result.unwritten
        assert kinds(out / "run.jsonl") == WHOLE or any("run.jsonl could not be written" in one for one in result.unwritten)
        if result.unwritten:
            again = training.result_of(result.checkpoint.parent, (X, Y))
            assert (again.final_loss, again.ended, again.unwritten) == (reference.final_loss, "steps", ())
            assert kinds(again.log) == WHOLE
            assert parts(again.folder) == []


@EVERY
def test_a_process_that_ends_at_any_call_leaves_a_run_that_can_be_made_again(tmp_path, elsewhere, reference, every):
    for out, result, error in attempts(tmp_path, "dead", every):
        assert result is None
        assert isinstance(error, Killed)
        begun = len(folders.read_lines(out / "run.jsonl")) > 1
        if (out / "checkpoint.npz").exists():
            again = training.result_of(out, (X, Y))
            assert again.steps == checkpoint.load(again.checkpoint)["step"]
            if again.steps < 2:
                again = train((X, Y), resume=again.checkpoint, out=out, progress=False)
        else:
            again = run(folders.Free(out))
            assert again.folder == (out.with_name("run-2") if begun else out)  # what took no step is in nobody's way
        assert np.array_equal(again.params[0], reference.params[0])
        assert again.final_loss == reference.final_loss
        assert kinds(again.log) == (WHOLE if again.ended == "steps" else WHOLE[:-1])
        assert parts(again.folder) == []
    assert list(elsewhere.iterdir()) == []


def test_nothing_is_left_of_what_is_interrupted_before_the_first_step(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "_step", interrupted)
    with pytest.raises(Interrupted, match="Interrupted before the first step; nothing was written"):
        run(tmp_path / "runs" / "one")
    with pytest.raises(KeyboardInterrupt):
        training.run((X, Y), {"width": 4}, out=tmp_path / "runs" / "one", announce=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_after_the_last_step_changes_nothing(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def live(trainer, progress):
        yield lambda record: None
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_live", live)
    try:
        result = run(tmp_path / "run")
    except Interrupted as interrupted:
        result = interrupted.result
    assert (result.ended, kinds(result.log)) == ("steps", WHOLE)


def test_a_complete_run_is_made_again_by_resuming_it_or_by_report(tmp_path):
    first = run(tmp_path / "run")
    text = first.log.read_text()
    for again in (
        lambda: training.result_of(first.folder, (X, Y)),
        lambda: train((X, Y), resume=first.checkpoint, out=first.folder, progress=False),
    ):
        first.log.write_text("".join(text.splitlines(keepends=True)[:-1]))
        result = again()
        assert (result.message, result.ended) == (first.message, "steps")
        assert first.log.read_text() == text
    assert train((X, Y), resume=first.checkpoint, steps=3, out=first.folder, progress=False).steps == 3
    with pytest.raises(CheckpointError, match=r"none has no checkpoint\.npz"):
        training.result_of(tmp_path / "none")


@pytest.mark.usefixtures("pictures")
def test_each_part_of_the_end_may_fail_and_the_others_happen(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("rich")

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    def wrong(*arguments):
        raise RuntimeError("no picture")

    monkeypatch.setattr(fits, "plot_fit", wrong)
    result = run(tmp_path / "run")
    assert result.unwritten == (f"{tmp_path / 'run' / 'fit.png'} could not be written: RuntimeError: no picture.",)
    assert (kinds(result.log), result.plot.exists(), result.checkpoint.exists()) == (WHOLE, True, True)
    result.print()
    assert "run.png" in (wrote := next(line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote ")))
    assert "fit.png" not in wrote
    monkeypatch.setattr(checkpoint, "save", full)
    result = run(tmp_path / "other")
    assert result.checkpoint is None
    assert sum("checkpoint.npz could not be written: No space left on device." in one for one in result.unwritten) == 3
    assert (kinds(result.log), result.plot.exists()) == (WHOLE, True)


def test_a_folder_is_one_process_s_at_a_time(tmp_path):
    with folders.claimed(tmp_path / "a", "mark") as folder:
        with pytest.raises(Taken, match=r"another process works in the folder .*a; wait for its end, or choose another"):
            run(folder)
        with folders.claimed(folders.Free(folder), "mark") as other:
            assert other == tmp_path / "a-2"
    assert list(tmp_path.iterdir()) == []
    done = run(tmp_path / "b")
    held = locks.hold(done.folder)
    with pytest.raises(Taken, match="another process works"):
        train((X, Y), resume=done.checkpoint, steps=3, out=done.folder, progress=False)
    held()


def test_a_run_that_needs_no_step_is_written_too(tmp_path):
    result = train((X, Y), out=tmp_path / "run", **TINY | {"tol": 1.0})
    assert (result.ended, result.steps) == ("converged", 0)
    assert (kinds(result.log), checkpoint.load(result.checkpoint)["step"]) == (["header", "end"], 0)


def test_what_a_process_wrote_between_a_look_and_the_lock_is_seen(tmp_path, monkeypatch):
    hold = locks.hold
    monkeypatch.setattr(locks, "hold", lambda folder: (folder / "mark").touch() or hold(folder))
    with pytest.raises(Taken, match="holds an earlier run"), folders.claimed(tmp_path / "a", "mark"):
        pass


@pytest.mark.parametrize("why", ["missing", errno.ENOLCK])
def test_without_locks_a_file_with_host_and_process_stands_for_one(tmp_path, monkeypatch, why):
    filelock = pytest.importorskip("filelock")

    def refused(*arguments, **options):
        raise OSError(why, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refused)
    if why == "missing":
        monkeypatch.setitem(sys.modules, "filelock", None)
    release = locks.hold(tmp_path)
    with pytest.raises(
        Taken, match=rf"\.claim says that process {os.getpid()} on .+ works in this folder; if that one has ended"
    ):
        locks.hold(tmp_path)
    release()
    assert not (tmp_path / ".claim").exists()
    locks.hold(tmp_path)()


def test_starts_at_the_same_time_take_folders_of_their_own(tmp_path):
    """Three processes that begin with one name; each waits for the file that starts them."""
    code = (
        "import os, sys, time; from nearlin.experiments import folders\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with folders.claimed(folders.Free('run'), 'mark') as folder: (folder / 'mark').write_text(str(os.getpid()))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    found = sorted(int((tmp_path / name / "mark").read_text()) for name in ("run", "run-2", "run-3"))
    assert found == sorted(process.pid for process in started)


def test_equal_threads_resume_to_the_bit_and_others_warn(tmp_path):
    options = {"optimizer": "gram-gauss-newton", "width": 256}
    with threadpool_limits(2, user_api="blas"):
        half = run(tmp_path / "run", **options)
        whole = run(None, **options, steps=4)
        rest = train((X, Y), resume=half.checkpoint, steps=4, progress=False)
    assert np.array_equal(rest.params[0], whole.params[0])
    assert set(checkpoint.load(half.checkpoint)["header"]["threads"].values()) == {2}
    with pytest.warns(UserWarning, match=r"checkpoint\.npz may differ in the last bits: .+ has 1 threads, and had 2") as said:
        train((X, Y), resume=half.checkpoint, steps=4, progress=False)
    assert len(said) == 1
    with pytest.warns(UserWarning, match="openblas 3 computes, and mkl 1 did"):
        training._compare_threads(half.checkpoint, {"mkl 1": 1}, {"openblas 3": 1})


def test_the_documented_save_makes_what_resume_and_predict_take(tmp_path):
    done = run(tmp_path / "run")
    path = tmp_path / "own.npz"
    checkpoint.save(
        path,
        params=done.params,
        state=done.state,
        step=done.steps,
        seed=done.config.seed,
        config=done.config.to_dict(),
        preprocessing=done.problem.preprocessing.to_dict(),
        header=folders.read_lines(done.log)[0],
        records=done.records,
    )
    assert np.array_equal(nl.experiments.predict(path, X).values, done.predict(X))
    whole = run(None, steps=4)
    assert np.array_equal(train((X, Y), resume=path, steps=4, progress=False).params[0], whole.params[0])


@pytest.mark.usefixtures("pictures")
def test_report_prints_and_draws_again(tmp_path):
    pytest.importorskip("matplotlib")
    testing, commands = pytest.importorskip("click.testing"), pytest.importorskip("nearlin.experiments.commands")
    np.savez(tmp_path / "xy.npz", x=X, y=Y)
    first = train(tmp_path / "xy.npz", out=tmp_path / "run", optimizer="sgd", width=4, steps=2, progress=False)
    first.plot.unlink()
    done = testing.CliRunner().invoke(commands.cli, ["report", str(first.folder)])
    assert done.exit_code == 0, done.output
    assert first.message in done.stdout
    assert first.plot.exists()
    missing = testing.CliRunner().invoke(commands.cli, ["report", str(tmp_path / "none")])
    assert (missing.exit_code, missing.stderr) == (2, f"Error: {pathlib.Path(tmp_path / 'none')} has no checkpoint.npz\n")
