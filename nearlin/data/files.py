"""Finding and reading files whose failures are one sentence that names the file."""

import gzip
import importlib
import io
import zlib
from pathlib import Path

from nearlin.data.dataset import DataError

_GZIP = b"\x1f\x8b"


def read_bytes(path):
    """All bytes of a file, unpacked if it begins like a gzip file, whatever its name."""
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    data = _unpacked(path, data) if data.startswith(_GZIP) else data
    if not data:
        raise DataError(f"{path} is empty (0 bytes)")
    return data


def _unpacked(path, data):
    try:
        return gzip.decompress(data)
    except EOFError as error:
        raise DataError(f"{path} is a truncated gzip file; expected a whole one") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}") from error


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
