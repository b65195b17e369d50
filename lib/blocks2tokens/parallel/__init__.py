"""Many machines: layers over machines, rows over machines, and jobs over machines.

    ranks      the processes that mpiexec starts: every wait ends, and one clear line if one dies
    shares     how many layers each of unequal machines gets, and where a matrix may be cut
    pipeline   layers over machines: each rank has some, and sends on what comes out of them
    tensor     rows over machines: each rank has some of each layer's heads and neurons
    cost       what a token costs on N machines: hops, all-reduces, bytes; failures
    simulate   the same with chance: stages that take turns, machines that fail
    saved      the tokens of a generation, kept as they come
    sweep      formats x models x texts, over Dask's workers

Only `ranks` needs mpi4py, and only `sweep` Dask: both when they are used, not when they are imported.
"""
