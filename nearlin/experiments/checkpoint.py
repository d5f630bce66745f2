"""Checkpoints: one ``.npz`` file of arrays and a JSON structure, without pickle, written aside and renamed.

Format 2. The structure has three parts. ``tree`` holds None, bool, int, float, str, tuples, lists, dicts, and the records of this
package by their short names (`class_names`); an array in it is a number, its place in ``arrays``, where dtype and shape stand
beside the ``parts`` that it is put together from: today one entry of the same file, ``{"entry": "array_0"}``. A part that also
names a file and rows, for matrices that are written by several, and a digest beside ``format`` have their places here. Arrays of
any backend are stored as host arrays. Fields that a record calls ``transient`` (caches, without which the same numbers come out)
are left out, and come back as their defaults.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from nearlin._array import asarray, is_array, to_numpy
from nearlin.experiments.class_names import class_of, fields, name_of
from nearlin.experiments.folders import write_atomically

FORMAT, EARLIER = "nearlin checkpoint 2", "nearlin checkpoint 1"


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this package, or is damaged, or does not fit the call."""


def save(
    path, *, params, state, step, seed, config=None, preprocessing=None, statistics=None, header=None, records=(), best=None
):
    """Write a checkpoint; either the whole file appears under ``path``, or what was there before stays.

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
    config, header : dict, optional
        Plain values.
    preprocessing : dict, optional
        From `Preprocessing.to_dict`.
    statistics : tuple, optional
        Running statistics of the objective.
    records : sequence of dict, optional
        The steps so far.
    best : Best, optional
        The parameters that validation found best so far.

    Raises
    ------
    TypeError
        Something in the tree that is no array, plain value, tuple, or class of this package.
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
    }
    arrays = []
    content = {"format": FORMAT, "tree": _encode(tree, arrays), "arrays": [_described(i, a) for i, a in enumerate(arrays)]}
    entries = {_entry(i): a for i, a in enumerate(arrays)}
    entries["structure"] = np.frombuffer(json.dumps(content).encode(), np.uint8)
    write_atomically(path, lambda file: np.savez(file, **entries))


def load(path, like=None):
    """Read a checkpoint as the dict that `save` was given.

    Parameters
    ----------
    path : str or path
    like : array, optional
        Arrays are put next to it (its backend and device, their own dtype); NumPy arrays without it.

    Raises
    ------
    CheckpointError
        The file is missing, foreign, truncated, or of another format.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            content = json.loads(archive["structure"].tobytes().decode())
            entries = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint {path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error.strerror or error}") from error
    except (EOFError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not a nearlin checkpoint, or is truncated") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        older = ": an earlier version of nearlin wrote it, and can resume it" if found == EARLIER else ""
        raise CheckpointError(f"{path} has the format {found!r}; expected {FORMAT!r}{older}")
    try:
        tree = _decode(content["tree"], [_assembled(array, entries) for array in content["arrays"]])
    except (AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} was written by another version of nearlin, or is damaged: {error}") from error
    return tree if like is None else next_to(tree, like)


def next_to(tree, like):
    """The same tree with every array next to ``like``, in its own dtype."""
    if is_array(tree):
        return asarray(tree, like=like, dtype=str(tree.dtype))
    if isinstance(tree, dict):
        return {key: next_to(value, like) for key, value in tree.items()}
    if _is_namedtuple(tree):
        return type(tree)(*(next_to(value, like) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(next_to(value, like) for value in tree)
    if dataclasses.is_dataclass(tree):
        moved = {f.name: next_to(getattr(tree, f.name), like) for f in dataclasses.fields(tree) if f.init}
        return type(tree)(**moved)
    return tree


def _is_namedtuple(value):
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _encode(value, arrays):
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if is_array(value) or isinstance(value, np.generic):
        host = to_numpy(value)
        if host.dtype.kind not in "fiub":
            raise TypeError(f"a checkpoint cannot hold an array of dtype {host.dtype}")
        arrays.append(host)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        return {"dict": [[str(key), _encode(item, arrays)] for key, item in value.items()]}
    if _is_namedtuple(value) or dataclasses.is_dataclass(value):
        cls = type(value)
        return {"class": name_of(cls), "values": {f: _encode(getattr(value, f), arrays) for f in fields(cls)}}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encode(item, arrays) for item in value]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _decode(node, arrays):
    if not isinstance(node, dict):
        return node
    if "array" in node:
        return arrays[node["array"]]
    if "dict" in node:
        return {key: _decode(item, arrays) for key, item in node["dict"]}
    if "class" in node:
        return class_of(node["class"])(**{name: _decode(item, arrays) for name, item in node["values"].items()})
    ((kind, items),) = node.items()
    return {"tuple": tuple, "list": list}[kind](_decode(item, arrays) for item in items)


def _entry(i):
    return f"array_{i}"


def _described(i, array):
    return {"dtype": str(array.dtype), "shape": array.shape, "parts": [{"entry": _entry(i)}]}


def _assembled(described, entries):
    """An array from its parts; `ValueError` where it is not what its description says."""
    (part,) = described["parts"]
    if set(part) != {"entry"}:
        raise ValueError("an array lies in files of its own")
    array = entries[part["entry"]]
    if (str(array.dtype), list(array.shape)) != (described["dtype"], described["shape"]):
        raise ValueError(f"{part['entry']} is {array.dtype} {array.shape}; expected {described['dtype']} {described['shape']}")
    return array
