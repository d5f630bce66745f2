r"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

Paper       Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade, SOAP: Improving and Stabilizing Shampoo using
            Adam, ICLR 2025, arXiv:2409.11321, Algorithm 3
Update      M ← β₁ M + (1 - β₁) g,   V ← β₂ V + (1 - β₂) ĝ²,   ĝ = g x₀ Q₀ᵀ x₁ Q₁ᵀ ...,   M̂ likewise of M
            θ ← θ - lr N x₀ Q₀ x₁ Q₁ ...,   N = (M̂ / (1 - β₁ᵗ)) / (√(V / (1 - β₂ᵗ)) + epsilon)
            Hⱼ ← decay Hⱼ + (1 - decay) gⱼ;   every inverse_every steps the columns q of Qⱼ, and axis j of V along with them, are
            put in the order of falling qᵀ Hⱼ q, and Qⱼ ← QR(Hⱼ Qⱼ), the orthogonal factor
            g gradient of the mean loss, gⱼ (Nⱼ, Nⱼ) its contraction with itself over all axes but j: g gᵀ and gᵀ g for a matrix
Notation    paper → code:  η → lr,  ε → epsilon_hat,  L, R → grams,  Q_L, Q_R → bases,  f → inverse_every
Cost        with, for a variable of N = N₀ N₁ ... entries and K axes, s = sum(Nⱼ), q = sum(Nⱼ²), c = sum(Nⱼ³), beyond forward
              and backward:
            exact 8 N s + 2 q + 2 N + N₀ - 1 flops per variable and step, K > 1: rotations and statistics, 2 N s, of which a
              BLAS does half
            exact 17 p - 2 L flops per step: Adam, and 4 p - 2 L to see that g and the step are finite; p parameters in L
              matrices
            leading 14/3 c flops per variable and inverse, refresh = "qr", K > 1: H Q and its QR
            leading 11 c flops per variable and inverse, refresh = "eigh", K > 1: 9 c of them nominal, 2 c for the order
            exact 2 N + 2 q floats kept per variable, K > 1
            exact 2 N floats kept per variable, K = 1
Oracles     step: 1 forward, 1 backward
Deviations  1. Step 0 makes the eigenbases of its gradient and leaves the parameters, as in nikhilvyas/SOAP: in its own
               eigenbasis a gradient is diagonal, and Adam would take the sign of rounding errors.
            2. Statistics are plain means until 1/t < 1 - decay; a batch of n samples counts n² times (`nearlin.steps.weigh`).
               The order of the columns is that of nikhilvyas/SOAP, and not in Algorithm 3: QR takes the first columns for the
               steepest, and in ascending order iterates from the wrong end.
            3. refresh = "eigh" takes new eigenvectors, in descending order, instead of one power iteration.
            4. Variables with one axis, biases, scales and shifts, take Adam's step. Kernels have the axes filter, channel and
               position (reshape = "filter") or filter and the rest ("matrix"); the paper has matrices alone.
            5. Which basis spans the null space of a Gram matrix is up to the library that finds it: iterates of one seed differ
               between backends by more than rounding, as those of E-KFAC do, by less, where a factor is singular.
            6. weight_decay is decoupled. A gradient whose square overflows rejects the step; a basis that fails stays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from nearlin._array import namespace, one_of
from nearlin.linalg import FactorizationError, axpy, dealt, mix_grams, mode_products, norm, symmetric_eigh
from nearlin.nn import join_tensors, split_tensors, tensor_names
from nearlin.steps import Info, decay, mean_weights, public_step, rate, settle_shared, weighted


class Modes(NamedTuple):
    """One variable: Gram matrices H and bases Q, (Nⱼ, Nⱼ) each, () for a single axis; the step at which the bases were made; and
    the moments, M in the variable's own basis and V in that of Q, like the variable."""

    grams: tuple = ()
    bases: tuple = ()
    made: int = 0
    mean: object = 0.0
    square: object = 0.0


class State(NamedTuple):
    """What a step hands to the next.

    Attributes
    ----------
    t : int
        Steps taken, the first, which leaves the parameters, included.
    modes : tuple of Modes or None
        One for every variable.
    kept : int
        How many times a variable kept its old bases.
    size : float
        Mean of the batches' squared numbers of samples, weighted as the statistics are.
    shapes : tuple
        Of the parameters; () before the first step.
    """

    t: int = 0
    modes: tuple | None = None
    kept: int = 0
    size: float = 0.0
    shapes: tuple = ()


