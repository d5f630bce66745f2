"""Experiments: problems, the training loop, checkpoints, comparison, prediction, verification of claims, estimates. The command
line (`nearlin.__main__`) is a thin layer over these functions; click, rich and matplotlib are imported only where they are
used."""

from nearlin.experiments.building import build
from nearlin.experiments.checkpoint import CheckpointError
from nearlin.experiments.comparison import Comparison, compare
from nearlin.experiments.config import Config
from nearlin.experiments.environment import info
from nearlin.experiments.estimation import Estimate, estimate
from nearlin.experiments.measuring import measure_rates
from nearlin.experiments.prediction import Prediction, predict
from nearlin.experiments.problems import Problem
from nearlin.experiments.recipes import RECIPES, Recipe
from nearlin.experiments.registry import OPTIMIZERS, make_optimizer
from nearlin.experiments.result import Interrupted, Result
from nearlin.experiments.teams import Team
from nearlin.experiments.training import train
from nearlin.experiments.tuning import Tuning, tune
from nearlin.experiments.verification import Verification, verify

__all__ = [
    "Config", "Interrupted", "Result", "Team", "train",
    "OPTIMIZERS", "RECIPES", "Problem", "Recipe", "build", "make_optimizer",
    "Comparison", "Tuning", "compare", "tune",
    "CheckpointError", "Prediction", "predict",
    "Estimate", "Verification", "estimate", "info", "measure_rates", "verify",
]  # fmt: skip
