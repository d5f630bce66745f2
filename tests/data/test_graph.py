"""The synthetic graph."""

import numpy as np
import pytest

from nearlin.data import planted_graph

SMALL = {"nodes": 300, "features": 60, "classes": 3, "labelled_per_class": 5, "validation": 40, "test": 80}


def adjacency(graph):
    """The edges, without self loops."""
    return (graph.S > 0) & ~np.eye(len(graph.S), dtype=bool)


@pytest.fixture(scope="module")
def cora_shaped():
    return planted_graph()


def test_the_default_has_the_documented_numbers(cora_shaped):
    graph = cora_shaped
    edges, same = adjacency(graph), graph.labels[:, None] == graph.labels
    assert (graph.S.shape, graph.H.shape, graph.labels.shape) == ((2708, 2708), (2708, 1433), (2708,))
    assert edges.sum() == 2 * 5408
    assert round((edges & same).sum() / edges.sum(), 3) == 0.803
    assert round(np.count_nonzero(graph.H) / 2708, 1) == 17.9
    assert np.count_nonzero(~edges.any(axis=1)) == 55
    assert [len(part) for part in graph[3:]] == [140, 500, 1000]


def ridge_accuracy(graph, F):
    F = F / np.maximum(np.linalg.norm(F, axis=1, keepdims=True), 1e-12)
    train, targets = F[graph.train], 2 * np.eye(7)[graph.labels[graph.train]] - 1
    W = train.T @ np.linalg.solve(train @ train.T + 0.1 * np.eye(len(train)), targets)
    return np.mean((F[graph.test] @ W).argmax(axis=1) == graph.labels[graph.test])


def test_the_graph_helps_where_features_do_not_suffice(cora_shaped):
    assert 0.2 < ridge_accuracy(cora_shaped, cora_shaped.H) < 0.4
    assert ridge_accuracy(cora_shaped, cora_shaped.S @ (cora_shaped.S @ cora_shaped.H)) > 0.75


def test_S_is_the_normalised_adjacency():
    S = planted_graph(**SMALL).S
    loops = (S > 0).astype(float)
    np.testing.assert_array_equal(S, S.T)
    np.testing.assert_array_equal(np.diag(loops), 1)
    root = np.diag(loops.sum(axis=1) ** -0.5)
    np.testing.assert_allclose(S, root @ loops @ root, rtol=1e-14)
    degrees = loops.sum(axis=1)
    np.testing.assert_allclose(S @ np.sqrt(degrees), np.sqrt(degrees), rtol=1e-13)  # the eigenvector of eigenvalue 1


def test_rows_of_H_sum_to_one_and_lean_to_their_class():
    graph = planted_graph(**SMALL)
    np.testing.assert_allclose(graph.H.sum(axis=1), 1, rtol=1e-14)
    own = np.arange(60) % 3 == graph.labels[:, None]
    binary = graph.H > 0
    assert 2.5 < binary[own].mean() / binary[~own].mean() < 3.5


def test_parts_are_disjoint_and_training_is_balanced():
    graph = planted_graph(**SMALL)
    nodes = np.concatenate([graph.train, graph.validation, graph.test])
    assert len(set(nodes)) == len(nodes) == 15 + 40 + 80
    assert all(np.array_equal(part, np.sort(part)) for part in graph[3:])
    np.testing.assert_array_equal(np.bincount(graph.labels[graph.train]), [5, 5, 5])
    np.testing.assert_array_equal(np.bincount(graph.labels), [100, 100, 100])


def test_the_seed_decides_and_the_dtype_rounds():
    first, again, single = planted_graph(**SMALL), planted_graph(**SMALL), planted_graph(**SMALL, dtype="float32")
    for a, b, c in zip(first, again, single, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a.astype(c.dtype), c)
    assert single.S.dtype == single.H.dtype == np.float32
    assert not np.array_equal(first.S, planted_graph(**SMALL, seed=1).S)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nodes": 0}, "nodes is 0; expected an integer of at least 1"),
        ({"classes": 2.0}, "classes is 2.0"),
        ({"labelled_per_class": 101}, "with 100 in the smallest of 3 classes; expected enough for .*: 101 in each"),
        ({"test": 246}, r"5 in each, and 40 \+ 246 others"),
        ({"seed": -1}, "seed is -1; expected an integer of at least 0"),
        ({"dtype": int}, "expected float32 or float64"),
    ],
)
def test_refusals(changes, says):
    with pytest.raises(ValueError, match=says):
        planted_graph(**SMALL | changes)


def test_the_largest_parts_that_fit():
    assert len(planted_graph(**SMALL | {"test": 245}).test) == 245
