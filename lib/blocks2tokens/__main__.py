"""`python -m blocks2tokens COMMAND`; `python -m blocks2tokens --help` lists the commands."""

import signal
import sys

from blocks2tokens.command_line import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a model may say what the terminal's encoding cannot
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that leaves nothing half-done
    sys.exit(main())
