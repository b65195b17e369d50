"""Everything that speaks LLVM or to the CPU: vectors, addresses, jobs that cores take, Numba's cache.

cache         compiled code of an older engine is forgotten
cores         how many threads, and whose turn it is          cpu       which instructions this CPU has
lanes         vectors of 16 rows, in LLVM's language          vectors   vector instructions for `@njit` code
pointers      arrays at an address                            naming    names for generated functions
job_counter   workers that share jobs                         lock      many readers or one writer

A reader of the formats, the model or the report's kernels never needs to come here; lesson 16 does.
"""
