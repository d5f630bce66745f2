"""Checkpoints: what goes in comes out, without pickle, and never half."""

import hashlib
import io
import json
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import pytest

import nearlin as nl
from nearlin._array import prototype, unusable
from nearlin.experiments import OPTIMIZERS, class_names, folders
from nearlin.experiments.archive import CheckpointError, read, write
from nearlin.experiments.checkpoint import load, save
from nearlin.experiments.stopping import Best
from nearlin.linalg import SolveInfo


class Foreign(NamedTuple):
    x: int


DATA = {
    "name": "d", "task": "regression", "features": 2, "outputs": 1, "fingerprint": "f", "class_names": None,
    "feature_names": None, "target_names": ("y",),
}  # fmt: skip
HEADER = {
    "started": "now", "versions": {}, "threads": {}, "config": {}, "optimizer": {"text": "SGD()", "fields": None}, "data": DATA,
    "parameters": 4, "initial_loss": 1.0,
}  # fmt: skip
RUN = {
    "params": (np.ones((2, 2)),), "state": None, "statistics": (), "step": 3, "seed": 7,
    "config": {"tol": 0.0, "activation": "relu"}, "preprocessing": {}, "header": HEADER, "ended": "steps",
    "records": [{"step": 0, "loss": float("nan")}], "best": Best(2, (np.zeros(3),)),
}  # fmt: skip


def tree(like=None):
    a = np.arange(6.0).reshape(2, 3)
    arrays = (a, np.asfortranarray(a.astype(np.float32)), np.array([True, False]), np.arange(3, dtype=np.uint8))
    arrays = arrays if like is None else tuple(nl.asarray(b, like=like, dtype=str(b.dtype)) for b in arrays)
    inner = SolveInfo(0.1, 3, 4, "converged", float("nan"), "none", False)
    return {"arrays": arrays, "plain": [None, True, 1, 0.1 + 0.2, float("inf"), "é", (), {"k": (1,)}], "inner": inner}


@pytest.mark.parametrize("backend", ["numpy", "torch", "array_api_strict"])
def test_round_trip(tmp_path, backend):
    if reason := unusable(backend):
        pytest.skip(reason)
    like = prototype(backend)
    write(tmp_path / "c.npz", tree(like))
    saved = read(tmp_path / "c.npz", like)
    for a, b in zip(saved["arrays"], tree(like)["arrays"], strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(nl.to_numpy(a), nl.to_numpy(b))
    assert saved["plain"] == tree()["plain"]
    assert repr(saved["inner"]) == repr(tree()["inner"])


def test_memory_order_survives(tmp_path):
    write(tmp_path / "c.npz", tree())
    assert read(tmp_path / "c.npz", np.empty(0))["arrays"][1].flags.f_contiguous


def test_transient_fields_come_back_as_their_defaults(tmp_path):
    state = nl.optim.NearLinearGaussNewton().init(None, None)
    names = getattr(state, "transient", ())
    write(tmp_path / "c.npz", state._replace(**dict.fromkeys(names, lambda: None)))
    assert read(tmp_path / "c.npz") == state


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


def entries(path):
    """The entries of an archive as bytes."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def repack(path, contents):
    """An archive of these entries, whose checksums are theirs."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def npy(text):
    file = io.BytesIO()
    np.save(file, np.frombuffer(text, np.uint8))
    return file.getvalue()


def structure(path, change, sealed=True):
    """Change the structure; ``sealed`` with the digest that it would have been written with."""
    contents = entries(path)
    content = json.loads(np.load(io.BytesIO(contents["structure.npy"])).tobytes())
    change(content)
    text = json.dumps(content).encode()
    contents["structure.npy"] = npy(text)
    if sealed:
        own = sorted((n, zlib.crc32(c)) for n, c in contents.items() if n not in ("structure.npy", "digest.npy"))
        contents["digest.npy"] = npy(hashlib.sha256(text + json.dumps(own).encode()).digest())
    repack(path, contents)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "c.npz"
    with pytest.raises(CheckpointError, match="does not exist"):
        load(path)
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        load(tmp_path)
    write(path, tree())
    whole = path.read_bytes()
    np.savez(tmp_path / "foreign.npz", x=np.ones(3), y=np.ones(3))
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").touch()
    for name in ("foreign.npz", "array.npy", "cut.npz", "empty.npz"):
        with pytest.raises(CheckpointError, match=f"{name} is not a nearlin checkpoint, or is truncated or damaged"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format="nearlin checkpoint 99"), "has the format 'nearlin checkpoint 99'"),
        (lambda c: c.update(format="nearlin checkpoint 2"), "an earlier version of nearlin wrote it, and can resume it"),
        (lambda c: c.update(tree={"class": "os:system", "values": {}}), "'os:system', which this version does not know"),
        (lambda c: c.update(tree={"class": "nearlin.optim.sgd:State", "values": {}}), "another version.*does not know"),
        (lambda c: c.update(tree={"class": "SGD.State", "values": {"gone": 1}}), "another version"),
        (lambda c: c.update(tree={"array": 99}), "another version"),
        (
            lambda c: c["arrays"][0]["parts"][0].update(file="rows-0.npz", rows=[0, 9], crc=0),
            "rows-0.npz, a part of .* is missing",
        ),
        (lambda c: c["arrays"][0].update(shape=[4]), r"array_0 is float64 \(2, 2\); expected float64 \[4\]"),
        (lambda c: c["tree"]["dict"].pop(), "holds no run: it has no ended"),
        (lambda c: c.update(tree={"list": []}), "holds no run: the whole is a list"),
    ],
)
def test_contents_that_are_not_ours(tmp_path, change, says):
    save(tmp_path / "c.npz", **RUN)
    structure(tmp_path / "c.npz", change)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(tmp_path / "c.npz")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_format_1_is_refused_in_one_sentence_by_all_who_read_one(tmp_path):
    """Laid out as the earlier version wrote it: classes by their paths, arrays by their places."""
    path = tmp_path / "old.npz"
    tree = {"dict": [["params", {"tuple": [{"array": 0}]}], ["state", {"class": "nearlin.optim.sgd:State", "values": {}}]]}
    text = json.dumps({"format": "nearlin checkpoint 1", "tree": tree}).encode()
    np.savez(path, structure=np.frombuffer(text, np.uint8), array_0=np.ones((2, 2)))
    for reader in (
        load,
        lambda file: nl.experiments.train(resume=file),
        lambda file: nl.experiments.predict(file, np.ones((1, 2))),
    ):
        with pytest.raises(CheckpointError, match="'nearlin checkpoint 1'; expected 'nearlin checkpoint 3': an earlier"):
            reader(path)


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


