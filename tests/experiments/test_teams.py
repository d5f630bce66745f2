"""Runs of several ranks: threads that train together beside one, and what they compare before they begin."""

import io
import json
import re
import shutil
import threading
import types

import numpy as np
import pytest

import nearlin as nl
from nearlin.experiments import Team, checkpoint, teams, train

DRAW = np.random.default_rng(0)
X, Y = DRAW.standard_normal((60, 5)), DRAW.standard_normal((60, 2))
HOW = {"hidden": (7,), "activation": "tanh", "optimizer": "kfac", "lr": 0.1, "batch_size": 16, "test_fraction": 0.2, "tol": 0}


def on(P, by="samples", data=(X, Y), **more):
    """The results of all ranks, and their records without times."""
    options = {**HOW, **more}

    def work(ranks):
        return train(data, progress=False, team=Team(by, ranks), **options)

    return nl.together(P, work)


def alone(**more):
    return train((X, Y), progress=False, **{**HOW, **more})


def losses(result):
    return np.array([[r["loss"], np.nan if r["loss_after"] is None else r["loss_after"]] for r in result.records])


def near(found, wanted):
    assert found.ended == wanted.ended
    assert np.allclose(losses(found), losses(wanted), rtol=1e-12, equal_nan=True)
    assert all(np.linalg.norm(W - V) < 1e-12 * np.linalg.norm(V) for W, V in zip(found.params, wanted.params, strict=True))
    assert found.test_error.value == pytest.approx(wanted.test_error.value, rel=1e-12)
    assert found.final_loss == pytest.approx(wanted.final_loss, rel=1e-12)


@pytest.mark.parametrize("P", [2, 3])
@pytest.mark.parametrize("more", [{}, {"batch_size": "all", "optimizer": "gauss-newton", "lr": 1.0}], ids=["mini-batches", "all"])
def test_a_run_of_several_ranks_is_that_of_one(P, more):
    more = {**more, "settings": (("plan", "kfac"),)} if more else more
    wanted = alone(steps=5, **more)
    for found in on(P, steps=5, **more):
        near(found, wanted)


def test_a_rank_reads_its_own_rows_of_a_mini_batch_alone():
    taken = []

    def work(ranks):
        team = Team("samples", ranks)
        problem = types.SimpleNamespace(
            objective=nl.nn.by_samples(nl.nn.Objective(nl.nn.MLP((5, 3, 2)), nl.nn.SquaredLoss()), ranks)
        )
        batches = nl.experiments.Problem.batches(
            types.SimpleNamespace(train=(X, Y), objective=problem.objective, recipe=False, augment=False), 16, 0
        )
        x, y = batches(3)
        assert team.several
        taken.append((ranks.rank, x.x, x.own))
        return y

    ys = nl.together(3, work)
    whole = nl.experiments.problems.Batches((X, Y), 16, 0)(3)
    assert all(np.array_equal(y, whole[1]) for y in ys)
    assert [len(x) for _, x, _ in sorted(taken, key=lambda one: one[0])] == [4, 4, 4]
    assert np.array_equal(np.concatenate([x for _, x, _ in sorted(taken, key=lambda one: one[0])]), whole[0])


def test_rank_0_writes_one_log_and_one_checkpoint(tmp_path):
    results = on(3, steps=5, out=tmp_path / "run", checkpoint_every=2)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "checkpoint.npz", "run.jsonl"]
    head, *lines = map(json.loads, (tmp_path / "run" / "run.jsonl").read_text().splitlines())
    assert [line["kind"] for line in lines] == ["step"] * 5 + ["end"]
    assert head["ranks"]["by"] == "samples"
    assert [one["rank"] for one in head["ranks"]["processes"]] == [0, 1, 2]
    assert {"pid", "host", "threads"} < set(head["ranks"]["processes"][0])
    assert all(len(result.waited) == 3 and min(result.waited) >= 0 for result in results)
    assert {result.checkpoint for result in results} == {tmp_path / "run" / "checkpoint.npz"}


def test_a_run_goes_on_with_other_numbers_of_ranks(tmp_path):
    wanted, out = alone(steps=9), tmp_path / "run"
    on(2, steps=3, out=out)
    for P, steps in ((3, 6), (1, 9)):
        assert checkpoint.load(out / "checkpoint.npz")["step"] == steps - 3

        def work(ranks, steps=steps):
            return train((X, Y), resume=out / "checkpoint.npz", steps=steps, out=out, progress=False, team=Team("samples", ranks))

        found = nl.together(P, work)[0]
    near(found, wanted)


