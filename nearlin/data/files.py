"""Finding and reading files whose failures are one sentence that names the file."""

import codecs
import gzip
import importlib
import io
import os
import sys
import zlib
from pathlib import Path

from nearlin.data.dataset import DataError

_GZIP = b"\x1f\x8b"
_PIECE = 2**20
_RATIO, _ALWAYS = 100, 2**26  # a gzip file may unpack to 100 times its size, or to 64 MiB


def read_bytes(path, most=None):
    """The bytes of a file, unpacked if it begins like a gzip file, whatever its name.

    Parameters
    ----------
    path : str or path
    most : int, optional
        Read no more than this many bytes: what the header of a file promises, and one to see that there are more.

    Raises
    ------
    DataError
        A missing, unreadable, empty, truncated or damaged file, or one that unpacks to more than 100 times its size and 64 MiB.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            most = sys.maxsize if most is None else most
            data = _unpacked(path, file, size, most) if file.peek(2)[:2] == _GZIP else file.read(min(most, size))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path} is empty (0 bytes)")
    return data


def _unpacked(path, file, size, most):
    """A gzip file, in pieces, as a small one may hold terabytes."""
    allowed = max(_RATIO * size, _ALWAYS)
    stream, data = gzip.GzipFile(fileobj=file), bytearray()
    try:
        while piece := stream.read(min(_PIECE, most - len(data))):
            data += piece
            if len(data) > allowed:
                found = f"unpacks to more than {allowed} bytes, {_RATIO} times its size or {_ALWAYS >> 20} MiB"
                raise DataError(f"{path} {found}; expected less: unpack it first if it is meant")
    except EOFError as error:
        raise DataError(f"{path} is a truncated gzip file; expected a whole one") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error
    return bytes(data)


def check_not_empty(path):
    """Refuse a file without a byte."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes)")


def read_text(path, expected):
    """The text of a file, plain or packed with gzip, without a byte-order mark; ``expected`` says what it should hold."""
    data = read_bytes(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is not UTF-8 text but UTF-16; expected {expected}: save it again as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); expected {expected}") from error
    if not text or text.isspace():
        raise DataError(f"{path} is empty; expected {expected}")
    return text


def check_folder(folder, inside=()):
    """``folder``, or the first of its subfolders ``inside`` that exists."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}; expected a folder")
    return next((folder / name for name in inside if (folder / name).is_dir()), folder)


def find(folder, *names):
    """The path of the first of ``names`` that is a file in ``folder``."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has no file {' or '.join(names)}; found {_listing(folder)}")


def _listing(folder, limit=8):
    names = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "an empty folder"


def read_mat(path, *names):
    """The arrays called ``names`` of a MATLAB file (up to version 7), in that order."""
    path = Path(path)
    data = io.BytesIO(read_bytes(path))
    try:
        found = importlib.import_module("scipy.io").loadmat(data)
    except NotImplementedError as error:
        raise DataError(f"{path} is a MATLAB 7.3 (HDF5) file; expected version 7 or older: save it again with -v7") from error
    except Exception as error:  # a damaged file raises errors of many kinds
        found = f"{path} is no MATLAB file, or is truncated ({type(error).__name__})"
        raise DataError(f"{found}; expected a file of version 7 or older") from error
    missing = [name for name in names if name not in found]
    if missing:
        arrays = ", ".join(name for name in found if not name.startswith("__"))
        raise DataError(f"{path} lacks the array(s) {', '.join(missing)}; found {arrays or 'none'}")
    return [found[name] for name in names]
