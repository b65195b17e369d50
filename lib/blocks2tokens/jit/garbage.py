"""While Numba compiles, Python looks for garbage less often.

Numba makes some millions of objects for a first token and drops few of them in circles, so that looking for
those took a sixth of the time. With this it takes 30 MB more.
"""

import gc

from numba.core import event

OBJECTS = 50_000  # made before Python looks for circles; 700 by default


class RareCollections(event.Listener):
    """Sets the collector's thresholds from the beginning of the outermost function to its end."""

    def __init__(self):
        self.depth, self.before = 0, None

    def on_start(self, _):
        self.depth += 1
        if self.depth == 1:
            self.before = gc.get_threshold()
            if 0 < self.before[0] < OBJECTS:  # 0: somebody has turned it off
                gc.set_threshold(OBJECTS, *self.before[1:])

    def on_end(self, _):
        self.depth -= 1
        if not self.depth:
            gc.set_threshold(*self.before)


event.register("numba:compile", RareCollections())
