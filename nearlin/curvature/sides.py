"""The two sides of a damped Gauss-Newton system: u over (sample, output), or δ over the parameters.

Formula     (JᵀHJ/n + λ I + ω D) δ = -g + λ μ δ_prev - ω W;   K = Cᵀ J, H = C Cᵀ, C r̃ = dl/dz;   W the weights of θ, D the
            projection on them: zeros for biases, and 1/s² for weights of inputs of scale s;   the strength s = λ + ω
            sample side      δ = δ₀ - Kᵀu,   (K Kᵀ + n s I) u = r̃ + K δ₀,   δ₀ = (λ μ δ_prev - ω W) / s,   the shift n s
            parameter side   CG on δ itself, from μ δ_prev
Reference   Martens, ICML 2010 (start, and stop by progress); Goldshlager, Abrahamsen, Lin, arXiv:2401.10190 (δ₀: SPRING)
Cost        what `gram_solve` or `cg` cost; a product for each part of δ₀, or of the start
Deviations  1. Where ε is above `SUMMED` rounding errors, images are summed up along the iteration, and certify it; below, a
               product of its own does.
            2. The sample side has I for D: biases are damped by ω too, as J Jᵀ of all columns has one shift. Steps vanish at the
               same θ.
            3. There r̃ does not vanish where the penalty balances the loss: ε is lowered by ||g + ω W|| / ||g|| where that is
               below 1, so that what is left of a solve goes to zero with the gradient; one product more.
            4. There CG ends by its smoothed residual (`Smoothing`): at small λ its own goes up and down, and needs up to
               six times the iterations.
"""

import math
from typing import NamedTuple

from nearlin._array import cached_property, namespace, widest
from nearlin.curvature.gram_solve import DampedGram, gram_solve, smoothed_cg
from nearlin.linalg import Exit, SlowProgress, SolveInfo, axpy, cg, craig, eps_of, inner, lsqr, norm
from nearlin.nn import ravel, unravel, without_biases

ROUGH = 1e-2  # accuracy of a solve in a lower precision, of which corrections make any other
SATURATED = 1e-6  # of ||g||²/2L: less curvature is out of reach of the dampings that one step tries
SUMMED = 1e4  # rounding errors that the accuracy must be above for an image summed along CG to stand for a recomputed one


class Accuracy(NamedTuple):
    """How exactly a system is solved, by what, and in which arithmetic; the fields are those of `GaussNewton`.

    ``stop`` is heeded on the parameter side, ``solver`` and the dtypes on that of the samples.
    """

    epsilon: float
    solver: str = "cg"
    stop: str = "residual"
    inner_dtype: str | None = None
    residual_dtype: str | None = None

    def inner(self, J):
        """J in the dtype of the inner products."""
        return J if self.inner_dtype is None else J.astype(self.inner_dtype)

    def cast(self, x):
        """``x`` in the dtype of the inner products."""
        xp = namespace(x)
        return x if self.inner_dtype is None else xp.astype(x, getattr(xp, self.inner_dtype), copy=False)

    def outer(self, J, b):
        """J and b in the dtype of the residual."""
        if self.residual_dtype is None:
            return J, b
        xp = namespace(b)
        if widest(b) != xp.float64:
            found = "residual_dtype is 'float64', and the device has none"
            raise ValueError(f"{found}; expected None there: float32's accuracy is left")
        return J.astype("float64"), xp.astype(b, xp.float64, copy=False)


class Pull(NamedTuple):
    """What δ is pulled towards, beside the model's minimum: by ω/2 ||W||² of the objective and λ/2 ||δ - μ δ_prev||² of a step.

    Attributes
    ----------
    params : tuple of arrays
        θ.
    layers : tuple of LayerSpec
        They tell weights from biases.
    l2 : float
        ω.
    last : tuple of arrays or None
        δ_prev.
    momentum : float
        μ.
    spring : bool
        Whether the parameter side is pulled towards μ δ_prev, or only starts there.
    """

    params: tuple
    layers: tuple
    l2: float = 0.0
    last: tuple | None = None
    momentum: float = 0.0
    spring: bool = False


class Solution(NamedTuple):
    """δ, its image K δ (n c,), its inner product with the gradient, that of the penalty too, and the certificate."""

    step: tuple
    image: object
    slope: float
    info: SolveInfo


