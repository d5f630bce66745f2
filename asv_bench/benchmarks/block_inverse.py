"""Damped inverses of blocks: many small ones at once, and one large one."""

import nearlin as nl

from .common import BACKENDS, Timed, geometric, normal, wait


def definite(backend, *shape):
    """Well-conditioned symmetric blocks."""
    root = normal(backend, *shape)
    return root @ nl._array.namespace(root).matrix_transpose(root) / shape[-1]


class Blocks(Timed):
    """9 x 9 blocks, the kernels of a convolution, over their number N: 1704 N flops."""

    params = (BACKENDS, [2**k for k in range(10, 16)])
    param_names = ("backend", "N")

    def setup(self, backend, N):
        self.blocks = definite(backend, N, 9, 9)

    def time_block_inverse(self, backend, N):
        wait(nl.linalg.block_inverse(self.blocks, 0.1).inverse)


class OneFailing(Timed):
    """4096 blocks of 9 x 9, one of them indefinite: named and inverted with more damping, the others as they were."""

    params = (BACKENDS, ["clean", "one indefinite"])
    param_names = ("backend", "blocks")

    def setup(self, backend, blocks):
        self.blocks = definite(backend, 4096, 9, 9)
        if blocks != "clean":
            self.blocks[77, ...] = -1.0 * self.blocks[77, ...]

    def time_block_inverse(self, backend, blocks):
        wait(nl.linalg.block_inverse(self.blocks, 0.1).inverse)


class Factor(Timed):
    """One n x n matrix, the factor of a dense layer: n³ flops."""

    params = (BACKENDS, geometric(128, 2048, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        self.matrix = definite(backend, n, n)

    def time_block_inverse(self, backend, n):
        wait(nl.linalg.block_inverse(self.matrix, 0.1).inverse)
