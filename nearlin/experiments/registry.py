"""Optimizers by the names that the command line uses."""

import dataclasses
import difflib

from nearlin import optim
from nearlin.linalg import Rates
from nearlin.steps import StepDecay

OPTIMIZERS = {
    "near-linear-gauss-newton": "NearLinearGaussNewton",
    "gauss-newton": "GaussNewton",
    "gram-gauss-newton": "GramGaussNewton",
    "natural-gradient": "NaturalGradient",
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSprop",
    "mini-block-fisher": "MiniBlockFisher",
    "kfac": "KFAC",
    "shampoo": "Shampoo",
    "soap": "SOAP",
    "tnt": "TNT",
    "kbfgs": "KBFGS",
    "kbfgs-l": "KBFGSL",
    "dsgd": "DSGD",
    "muon": "Muon",
    "ginger": "Ginger",
    "qng": "QNG",
}


SMOOTH = "digits-ae, or with a smooth activation such as tanh digits, curves-ae, mnist-ae and data with hidden layers"
TAKES = {"dsgd": f"networks of dense layers and smooth activations ({SMOOTH}), or any network with a given p"}
NAMED = ("epsilon", "lr", "damping")  # hyper-parameters that are options of their own
LEAST_SQUARES = ("near-linear-gauss-newton", "gram-gauss-newton", "natural-gradient")
BY_NEURONS = (*LEAST_SQUARES, "gauss-newton", "sgd", "adam", "adamw", "adagrad", "rmsprop")
MINI_BATCH = tuple(name for name in OPTIMIZERS if name not in (*LEAST_SQUARES, "gauss-newton", "dsgd"))


def make_optimizer(name, **options):
    """The optimizer called ``name`` with the given hyper-parameters; None leaves a hyper-parameter at its default.

    Parameters
    ----------
    name : str
        A key of `OPTIMIZERS`.
    **options
        Fields of the optimizer's dataclass, such as ``lr`` or ``epsilon``. ``rates`` may be the dict of `Rates.to_dict`.

    Raises
    ------
    ValueError
        An unknown name, or a hyper-parameter that this optimizer does not have.
    """
    check_name(name)
    cls = getattr(optim, OPTIMIZERS[name])
    options = {option: value for option, value in options.items() if value is not None}
    for option in options:
        if option not in hyperparameters(name):
            raise ValueError(f"{name} has no {option}; it has {', '.join(hyperparameters(name))}")
    if isinstance(options.get("rates"), dict):
        options["rates"] = Rates.from_dict(options["rates"])
    try:
        return cls(**options)
    except TypeError as error:
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise ValueError(f"{name} cannot take {given}: {error}") from error


def check_name(name):
    """`ValueError` where ``name`` is no key of `OPTIMIZERS`."""
    if not isinstance(name, str):
        raise ValueError(f"optimizer is a {type(name).__name__}; expected one of {', '.join(OPTIMIZERS)}")
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}{did_you_mean(name, OPTIMIZERS)}; expected one of {', '.join(OPTIMIZERS)}")


def check_by_neurons(name):
    """`ValueError` where the method ``name`` reads rows of the weights, or signals, of other ranks than its own."""
    if name not in BY_NEURONS:
        found = f"{name} reads rows of the weights, or signals, and those of other neurons lie on other ranks"
        raise ValueError(f"{found}; expected --ranks samples, or {', '.join(BY_NEURONS)}")


def options_of(optimizer):
    """The options of `train` that make an optimizer of `nearlin.optim` again: its name, and what is not at its default.

    Raises
    ------
    ValueError
        An instance of another class, or a hyper-parameter that a checkpoint cannot hold: a function, or a sketch.
    """
    name = next((name for name, cls in OPTIMIZERS.items() if type(optimizer) is getattr(optim, cls)), None)
    if name is None:
        found = f"optimizer is a {type(optimizer).__name__}"
        raise ValueError(f"{found}; expected one of {', '.join(OPTIMIZERS)}, or an optimizer of nearlin.optim")
    default = make_optimizer(name)
    given = {field: getattr(optimizer, field) for field in hyperparameters(name)}
    given = {field: value for field, value in given.items() if value != getattr(default, field)}
    for field, value in given.items():
        if not _can_be_recorded(value):
            expected = "numbers, texts and truth values, which a checkpoint holds; a schedule is lr_factor with lr_period"
            raise ValueError(f"optimizer has {field}={value!r}; expected {expected}")
    named = {field: given.pop(field, None) for field in NAMED}
    return {"optimizer": name, **named, "settings": tuple(given.items())}


def _can_be_recorded(value):
    if isinstance(value, tuple):
        return all(map(_can_be_recorded, value))
    return value is None or isinstance(value, bool | int | float | str | Rates)


def check_settings(settings, optimizers):
    """`ValueError` where one of the (name, value) pairs is a hyper-parameter of none of the optimizers."""
    for option, _ in settings:
        if not any(option in hyperparameters(name) for name in optimizers):
            raise ValueError(f"none of {', '.join(optimizers)} has {option}")


def default_lr(name):
    """The step size that the optimizer called ``name`` has by default; `ValueError` where it has none."""
    if "lr" not in hyperparameters(name):
        raise ValueError(f"{name} has no lr; it has {', '.join(hyperparameters(name))}")
    return make_optimizer(name).lr


def takes_schedules(name):
    """Whether the step size of the optimizer called ``name`` may be a schedule."""
    try:
        make_optimizer(name, lr=StepDecay(default_lr(name), 0.5, 1))
    except ValueError:
        return False
    return True


def hyperparameters(name):
    """Names of the hyper-parameters of the optimizer called ``name``."""
    return tuple(f.name for f in dataclasses.fields(getattr(optim, OPTIMIZERS[name])) if f.init)


def fields(optimizer):
    """The hyper-parameters of an optimizer as text, by name."""
    return {f.name: repr(getattr(optimizer, f.name)) for f in dataclasses.fields(optimizer) if f.init}


def did_you_mean(name, names):
    """`` (did you mean 'adam'?)``, or nothing where no name is close."""
    close = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
