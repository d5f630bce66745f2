"""Verdicts on timed claims from the results of `asv run` in ``asv_bench/``: exponents of measured times, with their intervals.

The suites name the backend as first parameter and the size as last; what lies between separates curves. Times are the
minimum of the recorded samples, or asv's median where samples were not recorded. Code that is linear by count shows exponents
up to 0.2 too large where its arrays outgrow a cache level, so that tolerances are wide; exact degrees are counted. Results
that were not measured on one BLAS thread are refused: threads that share their cores with other processes measure those.
"""

import ast
import itertools
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from nearlin.complexity.claims.table import FAILS, HOLDS, NOT_MEASURED, OUT_OF_REGIME, Claim, Outcome, Series
from nearlin.complexity.fit import fit_exponent, fit_with_floor

THREADS = "quality.Threads.track_blas_threads"
FAMILY = "timed by asv"


@dataclass(frozen=True)
class Curve:
    """Seconds of one benchmark over sizes, on one backend and for one choice of its other parameters.

    Attributes
    ----------
    sizes : tuple of int
        Ascending.
    seconds : tuple of float
    missing : int
        Sizes that failed or were skipped.
    """

    sizes: tuple
    seconds: tuple
    missing: int


@dataclass(frozen=True)
class Run:
    """What one results file of asv holds: curves by (benchmark, backend, other parameters), and where it comes from."""

    machine: str
    commit: str
    curves: dict

    def __str__(self):
        return f"machine {self.machine}, commit {self.commit[:8]}"


@dataclass(frozen=True)
class Scaling:
    """A claim about how the time of one benchmark grows.

    Attributes
    ----------
    id, statement : str
        The id is that of a timed claim of the table where both speak about the same.
    benchmark : str
        As asv names it.
    choice : tuple
        Its parameters between backend and size.
    size : str
        The symbol of the size.
    growth : str
        "n", "n log n", "n^2" or "n^3", with ``size`` in place of n.
    exact : bool
        Whether the growth is claimed, or only that it is no faster.
    tolerance : float
        Of the exponent.
    floor : bool
        Whether a part that does not grow is fitted too.
    """

    id: str
    statement: str
    benchmark: str
    choice: tuple = ()
    size: str = "m"
    growth: str = "n"
    exact: bool = False
    tolerance: float = 0.2
    floor: bool = True

    @property
    def exponent(self):
        """The exponent claimed; of the times divided by the logarithm, where there is one."""
        return {"n": 1, "n log n": 1, "n^2": 2, "n^3": 3}[self.growth]

    def judge(self, curve):
        """The `Outcome` for a `Curve`.

        Raises
        ------
        ValueError
            Too few sizes for a fit.
        """
        scaled = [t / self._logarithm(n) for n, t in zip(curve.sizes, curve.seconds, strict=True)]
        try:
            fit = (fit_with_floor if self.floor else fit_exponent)(curve.sizes, scaled)
        except ValueError as error:
            raise ValueError(f"{self.benchmark}: {error}") from error
        verdict, reason = self._verdict(fit)
        sizes = f"{self.size} = {curve.sizes[0]} ... {curve.sizes[-1]}, {len(curve.sizes)} sizes, relative rms {fit.rms:.0%}"
        missing = f"{curve.missing} size(s) failed or were skipped" if curve.missing else ""
        detail = "; ".join(part for part in (reason, sizes, missing) if part)
        value = f"exponent {fit.exponent:.2f} [{fit.low:.2f}, {fit.high:.2f}]"
        predicted = tuple((fit.floor + fit.scale * n**fit.exponent) * self._logarithm(n) for n in curve.sizes)
        series = Series("seconds", curve.sizes, curve.seconds, predicted, self.size, "seconds", says=f"fit, {value}")
        return Outcome(value, verdict, detail, (series,))

    def _logarithm(self, n):
        return np.log2(n) if "log" in self.growth else 1.0

    def _verdict(self, fit):
        """The verdict, and its reason where the claim does not hold: the interval lies inside, outside, or across the claim.

        Where times bend, the exponent at the largest size counts too, and at the smallest where equality is claimed.
        """
        least = self.exponent - self.tolerance if self.exact else -np.inf
        most = self.exponent + self.tolerance
        if fit.low > most or fit.high < least:
            return FAILS, f"the whole interval lies {'above' if fit.low > most else 'below'} the claim"
        if fit.curved:
            ends = fit.exponent - fit.bend / 2, fit.exponent + fit.bend / 2
            if ends[1] > most or min(ends) < least or (self.exact and ends[0] > most):
                return OUT_OF_REGIME, "the times bend: no power law on these sizes (cache levels, or another process)"
        if fit.high > most or fit.low < least:
            return OUT_OF_REGIME, "the interval is too wide to decide: more samples on a quiet machine would"
        return HOLDS, ""

    def claim(self, curve=None, backend="numpy"):
        """A `Claim` that judges ``curve``; without one it is not measured."""
        bound = f"{self.exponent} ± {self.tolerance}" if self.exact else f"at most {self.exponent} + {self.tolerance}"
        divided = f", divided by log {self.size}" if "log" in self.growth else ""
        return Claim(
            id=self.id, number=0, family=FAMILY, paper="derived", statement=self.statement,
            quantity=f"exponent of the time in {self.size} on {backend}{divided}", how="time",
            expected=bound, condition="one BLAS thread, a quiet machine; the whole 95 % interval counts",
            measure=partial(_measure, self, curve),
        )  # fmt: skip


