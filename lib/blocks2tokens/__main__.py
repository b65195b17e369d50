"""`python -m blocks2tokens COMMAND`, the same as `b2t COMMAND`; `--help` lists the commands."""

import sys

from blocks2tokens.command_line import program

if __name__ == "__main__":
    sys.exit(program())
