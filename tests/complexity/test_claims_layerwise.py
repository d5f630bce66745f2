"""Claims on layer-wise methods: that wrong costs, states, rates and step sizes are caught."""

import math

import numpy as np
import pytest

from nearlin.complexity import cost
from nearlin.complexity.claims import layerwise
from nearlin.complexity.claims import layerwise_rates as rates
from nearlin.complexity.claims.table import FAILS, HOLDS
from nearlin.nn import VGG16
from nearlin.optim import KBFGS, KBFGSL, KFAC, MiniBlockFisher
from tests.complexity.controls import controls

CLAIMS = (*layerwise.CLAIMS, *rates.CLAIMS)
QUICK = [claim for claim in CLAIMS if claim.quick]
TIMED = [claim for claim in CLAIMS if not claim.quick]
MEASURES = {claim.id: claim.measure for claim in CLAIMS}


def test_what_is_timed_is_not_quick_and_nothing_else_is():
    assert [claim.how for claim in TIMED] == ["time"]
    assert all(claim.how != "time" for claim in QUICK)


def test_no_claim_is_said_to_be_from_memory():
    assert not [claim.id for claim in CLAIMS if "memory" in claim.paper]


# --------------------------------------------------------------------------------------------------------- negative controls


def doubled(name, *args, **due):
    """The formula with one part wrong."""
    step = cost.layerwise_step(name, *args, **due)
    return {**step, "inverse": 2 * step["inverse"]}


def with_damped_copy(spec, n):
    """The state of K-BFGS, if it kept A + λ I beside A."""
    layer = cost.kbfgs_layer(spec, n)
    return layer._replace(state=layer.state + spec.shape[1] ** 2)


def largest_share(J, damping):
    """μ with the largest eigenvalue in place of the smallest."""
    n, bound = J.shape[1], max(np.linalg.norm(block, 2) ** 2 for block in J)
    return float(np.linalg.eigvalsh(np.einsum("bij,bkj->ik", J, J))[-1]) / (bound + n * damping)


EVERY, ALWAYS = layerwise.EVERY, {"statistics_every": 1, "inverse_every": 1}
MBF_PER_NEURON, MBF_SAMPLE = MiniBlockFisher(average=False, **EVERY), MiniBlockFisher(statistic="sample", **EVERY)
EXACT = {**layerwise.OPTIMIZERS, "K-FAC": KFAC(inverse="exact", **EVERY)}
WRONG = {
    "blocks of all neurons": ("dense-cost-mini-block-fisher", {"optimizer": MBF_PER_NEURON}),
    "blocks of inputs": ("dense-cost-mini-block-fisher", {"optimizer": MiniBlockFisher(layout="in", **EVERY)}),
    "eigenvectors for inverses": ("dense-cost-kfac", {"optimizer": KFAC(inverse="exact", **EVERY)}),
    "Shampoo is not TNT": ("dense-cost-tnt", {"optimizer": layerwise.OPTIMIZERS["Shampoo"]}),
    "TNT is not Shampoo on kernels": ("conv-cost-shampoo", {"optimizer": layerwise.OPTIMIZERS["TNT"]}),
    "samples enter the kernels": ("conv-cost-mini-block-fisher", {"optimizer": MBF_SAMPLE}),
    "samples enter the degrees": ("mbf-kernel-degrees", {"optimizer": MBF_SAMPLE}),
    "channels coupled": ("mbf-kernel-degrees", {"optimizer": layerwise.OPTIMIZERS["K-FAC"]}),
    "one wrong part": ("layerwise-closed-form", {"formula": doubled}),
    "no weight gradients": ("layerwise-passes", {"methods": ("K-BFGS", "K-FAC", "TNT")}),
    "statistics in every step": ("kbfgs-vectors", {"optimizer": KBFGS(lr=1e-3, statistics_every=1)}),
    "one pair alone": ("kbfgs-l-pairs", {"optimizer": KBFGSL(lr=1e-3, statistics_every=2, memory=1)}),
    "a copy in the state": ("layerwise-state", {"layers": {**cost.LAYERS, "kbfgs": with_damped_copy}}),
    "another state": ("layerwise-state-per-parameter", {"optimizers": {**layerwise.OPTIMIZERS, "MBF": MBF_PER_NEURON}}),
    "factors of kernels": ("mbf-memory-kernels", {"optimizer": layerwise.OPTIMIZERS["K-FAC"]}),
    "inverses in every step": ("mbf-overhead", {"optimizers": {"MBF": MiniBlockFisher(**ALWAYS)}}),
    "an overhead with eigenvectors": ("layerwise-overheads", {"optimizers": EXACT}),
    "twice the time": ("mbf-step-time", {"seconds": lambda sizes, n: (2.0, 1.0)}),
    "the largest eigenvalue": ("mbf-linear-rate", {"share": largest_share}),
    "a step far beyond 2/K": ("mbf-linear-rate", {"step": 16.0}),
    "half a step where it is tight": ("mbf-linear-rate", {"share": lambda J, damping: 0.5 * rates.least_share(J, damping)}),
    "one step beyond 2/K": ("mbf-one-step", {"step": 2.2}),
    "one step of half the length": ("mbf-one-step", {"step": 0.5}),
    "blocks without full row rank": ("mbf-one-step", {"width": 9}),
    "norms are not leverages": ("kfac-leverage", {"formula": lambda x: np.sum(x * x, axis=1)}),
    "half the step is slower than 1 - 1/κ": ("kfac-rate", {"step": 0.5}),
    "a longer step is faster than the leverages say": ("kfac-rate", {"step": 1.1}),
}
SLOW = (
    "another state",
    "TNT is not Shampoo on kernels",
    "blocks of all neurons",
    "no weight gradients",
    "a step far beyond 2/K",
    "half a step where it is tight",
    "the largest eigenvalue",
    "an overhead with eigenvectors",
)