@dataclass(frozen=True)
class SOAP:
    """SOAP, arXiv:2409.11321.

    Parameters
    ----------
    betas, epsilon_hat : tuple of float, float
        Decay of the first and second moment, each in [0, 1); and what is added to the root of the second.
    decay : float
        In [0, 1): weight of the old statistics.
    inverse_every : int
        Steps between two refreshed bases.
    refresh : str
        ``"qr"``: one power iteration; ``"eigh"``: new eigenvectors.
    reshape : str
        Kernels as ``"filter"`` (out, inp, kernel²), or as ``"matrix"`` (out, inp kernel²).
    lr, weight_decay, exempt_bias : float or callable, float, bool
        Step size or schedule of it, see `nearlin.steps.rate`; decoupled decay, and whom it spares, see `nearlin.steps.decay`.
    """

    lr: float | Callable = 3e-3
    betas: tuple = (0.95, 0.95)
    epsilon_hat: float = 1e-8
    decay: float = 0.95
    inverse_every: int = 10
    refresh: str = "qr"
    reshape: str = "filter"
    weight_decay: float = 0.0
    exempt_bias: bool = False

    def __post_init__(self):
        settle_shared(self, refresh=one_of("qr", "eigh"))

    def init(self, params, objective):
        """The state before the first step."""
        return State()

    @public_step
    def step(self, params, state, objective, batch, key=0):
        """One step; returns parameters, state and `Info`. Nothing given is changed. Deterministic: ``key`` is not used."""
        point, layers, t, lr = objective.at(params, batch), objective.layers, state.t, rate(self.lr, state.t)
        variables, loss = split_tensors(point.grads(), layers, self.reshape), float(point.loss)
        modes, trial = state.modes or (Modes(),) * len(variables), tuple(params)
        if t > 0:
            pairs = [self._adam(variable, g, t) for variable, g in zip(modes, variables, strict=True)]
            direction = join_tensors([N for _, N in pairs], layers)
            trial = axpy(-lr, direction, decay(params, layers, lr * self.weight_decay, self.exempt_bias))
            modes = [variable for variable, _ in pairs]
        if not math.isfinite(norm(trial)) or not math.isfinite(norm(tuple(variables))):  # squares would stay in V and H
            return params, state, Info(loss, False, "rejected: the step is not finite")
        weights, size = weighted(partial(mean_weights, self.decay), t, point.samples**2, state.size)
        modes, kept = self._statistics(modes, variables, *weights(t)), []
        if refreshed := t % self.inverse_every == 0:
            modes, kept = self._refreshed(modes, variables[0], t, tensor_names(layers))
        reason = "accepted" if t else "accepted: eigenbases made, no step yet"
        state = State(t + 1, tuple(modes), state.kept + len(kept), size)
        return trial, state, Info(loss, True, reason, refreshed=refreshed, kept="; ".join(kept))

    def _adam(self, variable, g, t):
        """One variable with its moments after ``g``, and the direction, in the variable's own basis."""
        xp, (beta1, beta2) = namespace(g), self.betas
        inverse = [xp.matrix_transpose(Q) for Q in variable.bases]
        rotated = mode_products(g, inverse)
        mean = beta1 * variable.mean + (1 - beta1) * g
        square = beta2 * variable.square + (1 - beta2) * rotated * rotated
        root = xp.sqrt(square / (1 - beta2**t)) + self.epsilon_hat
        N = mode_products(mean, inverse) / ((1 - beta1**t) * root)
        return variable._replace(mean=mean, square=square), mode_products(N, variable.bases)

    def _statistics(self, modes, variables, old, new):
        """Every H as old H + new gⱼ."""
        pairs = zip(modes, variables, strict=True)
        return [v if g.ndim == 1 else v._replace(grams=mix_grams(v.grams, g, old, new)) for v, g in pairs]

    def _refreshed(self, modes, like, t, called):
        """The variables with new bases, and a sentence for each that keeps its old ones."""
        made, kept = [], []
        found = dealt(self._refresh, modes, like=like)
        for name, variable, (bases, square, why) in zip(called, modes, found, strict=True):
            kept += [f"{name}: {why}, bases of step {variable.made} kept"] * bool(why)
            made.append(variable if why else variable._replace(bases=bases, square=square, made=t))
        return made, kept

    def _refresh(self, variable):
        """New bases of one variable and the second moment in them, or why it keeps those it has."""
        grams, old, square, bases = variable.grams, variable.bases, variable.square, []
        if old and not all(math.isfinite(float(namespace(H).sum(H))) for H in grams):
            return None, None, "statistics hold NaN or Inf"
        try:
            for axis, H in enumerate(grams):
                xp = namespace(H)
                if old:
                    HQ, order = _descending(H, old[axis])
                    square = xp.take(square, order, axis=axis)
                if old and self.refresh == "qr":
                    bases.append(xp.linalg.qr(HQ).Q)
                else:
                    bases.append(xp.flip(symmetric_eigh(H)[1], axis=1))
        except FactorizationError as error:
            if not old:
                raise
            return None, None, str(error)
        return tuple(bases), square, ""


def _descending(H, Q):
    """H Q with its columns by falling estimates qᵀ H q of the eigenvalues, and that order of the columns."""
    xp, HQ = namespace(H), H @ Q
    order = xp.argsort(xp.sum(Q * HQ, axis=0), descending=True)
    return xp.take(HQ, order, axis=1), order
