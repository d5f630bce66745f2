"""Entry point of the command ``nearlin``; the commands themselves are in `nearlin.experiments.commands`."""

import sys


def main():
    """Run the command line; one sentence where click or rich are missing, or for Ctrl-C before anything has begun."""
    try:
        _main()
    except KeyboardInterrupt:
        print("Interrupted before the first step; nothing was written", file=sys.stderr)
        sys.exit(130)


def _main():
    try:
        from nearlin.experiments.commands import cli
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("click", "rich"):
            raise
        print(f'Error: the command line needs {error.name}, which is missing: pip install "nearlin[cli]"', file=sys.stderr)
        sys.exit(2)
    cli(prog_name="nearlin")
