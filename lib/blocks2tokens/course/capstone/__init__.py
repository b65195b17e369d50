"""The capstone: a learner's own engine in one file, judged by one command.

    python -m blocks2tokens.course.capstone my_engine.py

starter.py     the file that a learner begins with: stubs, and what holds them together
pieces.py      runs such a file; a stub is filled with what the learner passed in its lesson, or the engine's
rules.py       what a file may import, and how many lines it has
criteria.py    what is judged of the model that it loads, in a process that may be ended at any time
questions.py   the files that it is judged with, and what llama.cpp said of them
judging.py     starts those processes, and turns whatever becomes of them into rows
board.py       the leaderboard in work/
"""

from blocks2tokens.course.capstone.judging import Report, Row, judge

__all__ = ["Report", "Row", "judge"]
