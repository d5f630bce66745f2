"""What stands for the Hessian, and how its system is solved: moments, Kronecker factors, bounds of smoothness, Gram systems."""

from nearlin.curvature.direct import DirectFactor, direct_factor, direct_matrices
from nearlin.curvature.gram_solve import DampedGram, GramSolution, gram_solve, smoothed_cg
from nearlin.curvature.kernel_gram import KERNEL, LimitKernel
from nearlin.curvature.kronecker_curvature import (
    DiagonalLayer,
    KroneckerCurvature,
    diagonal_curvature,
    factor_sums,
    kronecker_curvature,
    outer_sums,
    signal_sums,
)
from nearlin.curvature.mini_blocks import blend_outer, block_rows, from_rows, sample_moment
from nearlin.curvature.moments import Means, Moments, change, means, moments, observe
from nearlin.curvature.pivoted_gram import PivotedColumns, PivotedGram
from nearlin.curvature.planner import AGAIN, HORIZON, Experience, Plan, Planner
from nearlin.curvature.preconditioning import Applied, Kept, Preconditioning, Setting, near, too_rough
from nearlin.curvature.routes import ROUTES, Route
from nearlin.curvature.sides import Accuracy, ParameterSide, Pull, SampleSide, Solution
from nearlin.curvature.sketched_gram import SketchedGram, Sketches
from nearlin.curvature.smoothness import (
    Seen,
    Targets,
    check_smooth,
    deviation,
    input_bound,
    input_size,
    join_seen,
    layer_constants,
    target_range,
    trace_input_size,
)

__all__ = [
    "Means", "Moments", "change", "means", "moments", "observe",
    "DiagonalLayer", "KroneckerCurvature", "diagonal_curvature", "factor_sums", "kronecker_curvature",
    "outer_sums", "signal_sums",
    "blend_outer", "block_rows", "from_rows", "sample_moment",
    "Seen", "Targets", "check_smooth", "deviation", "input_bound", "input_size", "join_seen",
    "layer_constants", "target_range", "trace_input_size",
    "DampedGram", "GramSolution", "gram_solve", "smoothed_cg",
    "DirectFactor", "direct_factor", "direct_matrices",
    "Accuracy", "ParameterSide", "Pull", "SampleSide", "Solution",
    "ROUTES", "Applied", "Kept", "Preconditioning", "Route", "Setting", "near", "too_rough",
    "AGAIN", "HORIZON", "Experience", "Plan", "Planner",
    "KERNEL", "LimitKernel", "PivotedColumns", "PivotedGram", "SketchedGram", "Sketches",
]  # fmt: skip
