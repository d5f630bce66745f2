"""Claims on layer-wise methods: their quick verdicts, and that wrong costs, states, rates and step sizes are caught."""

import functools

import numpy as np
import pytest

from nearlin.complexity import cost
from nearlin.complexity.claims import layerwise
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.optim import KFAC, MiniBlockFisher

QUICK = [claim for claim in layerwise.CLAIMS if claim.quick]
TIMED = [claim for claim in layerwise.CLAIMS if not claim.quick]


@pytest.mark.parametrize("claim", QUICK, ids=lambda claim: claim.id)
def test_quick_verdicts(claim):
    outcome = claim.measure(False)
    assert outcome.verdict == (HOLDS if claim.should_hold else FAILS), f"{outcome.value}: {outcome.detail}"
    assert outcome.series
    for series in outcome.series:
        assert len(series.x) == len(series.y) == len(series.predicted)


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert [claim.how for claim in TIMED] == ["time"]
    assert all(claim.how != "time" for claim in QUICK)


def test_what_fails_says_by_how_much():
    """13 and 11 for 12 and 12; 8 for 4."""
    assert layerwise.quasi_newton_vectors(False).value == "13 D², 11 o²"
    assert layerwise.limited_memory(False).value == "compact 8 h o D, two loops 8 h o D"
    assert layerwise.limited_memory(False, expected=8).verdict == HOLDS


# --------------------------------------------------------------------------------------------------------- negative controls


def doubled(name, *args, **due):
    """The formula with one part wrong."""
    step = cost.layerwise_step(name, *args, **due)
    return {**step, "inverse": 2 * step["inverse"]}


def with_damped_copy(name, spec, h=0):
    """The state of K-BFGS, if it kept A + λ I beside A."""
    return layerwise._kept(name, spec, h) + (spec.shape[1] ** 2 if name.startswith("kbfgs") else 0)


def largest_share(J, damping):
    """μ with the largest eigenvalue in place of the smallest."""
    n, bound = J.shape[1], max(np.linalg.norm(block, 2) ** 2 for block in J)
    return float(np.linalg.eigvalsh(np.einsum("bij,bkj->ik", J, J))[-1]) / (bound + n * damping)


def always_inverting(name, *args, **options):
    """The overhead of a method that inverts in every step."""
    net, layers = cost.autoencoder(1000, layerwise.MNIST), cost.dense_layers((*layerwise.MNIST, *layerwise.MNIST[-2::-1]))
    return float(cost.amortised_step(name, net, layers, 1, 1) / sum(cost.sgd_step(net).values()))


EVERY = layerwise.EVERY
MBF_PER_NEURON, MBF_SAMPLE = MiniBlockFisher(average=False, **EVERY), MiniBlockFisher(statistic="sample", **EVERY)
ONE_PASS = {"TNT": (lambda objective, params, batch, point: point.traces(targets=batch[1]), 4)}
WRONG = {
    "blocks of all neurons": functools.partial(layerwise.dense_cost, name="mini-block-fisher", optimizer=MBF_PER_NEURON),
    "blocks of inputs": functools.partial(
        layerwise.dense_cost, name="mini-block-fisher", optimizer=MiniBlockFisher(layout="in", **EVERY)
    ),
    "eigenvectors for inverses": functools.partial(layerwise.dense_cost, name="kfac", optimizer=KFAC(inverse="exact", **EVERY)),
    "Shampoo is not TNT": functools.partial(layerwise.dense_cost, name="tnt", optimizer=layerwise.OPTIMIZERS["shampoo"]),
    "samples enter the kernels": functools.partial(layerwise.conv_cost, name="mini-block-fisher", optimizer=MBF_SAMPLE),
    "samples enter the degrees": functools.partial(layerwise.kernel_degrees, optimizer=MBF_SAMPLE),
    "channels coupled": functools.partial(layerwise.kernel_degrees, optimizer=layerwise.OPTIMIZERS["kfac"]),
    "one wrong part": functools.partial(layerwise.whole_steps, formula=doubled),
    "no weight gradients": functools.partial(layerwise.passes, asked=ONE_PASS),
    "a copy in the state": functools.partial(layerwise.state_sizes, kept=with_damped_copy),
    "another state": functools.partial(
        layerwise.state_per_parameter, layer={**cost.LAYERS, "mini-block-fisher": cost.kfac_layer}
    ),
    "factors of kernels": functools.partial(layerwise.vgg_memory, layer=cost.kfac_layer),
    "inverses in every step": functools.partial(layerwise.overheads, names=("mini-block-fisher",), counted=always_inverting),
    "twice the time": functools.partial(layerwise.step_time, seconds=lambda sizes, n: (2.0, 1.0)),
    "the largest eigenvalue": functools.partial(layerwise.linear_rate, share=largest_share),
    "a step far beyond 2/K": functools.partial(layerwise.linear_rate, step=16.0),
    "one step beyond 2/K": functools.partial(layerwise.one_step, step=2.2),
    "blocks without full row rank": functools.partial(layerwise.one_step, width=8),
}


@pytest.mark.parametrize("measure", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_fails(measure):
    assert measure(False).verdict == FAILS


def test_the_time_of_a_step_holds_up_to_its_limit():
    assert layerwise.step_time(False, seconds=lambda sizes, n: (1.5, 1.0)).verdict == HOLDS
    own, sgd = layerwise.step_seconds((12, 8, 3), 10, periods=1)
    assert own > 0
    assert sgd > 0


# --------------------------------------------------------------------------------------------------------- idealised steps


def test_full_row_rank_converges_for_steps_below_two_over_k_and_diverges_beyond():
    J, r = layerwise.affine_blocks(12, 5, 12, key=1)
    below = layerwise.idealised_residuals(J, r, 1e-12, 1.9 / 5, 100)
    beyond = layerwise.idealised_residuals(J, r, 1e-12, 2.1 / 5, 100)
    np.testing.assert_allclose(below[1:20] / below[:19], 0.9, rtol=1e-6)  # M = K I: contraction |1 - η K|
    assert below[-1] < 1e-4 * below[0]
    np.testing.assert_allclose(beyond[1:20] / beyond[:19], 1.1, rtol=1e-6)


def test_one_block_is_a_damped_gauss_newton_step():
    """With K = 1 and η = 1 the residual is nλ (J Jᵀ + nλ)⁻¹ r, whatever the spectrum."""
    J, r = layerwise.affine_blocks(6, 1, 9, key=2, spread=50.0)
    n, damping = 6, 0.3
    expected = n * damping * np.linalg.solve(J[0] @ J[0].T + n * damping * np.eye(n), r)
    norms = layerwise.idealised_residuals(J, r, damping, 1.0, 1)
    np.testing.assert_allclose(norms, [np.linalg.norm(r), np.linalg.norm(expected)], rtol=1e-10)


def test_blocks_have_the_spectrum_that_they_were_asked_for():
    J, _ = layerwise.affine_blocks(10, 4, 3, key=0)
    values = np.linalg.svd(J, compute_uv=False)
    assert values.shape == (4, 3)
    assert values.min() >= 1 - 1e-12
    assert values.max() <= 3 + 1e-12
    assert values.max() > 1.5 * values.min()