def same(a, b):
    """Whether two trees are equal to the bit."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def test_load_gives_what_save_was_given_and_save_takes_what_load_gives(tmp_path):
    save(tmp_path / "a.npz", **RUN)
    assert same(load(tmp_path / "a.npz"), RUN)
    save(tmp_path / "b.npz", **load(tmp_path / "a.npz"))
    assert same(load(tmp_path / "b.npz"), RUN)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"params": [np.ones(2)]}, "params is a list; expected a tuple"),
        ({"config": None}, "config is None; expected a dict"),
        ({"step": 1.5}, "step is a float; expected a int"),
        ({"best": ()}, "best is a tuple; expected a Best or None"),
        ({"header": None}, "header is None; expected a dict of started, versions"),
        ({"header": {"started": "now"}}, "header has no versions"),
        ({"header": HEADER | {"data": {**DATA, "features": "two"}}}, "header.data.features is a str; expected a int"),
    ],
)
def test_what_is_no_run_is_not_written(tmp_path, change, says):
    with pytest.raises(TypeError, match=f"a checkpoint cannot be made: {says}"):
        save(tmp_path / "c.npz", **RUN | change)
    assert list(tmp_path.iterdir()) == []


def refused(path):
    """Whether a damaged checkpoint is refused, in one sentence; one that is read must hold the run unchanged."""
    try:
        found = load(path)
    except CheckpointError as error:
        return "\n" not in str(error) and path.name in str(error)
    assert same(found, RUN), "a damaged checkpoint is accepted"
    return False


def leaves(node, path=()):
    """The places of all plain values in a JSON tree."""
    if isinstance(node, dict | list):
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        return [place for key, value in pairs for place in leaves(value, (*path, key))]
    return [path]


def damage(node, place):
    """The JSON tree ``node`` with another value at ``place``."""
    *way, last = place
    for key in way:
        node = node[key]
    old = node[last]
    node[last] = (
        old + "x"
        if isinstance(old, str)
        else 7
        if old is None
        else not old
        if isinstance(old, bool)
        else old + 1
        if old == old
        else 0
    )


def test_no_value_of_the_structure_can_be_changed_in_silence(tmp_path):
    """Activation, seed, preprocessing, step: whatever somebody edits, in an archive that is whole."""
    path = tmp_path / "c.npz"
    save(path, **RUN)
    whole = path.read_bytes()
    content = json.loads(np.load(io.BytesIO(entries(path)["structure.npy"])).tobytes())
    places = leaves(content)
    assert len(places) > 60
    for place in places:
        path.write_bytes(whole)
        structure(path, lambda content, place=place: damage(content, place), sealed=False)
        assert refused(path), place


def test_no_entry_can_be_exchanged_dropped_or_added_in_silence(tmp_path):
    path = tmp_path / "c.npz"
    save(path, **RUN)
    contents = entries(path)
    for name in contents:
        repack(path, {n: c for n, c in contents.items() if n != name})
        assert refused(path), name
        repack(path, contents | {name: contents[name][:-1] + bytes([contents[name][-1] ^ 1])})
        assert refused(path), name
        for other in contents.keys() - {name}:
            repack(path, contents | {name: contents[other]})
            assert refused(path), (name, other)
    repack(path, contents | {"more.npy": contents["array_0.npy"]})
    assert refused(path)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.nightly), 61])
def test_bytes_that_changed_or_are_missing_are_noticed(tmp_path, step):
    """What is read in spite of a changed byte, as one of a date or of a version, is the run as it was written."""
    path = tmp_path / "c.npz"
    save(path, **RUN)
    whole = path.read_bytes()
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at])
        assert refused(path), at
        for bits in (1, 8, 255):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :])
            refused(path)
    arrays = whole.index(b"NUMPY") + 118
    path.write_bytes(whole[:arrays] + bytes([whole[arrays] ^ 1]) + whole[arrays + 1 :])
    assert refused(path)
