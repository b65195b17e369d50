"""A folder for each lesson, named as its notebook is: its exercises, and what no other lesson uses.

The exercises of all lessons are registered in `check`, in their order, whichever is imported first.
"""

from blocks2tokens.course import check  # noqa: F401  each lesson needs Exercise from there
