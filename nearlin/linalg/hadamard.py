"""Walsh-Hadamard transform of a power-of-two length.

Formula     y = H_N x,  H_N[i, j] = (-1)^popcount(i & j)  (Sylvester order, not normalised);
            H_{kl} = H_k ⊗ H_l, so that H_N is applied as a few dense products with factors of at most 16 points.
Reference   the Kronecker factorisation of Sylvester's matrices; Fino and Algazi, Unified matrix treatment of the fast
            Walsh-Hadamard transform (IEEE Trans. Computers, 1976).
Cost        2 k c N flops and (k² - 1)/3 signs for every factor of k points: at most 8 c N log2 N + 22 log2 N, where
            all factors have 16; ceil(log2 N / 4) passes over the (N, c) array. Butterflies need c N log2 N flops, in log2 N
            passes that run at memory speed: several times slower.
Deviations  none.
"""

from nearlin import _array

MAX_FACTOR_BITS = 4  # 16-point factors; 8 and 32 points took 2 to 20 % longer on 2^18 x 8 and 2^20 x 8, 64 points twice as long


def next_power_of_two(n):
    """The smallest power of two that is at least ``n``, for an integer ``n`` >= 1."""
    if n < 1:
        raise ValueError(f"n is {n!r}; expected an integer of at least 1")
    return 1 << (int(n) - 1).bit_length()


def pad_rows(x, rows):
    """``x`` (n, ...) with rows of zeros below it, so that it has ``rows`` rows; ``x`` itself where it has as many."""
    missing = rows - x.shape[0]
    if missing < 0:
        raise ValueError(f"x has {x.shape[0]} rows; expected at most {rows}")
    if missing == 0:
        return x
    xp = _array.namespace(x)
    return xp.concat([x, xp.zeros((missing, *x.shape[1:]), dtype=x.dtype, device=_array.device(x))], axis=0)


def fwht(x):
    """Unnormalised Walsh-Hadamard transform along axis 0.

    Parameters
    ----------
    x : array (N,) or (N, c), float32 or float64
        N is a power of two, 1 included. Not changed.

    Returns
    -------
    array like ``x``
        H_N x in the dtype of ``x``; ``fwht(fwht(x)) == N * x`` up to rounding.

    Raises
    ------
    ValueError
        N is not a power of two (pad with `pad_rows` and `next_power_of_two`), or ``x`` has not one or two dimensions.
    BackendError, TypeError
        ``x`` is no array, or has a dtype other than float32 or float64.

    Notes
    -----
    At most 8 c N log2 N flops beside the signs of the factors, and two arrays of the size of ``x`` at a time.
    """
    xp = _array.check(ndim={"x": (1, 2)}, finite=False, x=x)
    n = x.shape[0]
    if n & (n - 1):
        raise ValueError(f"x has {n} rows; expected a power of two (the next is {next_power_of_two(n)}; see pad_rows)")
    return _kronecker_products(xp, x)


def transform_flops(n):
    """Flops of `fwht` a column of ``n`` entries, padded to a power of two: 2 k an entry for every factor of k points."""
    n = next_power_of_two(n)
    return 2 * n * sum(1 << bits for bits in factor_bits(n.bit_length() - 1))


def _kronecker_products(xp, x):
    n, c = x.shape[0], (x.shape[1] if x.ndim == 2 else 1)
    y, left = x, 1
    for bits in factor_bits(n.bit_length() - 1):
        k = 1 << bits
        h = _sylvester(xp, bits, x)
        right = n * c // (left * k)
        # H is symmetric, and one plain product is much faster than a batch of matrix-vector products
        y = xp.matmul(xp.reshape(y, (left, k)), h) if right == 1 else xp.matmul(h, xp.reshape(y, (left, k, right)))
        left *= k
    return xp.asarray(x, copy=True) if y is x else xp.reshape(y, x.shape)


def factor_bits(bits):
    """``bits`` as a sum of nearly equal parts of at most `MAX_FACTOR_BITS`, smaller ones first (measured faster)."""
    parts = -(-bits // MAX_FACTOR_BITS)
    return [bits * (i + 1) // parts - bits * i // parts for i in range(parts)] if parts else []


def _sylvester(xp, bits, like):
    h = xp.ones((1, 1), dtype=like.dtype, device=_array.device(like))
    for _ in range(bits):
        h = xp.concat([xp.concat([h, h], axis=1), xp.concat([h, -h], axis=1)], axis=0)
    return h
