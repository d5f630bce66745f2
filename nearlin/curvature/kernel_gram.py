r"""R of the limit kernel in the place of a sketch's, for the two-layer network: how a step makes it, and how long it serves.

Formula     RᵀR = K + λ I ≈ J Jᵀ + λ I,  K_ij = x_i·x_j (π - θ_ij) / 2π, θ_ij the angle between x_i and x_j
            J Jᵀ at the start is itself a sketch of K, by m neurons, as the paper's is one of J Jᵀ, by 1.5 n: for m > 1.5 n K is
            the nearer one
Reference   the kernel: `nearlin.nn.gram_entries`; the rules are measured
Cost        n² (2 d + 9) + n³/3 flops;  an application 2 n² c;  memory 2 n² numbers
Deviations  1. K has no draws and does not change with the weights: R serves a whole run, and is made anew only where λ moves by
               more than 10 times.
            2. Several outputs have neurons of their own and one kernel: they share R.
"""

import math
from dataclasses import dataclass

from nearlin._array import copies, namespace, same
from nearlin.curvature.pivoted_rows import few_neurons
from nearlin.curvature.planner import HORIZON
from nearlin.curvature.preconditioning import near
from nearlin.curvature.routes import ROUTES
from nearlin.curvature.sketched_gram import Sketched, SketchedGram
from nearlin.linalg import sketch_factor

KERNEL = "kernel"


@dataclass(frozen=True)
class LimitKernel:
    """How a step makes R of the kernel, and keeps it.

    Parameters
    ----------
    J : Jacobian
        In the dtype of the inner products.
    maxiter : int
        Iterations of a solve at most.
    """

    J: object
    maxiter: int = 200

    renews = False  # deviation 1

    @property
    def obstacle(self):
        """Why there is no such kernel, in words, or nothing."""
        return ROUTES["kernel"].obstacle(self.J)

    @property
    def few_neurons(self):
        """A sentence where the network has too few neurons for its samples, or nothing."""
        return few_neurons(self.J)

    def known(self, P):
        """P, where it is R of the kernel of these inputs, in this dtype; else None."""
        alike = isinstance(P, SketchedGram) and P.of == KERNEL and P.R.dtype == self.J.dtype
        return P if alike and same((P.x,), (self.J.inputs,)) else None

    def at(self, P, damping):
        """P, where it serves at λ; else None."""
        return P if near(P.damping, damping) else None

    def make(self, P):
        """K; P has no part in it."""
        K, ((m, _),) = self.J.kernel_gram(), self.J.factor_shapes
        return Sketched(K, None, float(namespace(K).linalg.trace(K)) / K.shape[0], m / K.shape[0])

    def scale(self, made):
        """tr(K)/n."""
        return made.scale

    def factor(self, made, damping, P):
        """R with RᵀR = K + λ I; it goes on from P, if there is one."""
        R, how = sketch_factor(made.gram, damping)
        effort = math.inf if P is None else P.effort
        return SketchedGram(R, *copies((self.J.inputs,)), damping, made.scale, made.oversampling, KERNEL, how, effort)

    def limit(self, P, fresh, epsilon):
        """Iterations at most: a new R would be the same."""
        return self.maxiter

    def keep(self, P, fresh, iterations, epsilon):
        """P for the next step, and the size of the next sketch."""
        return P._replace(effort=iterations / math.log(1 / epsilon)), 1

    def held(self, P):
        """Bytes that P takes while a step goes on, K with it."""
        return self.bytes

    @property
    def bytes(self):
        """What K and R take, beside tiles."""
        return ROUTES["kernel"].bytes(self.J)

    def seconds(self, rates, P, epsilon):
        """Predicted time of a step's linear algebra; of R that is there, by its iterations in the last step."""
        route, J = ROUTES["kernel"], self.J
        each, build = J.product_work() + route.apply_work(J), route.build_work(J, 0)
        effort, build = (route.effort, 1 / HORIZON * build) if P is None else (P.effort, 0 * build)
        return rates.seconds(build + effort * math.log(1 / epsilon) * each, J.dtype)
