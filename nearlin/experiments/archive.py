"""Trees of arrays in one ``.npz`` file without pickle, with a digest, written aside and renamed.

Format 3. Beside the arrays, ``structure`` is JSON in three parts. ``tree`` holds None, bool, int, float, str, tuples, lists,
dicts, and the records of this package by their short names (`class_names`); an array in it is a number, its place in ``arrays``,
where dtype and shape stand beside the ``parts`` that it is put together from: today one entry of the same file,
``{"entry": "array_0"}``. A part that also names a file and rows, for matrices that are written by several, has its place here.
``digest`` is the SHA-256 of the structure and of the checksums that the archive keeps of its other entries. Arrays of any backend
are stored as host arrays. Fields that a record calls ``transient`` (caches, without which the same numbers come out) are left
out, and come back as their defaults.
"""

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from nearlin._array import asarray, is_array, to_numpy
from nearlin.experiments.class_names import class_of, fields, name_of
from nearlin.experiments.folders import reason, write_atomically

FORMAT, EARLIER = "nearlin checkpoint 3", ("nearlin checkpoint 1", "nearlin checkpoint 2")


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this package, or is damaged, or does not fit the call."""


def write(path, tree):
    """Write a tree; either the whole file appears under ``path``, or what was there before stays.

    Raises
    ------
    TypeError
        Something in the tree that is no array, plain value, tuple, or class of this package.
    OSError
        The folder cannot be written.
    """
    arrays = []
    content = {"format": FORMAT, "tree": _encode(tree, arrays), "arrays": None}
    content["arrays"] = [_described(i, array) for i, array in enumerate(arrays)]
    write_atomically(path, lambda file: _pack(file, json.dumps(content).encode(), arrays))


def _pack(file, structure, arrays):
    with zipfile.ZipFile(file, "w") as archive:
        for i, array in enumerate(arrays):
            _put(archive, _entry(i), array)
        _put(archive, "digest", _bytes(_digest(structure, archive)))
        _put(archive, "structure", _bytes(structure))


def _put(archive, name, array):
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def _get(archive, name):
    with archive.open(f"{name}.npy") as entry:
        return np.lib.format.read_array(entry, allow_pickle=False)


def _bytes(text):
    return np.frombuffer(text, np.uint8)


def _digest(structure, archive):
    """Of the structure, and of the checksums of all entries that are neither it nor the digest."""
    sums = sorted((e.filename, e.CRC) for e in archive.infolist() if e.filename not in ("structure.npy", "digest.npy"))
    return hashlib.sha256(structure + json.dumps(sums).encode()).digest()


def read(path, like=None):
    """The tree in a file that `write` wrote, with NumPy arrays, or with arrays next to ``like`` in their own dtype.

    Raises
    ------
    CheckpointError
        The file is missing, foreign, damaged, or of another format.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content, entries = _unpacked(path, file)
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint {path} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {reason(error)}") from error
    try:
        tree = _decode(content["tree"], [_assembled(array, entries) for array in content["arrays"]])
    except (AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} was written by another version of nearlin: {error}") from error
    return tree if like is None else next_to(tree, like)


def _unpacked(path, file):
    """Structure and entries, of which nothing has changed since they were written."""
    try:
        with zipfile.ZipFile(file) as archive:
            structure = _get(archive, "structure").tobytes()
            content = json.loads(structure)
            _check_format(path, content["format"])
            if _get(archive, "digest").tobytes() != _digest(structure, archive):
                raise CheckpointError(f"{path} is damaged: it holds something else than what was written")
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            return content, {name: _get(archive, name) for name in names}
    except (CheckpointError, OSError):
        raise
    except Exception as error:  # zipfile and NumPy raise a dozen kinds where bytes have changed
        raise CheckpointError(f"{path} is not a nearlin checkpoint, or is truncated or damaged") from error


def _check_format(path, found):
    if found != FORMAT:
        older = ": an earlier version of nearlin wrote it, and can resume it" if found in EARLIER else ""
        raise CheckpointError(f"{path} has the format {found!r}; expected {FORMAT!r}{older}")


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
