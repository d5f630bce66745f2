"""The tables of planted faults, and where each of their texts stands in the library."""

import json
import pathlib
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Fault:
    """One fault: in ``file`` (below nearlin/) the text ``old``, which occurs once, becomes ``new``.

    ``tests`` are the test files that notice, or ``claims`` the claims that fail with it; ``equivalent`` says why nobody can.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple = ()
    claims: tuple = ()
    equivalent: str = ""

    def path(self, root):
        """The file that the fault is planted in."""
        return root / "nearlin" / self.file

    def planted(self, root):
        """The file's text with the fault in it; ValueError where ``old`` does not occur exactly once."""
        text = self.path(root).read_text()
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: its text occurs {times} times in nearlin/{self.file}; expected once")
        return text.replace(self.old, self.new)


def faults():
    """All faults, table by table."""
    rows = [row for table in sorted(HERE.glob("*.json")) for row in json.loads(table.read_text())]
    return tuple(Fault(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}) for row in rows)