class SampleSide:
    """(K Kᵀ + n s I) u = r̃ + K δ₀, δ = δ₀ - Kᵀu, of n samples.

    Parameters
    ----------
    J : Jacobian
        K.
    r : array, shape (n c,)
        r̃.
    pull : Pull
    accuracy : Accuracy
    """

    def __init__(self, J, r, pull, accuracy):
        self.J, self.r, self.pull, self.accuracy, self.n, self._images = J, r, pull, accuracy, J.samples, {}
        self._weights = without_biases(pull.params, pull.layers) if pull.l2 else None

    def largest_curvature(self, iterations, loss):
        """The largest Ritz value of K Kᵀ / n, whatever the ``loss``."""
        return _largest(cg(self.J.gram_matvec, self.r, rtol=0.0, maxiter=iterations, certify=False)[1]) / self.n

    def forget(self):
        """Go on without δ_prev."""
        self.pull = self.pull._replace(last=None)

    def solve(self, damping, P, limit):
        """The `Solution` for λ = ``damping`` with the preconditioner ``P``, an `Applied`, in at most ``limit`` iterations."""
        centre, image = self._centre(damping)
        b, shift = self.r if centre is None else self.r + image, self.n * (damping + self.pull.l2)
        J, wide = self.accuracy.outer(self.J, b)
        solved = gram_solve(J, wide, shift, self._inner_solver(b, P, shift), self._tolerance, limit)
        back = lambda a: namespace(a).astype(a, self.r.dtype, copy=False)  # noqa: E731
        step, made = tuple(-back(V) for V in solved.step), -back(solved.image)
        if centre is not None:
            step, made = axpy(1.0, centre, step), image + made
        slope = inner(self.r, made) / self.n
        if self.pull.l2:
            slope += self.pull.l2 * inner(self._weights, step)
        return Solution(step, made, slope, solved.info)

    @cached_property
    def _tolerance(self):
        """ε: deviation 3."""
        epsilon, l2 = self.accuracy.epsilon, self.pull.l2
        if not l2:
            return epsilon
        g = self.J.rmatvec(self.r / self.n)
        size, left = norm(g), norm(axpy(l2, self._weights, g))
        return max(epsilon * left / size, 100 * eps_of(self.r)) if left < size else epsilon

    def _centre(self, damping):
        """δ₀ and K δ₀, or None twice."""
        (params, _, l2, last, momentum, _), parts = self.pull, []
        if last is not None and damping:
            parts.append((damping * momentum / (damping + l2), last, "last"))
        if l2:
            parts.append((-l2 / (damping + l2), self._weights, "weights"))
        if not parts:
            return None, None
        centre = tuple(sum(a * v[i] for a, v, _ in parts) for i in range(len(params)))
        return centre, sum(a * self._image(name, v) for a, v, name in parts)

    def _image(self, name, v):
        if name not in self._images:
            self._images[name] = self.J.matvec(v)
        return self._images[name]

    def _inner_solver(self, b, P, shift):
        """``inner_solve`` of `gram_solve`: P itself where it is exact and new, else CG, LSQR or CRAIG with it."""
        how = self.accuracy
        J, dtype, same_dtype = how.inner(self.J), how.cast(b).dtype, how.inner_dtype is None and how.residual_dtype is None

        def solve(rest, rtol, limit):
            c = namespace(rest).astype(rest, dtype, copy=False)
            lower = c.dtype != rest.dtype
            rtol = max(rtol, ROUGH) if lower else rtol
            summed = same_dtype and how.solver == "cg" and not P.exact and rtol >= SUMMED * eps_of(rest)
            operator, options = DampedGram(J, shift, keep_image=summed), {"rtol": min(rtol, 0.99), "maxiter": limit}
            if P.exact:
                u, info = P(c), SolveInfo(0.0, 0, 0, Exit.CONVERGED, 1.0)
            elif how.solver == "cg":
                u, info = smoothed_cg(operator, c, preconditioner=P, **options)
            else:
                method = lsqr if how.solver == "lsqr" else craig
                (operator.adjoint, u), info = method(J, c, shift, P.triangular, **options)
            if lower:
                reason = Exit.CONVERGED if info.reason == Exit.STALLED else info.reason  # the residual above tells how far it got
                return namespace(u).astype(u, rest.dtype), None, info._replace(reason=reason)
            found = (*operator.in_dtype_of(u, rest), info)
            return found if operator.image is None else (*found, operator.image)

        return solve


