"""Inverse p-th roots by eigendecomposition and by the coupled Newton iteration, and BFGS updates of an inverse."""

import nearlin as nl

from .common import BACKENDS, Timed, geometric, normal, wait


class InverseRoot(Timed):
    """The inverse fourth root of an n x n matrix: 11 n³ flops, or 8 n³ an iteration."""

    params = (BACKENDS, ["eigh", "newton"], geometric(64, 384, 6))
    param_names = ("backend", "method", "n")

    def setup(self, backend, method, n):
        root = normal(backend, n, n)
        self.matrix = root @ nl._array.namespace(root).matrix_transpose(root) / n

    def time_inverse_root(self, backend, method, n):
        wait(nl.linalg.inverse_root(self.matrix, 4, 0.1, method)[0])


class BFGS(Timed):
    """An update of an n x n inverse, 9 n² flops, and 100 remembered pairs applied to n x n/2: 400 n² flops."""

    params = (BACKENDS, geometric(128, 1024, 6))
    param_names = ("backend", "n")

    def setup(self, backend, n):
        xp, like = nl._array.namespace(normal(backend, 1)), normal(backend, n)
        self.H, self.s = xp.eye(n, dtype=like.dtype, device=nl._array.device(like)), like
        self.M, self.pairs = normal(backend, n, n // 2, seed=1), nl.linalg.LimitedMemory()
        for i in range(100):
            s = normal(backend, n, seed=i + 2)
            self.pairs, _ = nl.linalg.remember(self.pairs, s, 2.0 * s, 100)

    def time_update(self, backend, n):
        wait(nl.linalg.bfgs_update(self.H, self.s, 2.0 * self.s)[0])

    def time_compact(self, backend, n):
        wait(self.pairs(self.M))