WIDE = {"width": 100, "tol": 0, "test_fraction": 0.2}


def wide(P, **more):
    """As `on`, of the two-layer network by neurons; all weights."""

    def work(ranks):
        result = train((X, Y[:, 0]), progress=False, team=Team("neurons", ranks), **{**WIDE, **more})
        return result, result.params[0].whole()

    return nl.together(P, work)


@pytest.mark.parametrize("optimizer", ["near-linear-gauss-newton", "adam"])
def test_neurons_go_on_with_other_numbers_of_ranks(optimizer, tmp_path):
    """Two, three, one that splits, one that does not; every rank writes its rows beside the checkpoint, and no others stay."""
    wanted = train((X, Y[:, 0]), progress=False, optimizer=optimizer, steps=7, **WIDE)
    out, path = tmp_path / "run", tmp_path / "run" / "checkpoint.npz"
    wide(2, optimizer=optimizer, steps=2, out=out)
    for P, steps in ((3, 4), (1, 6)):
        resumed = lambda ranks, steps=steps: train(  # noqa: E731
            (X, Y[:, 0]), resume=path, steps=steps, out=out, progress=False, team=Team("neurons", ranks)
        )
        found = nl.together(P, resumed)
        assert len(found[0].records) == steps
        assert len(list(out.glob("checkpoint.npz.*"))) == (P if P > 1 else 0)
    found = train((X, Y[:, 0]), resume=path, steps=7, out=out, progress=False)
    assert np.linalg.norm(found.params[0] - wanted.params[0]) < 1e-12 * np.linalg.norm(wanted.params[0])
    for P in (2, 1):
        nl.together(P, lambda ranks: train(resume=path, data=(X, Y[:, 0]), steps=9, progress=False, team=Team("neurons", ranks)))


