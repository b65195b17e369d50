"""Sixteen rows of weights times T rows of x: the loops of all vector kernels, written in LLVM's language.

    rows    16 rows of weights  --unpack-->  registers  --times T rows of x-->  out [T, 16]      few rows of x
    fill    16 rows of weights  --unpack-->  a panel in the first-level cache                    many rows
    tile    panel               --times T rows of x-->  out [T, 16] += ...                       of x

    activations of T rows, a tile; a block is 32 or 256 weights (see `quantized_activations`)
        codes   int8     [blocks, T, block]        float formats: x itself, float32 [blocks, T, 32];
                                                   of BF16 `as_they_lie`, for `tile`, as bfloat16
        d       float32  [blocks, T]
        sums    int16    [blocks, T, groups]       blocks of 256: sums of the codes of each group
                float32  [blocks, T]               blocks of 32:  d * (sum of the codes)

    a panel, for each block, vectors of 64 bytes: groups (codes ..., scale), then d, offset, pairs
                             where rows of x share a sum, codes are mixed: see `lanes.I8mm`

The sixteen are unpacked as many at a time as the instruction set has registers for, see `lanes`: `rows` and
`fill` go through the blocks of eight, then through those of the other eight.

Where weights are floats the functions are those of `float_dot`: nothing is unpacked, `tile` fills out.
The functions exist once for each format, instruction set and T. They take addresses and check nothing.
`module_of` makes them by themselves, for any CPU, so that its code can be looked at.
"""

import itertools
from functools import cache, partial

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from blocks2tokens.jit.lanes import (
    F32,
    I32,
    I64,
    ISAS,
    ROWS,
    Rows,
    align_stack,
    bytes_of,
    constant,
    floats_of,
    fma,
    load,
    loop,
    made_here,
    pairs_of,
    pointer,
    shuffle,
    splat,
    undefined,
    words_of,
)
from blocks2tokens.jit.naming import stand_in
from blocks2tokens.kernels.ours import float_dot
from blocks2tokens.kernels.ours.prefetch import DEFAULT, Prefetch, prefetch
from blocks2tokens.kernels.ours.unpack import PACKED, Packed

VECTOR = 64  # bytes
ARGUMENTS = {
    "rows": ("weights", "row_bytes", "blocks", "codes", "d", "sums", "out", "coming"),
    "fill": ("weights", "row_bytes", "blocks", "panel", "coming"),
    "tile": ("panel", "blocks", "codes", "d", "sums", "out"),
}


def tile_sizes(packed: Packed, n_rows: int) -> tuple[int, int, int]:
    """Return the bytes of codes, d and sums of a block in a tile of n_rows rows of x."""
    item = 4 if packed.is_float else 1
    sums = 2 * packed.groups if packed.is_super else 4
    return item * packed.weights * n_rows, 4 * n_rows, sums * n_rows


