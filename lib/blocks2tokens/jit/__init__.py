"""Everything that speaks LLVM or to the CPU: which CPU this is, vectors of 16 rows, loops over them.

A reader of the formats, the model or the report's kernels never needs to come here; lesson 16 does.
"""