@pytest.mark.parametrize("share", [1, 2])
def test_inputs_that_a_state_keeps_are_told_from_weights_of_their_shape(share, tmp_path):
    """Rows as many as neurons, of a rank or of all: the preconditioner's inputs stay whole."""
    x, y = nl.data.sphere(n=64 // share, d=4, seed=0)
    more = {"optimizer": "near-linear-gauss-newton", "width": 64, "tol": 0, "test_fraction": 0, "progress": False}
    wanted, path = train((x, y), steps=6, **more).params[0], tmp_path / "run" / "checkpoint.npz"
    begin = lambda ranks: train((x, y), steps=3, out=path.parent, team=Team("neurons", ranks), **more)  # noqa: E731

    def resumed(ranks):
        return train((x, y), resume=path, steps=6, progress=False, team=Team("neurons", ranks)).params[0].whole()

    for P in (2, 1):
        nl.together(P, begin)
        for Q in (1, 2):
            assert np.linalg.norm(nl.together(Q, resumed)[0] - wanted) < 1e-12 * np.linalg.norm(wanted)
        shutil.rmtree(path.parent)
    train((x, y), steps=3, out=path.parent, **more)
    if share == 1:
        with pytest.raises(ValueError, match="as many neurons as samples in a batch, 64, cannot go on by neurons"):
            nl.together(2, resumed)
    else:
        assert np.linalg.norm(nl.together(2, resumed)[0] - wanted) < 1e-12 * np.linalg.norm(wanted)


def test_what_others_have_left_beside_a_checkpoint_stays(tmp_path):
    path = tmp_path / "run" / "checkpoint.npz"
    wide(2, optimizer="adam", steps=2, out=path.parent)
    kept = [path.with_name(f"checkpoint.npz.{name}") for name in ("2026-11-27", "best-1")]
    for one in kept:
        shutil.copy(path, one)
    resumed = lambda ranks: train(  # noqa: E731
        (X, Y[:, 0]), resume=path, steps=4, out=path.parent, progress=False, team=Team("neurons", ranks)
    )
    nl.together(2, resumed)
    assert all(one.exists() for one in kept)
    assert len(list(path.parent.glob("checkpoint.npz.*"))) == 2 + len(kept)


def test_a_checkpoint_of_several_ranks_is_read_by_one_and_its_parts_are_its_own(tmp_path):
    (_, weights), *_ = wide(3, optimizer="adam", steps=2, out=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.npz"
    assert np.array_equal(checkpoint.load(path)["params"][0], weights)
    first, second, _ = sorted(path.parent.glob("checkpoint.npz.*"))
    other = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(checkpoint.CheckpointError, match="is damaged: it holds something else than what was written"):
        checkpoint.load(path)
    first.write_bytes(other[:200])
    with pytest.raises(checkpoint.CheckpointError, match="a part of a checkpoint, is missing, truncated or damaged"):
        checkpoint.load(path)
    first.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="is missing"):
        checkpoint.load(path)


def test_a_rank_that_cannot_write_its_rows_is_named_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    from nearlin.experiments import archive

    wide(2, optimizer="adam", steps=2, out=tmp_path / "run")
    path, write = tmp_path / "run" / "checkpoint.npz", archive.write_atomically

    def full(target, work):
        if str(target).endswith("-1"):
            raise OSError(28, "No space left on device")
        write(target, work)

    monkeypatch.setattr(archive, "write_atomically", full)

    def resumed(ranks):
        return train((X, Y[:, 0]), resume=path, steps=4, out=path.parent, progress=False, team=Team("neurons", ranks))

    result = nl.together(2, resumed)[0]
    assert result.checkpoint is None
    assert "rank 1 cannot write its part: No space left on device" in result.unwritten[0]
    assert checkpoint.load(path)["step"] == 2


def test_networks_of_layers_are_not_split_by_neurons():
    sentences = refused(lambda team: train((X, Y), progress=False, team=Team("neurons", team.ranks), **HOW, steps=2))
    assert "gets a network of layers, whose neurons are not split; expected --ranks samples" in sentences[0]


@pytest.mark.usefixtures("pictures")
def test_of_weights_that_are_split_no_fit_is_drawn_and_none_is_said_to_be(tmp_path):
    report = pytest.importorskip("nearlin.experiments.report")
    pytest.importorskip("matplotlib")
    (result, _), _ = wide(2, optimizer="adam", steps=2, out=tmp_path / "run")
    report.print_result(result, stream := io.StringIO())
    assert result.unwritten == ()
    assert f"run.jsonl, checkpoint.npz, run.png in {tmp_path / 'run'}" in stream.getvalue()


# ---------------------------------------------------------------------------------------------------------------- one decision


def test_a_reason_of_one_rank_ends_all():
    reasons = [None, "time limit", "interrupted"]
    assert nl.together(3, lambda ranks: Team("samples", ranks).first(reasons[ranks.rank])) == ["time limit"] * 3
    assert nl.together(2, lambda ranks: Team("samples", ranks).first(None)) == [None, None]


def test_a_signal_on_one_rank_ends_all_after_the_same_step(monkeypatch):
    """The others have not heard of it."""
    asked = teams.Team.signals

    def signals(self):
        context = asked(self)
        with context:
            pass
        return teams.contextlib.nullcontext(lambda: self.ranks.rank == 1)

    monkeypatch.setattr(teams.Team, "signals", signals)

    def work(ranks):
        with pytest.raises(nl.experiments.Interrupted) as found:
            train((X, Y), progress=False, team=Team("samples", ranks), steps=9, **HOW)
        return found.value.result.steps

    assert nl.together(3, work) == [1, 1, 1]


# --------------------------------------------------------------------------------------------------------- before they begin


def refused(work, P=2):
    """The sentences by which all ranks end."""

    def tried(ranks):
        with pytest.raises(ValueError) as found:  # noqa: PT011
            work(Team("samples", ranks))
        return str(found.value)

    return nl.together(P, tried)


@pytest.mark.parametrize(("own", "threads"), [(False, 2), (True, 8)], ids=["shared", "own"])
def test_ranks_share_the_cores_that_the_same_ones_may_use(own, threads, monkeypatch):
    asked = []
    cores = lambda pid: range(8 * threading.get_ident() * own, 8 * threading.get_ident() * own + 8)  # noqa: E731
    monkeypatch.setattr(teams.os, "sched_getaffinity", cores, raising=False)
    monkeypatch.setattr(teams, "threadpool_limits", lambda limits, user_api: asked.append((limits, user_api)))
    nl.together(3, lambda ranks: Team("samples", ranks).limit_threads())
    assert asked == [(threads, "blas")] * 3


def test_ranks_with_other_options_are_refused():
    sentences = refused(lambda team: train((X, Y), progress=False, team=team, **{**HOW, "seed": team.ranks.rank}, steps=2))
    assert sentences[0] == sentences[1]
    assert "rank 0 has options" in sentences[0]
    assert "('seed', 1)" in sentences[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "Zen"}, r"for Zen; expected the same"),
        ({"version": "9.9"}, r"9\.9 for"),
        ({"num_threads": 7}, r"BLAS threads \[.*\], and rank 1 \[7"),
    ],
    ids=["core", "version", "threads"],
)
def test_ranks_with_another_blas_are_refused(change, words, monkeypatch):
    found, second = teams.threadpool_info(), []

    def work(team):
        if team.ranks.rank == 1:
            second.append(threading.get_ident())
        team.ranks.all(True, "know who is second")
        team.compare(())

    changed = [{**one, **change} for one in found]
    monkeypatch.setattr(teams, "threadpool_info", lambda: changed if threading.get_ident() in second else found)
    sentences = refused(work)
    assert sentences[0] == sentences[1]
    assert re.search(words, sentences[0])


