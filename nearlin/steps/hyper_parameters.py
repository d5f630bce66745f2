"""Hyper-parameters that many methods share: what each name may hold."""

from dataclasses import fields

from nearlin._array import betas, flag, integer, not_negative, number, one_of, optional, positive, settle, step_size, within

SHARED = {
    "lr": step_size,
    "weight_decay": not_negative,
    "exempt_bias": flag,
    "momentum": within("[0, 1)"),
    "nesterov": flag,
    "centered": flag,
    "amsgrad": flag,
    "form": one_of("sum", "average"),
    "betas": betas,
    "epsilon_hat": positive,
    "decay": within("[0, 1)"),
    "damping": positive,
    "statistics_every": integer(1),
    "inverse_every": integer(1),
    "early": flag,
    "reshape": one_of("filter", "matrix"),
    "epsilon": within("(0, 1)"),
    "maxiter": integer(1),
    "sketch_size": optional(number("a positive number of at most 1e6", lambda x: 0 < x <= 1e6)),
    "inner_dtype": one_of(None, "float32"),
    "reuse": flag,
    "guard": flag,
}


def settle_shared(self, **own):
    """Store the fields of an optimizer as their kinds convert them: those in `SHARED`, and its ``own`` by name.

    `ValueError` naming field, value and expectation. A name in ``own`` has that kind, whatever `SHARED` says.
    """
    settle(self, **{field.name: SHARED[field.name] for field in fields(self) if field.name in SHARED} | own)
