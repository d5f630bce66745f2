"""Trees of arrays in one ``.npz`` file without pickle, with a digest, written aside and renamed.

Format 3. Beside the arrays, ``structure`` is JSON in three parts. ``tree`` holds None, bool, int, float, str, tuples, lists,
dicts, and the records of this package by their short names (`class_names`); an array in it is a number, its place in ``arrays``,
where dtype and shape stand beside the ``parts`` that it is put together from: one entry of the same file,
``{"entry": "array_0"}``; or, where rows are split over ranks, an entry of each rank's own file beside it, with its rows and
checksum, ``{"entry": "array_0", "file": "checkpoint.npz.5e1f-0", "rows": [0, 512], "crc": 1}``. Of a single rank such an array
is an entry of the same file, with its rows.
``digest`` is the SHA-256 of the structure and of the checksums that the archive keeps of its other entries. Arrays of any backend
are stored as host arrays. Fields that a record calls ``transient`` (caches, without which the same numbers come out) are left
out, and come back as their defaults; so are fields that hold rows of a mapped file.
"""

import dataclasses
import hashlib
import json
import re
import secrets
import zipfile
from pathlib import Path

import numpy as np

from nearlin._array import asarray, is_array, is_map, to_numpy
from nearlin.experiments.class_names import class_of, fields, name_of
from nearlin.experiments.folders import reason, write_atomically
from nearlin.nn import Split

FORMAT, EARLIER = "nearlin checkpoint 3", ("nearlin checkpoint 1", "nearlin checkpoint 2")


class CheckpointError(ValueError):
    """A file that is not a checkpoint of this package, or is damaged, or does not fit the call."""


def write(path, tree, leads=True):
    """Write a tree; either the whole file appears under ``path``, or what was there before stays.

    Where arrays are split over several ranks, each calls it, and writes its rows; of other trees the one that ``leads`` writes.

    Raises
    ------
    TypeError
        Something in the tree that is no array, plain value, tuple, or class of this package.
    OSError
        The folder cannot be written.
    """
    arrays = []
    content = {"format": FORMAT, "tree": _encode(tree, arrays), "arrays": None}
    split = {i: array for i, array in enumerate(arrays) if isinstance(array, Split) and array.ranks.size > 1}
    parts = _write_parts(Path(path), split) if split else {}
    content["arrays"] = [_described(i, array, parts) for i, array in enumerate(arrays)]
    whole = {i: _host(array) for i, array in enumerate(arrays) if i not in split}
    write_main = lambda: write_atomically(path, lambda file: _pack(file, json.dumps(content).encode(), whole))  # noqa: E731
    if split:
        _by_rank_0(next(iter(split.values())).ranks, write_main)
        _sweep(Path(path), parts)
    elif leads:
        write_main()
        _sweep(Path(path), {})


def _write_parts(path, split):
    """Write this rank's rows beside ``path``: of every array the parts of all ranks, by its number."""
    ranks = next(iter(split.values())).ranks
    name = f"{path.name}.{ranks.each(secrets.token_hex(4), 'checkpoint')[0]}-{ranks.rank}"
    own = {i: to_numpy(array.local) for i, array in split.items()}
    held = {i: array.ranks.share(array.rows, array.unit) for i, array in split.items()}
    checksums, error = {}, ""
    try:
        write_atomically(path.with_name(name), lambda file: checksums.update(_put_all(file, own)))
    except OSError as lost:
        error = reason(lost)
    rows = {i: [one.start, one.stop] for i, one in held.items()}
    found = ranks.each((name, checksums, rows, error), "parts of the checkpoint")
    for rank, (*_, why) in enumerate(found):
        if why:
            raise OSError(f"rank {rank} cannot write its part: {why}")
    part = lambda i, file, sums, rows: {"file": file, "entry": _entry(i), "rows": rows[i], "crc": sums[_entry(i)]}  # noqa: E731
    return {i: [part(i, *one) for *one, _ in found] for i in split}


def _by_rank_0(ranks, work):
    """``work()`` by rank 0; an `OSError` there is raised on all."""
    error = ""
    if ranks.rank == 0:
        try:
            work()
        except OSError as lost:
            error = reason(lost)
    if why := ranks.each(error, "checkpoint")[0]:
        raise OSError(why)


def _sweep(path, parts):
    """Remove what earlier checkpoints have left beside this one."""
    kept, ours = {part["file"] for one in parts.values() for part in one}, re.compile(re.escape(path.name) + r"\.[0-9a-f]{8}-\d+")
    for old in path.parent.iterdir():
        if ours.fullmatch(old.name) and old.name not in kept:
            old.unlink(missing_ok=True)


