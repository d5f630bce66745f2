"""Networks written by hand: layers with forward, backward and jvp, losses, Jacobian operators, and the objective."""

from nearlin.nn.activations import ACTIVATIONS, Activation, activation
from nearlin.nn.by_samples import OwnRows, by_samples, over_samples
from nearlin.nn.convolution import Conv2d, ConvTrace
from nearlin.nn.counted import Counted
from nearlin.nn.gram_entries import FactorEntries, KernelEntries
from nearlin.nn.graph import GraphNetwork, Propagate
from nearlin.nn.jacobian import Factor, Jacobian, LayeredJacobian, Positions, Rows
from nearlin.nn.layers import Dense, Elementwise, Flatten, LayerSpec, Trace
from nearlin.nn.losses import LOSSES, SigmoidCrossEntropy, SoftmaxCrossEntropy, SquaredLoss
from nearlin.nn.models import (
    VGG11,
    VGG16,
    CURVES_autoencoder,
    FACES_autoencoder,
    MNIST_autoencoder,
    ResNet32,
    autoencoder,
)
from nearlin.nn.network import MLP, Residual, Sequential, ZeroPadShortcut, chain
from nearlin.nn.network_jacobian import NetworkJacobian
from nearlin.nn.normalization import BatchNorm, LayerNorm, NormTrace, Statistics
from nearlin.nn.objective import Objective, Point
from nearlin.nn.output_root import DiagonalRoot, ScaledIdentity, SoftmaxRoot, WeightedRoot
from nearlin.nn.parameters import (
    Block,
    join_bias,
    join_groups,
    layer_blocks,
    move_block,
    ravel,
    split_bias,
    split_groups,
    take_block,
    ungrouped,
    unravel,
    weights_of,
    without_biases,
)
from nearlin.nn.pooling import AvgPool, GlobalAvgPool, MaxPool
from nearlin.nn.split import Split
from nearlin.nn.split_two_layer import SplitJacobian, SplitTwoLayer, by_neurons
from nearlin.nn.standardised import Standardised, several_units
from nearlin.nn.two_layer import TwoLayer
from nearlin.nn.two_layer_jacobian import TwoLayerJacobian
from nearlin.nn.variables import join_tensors, split_tensors, tensor_names

__all__ = [
    "ACTIVATIONS", "Activation", "activation",
    "BatchNorm", "Conv2d", "Dense", "Elementwise", "Flatten", "LayerNorm",
    "AvgPool", "GlobalAvgPool", "MaxPool", "Propagate", "ZeroPadShortcut",
    "LayerSpec", "Trace", "ConvTrace", "NormTrace", "Statistics",
    "MLP", "chain", "GraphNetwork", "Residual", "Sequential", "TwoLayer",
    "CURVES_autoencoder", "FACES_autoencoder", "MNIST_autoencoder", "ResNet32", "VGG11", "VGG16", "autoencoder",
    "LOSSES", "SigmoidCrossEntropy", "SoftmaxCrossEntropy", "SquaredLoss",
    "Counted", "Objective", "OwnRows", "Point", "by_samples", "over_samples", "Standardised", "several_units",
    "Split", "SplitJacobian", "SplitTwoLayer", "by_neurons",

    "Block", "join_bias", "join_groups", "layer_blocks", "move_block", "ravel", "split_bias", "split_groups", "take_block",
    "ungrouped", "unravel",
    "weights_of", "without_biases",

    "join_tensors", "split_tensors", "tensor_names",
    "DiagonalRoot", "ScaledIdentity", "SoftmaxRoot", "WeightedRoot",
    "Factor", "Jacobian", "LayeredJacobian", "NetworkJacobian", "Positions", "Rows", "TwoLayerJacobian",
    "FactorEntries", "KernelEntries",
]  # fmt: skip
