"""The class: submissions graded, and the lessons as assignments of nbgrader.

submissions/anna/03_q4_k.ipynb ...
    --answers-->    for each exercise the statements that answer it
    --processes-->  a process each, with limits of time and memory:
                    judging runs the statements, and judges the function on fresh cases
    --grading-->    grades.csv, grades.reasons.csv, the class's most frequent mistakes

Code of others is run. What it may not do is refused, and limits end it, but this is no prison: whoever does
not trust a class grades in a container, or as a user that owns nothing.
"""