class ParameterSide:
    """(KᵀK/n + λ I + ω D) δ = -g + λ μ δ_prev - ω W by CG on δ, of n samples.

    Parameters
    ----------
    J : Jacobian
        K.
    gradient : tuple of arrays
        g + ω W, of the objective.
    pull : Pull
    accuracy : Accuracy
    """

    def __init__(self, J, gradient, pull, accuracy):
        self.J, self.g, self.pull, self.accuracy, self.n = J, ravel(gradient), pull, accuracy, J.samples
        self._penalty = pull.l2 and pull.l2 * ravel(without_biases(tuple(map(_ones, pull.params)), pull.layers))  # ω D

    def largest_curvature(self, iterations, loss):
        """The largest Ritz value of KᵀK / n; ||g||²/2L where outputs are saturated and the Ritz value is nothing beside it."""
        ritz = _largest(cg(lambda v: self._product(v)[0], self.g, rtol=0.0, maxiter=iterations, certify=False)[1])
        steep = norm(self.g) ** 2 / (2 * loss) if loss else 0.0
        return steep if ritz < SATURATED * steep < math.inf else ritz

    def _product(self, v):
        """KᵀK v / n and K v."""
        image = self.J.matvec(self._like_params(v))
        return ravel(self.J.rmatvec(image)) / self.n, image

    def _like_params(self, v):
        return unravel(v, self.pull.params)

    def _right_hand_side(self, damping):
        pull, b = self.pull, -self.g
        return b + (damping * pull.momentum) * ravel(pull.last) if pull.spring and pull.last is not None else b

    def forget(self):
        """Go on without δ_prev."""
        self.pull = self.pull._replace(last=None)

    def solve(self, damping, P, limit):
        """As `SampleSide.solve`."""
        s, b, epsilon = damping + self._penalty, self._right_hand_side(damping), self.accuracy.epsilon
        size = norm(b)
        if not 0 < size < math.inf:
            zero = self._like_params(namespace(b).zeros_like(b))
            return Solution(zero, self.J.matvec(zero), 0.0, SolveInfo.unsolved(size))
        start, image, rest, products = self._start(b, s)
        seen, progress = _Images(self._product, s), self.accuracy.stop == "progress"
        stop = SlowProgress(rest) if progress else None
        options = {"start": start, "rest": rest, "rtol": epsilon, "maxiter": limit, "stop": stop}
        M = lambda r: ravel(P.on_parameters(self._like_params(r)))  # noqa: E731
        delta, info = cg(seen, b, preconditioner=M, certify=False, on_step=seen.accumulate, **options)
        if seen.total is not None:
            image = image + seen.total
        elif start is None:  # it ended before its first step: δ is 0
            image = self.J.matvec(self._like_params(delta))
        products, residual, reason = products + info.products, info.residual, info.reason
        if epsilon * size < SUMMED * eps_of(b) * norm(rest):  # summed along the way, it may have lost touch
            rest = b - ravel(self.J.rmatvec(image)) / self.n - s * delta
            residual, products = norm(rest) / size, products + 1
        if reason == Exit.CONVERGED and residual > 1.05 * epsilon and not progress:
            reason = Exit.STALLED
        info = info._replace(residual=residual, products=products, reason=reason)
        return Solution(self._like_params(delta), image, inner(self.g, delta), info)

    def _start(self, b, s):
        """μ δ_prev or None, its image, the residual there, and the products that it took."""
        if self.pull.last is None:
            return None, 0.0, b, 0
        delta = self.pull.momentum * ravel(self.pull.last)
        along, image = self._product(delta)
        return delta, image, b - along - s * delta, 1


class _Images:
    """v → (KᵀK/n + s) v, s = λ + ω D a number or a diagonal, that adds up K x along the steps x += α v."""

    def __init__(self, product, strength):
        self._product, self._strength, self._last, self.total = product, strength, None, None

    def __call__(self, v):
        made, self._last = self._product(v)
        return made + self._strength * v

    def accumulate(self, alpha):
        self.total = alpha * self._last if self.total is None else self.total + alpha * self._last


def _ones(W):
    return namespace(W).ones_like(W)


def _largest(info):
    """The largest Ritz value of a solve; 0 where the right-hand side, or its image, is zero, NaN where one is not finite."""
    return 0.0 if info.iterations == 0 and info.reason != Exit.NON_FINITE else info.largest