def _put_all(file, arrays):
    """Write arrays by number into an archive; the checksums of its entries."""
    with zipfile.ZipFile(file, "w") as archive:
        for i, array in arrays.items():
            _put(archive, _entry(i), array)
        return {entry.filename.removesuffix(".npy"): entry.CRC for entry in archive.infolist()}


def _pack(file, structure, arrays):
    with zipfile.ZipFile(file, "w") as archive:
        for i, array in arrays.items():
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


def read(path, like=None, team=None):
    """The tree in a file that `write` wrote, with NumPy arrays, or with arrays next to ``like`` in their own dtype.

    Arrays that were split over ranks are read whole; with a ``team``, ``team.held(rows, n)`` of its ``team.rows(n)``, a slice.

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
        tree = _decode(content["tree"], [_assembled(array, entries, path, team) for array in content["arrays"]])
    except CheckpointError:
        raise
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
    return mapped(tree, lambda array: asarray(array, like=like, dtype=str(array.dtype)))


def mapped(tree, f):
    """The same tree with ``f(array)`` for every array, of split ones for their rows."""
    if isinstance(tree, Split):
        return tree.like(f(tree.local))
    if is_array(tree):
        return f(tree)
    if isinstance(tree, dict):
        return {key: mapped(value, f) for key, value in tree.items()}
    if _is_namedtuple(tree):
        return type(tree)(*(mapped(value, f) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(value, f) for value in tree)
    if dataclasses.is_dataclass(tree):
        moved = {f_.name: mapped(getattr(tree, f_.name), f) for f_ in dataclasses.fields(tree) if f_.init}
        return type(tree)(**moved)
    return tree


def _is_namedtuple(value):
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _encode(value, arrays):
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    if isinstance(value, Split):
        arrays.append(value)
        return {"array": len(arrays) - 1}
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
        kept = [f for f in fields(cls) if not _in_a_file(getattr(value, f))]
        return {"class": name_of(cls), "values": {f: _encode(getattr(value, f), arrays) for f in kept}}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_encode(item, arrays) for item in value]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _in_a_file(value):
    """Whether a value holds a map."""
    if _is_namedtuple(value) or dataclasses.is_dataclass(value):
        return any(_in_a_file(getattr(value, f)) for f in fields(type(value)))
    return is_map(value)


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


def _host(array):
    return to_numpy(array.local) if isinstance(array, Split) else array


def _described(i, array, parts):
    own = {"entry": _entry(i)} | ({"rows": [0, array.rows]} if isinstance(array, Split) else {})
    return {"dtype": str(_host(array).dtype), "shape": array.shape, "parts": parts.get(i, [own])}


def _assembled(described, entries, path, team=None):
    """An array from its parts; `ValueError` where it is not what its description says."""
    parts = described["parts"]
    if "rows" in parts[0]:
        n = described["shape"][0]
        wanted = slice(0, n) if team is None else team.rows(n)
        array = _rows_of(described, entries, path, wanted)
        return array if team is None else team.held(array, n)
    (part,) = parts
    array = entries[part["entry"]]
    if (str(array.dtype), list(array.shape)) != (described["dtype"], described["shape"]):
        raise ValueError(f"{part['entry']} is {array.dtype} {array.shape}; expected {described['dtype']} {described['shape']}")
    return array


def _rows_of(described, entries, path, wanted):
    """The ``wanted`` rows, a slice, of an array that is split over ranks."""
    found = []
    for part in described["parts"]:
        start, stop = part["rows"]
        first, last = max(start, wanted.start), min(stop, wanted.stop)
        if first < last:
            array = _part(path.with_name(part["file"]), part) if "file" in part else entries[part["entry"]]
            found.append(array[first - start : last - start, ...])
    array = np.concatenate(found)
    if (str(array.dtype), array.shape) != (described["dtype"], (wanted.stop - wanted.start, *described["shape"][1:])):
        raise ValueError(f"the parts hold {array.dtype} {array.shape}; expected {described['dtype']} {described['shape']}")
    return array


def _part(path, part):
    """The array of one rank's file; `CheckpointError` where that is missing, or is not the one that was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            if part["crc"] == archive.getinfo(f"{part['entry']}.npy").CRC:
                return _get(archive, part["entry"])
    except Exception as error:  # as in `_unpacked`
        raise CheckpointError(f"{path}, a part of a checkpoint, is missing, truncated or damaged") from error
    raise CheckpointError(f"{path} is damaged: it holds something else than what was written")