class Activations:
    """A tile of x in memory, and which of its blocks is meant; what it gives, `rows` rows of weights meet."""

    def __init__(self, builder, packed: Packed, n_rows: int, rows: int, codes, d, sums):
        self.builder, self.packed, self.n_rows, self.rows = builder, packed, n_rows, rows
        self.addresses = codes, d, sums

    def at(self, block):
        """Move to a block, by its number."""
        sizes = tile_sizes(self.packed, self.n_rows)
        self.codes, self.d, self.sums = (
            self.builder.add(start, self.builder.mul(block, I64(size)))
            for start, size in zip(self.addresses, sizes, strict=True)
        )

    def four_codes(self, m, i):
        """Return codes 4 i to 4 i + 3 of row m, `rows` times; i is a number or an LLVM value."""
        four = load(self.builder, self.codes, self._offset(m * self.packed.weights, 4, i), I32)
        return self.builder.bitcast(splat(self.builder, four, self.rows), bytes_of(self.rows))

    def mixed_codes(self, m, i, shares):
        """Return codes 4 i and on of `shares` rows from m on, as `multiply_tile` wants them."""
        if shares == 1:
            return self.four_codes(m, i)
        pair = undefined(ir.VectorType(I64, 2))
        for k in range(2):
            eight = load(self.builder, self.codes, self._offset((m + k) * self.packed.weights, 4, i), I64)
            pair = self.builder.insert_element(pair, eight, I32(k))
        pairs = shuffle(self.builder, pair, pair, [0, 1] * (self.rows // 4))
        return self.builder.bitcast(pairs, bytes_of(self.rows))

    def _offset(self, start, size, i):
        if isinstance(i, int):
            return start + size * i
        return self.builder.add(I64(start), self.builder.mul(i, I64(size)))

    def scale(self, m):
        return self._float(self.d, 4 * m)

    def sum(self, m):
        return self._float(self.sums, 4 * m)

    def two_sums(self, m, i):
        """Return the sums of groups 2 i and 2 i + 1 of row m, int16, `rows` times."""
        two = load(self.builder, self.sums, 2 * self.packed.groups * m + 4 * i, I32)
        return self.builder.bitcast(splat(self.builder, two, self.rows), pairs_of(self.rows))

    def _float(self, base, offset):
        return splat(self.builder, load(self.builder, base, offset, F32), self.rows)


class Multiply:
    """Takes what `unpack` gives and multiplies it by T rows of x at once."""

    def __init__(self, builder, isa, packed, x: Activations):
        self.builder, self.isa, self.packed, self.x = builder, isa, packed, x
        self.totals = [cgutils.alloca_once(builder, floats_of(x.rows)) for _ in range(x.n_rows)]

    def begin(self, ask):
        """`ask` asks for a part of the next weights, one after the other."""
        self.ask = ask
        zero = self.isa.zero_total(self.x.rows) if self.packed.is_super else None
        self.parts = [zero] * self.x.n_rows

    def group(self, g, codes, scale):
        self.ask()
        b, x, packed = self.builder, self.x, self.packed
        first = g * len(codes)
        codes = [getattr(code, "bytes", code) for code in codes]
        scale = scale if isinstance(scale, (ir.Value, type(None))) else self.isa.scale(b, *scale)
        at_once = self.isa.at_once(packed.largest)
        for start in range(0, len(codes), at_once):
            products = [self.isa.zero_sum(x.rows)] * x.n_rows
            for i, code in list(enumerate(codes))[start : start + at_once]:
                for m in range(x.n_rows):
                    four = x.four_codes(m, first + i)
                    more = self.isa.multiply_add(b, products[m], code, four, packed.largest)
                    products[m] = in_order(b, self.isa, more)
            self.parts = [
                in_order(b, self.isa, add_part(b, self.isa, part, some, scale))
                for part, some in zip(self.parts, products, strict=True)
            ]

    def end(self, d, offset, pairs):
        for m, part in enumerate(self.parts):
            add_block(self.builder, self.isa, self.packed, self.x, self.totals[m], m, part, d, offset, pairs)


def in_order(builder, isa, vector):
    """Return a vector; where registers are few, LLVM makes it before what comes behind."""
    return made_here(builder, isa, vector) if isa.in_order else vector


def add_part(builder, isa, part, products, scale):
    """Return the total of a block, None at its beginning, plus a sum of products of one of its groups."""
    if scale is not None:
        return isa.add_scaled(builder, part, products, scale)
    words = isa.to_words(builder, products)
    return words if part is None else builder.add(part, words)


def add_block(builder, isa, packed, x, total, m, part, d, offset, pairs):
    """Add what a block gives for row m of x to its total in memory."""
    if packed.is_super:
        product = builder.fmul(isa.to_floats(builder, part), d)
        if pairs is not None:
            mins = constant(words_of(x.rows), 0)
            for i, two in enumerate(pair_vectors(pairs)):
                mins = isa.add_pairs(builder, mins, two, x.two_sums(m, i))
            mins = builder.sitofp(mins, d.type)
            product = fma(builder, builder.fneg(mins), offset, product)
        add_product(builder, total, product, x.scale(m))
    else:
        add_product(builder, total, builder.sitofp(part, d.type), builder.fmul(d, x.scale(m)))
        if offset is not None:
            add_product(builder, total, offset, x.sum(m))


def add_product(builder, total, a, b):
    """Add a * b to a vector of float32 in memory."""
    builder.store(fma(builder, a, b, builder.load(total)), total)


def pair_vectors(pairs):
    """Return the mins, two of each row at a time; they may be words yet, or vectors already."""
    if isinstance(pairs, list):
        return pairs
    words, signed = pairs
    return [word.two(i, signed) for word in words for i in (0, 2)]


class Store:
    """Takes what `unpack` gives and stores it as a block of a panel."""

    def __init__(self, builder, isa, packed, panel):
        self.builder, self.isa, self.packed, self.layout = builder, isa, packed, Layout(isa, packed)
        self.panel = panel

    def begin(self, ask, block):
        self.ask = ask
        self.base = self.builder.add(self.panel, self.builder.mul(block, I64(self.layout.size)))

    def group(self, g, codes, scale):
        self.ask()
        codes = [code if isinstance(code, ir.Value) else code.value for code in codes]
        for i, code in enumerate(in_shares(self.isa.shares, codes, partial(self.isa.mix, self.builder))):
            self._store(self.layout.code(g, i), code)
        if scale is not None:
            self._store(self.layout.scale(g), self.isa.scale(self.builder, *scale))

    def end(self, d, offset, pairs):
        self._store(self.layout.ends, d)
        if offset is not None:
            self._store(self.layout.ends + VECTOR, offset)
        if pairs is not None:
            for i, two in enumerate(pair_vectors(pairs)):
                self._store(self.layout.ends + (2 + i) * VECTOR, two)

    def _store(self, offset, value):
        self.builder.store(value, pointer(self.builder, self.base, offset, value.type), align=1)


def in_shares(shares, vectors, change):
    """Return what `change` makes of some vectors, `shares` of them at a time."""
    return [made for i in range(0, len(vectors), shares) for made in change(vectors[i : i + shares])]


class Layout:
    """Where things are in a block of a panel, in bytes."""

    def __init__(self, isa, packed):
        self.codes = packed.group // 4  # vectors of a group
        self.has_offset = not (isa.signed and packed.largest == 128)
        self.step = (self.codes + packed.is_super) * VECTOR
        self.ends = self.step * packed.groups
        self.scale_type = isa.zero_total(ROWS).type if isa.name != "avx2" else pairs_of(ROWS)
        self.n_pairs = packed.groups // 2 if packed.is_super and self.has_offset else 0
        self.size = self.ends + (2 + self.n_pairs) * VECTOR

    def code(self, g, i):
        return self.step * g + VECTOR * i

    def scale(self, g):
        return self.step * g + VECTOR * self.codes


# --- Functions --------------------------------------------------------------------------------------------


def function(module, kind, packed, isa, n_rows=1, prefetching=DEFAULT):
    """Return the LLVM function of this kind, defined in a module."""
    name = f"b2t_{kind}_{packed.name}_{isa.name}_{n_rows}"
    if name in module.globals:
        return module.globals[name]
    names = ARGUMENTS[kind]
    made = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * len(names)), name)
    made.linkage = "internal"
    builder = ir.IRBuilder(made.append_basic_block("entry"))
    {"rows": define_rows, "fill": define_fill, "tile": define_tile}[kind](
        builder, packed, isa, n_rows, prefetching, **dict(zip(names, made.args, strict=True))
    )
    builder.ret_void()
    return made