def test_of_several_differences_all_ranks_name_the_first(monkeypatch):
    """Processes do not order sets of words alike."""
    monkeypatch.setattr(teams, "versions", lambda: {f"library {i}": threading.get_ident() for i in range(9)})
    assert all("rank 0 has library 0 " in sentence for sentence in refused(lambda team: team.compare(())))


def test_ranks_with_other_data_are_refused():
    sentences = refused(lambda team: train((X + team.ranks.rank, Y), progress=False, team=team, **HOW, steps=2))
    assert sentences[0] == sentences[1]
    assert "data of rank 1 is" in sentences[0]


def test_what_fails_on_one_rank_ends_all_with_its_sentence(tmp_path):
    np.savez(tmp_path / "there.npz", x=X, y=Y)

    def work(team):
        teams.Team.compare, kept = lambda self, options: None, teams.Team.compare
        try:
            return train(str(tmp_path / ("there.npz" if team.leads else "gone.npz")), progress=False, team=team, steps=2)
        finally:
            teams.Team.compare = kept

    first, second = refused(work)
    assert first == second
    assert "gone.npz" in first
    assert first.endswith("(rank 1)")


def test_a_folder_that_a_rank_does_not_see_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(teams, "_appears", lambda path: False)
    sentences = refused(lambda team: train((X, Y), progress=False, team=team, **HOW, steps=2, out=tmp_path / "run"))
    expected = f"rank 1 does not see the folder {tmp_path / 'run'} of rank 0; expected --out on a disk that all ranks share"
    assert sentences == [expected] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_comes_late_is_waited_for(tmp_path):
    path = tmp_path / "token"
    threading.Timer(0.3, path.touch).start()
    assert teams._appears(path)


def test_batch_normalisation_is_refused():
    class Normal(Team):
        def split(self, problem, optimizer):
            network = nl.nn.Sequential((nl.nn.Dense(5, 4), nl.nn.BatchNorm(4), nl.nn.Dense(4, 2)))
            return super().split(teams.replace(problem, objective=nl.nn.Objective(network, nl.nn.SquaredLoss())), optimizer)

    sentences = refused(lambda team: train((X, Y), progress=False, team=Normal("samples", team.ranks), **HOW, steps=2))
    assert "batch normalisation by batch statistics couples samples" in sentences[1]


@pytest.mark.parametrize(("flags", "checked"), [((), [True]), (("--no-check-ranks",), [False])])
def test_the_command_line_says_whether_calls_are_compared(flags, checked, tmp_path, monkeypatch):
    cli = pytest.importorskip("nearlin.experiments.commands").cli
    run, seen = pytest.importorskip("click.testing").CliRunner().invoke, []

    class One(nl.Alone):
        def __init__(self, check):
            seen.append(check)
            super().__init__()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teams, "World", One)
    arguments = ["train", "sphere", "--optimizer", "sgd", "--width", "16", "--steps", "1", *flags]
    assert run(cli, [*arguments, "--ranks", "samples"]).exit_code == 0
    assert seen == checked
    if flags:
        assert "--no-check-ranks belongs to --ranks" in run(cli, arguments).output
