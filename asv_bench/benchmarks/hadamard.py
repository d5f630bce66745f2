"""The fast Hadamard transform."""

import nearlin as nl

from .common import BACKENDS, Timed, normal, wait


class Hadamard(Timed):
    """N log₂ N additions a column; 4 columns."""

    params = (BACKENDS, [2**k for k in range(14, 20)])
    param_names = ("backend", "N")

    def setup(self, backend, N):
        self.x = normal(backend, N, 4)

    def time_fwht(self, backend, N):
        wait(nl.linalg.fwht(self.x))
