"""Blocks to Tokens: the engine that the lessons build.

formats -> matrix -> kernels -> model -> generate        gguf_file feeds matrix

>>> import blocks2tokens as b2t
>>> b2t.FORMATS["Q4_K"].bits_per_weight
4.5
"""

import os

# Idle threads spin for milliseconds by default, libgomp's and OpenBLAS's (2^26 cycles, some 30 ms), and
# stall every parallel region of the other, and of a machine that is busy with anything else: a product that
# takes 1 ms took 2.5 ms after one of BLAS. So many turns, and 2^16 cycles, take a fraction of one, as long as
# a model needs from one product to the next. Read once, when Numba and NumPy load the libraries: a program
# that imports NumPy first must set the second itself, as the Makefile does for the lessons.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")

import blocks2tokens.jit.cores  # isort: skip  first: it tells Numba, before that is imported, of the threads
import blocks2tokens.jit.cache
import blocks2tokens.jit.cpu  # importing it says what Numba compiles for
import blocks2tokens.jit.garbage
import blocks2tokens.jit.progress  # noqa: F401  and this, that it does
from blocks2tokens.convert import convert
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.formats import FORMATS
from blocks2tokens.generate import Model, load
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.grammar import Grammar
from blocks2tokens.importance import Importance, importance
from blocks2tokens.kernels import KERNELS, matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.perplexity import perplexity
from blocks2tokens.prune import prune
from blocks2tokens.quality import Quality, quality
from blocks2tokens.sampler import Sampler
from blocks2tokens.serving import Batcher
from blocks2tokens.session import Session, load_session
from blocks2tokens.speculate import Draft, PromptLookup

__all__ = [
    "FORMATS",
    "KERNELS",
    "Batcher",
    "Draft",
    "GGUFError",
    "GGUFFile",
    "Grammar",
    "Importance",
    "Model",
    "PromptLookup",
    "Quality",
    "QuantizedMatrix",
    "Sampler",
    "Session",
    "UnsupportedError",
    "convert",
    "importance",
    "load",
    "load_session",
    "matmul",
    "perplexity",
    "prune",
    "quality",
]
