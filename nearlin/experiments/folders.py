"""Where a run writes: never over another run, alone, and known to be writable before anything is computed."""

import contextlib
import errno
import itertools
import json
import os
import shlex
import signal
import tempfile
import threading
from pathlib import Path

from nearlin.experiments import locks
from nearlin.experiments.locks import Taken

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # they end a run


class Free:
    """The first of ``base``, ``base-2``, ``base-3``, ... that nothing and nobody has taken."""

    def __init__(self, base):
        self.base = Path(base)

    def names(self):
        """The names to try."""
        yield self.base
        yield from (self.base.with_name(f"{self.base.name}-{number}") for number in itertools.count(2))


class Claim:
    """A folder that is this process's own until it is released; what writes that never ended have left there is swept.

    ``found(folder)`` names what of an earlier run lies there, if anything does.

    Raises
    ------
    Taken
        It holds an earlier run, or another process works there.
    OSError
        It cannot be made or written.
    """

    def __init__(self, folder, found):
        self.path, self._release = Path(folder), lambda: None
        self._refuse(found)
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            writable(self.path)
            with _named(self.path):
                self._release = locks.hold(self.path)
            self._refuse(found)  # another process may have been there in between
        except BaseException:
            self.release()
            self._remove_made()
            raise
        for part in self.path.glob(".*.part"):
            with contextlib.suppress(OSError):
                part.unlink()

    def release(self):
        """Let others in."""
        with contextlib.suppress(OSError):
            self._release()

    def discard(self):
        """Release it, and remove the folders that were made for it, where they are empty."""
        with contextlib.suppress(OSError):
            (self.path / locks.LOCK).unlink()
        self.release()
        self._remove_made()

    def _remove_made(self):
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()

    def _refuse(self, found):
        if held := found(self.path):
            hint = (
                f", or --resume {quoted(self.path / 'checkpoint.npz')} continues that one"
                if (self.path / "checkpoint.npz").exists()
                else ""
            )
            raise Taken(f"the folder {self.path} holds an earlier run ({held}); choose another one with --out{hint}")


def claim(out, found):
    """A `Claim` of the folder ``out``, or of the first one that a `Free` finds; the same errors."""
    names = out.names() if isinstance(out, Free) else iter((out,))
    while True:
        try:
            return Claim(next(names), found)
        except Taken:
            if not isinstance(out, Free):
                raise


@contextlib.contextmanager
def claimed(out, marker):
    """A context that yields the folder ``out``, claimed, or None for None.

    It must not hold the file ``marker``; where that is not made in the context either, nothing is left.
    """
    if out is None:
        yield None
        return
    own = claim(out, lambda folder: marker if (folder / marker).exists() else None)
    try:
        yield own.path
    finally:
        own.release() if (own.path / marker).exists() else own.discard()


def writable(folder):
    """``folder``, made where it is missing and proven to be writable; `OSError` otherwise."""
    folder = Path(folder)
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(dir=folder)
        os.close(handle)
        os.unlink(probe)
        _flush(folder.parent)
    return folder


@contextlib.contextmanager
def _named(folder):
    """An `OSError` in this context names the folder."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write into the folder {folder} (--out): {reason(error)}") from error


def reason(error):
    """What an `OSError` says, without number and path."""
    return error.strerror or str(error)


def quoted(path):
    """``path`` as a shell takes it: one with spaces in quotes, between which no line is broken."""
    return shlex.quote(str(path))


def slug(text):
    """``text`` as part of a folder name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(text).stem) or "data"


def read_lines(path):
    """The lines of a ``run.jsonl`` as dicts, up to one that was not completed; none where there is no such file."""
    found = []
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        for text in file:
            found.append(json.loads(text))
    return found


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
        _flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def shielded():
    """What is written in this context is written whole: Ctrl-C and its like are not heard."""
    return heard_by(signal.SIG_IGN)


@contextlib.contextmanager
def heard_by(handler):
    """A context of the main thread in which ``handler`` hears Ctrl-C and its like; what is ignored stays so.

    Handlers that are not Python's are left alone, as it could not put them back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.signal(n, handler) for n in SIGNALS if signal.getsignal(n) not in (None, signal.SIG_IGN)}
    try:
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


@contextlib.contextmanager
def tried(path, unwritten, kind=OSError):
    """What writes ``path`` in this context may fail: then ``unwritten``, a list, has a sentence more."""
    try:
        yield
    except kind as error:
        why = reason(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        unwritten.append(f"{quoted(path)} could not be written: {why}.")


def _flush(folder):
    """The names in a folder are on disk on return, where the file system can do that."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


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
