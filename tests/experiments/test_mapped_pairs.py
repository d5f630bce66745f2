"""`train` on a folder with x.npy and y.npy: what arrays give to the last bit, no more than a chunk read, and what is refused."""

import os

import numpy as np
import pytest

import nearlin as nl
from nearlin.data import DataError
from nearlin.experiments import Team, archive, train
from nearlin.experiments.batches import Batches
from tests.optim.test_mapped import reads

OPTIONS = {"width": 64, "steps": 2, "progress": False}
BY_COLUMNS = {"settings": (("preconditioner", "pivoted"),)}


@pytest.fixture
def pair(tmp_path):
    """A folder, and what it holds."""
    g = np.random.default_rng(0)
    x = g.standard_normal((300, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.sin(3 * x[:, 0])
    return written(tmp_path / "pair", x, y), x, y


def written(folder, x, y):
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return str(folder)


def test_a_run_is_that_of_the_arrays_to_the_last_bit(pair):
    folder, x, y = pair
    once = {**OPTIONS, "steps": 1}
    want = train((x[:240], y[:240]), test_fraction=0, **BY_COLUMNS, **once)
    found = train(folder, **once)
    assert np.array_equal(found.params[0], want.params[0])
    assert [r["loss_after"] for r in found.records] == [r["loss_after"] for r in want.records]
    assert found.records[0]["plan"].startswith("pivoted: x lies in a file; ")
    assert found.problem.name == folder
    assert found.problem.fingerprint == train((x, y), **OPTIONS).problem.fingerprint


def test_the_last_rows_are_held_out_in_the_order_of_the_file(pair):
    folder, x, y = pair
    problem = train(folder, test_fraction=0.2, validation_fraction=0.25, **OPTIONS).problem
    for (rows, targets), part in (
        (problem.train, slice(0, 180)), (problem.validation, slice(180, 240)), (problem.test, slice(240, 300)),
    ):  # fmt: skip
        assert nl._array.is_map(rows)
        assert not isinstance(targets, np.memmap)
        np.testing.assert_array_equal(rows, x[part])
        np.testing.assert_array_equal(targets, y[part])


def test_labels_are_classes_of_the_two_layer_network(pair):
    folder, x, _ = pair
    labels = np.argmax(x[:, :3], axis=1)
    written(nl.data.files.Path(folder), x, labels)
    result = train(folder, **OPTIONS)
    assert result.problem.wide
    assert result.problem.outputs == 3
    assert result.problem.class_names == ("0", "1", "2")


def test_mini_batches_are_rows_of_the_file(pair):
    folder, x, y = pair
    options = {"optimizer": "sgd", "lr": 0.5, "batch_size": 60, "test_fraction": 0}
    found, want = (train(data, **options, **OPTIONS) for data in (folder, (x, y)))
    assert np.array_equal(found.params[0], want.params[0])


@pytest.mark.parametrize("size", [60, "all"])
def test_ranks_by_samples_train_on_a_file_as_one(pair, size):
    options = {**OPTIONS, "optimizer": "sgd", "lr": 0.5, "batch_size": size, "test_fraction": 0}
    want = train(pair[0], **options).params[0]
    for result in nl.together(2, lambda ranks: train(pair[0], team=Team("samples", ranks), **options)):
        assert np.linalg.norm(result.params[0] - want) < 1e-12 * np.linalg.norm(want)


def test_a_rank_reads_its_own_rows_of_a_file_alone(pair, monkeypatch):
    x, y = np.load(f"{pair[0]}/x.npy", mmap_mode="r"), pair[2]
    own = lambda n: slice(n // 3, n // 2)  # noqa: E731
    batch = Batches((x, y), 60, 0, own=own)
    sizes = reads(monkeypatch, lambda: batch(0))
    assert sum(sizes) == 10 * x[0].nbytes
    assert np.array_equal(batch(0)[0].x, Batches((pair[1], y), 60, 0)(0)[0][20:30])


def test_no_read_of_a_run_takes_more_than_a_chunk(tmp_path, monkeypatch):
    """31 MB of rows, 8 MB at a time."""
    x = np.random.default_rng(0).standard_normal((5000, 784))
    folder = written(tmp_path / "pair", x / 28, x[:, 0] / 28)
    with monkeypatch.context() as patch:
        patch.setattr("numpy.load", loading := Loading(np.load))
        sizes = reads(monkeypatch, lambda: train(folder, **{**OPTIONS, "width": 520, "steps": 1, "test_fraction": 0}))
    assert loading.modes == ["r", "r"]
    assert max(sizes) <= 2**23
    assert sum(sizes) > 10 * x.nbytes


class Loading:
    """`numpy.load` that tells in which modes it maps."""

    def __init__(self, load):
        self._load, self.modes = load, []

    def __call__(self, path, **options):
        self.modes.append(options.get("mmap_mode"))
        return self._load(path, **options)


def test_a_checkpoint_leaves_out_what_lies_in_a_file_and_goes_on(pair, tmp_path):
    folder, _, _ = pair
    result = train(folder, out=tmp_path / "run", **OPTIONS)
    assert nl._array.is_map(result.state.preconditioner.M.factor.source.x)
    state = archive.read(tmp_path / "run" / "checkpoint.npz")["state"]
    assert state.preconditioner is None
    assert state.damping == result.state.damping
    floats = [a for a in np.load(tmp_path / "run" / "checkpoint.npz").values() if a.dtype.kind == "f"]
    assert max(a.size for a in floats) == result.params[0].size
    more = train(resume=tmp_path / "run" / "checkpoint.npz", steps=4, progress=False)
    assert more.steps == 4
    assert more.final_loss < result.final_loss


def test_a_file_that_was_cut_off_or_changed_is_one_sentence(pair, tmp_path):
    folder, x, y = pair
    train(folder, out=tmp_path / "run", **OPTIONS)
    written(nl.data.files.Path(folder), x + 1, y)
    with pytest.raises(ValueError, match="is not the data that"):
        train(resume=tmp_path / "run" / "checkpoint.npz", steps=4, progress=False)
    os.truncate(f"{folder}/x.npy", 5000)
    with pytest.raises(DataError, match=r"x.npy: the array states .* 14400 bytes, and 4872 bytes follow"):
        train(folder, **OPTIONS)


def lacking(folder):
    (folder / "y.npy").unlink()


REFUSED = {
    "no targets": (lacking, "y.npy cannot be read: No such file"),
    "integers": (lambda f: written(f, np.ones((9, 2), int), np.ones(9)), "x.npy holds int64; expected float32 or float64"),
    "byte order": (lambda f: written(f, np.ones((9, 2), ">f8"), np.ones(9)), "x.npy holds >f8; expected float32 or float64"),
    "vector": (lambda f: written(f, np.ones(9), np.ones(9)), r"x.npy has shape \(9,\); expected \(rows, features\)"),
    "no rows": (lambda f: written(f, np.ones((0, 2)), np.ones(0)), r"x.npy has shape \(0, 2\); expected \(rows, features\)"),
    "images": (lambda f: written(f, np.ones((9, 2)), np.ones((9, 1, 1))), r"y.npy has shape \(9, 1, 1\); expected a target for"),
    "columns": (lambda f: written(f, np.asfortranarray(np.ones((9, 2))), np.ones(9)), "x.npy lies column by column"),
    "lengths": (
        lambda f: written(f, np.ones((9, 2)), np.ones(8)),
        r"y.npy has shape \(8,\); expected a target for each",
    ),
    "dtypes": (lambda f: written(f, np.ones((9, 2)), np.ones(9, "float32")), "x has dtype float64, y has float32"),
    "NaN": (lambda f: written(f, np.full((9, 2), np.nan), np.ones(9)), "x holds 18 NaN or Inf value"),
    "nothing": (lambda f: (f / "x.npy").write_bytes(b""), "x.npy is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_pair_that_cannot_be_used_is_one_sentence(pair, case):
    spoil, words = REFUSED[case]
    spoil(nl.data.files.Path(pair[0]))
    with pytest.raises((ValueError, TypeError), match=words):
        train(pair[0], **OPTIONS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": True}, "scale would copy all rows, and x lies in a file; expected a file of rows that are preprocessed"),
        ({"center": True}, "center would copy all rows"),
        ({"normalize": True}, "normalize would copy all rows"),
        ({"standardize": True}, "standardize would copy all rows"),
        (
            {"hidden": 8, "width": None},
            "the two-layer network alone reads some rows at a time; expected width, not hidden",
        ),
        ({"dtype": "float32"}, "backend is 'numpy' and dtype 'float32', and x lies in a file in float64"),
        ({"backend": "array_api_strict"}, "backend is 'array_api_strict' and dtype None, and x lies in a file"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_would_copy_all_rows_is_refused(pair, options, words):
    with pytest.raises(ValueError, match=words):
        train(pair[0], **{**OPTIONS, **options})


def test_reading_such_a_folder_into_memory_is_refused(pair):
    for read in (nl.data.load, nl.experiments.estimate):
        with pytest.raises(DataError, match=r"is a folder with x\.npy, whose rows `train` maps; expected an .npz file"):
            read(pair[0])