def _known():
    """The claims of the table, by id."""
    return {claim.id: claim for claim in import_module("nearlin.complexity.claims").CLAIMS}


def _measure(scaling, curve, full):
    return Outcome("", NOT_MEASURED, "no times in these results") if curve is None else scaling.judge(curve)


def _step(id, words, optimizer):
    return Scaling(id, f"A step of {words} is linear in the width m.", "steps.OverWidth.time_step", (optimizer,))


def _deep(id, words, optimizer):
    statement = f"A step of {words} is at most cubic in the width w of a perceptron."
    return Scaling(id, statement, "steps.Deep.time_step", (optimizer,), "w", "n^3")


def _product(name, words):
    statement = f"{words} is linear in the width m."
    return Scaling(f"{name}-time-in-width", statement, f"network.OverWidth.time_{name.replace('-', '_')}")


def _flat(name, growth="n"):
    statement = f"{name} applied to (p, 8) takes O({growth.replace('n', 'p')})."
    return Scaling(f"{name.lower()}-time", statement, "sketches.Flat.time_apply", (name,), "p", growth, tolerance=0.25)


def _factored(id, name, growth="n"):
    statement = f"The sketched Gram matrix by {name} takes O({growth.replace('n', 'm')}) in the width m."
    return Scaling(id, statement, "sketches.OfFactors.time_apply", (name,), "m", growth, tolerance=0.25)


def _in_samples(id, words, benchmark, growth="n", **options):
    return Scaling(id, f"{words} in the samples n.", benchmark, (), "n", growth, floor=False, **options)


def _routine(id, what, benchmark, *choice, size="n", growth="n"):
    bound = growth.replace("n", size).replace("^2", "²").replace("^3", "³")
    return Scaling(id, f"{what} takes O({bound}).", benchmark, choice, size, growth)


