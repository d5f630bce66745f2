"""Checkpoints: what a run is made of, by a schema, in one file; see `nearlin.experiments.archive` for the file."""

from types import UnionType

from nearlin.experiments import archive
from nearlin.experiments.archive import CheckpointError
from nearlin.experiments.stopping import Best

DATA = {
    "name": str, "task": str, "features": int, "outputs": int, "fingerprint": str, "class_names": tuple | None,
    "feature_names": tuple | None, "target_names": tuple | None,
}  # fmt: skip
HEADER = {
    "started": str, "versions": dict, "threads": dict, "config": dict, "optimizer": {"text": str, "fields": object}, "data": DATA,
    "parameters": int, "initial_loss": float,
}  # fmt: skip
SCHEMA = {
    "params": tuple, "state": object, "statistics": tuple, "step": int, "seed": int, "config": dict, "preprocessing": dict,
    "header": HEADER, "records": list, "best": Best | None, "ended": str | None,
}  # fmt: skip


def save(
    path,
    *,
    params,
    state,
    step,
    seed,
    config,
    preprocessing,
    header,
    statistics=(),
    records=(),
    best=None,
    ended=None,
    leads=True,
):
    """Write a checkpoint, which `train` resumes and `predict` reads; the whole file appears, or what was there before stays.

    Parameters
    ----------
    path : str or path
    params : tuple of arrays
    state : NamedTuple
        The optimizer's state.
    step : int
        Number of steps taken.
    seed : int
        Of the run; step t draws from ``fold_in(seed, t)``.
    config : dict
        From `Config.to_dict`.
    preprocessing : dict
        From `Preprocessing.to_dict`.
    header : dict
        The head of the run, as `Trainer.header`, another checkpoint or the first line of a log has it: data and optimizer that a
        continuation must have, and libraries and threads that it should have.
    statistics : tuple, optional
        Running statistics of the objective.
    records : sequence of dict, optional
        The steps so far.
    best : Best, optional
        The parameters that validation found best so far.
    ended : str, optional
        How the run ended, as `Result.ended`; None where it goes on.
    leads : bool
        Whether this is rank 0 of several that call it, or the only one.

    Raises
    ------
    TypeError
        A part that is missing, or of another type, or holds what is no array, plain value, tuple, or class of this package.
    OSError
        The folder cannot be written.
    """
    tree = {
        "params": params,
        "state": state,
        "statistics": statistics,
        "step": step,
        "seed": seed,
        "config": config,
        "preprocessing": preprocessing,
        "header": header,
        "records": list(records),
        "best": best,
        "ended": ended,
    }
    if found := _misfit("", tree, SCHEMA):
        raise TypeError(f"a checkpoint cannot be made: {found}")
    archive.write(path, tree, leads)


def load(path, like=None, team=None):
    """Read a checkpoint as the dict that `save` was given.

    Parameters
    ----------
    path : str or path
    like : array, optional
        Arrays are put next to it (its backend and device, their own dtype); NumPy arrays without it.
    team : Team, optional
        Of arrays that were split over ranks it is given its rows; by default all are read.

    Raises
    ------
    CheckpointError
        The file is missing, foreign, damaged, of another format, or holds no run.
    """
    tree = archive.read(path, like, team)
    if found := _misfit("", tree, SCHEMA):
        raise CheckpointError(f"{path} holds no run: {found}")
    return tree


def _misfit(name, value, schema):
    """What of a value is not as a type, or a dict of schemas by name, has it, in words; None where all is."""
    if not isinstance(schema, dict):
        said = " or ".join(map(_said, schema.__args__)) if isinstance(schema, UnionType) else _said(schema)
        return None if isinstance(value, schema) else f"{name} is {_said(type(value))}; expected {said}"
    if not isinstance(value, dict):
        return f"{name or 'the whole'} is {_said(type(value))}; expected a dict of {', '.join(schema)}"
    if missing := [key for key in schema if key not in value]:
        return f"{name or 'it'} has no {missing[0]}"
    found = (_misfit(f"{name}.{key}".lstrip("."), value[key], part) for key, part in schema.items())
    return next(filter(None, found), None)


def _said(kind):
    return "None" if kind is type(None) else f"a {kind.__name__}"
