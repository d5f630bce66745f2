"""Networks written by hand: layers with forward, backward and jvp, losses, Jacobian operators, and the objective."""

from nearlin.nn.activations import ACTIVATIONS, Activation, activation
from nearlin.nn.jacobian import Factor, Jacobian, LayeredJacobian
from nearlin.nn.layers import Dense, Elementwise, LayerSpec, Trace
from nearlin.nn.losses import SquaredLoss
from nearlin.nn.network import MLP, Sequential
from nearlin.nn.objective import Counted, Objective, Point, Trial, attempt
from nearlin.nn.two_layer import TwoLayer, TwoLayerJacobian

__all__ = [
    "ACTIVATIONS", "Activation", "activation",
    "Dense", "Elementwise", "LayerSpec", "Trace",
    "MLP", "Sequential", "TwoLayer",
    "SquaredLoss", "Counted", "Objective", "Point", "Trial", "attempt",
    "Factor", "Jacobian", "LayeredJacobian", "TwoLayerJacobian",
]  # fmt: skip
