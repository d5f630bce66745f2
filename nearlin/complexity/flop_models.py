"""What an operation costs: flops and bytes from the arrays that it is given and those that it makes.

Cost model, in flops (one addition, multiplication, division, comparison or elementary function each; k the length of a sum):

================================================  =======================================================================
elementwise operations, comparisons, ``where``    1 per entry of the output; in-place ones alike
``sum``, ``prod``, ``max``, ``any``, ``argmax``   entries in - entries out; ``mean`` 1 per entry in; ``var``, ``std`` 4
``cumulative_sum``, ``cumulative_prod``, ``diff`` 1 per entry of the output
``matmul``, ``vecdot``, ``tensordot``             2 k per entry of the output (A Aᵀ is counted in full)
``vector_norm``, ``matrix_norm`` (Frobenius)      2 per entry in
``trace``                                         n - 1
``sort``, ``argsort``                             ⌈log₂ n⌉ per entry; ``searchsorted`` ⌈log₂(n + 1)⌉ per query
``nonzero``, ``count_nonzero``                    1 per entry in
creation, copies, casts, gathers, views           0
``cholesky``                                      n (n + 1) (2n + 1) / 6, roots and divisions included (LAPACK Working Note 41)
``shifted_cholesky``                              the same + n for the shift
``spd_inverse``                                   n³ + n² + n, potrf + potri (Note 41), + n for the shift
``solve_triangular``                              n² per column
``solve``                                         LU n (n - 1)/2 + n (n - 1)(2n - 1)/3, then 2n² - n per column
``inv``, ``det``, ``slogdet``                     2 n³; LU + n; LU + n
``qr``                                            (12 m n² - 4 n³ + 6 m n + 3 n² + 10 n) / 3, m >= n: geqrf + orgqr (Note 41)
``eigh``, ``eigvalsh``                            9 n³; 4 n³/3              (Golub, Van Loan, Matrix Computations, nominal)
``svd``, ``svdvals``, ``pinv``                    14 m n² + 8 n³; 4 m n² - 4 n³/3; svd + 2 m n² (m >= n, nominal)
================================================  =======================================================================

Bytes are those of the arrays read and written; a gather reads what it writes and its index; a view moves none.
"""

import math
from fractions import Fraction

import numpy as np

# ----------------------------------------------------------------------------------- bytes, from the arrays given and made


