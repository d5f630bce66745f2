"""Entry point of the command ``nearlin``, also as ``python -m nearlin``; the commands are in `nearlin.experiments.commands`."""

import errno
import os
import signal
import sys

INTERRUPTED = "Interrupted before the first step; nothing was written"


class _Stream:
    """Standard output or error, which may close while a command runs: what it cannot take is lost, and the command goes on.

    ``error`` is what it failed with.
    """

    def __init__(self, stream):
        self._stream, self.error = stream, None
        stream.reconfigure(errors="replace" if stream.errors == "strict" else stream.errors)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        return self._tried(self._stream.write, text)

    def flush(self):
        self._tried(self._stream.flush)

    def _tried(self, call, *arguments):
        try:
            return call(*arguments)
        except OSError as error:
            self.error = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return call(*arguments)


def main():
    """Run the command line; one sentence where click or rich are missing, or for Ctrl-C before anything has begun.

    Where standard output cannot be written, a sentence says so at the end, and the exit code is 1; a pipe that nobody reads any
    more is no error.
    """
    for number in range(3):
        _open(number)
    streams = (sys.stdout or open(1, "w"), sys.stderr or open(2, "w"))  # noqa: SIM115
    sys.stdout, sys.stderr = map(_Stream, streams)
    code = 0
    try:
        _main()
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        code = 130
    except SystemExit as end:
        code = end.code
    lost = sys.stdout.error
    if lost is not None and lost.errno != errno.EPIPE:
        print(f"Error: standard output could not be written: {lost.strerror}", file=sys.stderr)
        code = code or 1
    sys.exit(code)


def _open(number):
    """Give a standard stream that is closed to nobody: else the next file that is opened takes its number."""
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)


def _main():
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears:
        signal.signal(signal.SIGINT, _leave)
    try:
        from nearlin.experiments.commands import cli
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("click", "rich"):
            raise
        print(f'Error: the command line needs {error.name}, which is missing: pip install "nearlin[cli]"', file=sys.stderr)
        sys.exit(2)
    if hears:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli(prog_name="nearlin")


def _leave(number, frame):
    """End at Ctrl-C while modules are loaded: raised in the midst of one, it may come out as another error, or not at all."""
    try:
        os.write(2, f"{INTERRUPTED}\n".encode())
    finally:
        os._exit(130)


if __name__ == "__main__":
    main()