def define_rows(
    builder, packed, isa, n_rows, prefetching, weights, row_bytes, blocks, codes, d, sums, out, coming
):
    if packed.is_float:
        addresses = weights, row_bytes, blocks, codes, out, coming
        float_dot.define_rows(builder, packed, isa, n_rows, prefetching, *addresses)
        return
    x = Activations(builder, packed, n_rows, isa.rows, codes, d, sums)
    multiply = Multiply(builder, isa, packed, x)
    with loop(builder, ROWS // isa.rows) as part:
        for total in multiply.totals:
            builder.store(constant(floats_of(isa.rows), 0.0), total)
        with cgutils.for_range(builder, blocks) as turn:
            x.at(turn.index)
            multiply.begin(asking(builder, packed, isa, prefetching, coming, row_bytes, blocks, part, turn))
            packed.unpack(block_of_rows(builder, packed, isa, weights, row_bytes, part, turn), multiply)
        made = builder.add(out, builder.mul(part, I64(4 * isa.rows)))
        for m, total in enumerate(multiply.totals):
            place = pointer(builder, made, VECTOR * m, floats_of(isa.rows))
            builder.store(builder.load(total), place, align=1)


def block_of_rows(builder, packed, isa, weights, row_bytes, part, turn):
    """Return block `turn` of the rows of a part of the sixteen."""
    start = builder.add(weights, builder.mul(builder.mul(part, I64(isa.rows)), row_bytes))
    at = builder.add(start, builder.mul(turn.index, I64(packed.size)))
    return Rows(builder, isa, at, row_bytes, packed.size, isa.rows)


def asking(builder, packed, isa, how, coming, row_bytes, blocks, part, turn):
    """Return a function that asks for a piece of the next weights; called once for each group of a block."""
    before = builder.add(builder.mul(part, blocks), turn.index)
    arguments, pieces = (builder, how, isa.rows * packed.size, coming, row_bytes, before), itertools.count()
    return lambda: prefetch(*arguments, part=next(pieces), parts=packed.groups)


def define_fill(builder, packed, isa, n_rows, prefetching, weights, row_bytes, blocks, panel, coming):
    if packed.is_float:
        float_dot.define_fill(builder, packed, isa, prefetching, weights, row_bytes, blocks, panel, coming)
        return
    with loop(builder, ROWS // isa.rows) as part:
        store = Store(builder, isa, packed, builder.add(panel, builder.mul(part, I64(4 * isa.rows))))
        with cgutils.for_range(builder, blocks) as turn:
            ask = asking(builder, packed, isa, prefetching, coming, row_bytes, blocks, part, turn)
            store.begin(ask, turn.index)
            packed.unpack(block_of_rows(builder, packed, isa, weights, row_bytes, part, turn), store)


def define_tile(builder, packed, isa, n_rows, prefetching, panel, blocks, codes, d, sums, out):
    if packed.is_float:
        float_dot.define_tile(builder, packed, isa, n_rows, panel, blocks, codes, out)
        return
    x, layout = Activations(builder, packed, n_rows, ROWS, codes, d, sums), Layout(isa, packed)
    totals = [cgutils.alloca_once(builder, floats_of(ROWS)) for _ in range(n_rows)]
    places = [pointer(builder, out, VECTOR * m, floats_of(ROWS)) for m in range(n_rows)]
    for place, total in zip(places, totals, strict=True):
        builder.store(builder.load(place, align=1), total)
    with cgutils.for_range(builder, blocks) as turn:
        x.at(turn.index)
        base = builder.add(panel, builder.mul(turn.index, I64(layout.size)))
        define_groups(builder, packed, isa, x, layout, base, totals)
    for place, total in zip(places, totals, strict=True):
        builder.store(builder.load(total), place, align=1)


# The loop over groups is one in the code, too; what is in a group is written out, and LLVM is told the order:
# a vector of codes meets all rows of x, then comes the next. Left to itself it goes row by row, with all
# codes on the stack.


def define_groups(builder, packed, isa, x, layout, base, totals):
    """Multiply the codes of a block of a panel by those of the tile, group by group, and add it up."""
    kind = isa.zero_total(ROWS) if packed.is_super else constant(words_of(ROWS), 0)
    parts = [cgutils.alloca_once(builder, kind.type) for _ in totals]
    for part in parts:
        builder.store(kind, part)
    with loop(builder, packed.groups) as g:
        at = builder.add(base, builder.mul(g, I64(layout.step)))
        scales = [load(builder, at, layout.scale(0), layout.scale_type) if packed.is_super else None]
        scales = isa.mix(builder, scales * isa.shares) if packed.is_super else scales * isa.shares
        define_group(builder, packed, isa, x, layout, at, builder.mul(g, I64(layout.codes)), parts, scales)
    d, offset = (load(builder, base, layout.ends + VECTOR * i, floats_of(ROWS)) for i in range(2))
    pairs = [
        load(builder, base, layout.ends + (2 + i) * VECTOR, pairs_of(ROWS)) for i in range(layout.n_pairs)
    ]
    totals_of_rows = in_shares(isa.shares, list(map(builder.load, parts)), partial(isa.unmix, builder))
    for m, part in enumerate(totals_of_rows):
        some = part, d, offset if layout.has_offset else None, pairs or None
        add_block(builder, isa, packed, x, totals[m], m, *some)


def define_group(builder, packed, isa, x, layout, at, first, parts, scales):
    """Multiply the codes of a group, and add to parts whenever a sum has taken as many as it can."""
    at_once = power_of_two(min(layout.codes, isa.at_once(packed.largest)))
    for i in range(0, layout.codes, isa.shares):
        if i % at_once == 0:
            sums = [isa.zero_sum(ROWS)] * x.n_rows
        codes = [load(builder, at, layout.code(0, i + k), bytes_of(ROWS)) for k in range(isa.shares)]
        for m in range(0, x.n_rows, isa.shares):
            four = x.mixed_codes(m, builder.add(first, I64(i)), isa.shares)
            for row, code in enumerate(codes, m):
                more = isa.multiply_tile(builder, sums[row], code, four, packed.largest)
                sums[row] = in_order(builder, isa, more)
        if (i + isa.shares) % at_once == 0:
            for row, (part, total) in enumerate(zip(parts, sums, strict=True)):
                more = add_part(builder, isa, builder.load(part), total, scales[row % isa.shares])
                builder.store(more, part)


def turns(packed, isa, kind, n_rows):
    """Return how often each loop within that over blocks, or spans, goes round, and the same of those in it.

    [(times, [(times, [...]), ...]), ...] in their order in the code.
    """
    if kind == "fill" or (kind == "rows" and not packed.is_float):
        return []
    if packed.is_float:
        return float_dot.turns(packed, isa, kind, n_rows)
    return [(packed.groups, [])] if packed.groups > 1 else []


def power_of_two(n):
    """Return the largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1)


def module_of(kinds=(("rows", 1),), name="Q4_K", isa_name="avx2", prefetching=DEFAULT):
    """Return a module with functions of a format, to be compiled for any CPU."""
    module = ir.Module(f"{name}_{isa_name}")
    for kind, n_rows in kinds:
        made = function(module, kind, PACKED[name], ISAS[isa_name], n_rows, prefetching)
        made.linkage = "external"
        align_stack(made)
    return module


def optimized(module: ir.Module, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """Return a module as LLVM makes it for a machine, as fast as it can."""
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(parsed, builder)
    return parsed


# --- In Numba's language ----------------------------------------------------------------------------------


# A function is chosen by the type of a tag, a tuple with a class of its own: see `stand_in`.

TAGS = {}  # class of a tag: (format, instruction set, T, how to prefetch)


@cache
def tag_of(name: str, isa_name: str, n_rows: int = 1, prefetching: Prefetch = DEFAULT):
    """Return what stands for a format, an instruction set, T and a way to prefetch in `@njit` code."""
    label = "_".join(map(str, ("Tag", name, isa_name, n_rows, *prefetching)))
    kind = stand_in(label)
    TAGS[kind] = PACKED[name], ISAS[isa_name], n_rows, prefetching
    return kind(0)


def call_function(kind, tag):
    """Return the signature and the code of a call; all arguments but the tag are int64."""
    what = TAGS[tag.instance_class]
    signature = types.void(tag, *[types.int64] * len(ARGUMENTS[kind]))

    def codegen(context, builder, signature, args):
        align_stack(builder.function)  # whose own the call becomes
        builder.call(function(builder.module, kind, *what), args[1:])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def rows(typingctx, tag, weights, row_bytes, blocks, codes, d, sums, out, coming):
    """Multiply 16 rows of weights by a tile of x: out, float32 [T, 16]."""
    return call_function("rows", tag)


@intrinsic
def fill(typingctx, tag, weights, row_bytes, blocks, panel, coming):
    """Unpack 16 rows of weights into a panel."""
    return call_function("fill", tag)


@intrinsic
def tile(typingctx, tag, panel, blocks, codes, d, sums, out):
    """Multiply a panel by a tile of x: out, float32 [T, 16], += ..."""
    return call_function("tile", tag)
