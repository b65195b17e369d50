"""While Numba compiles, Python looks for garbage less often.

Numba makes some millions of objects for a first token and drops few of them in circles, so that looking for
those took a sixth of the time. With this it takes 30 MB more.
"""

import gc

from numba.core import event

OBJECTS = 50_000  # made before Python looks for circles; by default 700, or 2,000 in newer ones


class RareCollections(event.Listener):
    """Sets the collector's thresholds from the beginning of the outermost function to its end."""

    def __init__(self):
        self.depth, self.before = 0, None

    def on_start(self, _):
        self.depth += 1
        if self.depth == 1:
            before = gc.get_threshold()
            self.before = before if 0 < before[0] < OBJECTS else None  # 0: somebody has turned it off
            if self.before:
                gc.set_threshold(OBJECTS, *before[1:])

    def on_end(self, _):
        self.depth -= 1
        if not self.depth and self.before and gc.get_threshold()[0] == OBJECTS:  # nobody has changed it since
            gc.set_threshold(*self.before)


event.register("numba:compile", RareCollections())
