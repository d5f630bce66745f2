r"""Flops and bytes in closed form, before anything runs; tests hold every formula equal to the count, to the flop.

The cost model is that of `flop_models`: matrix products 2 m n k (A Aᵀ in full, where a rank-k update does half), one flop per
entry of elementwise operations and comparisons. Sizes: n samples, d inputs, m neurons, c outputs, p parameters, s sketch rows,
K inner iterations; N = n m d. Leading terms (ReLU):

    forward                2 N + 4 n m              J v, Jᵀu     2 N                 J Jᵀu          4 N
    structured Gram        2 n² (m + d)             neuron-mode sketch  2 n m        its Gram       2 n² (m' + d)
    Kronecker sketch       at most 8 n M log₂ M + 8 n D log₂ D + 3 n s σ, M and D the next powers of two
    factorisation          n³/3                     triangular solves   2 n²

A library that fills the symmetric half of a Gram matrix alone needs n² (m + d) for it. Walks over neurons go by blocks of
``block`` neurons; each block costs O(n d) more.

Networks of two kinds are known: the wide two-layer network, by plain functions of its sizes, and perceptrons (`mlp`,
`autoencoder`) under the squared loss. Both make a `NetworkCost`, from which the functions named ``..._step`` make the flops of a
step by part: a dict whose values add up to the count. The functions named ``..._layer`` are what a layer-wise method adds for one
dense or convolutional layer.
"""

from nearlin.complexity.cost.gauss_newton import (
    BOUNDS,
    Preconditioner,
    Route,
    gauss_newton_step,
    outline,
    planned_preconditioner,
    planned_route,
    wide_gauss_newton_memory,
    wide_gauss_newton_step,
)
from nearlin.complexity.cost.kernels import (
    factorisation,
    forward,
    gram,
    gram_matvec,
    group_of,
    kronecker_sketch,
    matvec,
    neuron_sketch,
    neurons_per_block,
    rmatvec,
    sketch_rows,
    sketched_gram,
    sketched_neurons,
    transform,
    triangular_solves,
)
from nearlin.complexity.cost.layerwise import (
    LAYERS,
    LayerCost,
    amortised_step,
    block_inverses,
    dense_layers,
    kbfgs_layer,
    kbfgsl_layer,
    kfac_layer,
    layerwise_step,
    mini_block_fisher_layer,
    shampoo_layer,
    tnt_layer,
)
from nearlin.complexity.cost.memory import (
    FIRST_ORDER,
    Memory,
    first_order_memory,
    gram_memory,
    layerwise_memory,
    near_linear_memory,
)
from nearlin.complexity.cost.networks import NetworkCost, autoencoder, mlp, two_layer
from nearlin.complexity.cost.perceptron_gauss_newton import gauss_newton_on_perceptron
from nearlin.complexity.cost.perceptrons import Perceptron, first_order_on_perceptron, kfac_on_perceptron, kfac_on_two_layer
from nearlin.complexity.cost.pivoted import first_rank, pivoted_application, pivoted_columns, pivoted_root
from nearlin.complexity.cost.sent import by_neurons as sent_by_neurons
from nearlin.complexity.cost.sent import by_samples as sent_by_samples
from nearlin.complexity.cost.steps import (
    adagrad_step,
    adam_step,
    adamw_step,
    gram_gauss_newton_step,
    natural_gradient_step,
    near_linear_step,
    rmsprop_step,
    sgd_step,
)

__all__ = [
    "factorisation", "forward", "gram", "gram_matvec", "group_of", "kronecker_sketch", "matvec", "neuron_sketch",
    "neurons_per_block", "rmatvec", "sketch_rows", "sketched_gram", "sketched_neurons", "transform", "triangular_solves",
    "first_rank", "pivoted_application", "pivoted_columns", "pivoted_root",
    "NetworkCost", "autoencoder", "mlp", "two_layer",
    "adagrad_step", "adam_step", "adamw_step", "gram_gauss_newton_step", "natural_gradient_step", "near_linear_step",
    "rmsprop_step", "sgd_step",
    "LAYERS", "LayerCost", "amortised_step", "block_inverses", "dense_layers", "kbfgs_layer", "kbfgsl_layer", "kfac_layer",
    "layerwise_step", "mini_block_fisher_layer", "shampoo_layer", "tnt_layer",
    "FIRST_ORDER", "Memory", "first_order_memory", "gram_memory", "layerwise_memory",
    "near_linear_memory", "Perceptron", "first_order_on_perceptron", "gauss_newton_on_perceptron", "kfac_on_perceptron",
    "kfac_on_two_layer",
    "sent_by_neurons", "sent_by_samples",
    "BOUNDS", "Preconditioner", "Route", "gauss_newton_step", "outline", "planned_preconditioner",
    "planned_route", "wide_gauss_newton_memory", "wide_gauss_newton_step",
]  # fmt: skip
