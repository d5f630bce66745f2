"""Checkpoints: what goes in comes out, without pickle, and never half."""

import json
from typing import NamedTuple

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import prototype, unusable
from nearlin.experiments import OPTIMIZERS, class_names, folders
from nearlin.experiments.checkpoint import CheckpointError, load, save
from nearlin.linalg import SolveInfo


class Foreign(NamedTuple):
    x: int


def tree(like=None):
    a = np.arange(6.0).reshape(2, 3)
    arrays = (a, np.asfortranarray(a.astype(np.float32)), np.array([True, False]), np.arange(3, dtype=np.uint8))
    arrays = arrays if like is None else tuple(nl.asarray(b, like=like, dtype=str(b.dtype)) for b in arrays)
    inner = SolveInfo(0.1, 3, 4, "converged", float("nan"), "none", False)
    return {"arrays": arrays, "plain": [None, True, 1, 0.1 + 0.2, float("inf"), "é", (), {"k": (1,)}], "inner": inner}


def write(path, state, **more):
    save(path, params=(np.ones((2, 2)),), state=state, step=3, seed=7, **more)


@pytest.mark.parametrize("backend", ["numpy", "torch", "array_api_strict"])
def test_round_trip(tmp_path, backend):
    if reason := unusable(backend):
        pytest.skip(reason)
    like = prototype(backend)
    write(tmp_path / "c.npz", tree(like))
    saved = load(tmp_path / "c.npz", like=like)
    assert (saved["step"], saved["seed"]) == (3, 7)
    for a, b in zip(saved["state"]["arrays"], tree(like)["arrays"], strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(nl.to_numpy(a), nl.to_numpy(b))
    assert saved["state"]["plain"] == tree()["plain"]
    assert repr(saved["state"]["inner"]) == repr(tree()["inner"])


def test_memory_order_survives(tmp_path):
    write(tmp_path / "c.npz", tree())
    assert load(tmp_path / "c.npz", like=np.empty(0))["state"]["arrays"][1].flags.f_contiguous


def test_transient_fields_come_back_as_their_defaults(tmp_path):
    state = nl.optim.NearLinearGaussNewton().init(None, None)
    names = getattr(state, "transient", ())
    write(tmp_path / "c.npz", state._replace(**dict.fromkeys(names, lambda: None)))
    assert load(tmp_path / "c.npz")["state"] == state


@pytest.mark.parametrize("value", [Foreign(1), object(), {1, 2}, np.array(["text"]), lambda: None])
def test_what_cannot_be_restored_is_refused_and_nothing_is_left(tmp_path, value):
    with pytest.raises(TypeError, match="a checkpoint cannot hold"):
        write(tmp_path / "c.npz", (value,))
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "c.npz", None)
    before = (tmp_path / "c.npz").read_bytes()
    monkeypatch.setattr(folders.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "c.npz", tree())
    assert (tmp_path / "c.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def structure(path, change):
    with np.load(path) as archive:
        arrays = dict(archive)
    content = json.loads(arrays["structure"].tobytes().decode())
    change(content)
    arrays["structure"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    np.savez(path, **arrays)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "c.npz"
    with pytest.raises(CheckpointError, match="does not exist"):
        load(path)
    write(path, tree())
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, x=np.ones(3), y=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:300] + bytes([whole[300] ^ 255]) + whole[301:])
    (tmp_path / "empty.npz").touch()
    for name in ("foreign.npz", "array.npy", "cut.npz", "flipped.npz", "empty.npz"):
        with pytest.raises(CheckpointError, match=f"{name} is not a nearlin checkpoint, or is truncated"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format="nearlin checkpoint 99"), "has the format 'nearlin checkpoint 99'"),
        (lambda c: c.update(format="nearlin checkpoint 1"), "an earlier version of nearlin wrote it, and can resume it"),
        (lambda c: c.update(tree={"class": "os:system", "values": {}}), "'os:system', which this version does not know"),
        (lambda c: c.update(tree={"class": "nearlin.optim.sgd:State", "values": {}}), "another version.*does not know"),
        (lambda c: c.update(tree={"class": "SGD.State", "values": {"gone": 1}}), "another version"),
        (lambda c: c.update(tree={"array": 99}), "another version"),
        (lambda c: c["arrays"][0]["parts"][0].update(file="rows-0.npz"), "another version.*files of its own"),
        (lambda c: c["arrays"][0].update(shape=[4]), r"array_0 is float64 \(2, 2\); expected float64 \[4\]"),
    ],
)
def test_contents_that_are_not_ours(tmp_path, change, says):
    write(tmp_path / "c.npz", None)
    structure(tmp_path / "c.npz", change)
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path / "c.npz")


def test_a_checkpoint_of_format_1_is_refused_in_one_sentence_by_all_who_read_one(tmp_path):
    """Laid out as the earlier version wrote it: classes by their paths, arrays by their places."""
    path = tmp_path / "old.npz"
    tree = {"dict": [["params", {"tuple": [{"array": 0}]}], ["state", {"class": "nearlin.optim.sgd:State", "values": {}}]]}
    text = json.dumps({"format": "nearlin checkpoint 1", "tree": tree}).encode()
    np.savez(path, structure=np.frombuffer(text, np.uint8), array_0=np.ones((2, 2)))
    for read in (
        load,
        lambda file: nl.experiments.train(resume=file),
        lambda file: nl.experiments.predict(file, np.ones((1, 2))),
    ):
        with pytest.raises(CheckpointError, match="'nearlin checkpoint 1'; expected 'nearlin checkpoint 2': an earlier"):
            read(path)


def test_the_files_hold_short_names_and_no_path_of_a_class(tmp_path):
    write(tmp_path / "c.npz", tree())
    with np.load(tmp_path / "c.npz") as archive:
        text = archive["structure"].tobytes().decode()
    assert '"class": "SolveInfo"' in text
    assert "nearlin." not in text


@pytest.mark.parametrize("name", class_names.PLACES)
def test_a_short_name_is_that_of_a_record(name):
    cls = class_names.class_of(name)
    assert class_names.name_of(cls) == name
    assert isinstance(class_names.fields(cls), list)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_of_every_optimizer_has_a_short_name(optimizer):
    params = (np.ones((2, 3)), np.ones((1, 3)))
    network = nl.nn.MLP((2, 2, 1), "tanh")
    state = nl.experiments.make_optimizer(optimizer).init(params, nl.nn.Objective(network, nl.nn.SquaredLoss()))
    assert class_names.name_of(type(state)).endswith("State")