def owner(a):
    """The array whose memory ``a`` shows."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def _bytes(arrays):
    return sum(a.nbytes for a in arrays)


def read_and_written(given, made):
    """All arrays are read or written once."""
    return _bytes(given) + _bytes(made)


def written(given, made):
    """Nothing is read."""
    return _bytes(made)


def copied(given, made):
    """0 for a view, which shares the memory of what it shows."""
    owners = {id(owner(a)) for a in given}
    return 0 if all(id(owner(a)) in owners for a in made) else read_and_written(given, made)


def gathered(given, made):
    """A gather reads what it writes, and its index."""
    source, *index = given
    return 0 if owner(made[0]) is owner(source) else 2 * _bytes(made) + _bytes(index)


# ----------------------------------------------------------------------------------- flops, from the arrays given and made


def nothing(given, made, **_):
    """0."""
    return 0


def each_output(given, made, **_):
    """1 per entry of the output."""
    return max(a.size for a in made)


def each_input(given, made, **_):
    """1 per entry in."""
    return given[0].size


def reduction(given, made, **_):
    """Entries in - entries out."""
    return given[0].size - made[0].size


def spread(given, made, **_):
    """4 per entry in: mean, differences, squares, their mean."""
    return 4 * given[0].size


def square_and_add(given, made, **_):
    """2 per entry in."""
    return 2 * given[0].size


def sorting(given, made, axis=-1, **_):
    """⌈log₂ n⌉ per entry, n along the axis."""
    return given[0].size * max(0, given[0].shape[axis] - 1).bit_length()


def search(given, made, **_):
    """⌈log₂(n + 1)⌉ per query."""
    return given[1].size * given[0].size.bit_length()


def product(given, made, **_):
    """2 k per entry of the output, k the columns of the first factor."""
    return 2 * made[0].size * given[0].shape[-1]


def vector_product(given, made, axis=-1, **_):
    """2 k per entry of the output, k along the axis."""
    return 2 * made[0].size * given[0].shape[axis]


def tensor_product(given, made, **_):
    """2 k per entry of the output: k² is entries of a times entries of b over entries made."""
    a, b = given
    return 2 * math.isqrt(a.size * b.size * made[0].size)


def integer(value):
    """A Fraction without a denominator as an int."""
    return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else value


def _batch(a):
    """Rows, columns and number of the matrices in a stack."""
    return *a.shape[-2:], math.prod(a.shape[:-2])


def _stack(flops):
    """The cost model of a stack of matrices, from that of one (m, n) matrix."""

    def cost(given, made, **_):
        m, n, number = _batch(given[0])
        return number * flops(m, n)

    return cost


def cholesky(m, n):
    """n (n + 1) (2n + 1) / 6."""
    return n * (n + 1) * (2 * n + 1) // 6


def lu(m, n):
    """n (n - 1)/2 + n (n - 1)(2n - 1)/3."""
    return n * (n - 1) // 2 + n * (n - 1) * (2 * n - 1) // 3


def qr(m, n):
    """(12 m n² - 4 n³ + 6 m n + 3 n² + 10 n) / 3 for m >= n: geqrf and orgqr."""
    m, n = max(m, n), min(m, n)
    return integer(Fraction(12 * m * n * n - 4 * n**3 + 6 * m * n + 3 * n * n + 10 * n, 3))


def svd(m, n):
    """14 m n² + 8 n³ for m >= n."""
    m, n = max(m, n), min(m, n)
    return 14 * m * n * n + 8 * n**3


def svdvals(m, n):
    """4 m n² - 4 n³/3 for m >= n."""
    m, n = max(m, n), min(m, n)
    return integer(4 * m * n * n - Fraction(4 * n**3, 3))


def pinv(m, n):
    """`svd` and 2 m n² for m >= n."""
    return svd(m, n) + 2 * m * n * min(m, n)


def solve(given, made, **_):
    """`lu` of each matrix, and 2n² - n per column."""
    _, n, number = _batch(given[0])
    return number * lu(n, n) + (2 * n - 1) * made[0].size


def triangular(given, made, **_):
    """n² per column."""
    return given[0].shape[0] * made[0].size


def shifted(given, made, **_):
    """`cholesky`, and n for the shift."""
    n = given[0].shape[0]
    return n + cholesky(n, n)


def spd_inverse(given, made, **_):
    """n³ + n² + n, and n for the shift."""
    n = given[0].shape[0]
    return n**3 + n**2 + 2 * n


# ------------------------------------------------------------------------------------------- the table, by name

ELEMENTWISE = """abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor ceil clip copysign cos cosh divide equal exp expm1 floor floor_divide greater greater_equal
    hypot isfinite isinf isnan less less_equal log log1p log2 log10 logaddexp logical_and logical_not logical_or logical_xor
    maximum minimum multiply negative nextafter not_equal positive pow reciprocal remainder round sign signbit sin sinh sqrt
    square subtract tan tanh trunc where cumulative_sum cumulative_prod diff"""
COPIES = """astype broadcast_arrays broadcast_to concat expand_dims flip matrix_transpose moveaxis permute_dims repeat reshape
    roll squeeze stack tile tril triu unstack"""
CREATION = "arange empty empty_like eye full full_like linspace meshgrid ones ones_like zeros zeros_like"

FUNCTIONS = {  # cost model in flops, bytes moved, names
    (each_output, read_and_written): ELEMENTWISE,
    (reduction, read_and_written): "sum prod max min all any argmax argmin",
    (each_input, read_and_written): "mean nonzero count_nonzero",
    (spread, read_and_written): "std var",
    (sorting, read_and_written): "sort argsort",
    (search, read_and_written): "searchsorted",
    (product, read_and_written): "matmul",
    (vector_product, read_and_written): "vecdot",
    (tensor_product, read_and_written): "tensordot",
    (nothing, copied): COPIES,
    (nothing, gathered): "take take_along_axis",
    (nothing, written): CREATION,
}
LINALG = {
    (product, read_and_written): "matmul",
    (vector_product, read_and_written): "vecdot",
    (tensor_product, read_and_written): "tensordot",
    (each_output, read_and_written): "outer",
    (square_and_add, read_and_written): "vector_norm matrix_norm",
    (nothing, copied): "matrix_transpose diagonal",
    (_stack(lambda m, n: min(m, n) - 1), read_and_written): "trace",
    (_stack(cholesky), read_and_written): "cholesky",
    (_stack(qr), read_and_written): "qr",
    (_stack(lambda m, n: 9 * n**3), read_and_written): "eigh",
    (_stack(lambda m, n: integer(Fraction(4 * n**3, 3))), read_and_written): "eigvalsh",
    (_stack(svd), read_and_written): "svd",
    (_stack(svdvals), read_and_written): "svdvals",
    (_stack(pinv), read_and_written): "pinv",
    (_stack(lambda m, n: 2 * n**3), read_and_written): "inv",
    (_stack(lambda m, n: lu(m, n) + n), read_and_written): "det slogdet",
    (solve, read_and_written): "solve",
}