SCALINGS = (
    _step("step-time-in-width", "the near-linear method that sketches and factors anew", "NearLinearGaussNewton, R fresh"),
    _step("step-time-reused", "the near-linear method that keeps its preconditioner", "NearLinearGaussNewton, R reused"),
    _step("gram-gauss-newton-time", "the exact Gauss-Newton method", "GramGaussNewton"),
    _step("natural-gradient-time", "the exact natural gradient", "NaturalGradient"),
    _step("sgd-time", "gradient descent with momentum", "SGD"),
    _step("adam-time", "Adam", "Adam"),
    _step("gauss-newton-time", "Gauss-Newton by the planner's route", "GaussNewton"),
    _step("adamw-time", "AdamW", "AdamW"),
    _step("adagrad-time", "AdaGrad", "AdaGrad"),
    _step("rmsprop-time", "RMSprop", "RMSprop"),
    _step("qng-time", "quasi-natural gradient", "QNG"),
    _step("ginger-time", "Ginger", "Ginger"),
    _deep("mini-block-fisher-time", "mini-block Fisher", "MiniBlockFisher"),
    _deep("kfac-time", "K-FAC", "KFAC"),
    _deep("shampoo-time", "Shampoo", "Shampoo"),
    _deep("soap-time", "SOAP", "SOAP"),
    _deep("tnt-time", "TNT", "TNT"),
    _deep("kbfgs-time", "K-BFGS", "KBFGS"),
    _deep("kbfgs-l-time", "K-BFGS(L)", "KBFGSL"),
    _deep("dsgd-time", "DSGD by singular values", "DSGD"),
    _deep("dsgd-newton-schulz-time", "DSGD by Newton-Schulz", "DSGD, Newton-Schulz"),
    _deep("muon-time", "Muon", "Muon"),
    _routine("deep-gauss-newton-time", "A step of Gauss-Newton on a perceptron", "steps.DeepGaussNewton.time_step", growth="n^3"),
    _product("forward", "The forward pass"),
    _product("matvec", "J v"),
    _product("rmatvec", "Jᵀ u"),
    _product("gram-matvec", "J Jᵀ u"),
    _product("gram", "The structured Gram matrix"),
    _in_samples("product-time-in-samples", "J Jᵀ u is linear", "network.OverSamples.time_gram_matvec"),
    _in_samples(
        "gram-time-in-samples", "The structured Gram matrix is quadratic", "network.OverSamples.time_gram", "n^2",
        exact=True,
    ),
    _in_samples("factorisation-time", "A Cholesky factorisation is at most cubic", "solvers.Factorisation.time_cholesky", "n^3"),
    _in_samples("triangular-time", "A triangular solve is at most quadratic", "solvers.Factorisation.time_triangular", "n^2"),
    _routine("jvp-time", "J v of a convolutional network", "network.AnyNetwork.time_jvp"),
    _routine("kernel-time", "The limit kernel", "preconditioners.Kernel.time_kernel", growth="n^2"),
    _routine("class-grams-time", "Gram matrices by class", "preconditioners.ByClass.time_gram", "per-class", growth="n^2"),
    _routine("kronecker-time", "Kronecker factors and bases", "preconditioners.ByLayer.time_kronecker", size="w", growth="n^3"),
    _routine("block-inverse-time", "Inverting N blocks of 9 x 9", "block_inverse.Blocks.time_block_inverse", size="N"),
    _routine("factor-inverse-time", "Inverting an n x n matrix", "block_inverse.Factor.time_block_inverse", growth="n^3"),
    _routine("root-time", "A root by eigenvectors", "roots.InverseRoot.time_inverse_root", "eigh", growth="n^3"),
    _routine("newton-root-time", "A root by Newton's iteration", "roots.InverseRoot.time_inverse_root", "newton", growth="n^3"),
    _routine("bfgs-time", "A BFGS update of an n x n inverse", "roots.BFGS.time_update", growth="n^2"),
    _routine("compact-time", "100 pairs applied to n columns", "roots.BFGS.time_compact", growth="n^2"),
    _routine("lowrank-step-time", "A step of rank 16 in d dimensions", "lowrank.LowRank.time_step", 16, size="d"),
    _routine("lowrank-solve-time", "An inverse of rank 16 in d dimensions", "lowrank.LowRank.time_solve", 16, size="d"),
    _routine("nystrom-time", "Making a Nyström preconditioner of rank 32", "nystrom.Nystrom.time_make", 32),
    _routine("nystrom-apply-time", "Applying a Nyström preconditioner of rank 32", "nystrom.Nystrom.time_apply", 32),
    _routine("pivoted-time", "Making a preconditioner from 64 columns", "pivoted.Pivoted.time_make", 64),
    _routine("pivoted-apply-time", "Applying a preconditioner from 64 columns", "pivoted.Pivoted.time_apply", 64),
    _routine("pivoted-blocks-time", "Adding blocks of near rows to 64 columns", "pivoted.Pivoted.time_blocks", 64),
    _routine("lsqr-time", "Five iterations of LSQR in the width m", "golub_kahan.GolubKahan.time_lsqr", size="m"),
    _routine("craig-time", "Five iterations of CRAIG in the width m", "golub_kahan.GolubKahan.time_craig", size="m"),
    _routine("duality-map-time", "A duality map by singular values", "duality.DualityMap.time_duality_map", 2, growth="n^3"),
    _routine("orthogonalize-time", "Newton-Schulz", "duality.Orthogonalize.time_orthogonalize", "5 quintic", growth="n^3"),
    _routine("norm-bound-time", "A norm's bound by traces", "duality.SpectralBound.time_spectral_bound", "gram", growth="n^3"),
    Scaling("cg-time", "Five iterations of conjugate gradients are linear in the width m.", "solvers.CG.time_cg"),
    Scaling(
        "hadamard-time", "The Hadamard transform takes O(N log N).", "hadamard.Hadamard.time_fwht", (), "N", "n log n",
        tolerance=0.25,
    ),
    _flat("CountSketch"), _flat("SparseSign"), _flat("Gaussian"), _flat("SRHT", "n log n"),
    _factored("neuron-signs-time", "NeuronSigns"), _factored("neuron-samples-time", "NeuronSamples"),
    _factored("kronecker-sketch-time", "KroneckerSRHT", "n log n"),
)  # fmt: skip


