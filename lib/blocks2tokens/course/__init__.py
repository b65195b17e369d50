"""Teaching helpers: what the lessons use around the engine. The engine never imports them.

lessons       a folder for each lesson: its exercises, and what it alone uses
check         the exercises' verdicts, and all exercises by name
collected     the learner's right functions, as files in work/my_engine/
my_engine     the learner's own engine: Austen speaks through what was collected
progress      the record of verdicts, and the strips that show it
work          where the learner's copy of the lessons is
overview      all exercises as boxes, for a terminal
setup         is everything installed and in place? the learner's copy of the lessons
classroom     a class's submissions graded, and the lessons as assignments of nbgrader
models        where the models of the course lie
hardware      this machine's ceilings: how fast it can read, how fast it can multiply
roofline      what a product must do and move, and what these ceilings allow
plot          one style for every figure
predict       what a learner guessed, beside what was measured
explore       live text and widgets over plain functions
"""
