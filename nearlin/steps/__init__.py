"""How a step is taken: schedules, momentum, averages of statistics, weight decay, the guard, and what a step reports."""

from nearlin.steps.averages import average, label_key, mean_weights, warm_key, warmed, weigh, weighted
from nearlin.steps.boundary import public_start, public_step
from nearlin.steps.guard import Bounds, Guard, unmoved
from nearlin.steps.hyper_parameters import SHARED, settle_shared
from nearlin.steps.info import Info, StepExit, StepInfo, taken_if_finite
from nearlin.steps.layerwise_state import LayerwiseState
from nearlin.steps.levenberg_marquardt import CEILING, Damping, judge, least_damping
from nearlin.steps.momentum import adam_moments, adam_step, added, amsgrad_step, velocity
from nearlin.steps.schedules import StepDecay, inverses_due, rate, statistics_due
from nearlin.steps.slicing import SLICE, entrywise
from nearlin.steps.trial import Recall, Trial, attempt, recalled
from nearlin.steps.weight_decay import decay

__all__ = [
    "average", "label_key", "mean_weights", "warm_key", "warmed", "weigh", "weighted",
    "public_start", "public_step",
    "Bounds", "Guard", "unmoved",
    "SHARED", "settle_shared",
    "Info", "StepExit", "StepInfo", "taken_if_finite",
    "LayerwiseState",
    "CEILING", "Damping", "judge", "least_damping",
    "adam_moments", "adam_step", "added", "amsgrad_step", "velocity",
    "SLICE", "entrywise",
    "StepDecay", "inverses_due", "rate", "statistics_due",
    "Recall", "Trial", "attempt", "recalled",
    "decay",
]  # fmt: skip
