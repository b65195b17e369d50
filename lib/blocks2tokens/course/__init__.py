"""Teaching helpers: what the lessons use around the engine. The engine never imports them.

lessons       a folder for each lesson: its exercises, and what it alone uses
check         the exercises' verdicts, and all exercises by name
setup         is everything installed and in place? the learner's copy of the lessons
models        where the models of the course lie
roofline      this machine's ceilings: how fast it can read, how fast it can multiply
plot          one style for every figure
explore       live text and widgets over plain functions
"""
