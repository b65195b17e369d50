"""Every block format, one module each, and the registry that finds them.

FORMATS["Q4_K"]          by name
by_ggml_type(12)         by the number that GGUF files use
"""

from types import MappingProxyType

from blocks2tokens.errors import UnsupportedError
from blocks2tokens.formats import (
    bf16,
    f16,
    f32,
    iq1_m,
    iq1_s,
    iq2_s,
    iq2_xs,
    iq2_xxs,
    iq3_s,
    iq3_xxs,
    iq4_nl,
    iq4_xs,
    mxfp4,
    nvfp4,
    q2_k,
    q3_k,
    q4_0,
    q4_1,
    q4_k,
    q5_0,
    q5_1,
    q5_k,
    q6_k,
    q8_0,
    q8_k,
    tq1_0,
    tq2_0,
)
from blocks2tokens.formats.format import Format

MODULES = {
    "F32": f32,
    "F16": f16,
    "BF16": bf16,
    "Q8_0": q8_0,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "Q8_K": q8_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "MXFP4": mxfp4,
    "NVFP4": nvfp4,
    "IQ3_S": iq3_s,
    "IQ3_XXS": iq3_xxs,
    "IQ2_S": iq2_s,
    "IQ2_XS": iq2_xs,
    "IQ2_XXS": iq2_xxs,
    "IQ1_M": iq1_m,
    "IQ1_S": iq1_s,
    "TQ2_0": tq2_0,
    "TQ1_0": tq1_0,
}

FORMATS = MappingProxyType({name: Format(name, module) for name, module in MODULES.items()})

_BY_TYPE = {fmt.ggml_type: fmt for fmt in FORMATS.values()}


def by_ggml_type(ggml_type: int) -> Format:
    """Return the format with this number in GGUF files; UnsupportedError if we do not have it."""
    if ggml_type not in _BY_TYPE:
        raise UnsupportedError(f"tensor type {ggml_type}: not a format of this engine")
    return _BY_TYPE[ggml_type]


__all__ = ["FORMATS", "Format", "by_ggml_type"]