@pytest.mark.parametrize(("name", "options"), controls(WRONG, slow=SLOW))
def test_what_is_wrong_fails(name, options):
    assert MEASURES[name].given(**options)(False).verdict == FAILS


def test_the_time_of_a_step_holds_up_to_its_limit():
    timed = MEASURES["mbf-step-time"]
    assert [timed.given(seconds=lambda *_, s=s: (s, 1.0))(False).verdict for s in (1.6, 1.61)] == [HOLDS, FAILS]
    own, sgd = layerwise.step_seconds((12, 8, 3), 10, periods=1)
    assert own > 0
    assert sgd > 0


def test_the_convolutions_of_vgg16_take_9_and_a_half_times_the_state_of_adam():
    """2.65e8 floats of blocks and inverses for 1.47e7 weights."""
    specs = [spec for spec in VGG16().layers if spec.kind == "conv"]
    states = sum(cost.mini_block_fisher_layer(spec, 128).state for spec in specs)
    parameters = sum(math.prod(spec.shape) for spec in specs)
    blocks = states - parameters - 2 * sum(spec.out for spec in specs)
    assert blocks == sum(2 * spec.out * spec.inp * 81 for spec in specs)
    assert states / (2 * parameters) == pytest.approx(9.5, abs=0.01)


# ----------------------------------------------------------------------------------------------------- runs on linear networks


def test_full_row_rank_converges_for_steps_below_two_over_k_and_diverges_beyond():
    J, r = rates.affine_blocks(9, 5, 9, key=1)
    below = rates.norms(J, r, 1e-12, 1.9 / 5, 100)
    beyond = rates.norms(J, r, 1e-12, 2.1 / 5, 100)
    np.testing.assert_allclose(below[1:20] / below[:19], 0.9, rtol=1e-6)  # M = K I: contraction |1 - η K|
    assert below[-1] < 1e-4 * below[0]
    np.testing.assert_allclose(beyond[1:20] / beyond[:19], 1.1, rtol=1e-6)


def test_one_block_is_a_damped_gauss_newton_step():
    """With K = 1 and η = 1 the residual is nλ (J Jᵀ + nλ)⁻¹ r, whatever the spectrum."""
    J, r = rates.affine_blocks(6, 1, 9, key=2, spread=50.0)
    n, damping = 6, 0.3
    expected = n * damping * np.linalg.solve(J[0] @ J[0].T + n * damping * np.eye(n), r)
    np.testing.assert_allclose(rates.norms(J, r, damping, 1.0, 1), [np.linalg.norm(r), np.linalg.norm(expected)], rtol=1e-10)


def test_the_linear_networks_are_the_maps_that_they_are_said_to_be():
    J, _ = rates.affine_blocks(10, 4, 4, key=0)
    network, (W,), x = rates.kernels(J)
    theta = np.arange(16.0).reshape(4, 4)
    found = network.forward((theta.reshape(W.shape),), x)[0][:, 0]
    np.testing.assert_allclose(found, np.einsum("bij,bj->i", J, theta), rtol=1e-13)
    x, M, _ = rates._features(6, 3)
    network, (W,) = rates.masked(x, M)
    W = W + np.arange(72.0).reshape(24, 3)
    np.testing.assert_allclose(network.forward((W,), x)[0][:, 0], np.sum(M * (x @ W.T), axis=1), rtol=1e-13)


def test_blocks_have_the_spectrum_that_they_were_asked_for():
    J, _ = rates.affine_blocks(10, 4, 3, key=0)
    values = np.linalg.svd(J, compute_uv=False)
    assert values.shape == (4, 3)
    assert values.min() >= 1 - 1e-12
    assert values.max() <= 3 + 1e-12
    assert values.max() > 1.5 * values.min()
