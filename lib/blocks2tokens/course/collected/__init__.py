"""The learner's own engine: each function that a check called right, in a file for each lesson.

    work/my_engine/q4_k.py      \"\"\"Yours: the functions of lesson q4_k ...\"\"\"
                                import numpy as np
                                # --- check.unpack_q4_k_scales(unpack_scales): right ---
                                def unpack_scales(scales): ...

    keep(exercise, function)    called by a check that says "right"
    find("dequantize_q4_k")     what was kept, or a reason why there is nothing to use

sources.py says what a function needs, file.py reads and writes a lesson's file. Where there is no work/, as
in the course's own notebooks, functions are kept until the session ends, and nothing is written.
"""

from blocks2tokens.course.collected.kept import Found, find, keep

__all__ = ["Found", "find", "keep"]
