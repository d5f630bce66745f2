"""What a run tells of every step, and how to read it."""

import math
from typing import NamedTuple

from nearlin.steps import StepExit

GRADIENTS = {"forward": 1 / 3, "backward": 2 / 3, "jvp": 2 / 3, "matvec": 1 / 3, "rmatvec": 1 / 3, "gram_matvec": 2 / 3}


class Record(NamedTuple):
    """One step.

    ``loss`` is that of the batch before the step, ``loss_after`` and ``relative_residual`` (‖r‖ / ‖r₀‖, for the squared loss)
    those of the whole training set after it (with mini-batches at the end of an epoch, None elsewhere), ``test_loss`` that of the
    test set (of recipes, at the same steps), ``contraction`` the ratio of ‖r‖ after and before (full batch alone). The fields
    from ``inner_iterations`` to ``condition`` come from the step's certificate and are None for other methods. ``seconds`` is
    the time of the step alone, ``cpu_seconds`` that of all threads together, and ``gradients`` what was asked of the objective
    in units of one gradient (a forward pass counts 1/3; Gram matrices are left out). ``layer`` is the one that a method which
    changes one layer a step has chosen, ``guarantee`` by how much the batch's loss was certain to fall, and ``decrease`` by how
    much it fell, where the method has looked. ``attempts`` counts the solves of a guarded step, the rejected ones included;
    ``side``, ``plan`` and ``effective_dimension`` (None where nothing estimates it) are those of a method that chooses its route.
    ``validation_loss`` is that of the rows held out for validation, at the ends of epochs, and ``validation_wrong`` how many of
    these are taken for another class. On a GPU the first step that a run takes is taken twice, and ``compilation`` is by how many
    seconds the first time took longer: kernels are compiled then.
    """

    step: int
    loss: float
    loss_after: float | None
    relative_residual: float | None
    contraction: float | None
    inner_iterations: int | None
    products: int | None
    inner_residual: float | None
    inner_reason: str | None
    preconditioner: str | None
    refreshed: bool | None
    condition: float | None
    damping: float | None
    accepted: bool
    reason: str
    seconds: float
    test_loss: float | None
    cpu_seconds: float
    gradients: float
    layer: int | None = None
    guarantee: float | None = None
    decrease: float | None = None
    attempts: int | None = None
    side: str | None = None
    plan: str | None = None
    effective_dimension: float | None = None
    validation_loss: float | None = None
    validation_wrong: int | None = None
    compilation: float | None = None


def told(info):
    """The fields of a `Record` that the step itself tells, from its Info."""
    kept, damping = getattr(info, "kept", ""), getattr(info, "damping", None)
    return {
        "loss": float(info.loss),
        **_certificate(info.solve),
        "damping": None if damping is None else float(damping),
        "accepted": bool(info.accepted),
        "reason": f"{info.reason}; {kept}" if kept else str(info.reason),
        **{name: getattr(info, name, None) for name in ("layer", "guarantee", "decrease", "attempts")},
        **_plan(info),
    }


def _certificate(solve):
    if solve is None:
        names = ("inner_iterations", "products", "inner_residual", "inner_reason", "preconditioner", "refreshed", "condition")
        return dict.fromkeys(names)
    return {
        "inner_iterations": int(solve.iterations),
        "products": int(solve.products),
        "inner_residual": float(solve.residual),
        "inner_reason": str(solve.reason),
        "preconditioner": str(solve.preconditioner),
        "refreshed": bool(solve.refreshed),
        "condition": None if solve.condition is None else float(solve.condition),
    }


def _plan(info):
    plan = getattr(info, "plan", "")
    if not plan:
        return {}
    dimension = float(info.effective_dimension) if math.isfinite(info.effective_dimension) else None
    return {"side": info.side or None, "plan": plan, "effective_dimension": dimension}


def gradients(calls):
    """What was asked of the objective, a Counter of calls, in gradients."""
    return sum(GRADIENTS.get(name, 0) * number for name, number in calls.items())


def relative(loss, reference):
    """‖r‖ / ‖r_ref‖ from two losses of the same data."""
    if not (math.isfinite(loss) and math.isfinite(reference)):
        return math.nan
    return math.sqrt(loss / reference) if reference > 0 else (0.0 if loss == 0 else math.inf)


# -------------------------------------------------------------------------------------------- of records as plain dicts


def stalled(record):
    """Whether the step found nothing to gain."""
    return StepExit.of(record["reason"]) is StepExit.STALLED


def no_way_on(record):
    """Whether the step has stalled, or was refused before anything was tried."""
    return stalled(record) or (not record["accepted"] and record.get("attempts") == 0)


def has(records, field):
    """Whether any of the records tells ``field``."""
    return any(record.get(field) is not None for record in records)


def damped(records):
    """Whether the steps had a damping: then their curvature is drawn."""
    return any(record.get("damping") for record in records)


def route(record):
    """The name of the route that a record's plan took."""
    return record["plan"].partition(":")[0]


def line(record, note=None):
    """What a live line says of the last step, a `Record`: the loss, a ``note``, and what a narrow line may leave out."""
    parts = [f"loss {record.loss if record.loss_after is None else record.loss_after:.3e}", *([note] if note else [])]
    if record.relative_residual is not None:
        parts.append(f"relative residual {record.relative_residual:.1e}")
    if record.inner_iterations is not None:
        parts.append(f"{record.inner_iterations} inner")
    return "  ".join(parts)
