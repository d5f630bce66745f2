"""The only room that names a backend.

Everything above takes its namespace from the arrays it is given. What the array API standard does not offer lives here:
random draws, triangular solves, a Cholesky factorisation that fails the same way everywhere, walks over blocks,
bit-packed masks, synchronisation, and the way back to NumPy.
"""

from nearlin._array.backends import (
    NAMES,
    BackendError,
    Unmade,
    abs_in_place,
    asarray,
    backend_name,
    clipped,
    cupy_unusable,
    describe,
    device,
    into,
    is_array,
    is_numpy,
    itemsize,
    namespace,
    on_gpu,
    prototype,
    refuse_masked,
    synchronize,
    to_numpy,
    unguarded,
    unguarded_methods,
    unusable,
    widest,
)
from nearlin._array.blocks import CPU_BLOCK_BYTES, Scratch, block_length, even_step, joined, pack_mask, slices
from nearlin._array.caching import cached_property
from nearlin._array.checks import (
    betas,
    check,
    check_finite,
    check_indices,
    check_range,
    check_square,
    check_system,
    finite_squares,
    flag,
    having,
    integer,
    is_integer,
    not_negative,
    number,
    one_of,
    optional,
    pair,
    positive,
    require,
    settle,
    step_size,
    within,
)
from nearlin._array.convolution import (
    brings_image_layers,
    convolution_gradients,
    convolve,
    max_pooled_gradient,
    normalization_gradients,
    row_windows,
    strided_windows,
    where_positive,
)
from nearlin._array.factor import (
    NotConverged,
    NotPositiveDefinite,
    cholesky,
    cholesky_pivots,
    eigh,
    flushed,
    singular_values,
    solve_triangular,
    spd_inverse,
    svd,
    tridiagonal_extremes,
)
from nearlin._array.gpu import card, gpu_facts, slow_float64
from nearlin._array.maps import by_rows, copies, in_memory, is_map, row_chunks, rows_of
from nearlin._array.memory import keep_freed_memory, machine_memory, memory_next_to, resident
from nearlin._array.pool import (
    blas_threads,
    by_one_worker,
    crowded,
    fold_blocks,
    map_blocks,
    matmul,
    pooled,
    sum_blocks,
    sums_of_blocks,
    workers,
)
from nearlin._array.random import fold_in, generator, normal, permutation, signs, uniform
from nearlin._array.reading import checked_together, look, read, read_flag, read_number, same, side_by_side

__all__ = [
    "BackendError", "NAMES", "abs_in_place", "asarray", "backend_name", "clipped", "cupy_unusable", "describe",
    "device", "into", "is_array", "is_numpy", "itemsize", "namespace", "on_gpu", "prototype", "same", "synchronize", "to_numpy",
    "unguarded", "unguarded_methods", "Unmade", "unusable", "widest",
    "check", "check_finite", "check_indices", "check_range", "check_square", "check_system", "is_integer", "refuse_masked",
    "betas", "flag", "having", "integer", "not_negative", "number", "one_of", "optional", "pair", "positive", "require",
    "settle", "step_size", "within",
    "checked_together", "finite_squares", "look", "read", "read_flag", "read_number", "side_by_side",
    "by_rows", "copies", "in_memory", "is_map", "row_chunks", "rows_of",
    "fold_in", "generator", "normal", "permutation", "signs", "uniform",
    "NotConverged", "NotPositiveDefinite", "cholesky", "cholesky_pivots", "eigh", "flushed", "singular_values",
    "solve_triangular", "spd_inverse", "svd", "tridiagonal_extremes",
    "brings_image_layers", "convolution_gradients", "convolve", "max_pooled_gradient",
    "normalization_gradients", "where_positive", "strided_windows", "row_windows",
    "CPU_BLOCK_BYTES", "Scratch", "block_length", "even_step", "joined", "pack_mask", "slices",
    "blas_threads", "by_one_worker", "crowded", "fold_blocks", "map_blocks", "matmul", "pooled", "sum_blocks", "sums_of_blocks",
    "card", "gpu_facts", "slow_float64",
    "workers", "cached_property", "keep_freed_memory", "machine_memory", "memory_next_to", "resident",
]  # fmt: skip
