"""The peer: llama.cpp's own matrix product, called through ctypes, to be measured beside ours.

    weights   a ggml tensor of the same blocks, in the buffer that llama.cpp itself would choose: for most
              formats one that stores 8 rows interleaved, which it does once, when a model is loaded
    product   ggml_mul_mat, activations rounded to 8 bits inside, on as many threads as asked for

The libraries come with the package llama-cpp-python (extra `peer`). Its wheels are built for any CPU; for
a fair race build it from source with the instructions of this one: `make peer`.
"""

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from blocks2tokens.formats.format import checked
from blocks2tokens.matrix import QuantizedMatrix

F32 = 0  # ggml's number of the type
FEATURES = ("avx2", "avx_vnni", "avx512", "avx512_vnni", "amx_int8")


QUIET = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda level, text, data: None)


class InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


SIGNATURES = {  # name: (library, result, arguments)
    "ggml_init": ("base", c_void_p, (InitParams,)),
    "ggml_log_set": ("base", None, (c_void_p, c_void_p)),
    "ggml_free": ("base", None, (c_void_p,)),
    "ggml_new_tensor_2d": ("base", c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_mul_mat": ("base", c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_graph": ("base", c_void_p, (c_void_p,)),
    "ggml_build_forward_expand": ("base", None, (c_void_p, c_void_p)),
    "ggml_backend_alloc_ctx_tensors_from_buft": ("base", c_void_p, (c_void_p, c_void_p)),
    "ggml_backend_buffer_free": ("base", None, (c_void_p,)),
    "ggml_backend_buft_name": ("base", c_char_p, (c_void_p,)),
    "ggml_backend_tensor_set": ("base", None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_tensor_get": ("base", None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_graph_compute": ("base", c_int, (c_void_p, c_void_p)),
    "ggml_backend_reg_get_proc_address": ("base", c_void_p, (c_void_p, c_char_p)),
    "ggml_backend_reg_dev_get": ("base", c_void_p, (c_void_p, c_size_t)),
    "ggml_backend_dev_buffer_type": ("base", c_void_p, (c_void_p,)),
    "ggml_backend_dev_supports_op": ("base", c_bool, (c_void_p, c_void_p)),
    "ggml_backend_cpu_reg": ("cpu", c_void_p, ()),
    "ggml_backend_cpu_init": ("cpu", c_void_p, ()),
    "ggml_backend_cpu_set_n_threads": ("cpu", None, (c_void_p, c_int)),
}


class Library:
    """ggml's functions, with their types."""

    def __init__(self, folder: Path):
        load = {
            name: ctypes.CDLL(str(next(folder.glob(f"*ggml-{name}.*"))), mode=ctypes.RTLD_GLOBAL)
            for name in ("base", "cpu")
        }
        for name, (library, result, arguments) in SIGNATURES.items():
            function = getattr(load[library], name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self.log_set(QUIET, None)
        self.features = [f for f in FEATURES if getattr(load["cpu"], f"ggml_cpu_has_{f}")()]


@cache
def library() -> Library | None:
    """Return ggml, or None if llama-cpp-python is not installed."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    return Library(folder) if list(folder.glob("*ggml-cpu.*")) else None


class Product:
    """x @ W.T by llama.cpp: prepared once, then called as often as one likes."""

    def __init__(self, w: QuantizedMatrix, M: int, n_threads: int):
        """Copy w, layout "gguf", into a tensor; M rows of x."""
        self.ggml = ggml = library()
        if ggml is None:
            raise RuntimeError("llama-cpp-python is not installed: make peer")
        self.shape = N, K = w.shape
        self.M = M
        self.contexts, self.buffers = [], []
        device = ggml.backend_reg_dev_get(ggml.backend_cpu_reg(), 0)
        plain = ggml.backend_dev_buffer_type(device)
        self.backend = ggml.backend_cpu_init()
        ggml.backend_cpu_set_n_threads(self.backend, n_threads)
        for buffer_type in (*self._extra_buffer_types(device), plain):
            weights, context = self._context(), self._context()
            self.w = ggml.new_tensor_2d(weights, w.format.ggml_type, K, N)
            self.x = ggml.new_tensor_2d(context, F32, K, M)
            self._allocate(weights, buffer_type)
            self.out = ggml.mul_mat(context, self.w, self.x)
            if buffer_type == plain or ggml.backend_dev_supports_op(device, self.out):
                break
        self.buffer_type, self.graph = buffer_type, ggml.new_graph(context)
        ggml.build_forward_expand(self.graph, self.out)
        self._allocate(context, plain)
        ggml.backend_tensor_set(self.w, w.raw.ctypes.data, 0, w.nbytes)

    @property
    def buffer(self) -> str:
        """Name of the buffer that the weights lie in."""
        return self.ggml.backend_buft_name(self.buffer_type).decode()

    def set_x(self, x: np.ndarray) -> None:
        """Copy x, float32 [M, K], into its tensor."""
        if checked(x, np.float32, "x").shape != (self.M, self.shape[1]):
            raise ValueError(f"x: expected shape {(self.M, self.shape[1])}, got {x.shape}")
        self.ggml.backend_tensor_set(self.x, x.ctypes.data, 0, x.nbytes)

    def __call__(self) -> None:
        """Multiply."""
        if self.ggml.backend_graph_compute(self.backend, self.graph) != 0:
            raise RuntimeError("ggml could not compute the product")

    def result(self) -> np.ndarray:
        """Return the last product, float32 [M, N]."""
        out = np.empty((self.M, self.shape[0]), np.float32)
        self.ggml.backend_tensor_get(self.out, out.ctypes.data, 0, out.nbytes)
        return out

    def close(self) -> None:
        """Give the memory back."""
        for buffer in self.buffers:
            self.ggml.backend_buffer_free(buffer)
        for context in self.contexts:
            self.ggml.free(context)
        self.buffers, self.contexts = [], []

    def _extra_buffer_types(self, device):
        """Return the buffer types that llama.cpp tries before the plain one."""
        name = b"ggml_backend_dev_get_extra_bufts"
        address = self.ggml.backend_reg_get_proc_address(self.ggml.backend_cpu_reg(), name)
        if not address:
            return []
        types = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(device)
        found = []
        while types and types[len(found)]:
            found.append(types[len(found)])
        return found

    def _context(self):
        context = self.ggml.init(InitParams(1 << 20, None, True))
        self.contexts.append(context)
        return context

    def _allocate(self, context, buffer_type):
        self.buffers.append(self.ggml.backend_alloc_ctx_tensors_from_buft(context, buffer_type))