def claims(run, backend="numpy"):
    """One `Claim` per `Scaling`, each judging its curve of ``run`` on ``backend``.

    Raises
    ------
    ValueError
        The run has no times on this backend, or too few sizes for a fit.
    """
    found = sorted({name for _, name, _ in run.curves})
    if backend not in found:
        raise ValueError(f"the asv results hold no times on the backend {backend!r}; they hold {', '.join(found)}")
    known, table = _known(), []
    for scaling in SCALINGS:
        curve = run.curves.get((scaling.benchmark, backend, scaling.choice))
        if curve is not None:
            scaling.judge(curve)  # too few sizes are an error of the input, not a verdict
        claim = scaling.claim(curve, backend)
        if claim.id in known:
            claim = replace(claim, number=known[claim.id].number, paper=known[claim.id].paper)
        table.append(claim)
    return tuple(table)


def read(folder):
    """The newest results below ``folder``, as a `Run`.

    Parameters
    ----------
    folder : str or path
        asv's ``results_dir``, or a machine's folder in it.

    Raises
    ------
    ImportError
        asv is not installed.
    ValueError
        The folder does not exist or holds no results of these suites, or they were not measured on one BLAS thread.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"the results folder {folder} does not exist; `asv run` in asv_bench makes asv_bench/.asv/results")
    results = [result for result in _load(folder) if _names(result)]
    if not results:
        raise ValueError(f"{folder} holds no results of nearlin's asv suites; `asv run` in asv_bench makes them")
    newest = max(results, key=_when)
    _check_threads(newest, folder)
    machine = (newest.params or {}).get("machine", "unknown")
    return Run(machine, newest.commit_hash, _curves(newest))


def _load(folder):
    try:
        from asv.results import iter_results
    except ImportError as error:
        raise ImportError('reading asv results needs asv, which is missing: pip install "nearlin[bench]"') from error
    try:
        return list(iter_results(str(folder)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds a results file that asv cannot read: {error}") from error


def _names(result):
    """Benchmarks of ``result`` that the scalings speak about."""
    return {scaling.benchmark for scaling in SCALINGS} & set(result.get_all_result_keys())


def _when(result):
    """When the timed benchmarks of ``result`` were last started."""
    return max((result.started_at or {}).get(name) or 0 for name in _names(result))


def _check_threads(result, folder):
    remedy = "run `asv run` with the configuration of asv_bench, which pins them"
    if THREADS not in result.get_all_result_keys():
        raise ValueError(f"the results in {folder} do not say on how many BLAS threads they were measured ({THREADS}); {remedy}")
    threads = [value for *_, value in _values(result, THREADS)]
    if not threads or any(value != 1 for value in threads):
        found = ", ".join(f"{value:g}" if value is not None else "no" for value in threads) or "no"
        raise ValueError(f"the results in {folder} were measured on {found} BLAS threads; expected 1; {remedy}")


def _curves(result):
    """Curves by (benchmark, backend, other parameters)."""
    points, missing = {}, {}
    for name in _names(result):
        for (backend, *choice, size), seconds in _values(result, name):
            key = name, backend, tuple(choice)
            if seconds is None or not seconds > 0:
                missing[key] = missing.get(key, 0) + 1
            else:
                points.setdefault(key, []).append((size, seconds))
    return {key: Curve(*zip(*sorted(values), strict=True), missing.get(key, 0)) for key, values in points.items()}


def _values(result, name):
    """(parameters, value) of one benchmark: the least of the samples, or the value that asv holds."""
    params = result.get_result_params(name)
    values = result.get_result_value(name, params) or []
    samples = result.get_result_samples(name, params) or [None] * len(values)
    for key, value, sample in zip(itertools.product(*params), values, samples, strict=True):
        yield tuple(_literal(text) for text in key), min(sample) if sample and value is not None else value


def _literal(text):
    """A parameter, which asv keeps as its repr."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
