"""When a run on data of one's own ends: where validation has seen its best, or where the training loss no longer falls."""

import math
from typing import NamedTuple

PATIENCE = 10  # epochs without a better validation, or in mini-batches without a smaller training loss
WINDOW = 3  # steps on all rows in which the training loss must fall
FALL = 1e-4  # by which share of itself


class Best(NamedTuple):
    """The parameters that validation found best so far, after ``step`` steps."""

    step: int
    params: tuple
    statistics: tuple = ()


def improves(records, record):
    """Whether validation found none of the ``records`` better than the next `Record`: of equal ones the last counts."""
    if record.validation_loss is None:
        return False
    *before, last = _validations([*records, record._asdict()])[0]
    return last <= min(before, default=math.inf)


def ended(records, initial_loss, full):
    """``"validation"``, ``"plateau"``, or None where the run goes on.

    Validation counts wrong rows for classes, and takes the loss for numbers. A run ends `PATIENCE` epochs after the first of its
    best ones, and after its smallest loss, which may fall on while hardly a row changes sides; or where the training loss fell by
    less than `FALL` of itself in `WINDOW` steps of which one was taken, in mini-batches in `PATIENCE` epochs, as it goes up and
    down there.
    """
    if not records or records[-1]["loss_after"] is None:
        return None
    if records[-1].get("validation_loss") is not None and min(map(_since_best, _validations(records))) >= PATIENCE:
        return "validation"
    known = [record for record in records if record["loss_after"] is not None]
    window, losses = WINDOW if full else PATIENCE, [initial_loss, *(record["loss_after"] for record in known)]
    if len(losses) <= window or not any(record["accepted"] for record in known[-window:]):
        return None
    return "plateau" if min(losses[-window:]) >= (1 - FALL) * min(losses[:-window]) else None


def _validations(records):
    """What validation said at the ends of epochs, smaller is better: wrong rows, or the loss; and the loss. Inf for NaN."""
    said = [record for record in records if record.get("validation_loss") is not None]
    losses = [r["validation_loss"] for r in said]
    wrong = [loss if r["validation_wrong"] is None else r["validation_wrong"] for r, loss in zip(said, losses, strict=True)]
    return tuple([value if value - value == 0 else math.inf for value in values] for values in (wrong, losses))


def _since_best(values):
    """How many values come after the first of the smallest ones."""
    return len(values) - 1 - values.index(min(values))
