"""Where a run writes: never over another run, and known to be writable before anything is computed."""

import contextlib
import json
import os
import tempfile
from pathlib import Path


def claim(folder, marker):
    """Make ``folder`` and prove that it can be written; it must not hold the file ``marker`` of an earlier run.

    Raises
    ------
    ValueError
        It holds an earlier run.
    OSError
        It cannot be made or written.
    """
    folder = Path(folder)
    if (folder / marker).exists():
        hint = f", or --resume {folder / 'checkpoint.npz'} continues that one" if (folder / "checkpoint.npz").exists() else ""
        raise ValueError(f"the folder {folder} holds an earlier run ({marker}); choose another one with --out{hint}")
    return writable(folder)


def free(base, marker):
    """The first of ``base``, ``base-2``, ``base-3``, ... that does not hold the file ``marker`` of an earlier run."""
    folder, number = Path(base), 1
    while (folder / marker).exists():
        number += 1
        folder = Path(base).with_name(f"{Path(base).name}-{number}")
    return folder


def writable(folder):
    """``folder``, made where it is missing and proven to be writable; `OSError` otherwise."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=folder)
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        raise OSError(f"cannot write into the folder {folder} (--out): {error.strerror or error}") from error
    return folder


def slug(text):
    """``text`` as part of a folder name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(text).stem) or "data"


def read_header(path):
    """The header of a ``run.jsonl``, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.loads(file.readline())
    except (OSError, ValueError):
        return None


def write_atomically(path, write):
    """Call ``write(file)`` on a new file in the same folder, flush it to disk, and rename it to ``path``."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            aside.unlink()


def write_json(path, content):
    """Write plain values as JSON, atomically."""
    text = json.dumps(plain(content), allow_nan=False, indent=1)
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))


def line(kind, content):
    """A line of a log."""
    return json.dumps({"kind": kind, **plain(content)}, allow_nan=False) + "\n"


def plain(value):
    """``value`` for JSON: NaN and Inf, which JSON has not, become null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
