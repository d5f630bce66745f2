"""The only room that names MPI: who works together, and what they ask of each other, each call by its name and counted.

Every rank makes the same calls in the same order, with arrays of the same shapes but for `rows`; what comes back is the same on
all of them. There are three kinds: `Alone`; the ranks of `together`, threads of one process; and `World`, processes under MPI.
Ranks that do not ask for the same end with `Diverged`, and none waits for another that will not come.

Arrays of a GPU go by the host.
"""

from nearlin._ranks.launch import launched
from nearlin._ranks.protocol import Alone, Diverged, Supposed
from nearlin._ranks.threads import together
from nearlin._ranks.world import World

__all__ = ["Alone", "Diverged", "Supposed", "World", "launched", "together"]
