"""The performance tables of this machine, beside llama.cpp's where it is built: `make bench`.

Everything in one run, interleaved, medians; ratios are between figures of the same run.
"""
