"""Winograd's minimal filtering F(2 x 2, 3 x 3) for 3 x 3 kernels, stride 1, between many channels.

Two neighbouring outputs of a filter g of three entries need four inputs d, and four products instead of six:

    y = Aᵀ [(G g) ∘ (Bᵀ d)],

            | 1  0 -1  0 |        | 1   0   0 |
       Bᵀ = | 0  1  1  0 |    G = | ½   ½   ½ |    Aᵀ = | 1  1  1  0 |
            | 0 -1  1  0 |        | ½  -½   ½ |         | 0  1 -1 -1 |
            | 0  1  0 -1 |        | 0   0   1 |

for y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2 and y_1 = d_1 g_0 + d_2 g_1 + d_3 g_2: the products are m_0 = (d_0 - d_2) g_0,
m_1 = (d_1 + d_2) (g_0 + g_1 + g_2) / 2, m_2 = (d_2 - d_1) (g_0 - g_1 + g_2) / 2 and m_3 = (d_1 - d_3) g_2, and
y_0 = m_0 + m_1 + m_2, y_1 = m_1 - m_2 - m_3. In two dimensions each matrix is the Kronecker product with itself, and a tile of
4 x 4 inputs gives 2 x 2 outputs. The sum over channels commutes with Aᵀ, so that for all T tiles of a block, D (16, T inp) and
kernels g (9, inp out)

    V = Bᵀ D,  U = G g,  Y = Aᵀ (V_k U_k for k = 1 .. 16)      32 T inp out flops instead of 72, and two thin products
    dg = Gᵀ (V_kᵀ (A dY)_k for k = 1 .. 16),  dX = Y of dY with the kernels flipped.

Flipped, U has G with its columns in reverse order. The entries of Bᵀ and Aᵀ are 0 and ±1: sums of four and nine terms, an error
of a few roundings more than the direct sum's (float32, of the largest entry: 2e-7 to 1e-6, by patches 2e-7 to 7e-7).

Reference   Winograd, Arithmetic Complexity of Computations (1980); Lavin, Gray, arXiv:1509.09308
"""

from nearlin._array import asarray, into, namespace, sum_blocks
from nearlin.nn.images import Window, by_samples, channel_sums, framed, sample_blocks, windows

CHANNELS = 80  # from which products, inp out flops a tile, outweigh transforms, inp + out: at 64 patches are faster
TILES = 256  # of a block at least: products of fewer rows are slow
BT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
AT = ((1, 1, 1, 0), (0, 1, -1, -1))


def serves(spec):
    """Whether a convolution goes this way: 3 x 3 at stride 1 and pad 1, inp and out of harmonic mean `CHANNELS` or more."""
    plain = (spec.kernel, spec.stride, spec.pad, spec.dilation, spec.groups) == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return plain and 2 * spec.inp * spec.out >= CHANNELS * (spec.inp + spec.out)


def forward(x, kernels, bias, spec):
    """y (n, out, h, w) of x (n, inp, h, w) for ``kernels`` (out, inp, 3, 3)."""
    return _filtered(x, _spectra(kernels, G), bias)


def backward(dy, kernels, shape, spec):
    """dx (n, inp, h, w) for output gradients dy (n, out, h, w)."""
    return _filtered(dy, namespace(dy).matrix_transpose(_spectra(kernels, tuple(row[::-1] for row in G))), None)


def _filtered(x, U, bias):
    """Y of images x (n, inp, h, w) for U (16, inp, out)."""
    xp, (n, inp, h, w), out = namespace(x), x.shape, U.shape[2]
    bt, at, tiles, widest = _squared(BT, x), _squared(AT, x), -(-h // 2) * -(-w // 2), max(inp, out)

    def part(y, x):
        V = xp.reshape(bt @ _tiles(x, 4), (16, -1, inp))
        Y = at @ xp.reshape(V @ U, (16, -1))
        Y = xp.reshape(Y, (2, 2, x.shape[0], -(-h // 2), -(-w // 2), out))
        if bias is not None:
            Y += bias
        for i in (0, 1):
            for j in (0, 1):
                y[:, :, i::2, j::2] = xp.permute_dims(Y[i, j, :, : (h - i + 1) // 2, : (w - j + 1) // 2, :], (0, 3, 1, 2))

    return by_samples(part, (n, out, h, w), 16 * tiles * widest, x, least=16 * TILES * widest)


def gradient(dy, x, spec):
    """The gradients of the kernels (out, 9 inp) and of the bias (out,)."""
    xp, (n, inp, h, w), out = namespace(x), x.shape, dy.shape[1]
    bt, a, tiles = _squared(BT, x), _squared(tuple(zip(*AT, strict=True)), x), -(-h // 2) * -(-w // 2)

    def part(rows):
        V = xp.reshape(bt @ _tiles(x[rows, ...], 4), (16, -1, inp))
        Q = xp.reshape(a @ _tiles(dy[rows, ...], 2), (16, -1, out))
        return xp.matrix_transpose(Q) @ V, channel_sums(dy[rows, ...])

    blocks = sample_blocks(n, 16 * tiles * max(inp, out), x, least=64 * out * inp)  # a sum of few large products
    S, sums = sum_blocks(part, blocks, x)
    g = _squared(G, x)

    def inverse(dg, S):
        into(dg, "matmul", xp.permute_dims(S, (0, 2, 1)), g)

    dg = by_samples(inverse, (out, inp, 9), 16 * inp, xp.permute_dims(S, (1, 0, 2)))
    return xp.reshape(dg, (out, -1)), sums


def _squared(matrix, like):
    """The Kronecker product of a matrix with itself, next to ``like``."""
    return asarray([[a * b for a in row for b in other] for row in matrix for other in matrix], like=like)


def _tiles(x, side):
    """The tiles of side 4, which overlap, or 2 of a block of images (b, channels, h, w): (side², tiles channels)."""
    xp, (b, channels, h, w), pad = namespace(x), x.shape, side // 2 - 1
    frame = framed((b, channels, h + h % 2 + 2 * pad, w + w % 2 + 2 * pad), x)
    frame[:, :, pad : pad + h, pad : pad + w] = x
    return xp.reshape(xp.permute_dims(windows(frame, Window(side, 2)), (2, 3, 0, 4, 5, 1)), (side * side, -1))


def _spectra(kernels, G):
    """U (16, inp, out) of kernels (out, inp, 3, 3)."""
    xp, (out, inp, *_) = namespace(kernels), kernels.shape
    left = _squared(G, kernels)

    def part(U, g):
        into(U, "matmul", left, xp.matrix_transpose(g))

    U = by_samples(part, (out, 16, inp), 16 * inp, xp.reshape(kernels, (out, inp, 9)))
    return xp.permute_dims(U, (1, 2, 0))
