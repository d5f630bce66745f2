"""LSQR and CRAIG: their time over the width, and what they attain in float32 over the condition number of J."""

import numpy as np

import nearlin as nl

from .common import BACKENDS, WIDTHS, Timed, like, problem, wait

METHODS = ["lsqr", "craig", "cg, products", "cg, Gram matrix"]
CONDITIONS = [10 ** (k / 2) for k in range(1, 9)]
SAMPLES, PARAMETERS = 64, 512


class GolubKahan(Timed):
    """Five iterations with damping 1 for a two-layer network with n = 128, d = 16, over its width m: 20 n m d flops and more."""

    params = (BACKENDS, WIDTHS)
    param_names = ("backend", "m")

    def setup(self, backend, m):
        objective, params, batch = problem(backend, 128, m)
        self.J, self.b = objective.at(params, batch).jacobian(), batch[1]

    def time_lsqr(self, backend, m):
        wait(*nl.linalg.lsqr(self.J, self.b, 1.0, rtol=0.0, maxiter=5)[0].step)

    def time_craig(self, backend, m):
        wait(*nl.linalg.craig(self.J, self.b, 1.0, rtol=0.0, maxiter=5)[0].step)


class Accuracy:
    """float32, n = 64, p = 512, singular values 1 to 1/condition in geometric progression, R from a sketch of 4 n rows."""

    params = (BACKENDS, METHODS, CONDITIONS)
    param_names = ("backend", "method", "condition")

    def setup(self, backend, method, condition):
        rng = np.random.default_rng(0)
        left, right = (np.linalg.qr(rng.standard_normal((size, SAMPLES))).Q for size in (SAMPLES, PARAMETERS))
        J = ((left * np.geomspace(1, 1 / condition, SAMPLES)) @ right.T).astype("float32")
        b, S = rng.standard_normal(SAMPLES).astype("float32"), rng.standard_normal((4 * SAMPLES, PARAMETERS))
        exact = np.linalg.qr(J.T.astype("float64"))
        self.wanted = exact.Q @ np.linalg.solve(exact.R.T, b.astype("float64"))
        R = np.linalg.qr(S @ J.T / (4 * SAMPLES) ** 0.5).R
        J, b, R = (nl.asarray(a, like=like(backend)) for a in (J, b, R))
        self.step, self.info = solve(method, nl.linalg.DenseOperator(J), b, R)

    def track_error(self, *_):
        """Of δ."""
        return float(np.linalg.norm(nl.to_numpy(self.step) - self.wanted) / np.linalg.norm(self.wanted))

    def track_residual(self, *_):
        return self.info.residual

    def track_iterations(self, *_):
        return self.info.iterations

    track_error.unit = "relative error"
    track_residual.unit = "relative residual"
    track_iterations.unit = "iterations"


def solve(method, J, b, R):
    """δ with J δ = b, and the certificate."""
    if method in ("lsqr", "craig"):
        solution, info = getattr(nl.linalg, method)(J, b, 0.0, R, rtol=1e-6)
        return solution.step, info
    gram = nl.linalg.DenseOperator(J.matrix @ nl._array.namespace(b).matrix_transpose(J.matrix))
    matvec = gram.matvec if method == "cg, Gram matrix" else lambda v: J.matvec(J.rmatvec(v))
    x, info = nl.linalg.cg(matvec, b, preconditioner=nl.linalg.TriangularPreconditioner(R), rtol=1e-6)
    return J.rmatvec(x), info
