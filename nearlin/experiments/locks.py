"""The lock of a folder: one process at a time writes there."""

import errno
import os
import socket

LOCK, CLAIM = ".lock", ".claim"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


class Taken(ValueError):
    """The folder is not free: it holds an earlier run, or another process works there."""


def hold(folder):
    """Lock ``folder``; the function that gives it back.

    The lock is that of the operating system, by `filelock`, and ends with the process; its file stays, so that all who wait for
    it wait for the same. Without `filelock`, or where the file system has no locks, a file with host and PID stands for it.

    Raises
    ------
    Taken
        Another process holds it.
    OSError
        The folder cannot be written.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        return _mark(folder / CLAIM)
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Taken(f"another process works in the folder {folder}; wait for its end, or choose another one with --out") from None
    except NotImplementedError:
        return _mark(folder / CLAIM)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _mark(folder / CLAIM)
    return lock.release


def _mark(path):
    """Make a file with host and PID, which nobody may have made before: what removes it."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
    except FileExistsError:
        owner = path.read_text(encoding="utf-8") or "another process"
        raise Taken(f"{path} says that {owner} works in this folder; if that one has ended, remove the file") from None
    return path.unlink
