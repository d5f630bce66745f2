"""What is said before a run where other options may do better."""

from nearlin._array import on_gpu
from nearlin.complexity.cost import planned_route
from nearlin.experiments.registry import LEAST_SQUARES

UNEVEN = 100  # ratio of feature deviations above which scaling is recommended
FEW_ROWS = 5000  # up to which Gauss-Newton steps on all of them pay
SLOW = 0.3  # predicted seconds of a step from which on other methods are named: a minute for 200 steps


def hints(trainer):
    """The sentences that fit a `Trainer`'s run."""
    kinds = _scale_hint, _dtype_hint, _batch_hint, _side_hint, _penalty_hint, _time_hint
    return [sentence for kind in kinds if (sentence := kind(trainer))]


def _dtype_hint(trainer):
    gpu = trainer.header.get("gpu")
    if not gpu or not gpu["slow_float64"]:
        return None
    return f"{gpu['card']} is at least 16 times slower in float64 than in float32, which is the default there (--dtype)"


def _scale_hint(trainer):
    spread = trainer.header["data"]["spread"]
    if spread <= UNEVEN:
        return None
    return f"the deviations of the features differ up to {spread:.1e} times; --scale gives every feature the same weight"


def _batch_hint(trainer):
    rows = trainer.problem.train[0].shape[0]
    if trainer.config.optimizer != "gauss-newton" or trainer.batches.full or rows > FEW_ROWS:
        return None
    return f"Gauss-Newton steps gain from larger batches than first-order ones, up to --batch-size all ({rows} rows)"


def _side_hint(trainer):
    said = trainer.problem.diagnosis
    if trainer.config.optimizer not in LEAST_SQUARES or said is None or said.parameters >= said.rows:
        return None
    p = f"{said.parameters} x {said.parameters}"
    return f"{trainer.config.optimizer} factors a matrix of {said.rows} x {said.rows}; --optimizer gauss-newton one of {p}"


def _time_hint(trainer):
    """What helps where Gauss-Newton on all rows is predicted to be slow: many outputs, or many rows."""
    config, problem = trainer.config, trainer.problem
    if config.optimizer != "gauss-newton" or not config.hidden or not trainer.batches.full:
        return None
    rows, gpu = problem.train[0].shape[0], on_gpu(problem.like)
    seconds = planned_route(problem.network, rows, config.dtype, problem.squared, trainer.optimizer, gpu).seconds
    if seconds < SLOW:
        return None
    step = f"a step on {rows} rows and {problem.outputs} outputs is predicted to take {seconds:.2g} s"
    return f"{step}, and there may be {config.steps}; --optimizer kfac and --optimizer adam take mini-batches"


def _penalty_hint(trainer):
    config = trainer.config
    if config.optimizer != "gauss-newton" or not config.width or not config.l2:
        return None
    return "gauss-newton is the default with --l2, as near-linear-gauss-newton takes no penalty in the loss"
