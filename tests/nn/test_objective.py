"""The objective: its checks at the boundary, its counting, and what it leaves untouched."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from nearlin import BackendError, nn, sketch

net = nn.TwoLayer(3, 16)
objective = nn.Objective(net, nn.SquaredLoss())


def good():
    g = np.random.default_rng(0)
    return net.init(0, np.ones(1)), (g.standard_normal((4, 3)), g.standard_normal(4))


def broken(name, value):
    params, (x, y) = good()
    return {"params": (value, (x, y)), "x": (params, (value, y)), "y": (params, (x, value)), "batch": (params, value)}[name]


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("x", np.full((4, 3), np.nan), ValueError, "x holds 12 NaN or Inf"),
        ("y", np.array([0.0, 1.0, np.inf, 2.0]), ValueError, "y holds 1 NaN or Inf"),
        ("y", np.arange(4), TypeError, "y has dtype int64"),
        ("x", np.ones((4, 3), dtype=np.float16), TypeError, "x has dtype float16"),
        ("x", np.ones((4, 2)), ValueError, r"x has shape \(4, 2\); expected \(n, 3\)"),
        ("x", np.ones(4), ValueError, r"x has shape \(4,\); expected 2 dimension"),
        ("y", np.ones(5), ValueError, "y has 5 rows, x has 4"),
        ("y", np.ones((4, 2)), ValueError, r"expected shape \(4, 1\)"),
        ("x", [[1.0]], BackendError, "x is a list"),
        ("batch", np.ones((4, 3)), ValueError, r"expected \(x, y\)"),
        ("params", (np.ones((2, 2)),), ValueError, r"params have shapes \[\(2, 2\)\]; expected \[\(16, 3\)\]"),
        ("params", np.ones((16, 3)), BackendError, "params is a ndarray; expected a tuple"),
        ("params", (np.full((16, 3), np.inf),), ValueError, r"params\[0\] holds 48 NaN or Inf"),
        ("params", (np.ones((16, 3), dtype=np.float32),), BackendError, "nothing is cast silently"),
    ],
)
def test_bad_input_gets_one_clear_sentence(name, value, error, words):
    with pytest.raises(error, match=words):
        objective.at(*broken(name, value))


def test_targets_of_another_backend_are_refused():
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(BackendError, match="share one backend"):
        objective.at(*broken("y", strict.ones((4,))))


def test_the_loss_is_half_the_mean_square(be):
    params, (x, y) = good()
    point = objective.at(tuple(be.array(W) for W in params), (be.array(x), be.array(y)))
    r = be.numpy(point.residual)
    assert float(point.loss) == pytest.approx(0.5 * np.mean(r**2), rel=be.tol(1e-14))
    np.testing.assert_allclose(r, be.numpy(point.outputs)[:, 0] - y, atol=be.tol(1e-14))


def test_a_row_of_zeros_cannot_be_fitted_but_can_be_predicted():
    params, (x, y) = good()
    x[2] = 0.0
    point = objective.at(params, (x, y))
    assert float(point.outputs[2, 0]) == 0.0
    with pytest.raises(ValueError, match="x row 2 is zero"):
        point.jacobian()


def test_one_sample_is_enough():
    params, (x, y) = good()
    assert np.isfinite(float(objective.at(params, (x[:1], y[:1])).loss))


def test_what_is_asked_is_counted():
    counted = nn.Counted(objective)
    point = counted.at(*good())
    J = point.jacobian()
    J.gram_matvec(point.residual)
    J.gram_matvec_with_adjoint(point.residual)
    J.matvec(J.rmatvec(point.residual))
    J.astype("float32").gram()
    point.grads()
    assert counted.calls == {"forward": 1, "jacobian": 1, "gram_matvec": 2, "matvec": 1, "rmatvec": 1, "gram": 1, "backward": 1}


@pytest.fixture
def passes(monkeypatch):
    """Passes that went through the last layer of a network, of 10 samples, seen from the layer itself."""
    seen = Counter()

    def watch(name, rows):
        original = getattr(nn.Dense, name)

        def watched(self, *args):
            if self.out in (3, 7):
                seen[name] += Fraction(rows(*args), 10)
            return original(self, *args)

        monkeypatch.setattr(nn.Dense, name, watched)

    watch("forward", lambda W, x: x.shape[0])
    watch("backward", lambda W, x, dy: dy.shape[0])
    watch("jvp", lambda W, x, dx, dW: x.shape[0])
    return seen


def deep(outputs):
    """A counted objective of 3 or 7 outputs, its parameters, and a batch of 10."""
    g, mlp = np.random.default_rng(1), nn.MLP((4, 6, 5, outputs), "tanh")
    x, y = g.standard_normal((10, 4)), g.standard_normal((10, outputs))
    return nn.Counted(nn.Objective(mlp, nn.SquaredLoss())), mlp.init(0, x), (x, y)


ASKED = {
    "jacobian": lambda J, p: None,
    "matvec": lambda J, p: J.matvec(p.params),
    "rmatvec": lambda J, p: J.rmatvec(p.residual),
    "gram_matvec": lambda J, p: J.gram_matvec(p.residual),
    "gram_matvec_with_adjoint": lambda J, p: J.gram_matvec_with_adjoint(p.residual),
    "ggn_matvec": lambda J, p: J.ggn_matvec(p.params),
    "gram": lambda J, p: J.gram(),
    "gram in float32": lambda J, p: J.gram(dtype="float32"),
    "sketch": lambda J, p: J.sketch(J.draw(sketch.KroneckerSRHT(), 0, 12, p.x)),
    "sketch_gram": lambda J, p: J.sketch_gram(J.draw(sketch.Gaussian(), 0, 12, p.x)),
    "class_grams": lambda J, p: J.class_grams(),
    "mean_gram": lambda J, p: J.mean_gram(),
    "factors": lambda J, p: J.factors(slice(2, 6)),
    "rows": lambda J, p: J.to_dense(),
    "another dtype": lambda J, p: J.astype("float32").gram_matvec(p.residual.astype("float32")),
    "works": lambda J, p: (J.product_work(), J.gram_work(), J.sketch_work(9), J.class_work(True), J.signals_work()),
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("outputs", [3, 7])
def test_every_pass_is_counted_whoever_makes_it(passes, outputs, asked):
    """What the layers see is what is counted, also where rows, Gram matrices and other dtypes make passes of their own."""
    counted, params, batch = deep(outputs)
    point = counted.at(params, batch)
    ASKED[asked](point.jacobian(weighted=True), point)
    assert {name: counted.calls[name] for name in ("forward", "backward", "jvp")} == {
        name: passes[name] for name in ("forward", "backward", "jvp")
    }


def test_passes_over_some_samples_are_fractions(passes):
    """A Gram matrix of chunks of three samples makes the rows of later chunks again."""
    counted, params, batch = deep(7)
    J = counted.at(params, batch).jacobian()
    small = replace(J._operator, budget=2 * 3 * 8 * 7 * (6 + 5 + 7 + 42))
    assert small._samples_at_a_time(2) == 3
    small.gram()
    assert counted.calls["backward"] == passes["backward"] == 7 * Fraction(3 * 1 + 3 * 2 + 3 * 3 + 1 * 4, 10)
    assert counted.calls["forward"] == passes["forward"] == 1 + Fraction(3 * 1 + 3 * 2 + 3 * 3 + 1 * 4, 10)


def test_matrices_are_counted_by_name():
    counted, params, batch = deep(7)
    J = counted.at(params, batch).jacobian()
    counted.calls.clear()
    J.gram()
    J.mean_gram()
    J.class_grams()
    S = J.draw(sketch.KroneckerSRHT(), 0, 12, batch[0])
    J.sketch(S)
    J.sketch_gram(S)
    want = dict.fromkeys(("gram", "mean_gram", "class_grams", "sketch", "sketch_gram"), 1)
    assert counted.calls == want | {"backward": 5 * 7}


def test_a_point_asks_for_one_pass_a_time(passes):
    counted, params, batch = deep(7)
    point = counted.at(params, batch)
    point.grads()
    point.traces()
    point.pullback(point.outputs)
    point.jvp(params)
    assert counted.calls == {"forward": 1, "backward": 3, "jvp": 1} == passes


def test_products_are_by_passes_above_a_few_outputs():
    """Factors of every output are made where they pay, or are asked for by name."""
    for outputs, factors, kind in (
        (4, None, "LayeredJacobian"),
        (5, None, "NetworkJacobian"),
        (5, True, "LayeredJacobian"),
        (4, False, "NetworkJacobian"),
    ):
        _, params, (x, y) = deep(outputs)
        point = nn.Objective(nn.MLP((4, 6, 5, outputs), "tanh"), nn.SquaredLoss()).at(params, (x, y))
        assert type(point.jacobian(factors=factors)).__name__ == kind


def test_counted_objectives_are_equal_where_they_count_into_one_record():
    one, other = nn.Counted(objective), nn.Counted(objective)
    assert one == one.observe(())
    assert one != other
    assert one != objective
    assert objective != one
    assert nn.Counted(nn.Objective(net, nn.SigmoidCrossEntropy())) != one


def test_least_squares_are_asked_for_in_words():
    params, (x, y) = good()
    objective.at(params, (x, y)).check_least_squares("Method")
    deep = nn.MLP((3, 2))
    batch = (x, np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match="expected average=False"):
        nn.Objective(deep, nn.SquaredLoss(average=True)).at(deep.init(0, x), batch).check_least_squares("Method")
    with pytest.raises(ValueError, match="loss is a SoftmaxCrossEntropy; expected SquaredLoss"):
        nn.Objective(deep, nn.SoftmaxCrossEntropy()).at(deep.init(0, x), (x, np.arange(4) % 2)).check_least_squares("Method")
    with pytest.raises(ValueError, match=r"l2 is 0\.1, and Method takes no penalty in the loss; expected l2=0, or GaussNewton"):
        nn.Objective(net, nn.SquaredLoss(), l2=0.1).at(params, (x, y)).check_least_squares("Method")


def test_observing_statistics_gives_a_new_objective():
    assert objective.observe((1.0,)).statistics == (1.0,)
    assert objective.statistics == ()
