"""``python -m nearlin``: the command line."""

from nearlin.experiments.cli import main

if __name__ == "__main__":
    main()
