"""Blocks to Tokens: the engine that the lessons build.

formats -> matrix -> kernels -> model -> generate        gguf_file feeds matrix

>>> import blocks2tokens as b2t
>>> b2t.FORMATS["Q4_K"].bits_per_weight
4.5
"""

import os

# libgomp's idle threads spin for milliseconds by default, which stalls every parallel region on a
# machine that is busy with anything else. So many turns take a fraction of one: as long as a model needs
# from one product to the next. Read once, when Numba loads the library.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import blocks2tokens.compiled_code
import blocks2tokens.jit.cpu  # noqa: F401  importing it says what Numba compiles for
from blocks2tokens.convert import convert
from blocks2tokens.errors import GGUFError, UnsupportedError
from blocks2tokens.formats import FORMATS
from blocks2tokens.generate import Model, load
from blocks2tokens.gguf_file import GGUFFile
from blocks2tokens.kernels import KERNELS, matmul
from blocks2tokens.matrix import QuantizedMatrix
from blocks2tokens.perplexity import perplexity
from blocks2tokens.sampler import Sampler

__all__ = [
    "FORMATS",
    "KERNELS",
    "GGUFError",
    "GGUFFile",
    "Model",
    "QuantizedMatrix",
    "Sampler",
    "UnsupportedError",
    "convert",
    "load",
    "matmul",
    "perplexity",
]
