"""Checkpoints: what goes in comes out, without pickle, and never half."""

import json
from typing import NamedTuple

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import prototype, unusable
from nearlin.experiments import checkpoint
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
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
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
        (lambda c: c.update(tree={"class": "os:system", "values": {}}), "not one of nearlin"),
        (lambda c: c.update(tree={"class": "nearlin.data:load", "values": {}}), "not a plain record"),
        (lambda c: c.update(tree={"class": "nearlin.optim.sgd:Gone", "values": {}}), "another version"),
        (lambda c: c.update(tree={"array": 99}), "another version"),
    ],
)
def test_contents_that_are_not_ours(tmp_path, change, says):
    write(tmp_path / "c.npz", None)
    structure(tmp_path / "c.npz", change)
    with pytest.raises(CheckpointError, match=says):
        load(tmp_path / "c.npz")
