"""A line of progress while Numba compiles: the first use of the engine takes some seconds of it, once.

    compiling, once: 31 functions, 9 s

Shown after two seconds, like the lines of everything else that takes long, and wiped out at the end;
TQDM_DISABLE=1 turns it off. What was compiled is kept, so the next process does not come here.
"""

from numba.core import event
from tqdm import tqdm

DELAY = 2.0  # seconds
FORMAT = "{desc}: {n_fmt} functions, {elapsed_s:.0f} s"


class CompileProgress(event.Listener):
    """Counts the functions that are compiled, from the beginning of the outermost to its end."""

    def __init__(self):
        self.depth, self.bar = 0, None
        self.off = False  # whoever says himself what is being done sets it

    def on_start(self, _):
        self.depth += 1
        if self.depth == 1 and not self.off:
            self.bar = tqdm(desc="compiling, once", delay=DELAY, leave=False, bar_format=FORMAT)

    def on_end(self, _):
        self.depth -= 1
        if self.bar is not None:
            self.bar.update()
        if not self.depth and self.bar is not None:
            self.bar.close()
            self.bar = None


PROGRESS = CompileProgress()
event.register("numba:compile", PROGRESS)
