"""The classes that a checkpoint may hold, by names that stay when a class moves to another file."""

import dataclasses
import importlib

PLACES = {
    "AdaGrad.State": "optim.adagrad:State", "Adam.State": "optim.adam:State", "AdamW.State": "optim.adamw:State",
    "Best": "experiments.stopping:Best", "BlockInverse": "linalg.block_inverse:BlockInverse",
    "DSGD.Seen": "curvature.smoothness:Seen",
    "DSGD.State": "optim.dsgd:State", "Damping": "steps.levenberg_marquardt:Damping",
    "DiagonalLayer": "curvature.kronecker_curvature:DiagonalLayer", "GaussNewton.Bounds": "steps.guard:Bounds",
    "GaussNewton.Experience": "curvature.planner:Experience",
    "GaussNewton.Kept": "curvature.preconditioning:Kept", "GaussNewton.State": "optim.gauss_newton:State",
    "Ginger.Block": "optim.ginger:Block", "Ginger.State": "optim.ginger:State",
    "GramGaussNewton.State": "optim.gram_gauss_newton:State", "KBFGS.Factors": "optim.kbfgs:Factors",
    "KFAC.Layer": "optim.kfac:Layer", "KroneckerCurvature": "curvature.kronecker_curvature:KroneckerCurvature",
    "KernelEntries": "nn.gram_entries:KernelEntries",
    "KroneckerEigenbasis": "linalg.kronecker:KroneckerEigenbasis", "KroneckerInverse": "linalg.kronecker:KroneckerInverse",
    "LayerwiseState": "steps.layerwise_state:LayerwiseState", "LimitedMemory": "linalg.bfgs:LimitedMemory",
    "LowRank": "linalg.lowrank:LowRank", "LowRankInverse": "linalg.lowrank:Inverse", "Means": "curvature.moments:Means",
    "MiniBlockFisher.Layer": "optim.mini_block_fisher:Layer",
    "Modes": "linalg.modes:Modes", "Moments": "curvature.moments:Moments", "Muon.Moments": "optim.muon:Moments",
    "Muon.State": "optim.muon:State", "Muon.Velocity": "optim.muon:Velocity",
    "NaturalGradient.State": "optim.natural_gradient:State",
    "NearLinear.Preconditioner": "curvature.sketched_gram:SketchedGram",
    "NearLinear.State": "optim.near_linear_gauss_newton:State", "Nystrom": "linalg.nystrom:Nystrom",
    "PivotedBlocks": "linalg.pivoted_blocks:PivotedBlocks", "PivotedCholesky": "linalg.pivoted_cholesky:PivotedCholesky",
    "PivotedForm": "curvature.pivoted_gram:Form", "PivotedGram": "curvature.pivoted_gram:PivotedGram",
    "PivotedPreconditioner": "linalg.pivoted_cholesky:PivotedPreconditioner",
    "QNG.State": "optim.qng:State", "RMSprop.State": "optim.rmsprop:State", "SGD.State": "optim.sgd:State",
    "SOAP.Modes": "optim.soap:Modes", "SOAP.State": "optim.soap:State",
    "SolveInfo": "linalg.solve_info:SolveInfo", "Standardised": "nn.standardised:Standardised",
    "Statistics": "nn.normalization:Statistics",
    "Targets": "curvature.smoothness:Targets", "TriangularBlocks": "linalg.triangular_blocks:TriangularBlocks",
    "TriangularPreconditioner": "linalg.cholesky:TriangularPreconditioner",
}  # fmt: skip
_NAMES = {place: name for name, place in PLACES.items()}


def name_of(cls):
    """The short name of a class; `TypeError` where it has none."""
    place = f"{cls.__module__.removeprefix('nearlin.')}:{cls.__qualname__}"
    if place not in _NAMES:
        raise TypeError(
            f"a checkpoint cannot hold a {cls.__module__}.{cls.__qualname__}: only classes in nearlin.experiments.class_names "
            "can be restored"
        )
    return _NAMES[place]


def class_of(name):
    """The class that has a short name; `ValueError` where there is none."""
    if name not in PLACES:
        raise ValueError(f"it names the class {name!r}, which this version does not know")
    module, _, qualname = PLACES[name].partition(":")
    return getattr(importlib.import_module(f"nearlin.{module}"), qualname)


def fields(cls):
    """The fields of a class that a checkpoint keeps: all but those that it calls ``transient``."""
    names = cls._fields if issubclass(cls, tuple) else [f.name for f in dataclasses.fields(cls) if f.init]
    return [name for name in names if name not in getattr(cls, "transient", ())]
