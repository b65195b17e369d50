"""Exceptions, explained: what a learner's function raised, where, and one sentence on what that means.

ValueError: operands could not be broadcast together with shapes (1,8) (1,8,32)
shapes are matched from the right, and there 8 meets 32: ...
"""

import re
import sysconfig
import traceback
from pathlib import Path

from blocks2tokens.course.check import calls
from blocks2tokens.course.check.calls import TooLongError

HERE = str(Path(__file__).parent)
LIBRARIES = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"))
LONGEST = 200  # characters of an exception's own message; Numba's fill a screen

NOT_A_FUNCTION_OF_NUMPY = (
    "only an array has `.{name}`, and this is a {kind}: np.array(...) or np.asarray(...) makes it one"
)


def explain(error: BaseException) -> str:
    """Return the type and message of an exception, the learner's line that raised it, and what it means."""
    if isinstance(error, TooLongError):
        return (
            f"your function took more than {calls.SECONDS:g} seconds: does every loop in it end? If it does, "
            "it goes round too often"
        )
    if isinstance(error, RecursionError):
        return "your function calls itself again and again, and nothing ends it (RecursionError)"
    if isinstance(error, SystemExit):
        return "your function wants to end Python (SystemExit): leave out exit(), and `return` the answer"
    if isinstance(error, KeyboardInterrupt):
        return "your function was interrupted: does every loop in it end?"
    if is_numbas(error):
        return f"Numba cannot compile your function: {numba_reason(error)}{_line_of(error)}"
    text = str(error)
    message = f"your function raised {type(error).__name__}: {_short(text)}{_line_of(error)}"
    meaning = what_it_means(error, text)
    return f"{message}\n{meaning}" if meaning else message


def _short(text):
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def _line_of(error):
    """Return the outermost line that is neither ours nor a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((HERE, *LIBRARIES))]
    return f', in the line "{own[0].line}"' if own and own[0].line else ""


# What an exception means: type, pattern of its message, and a sentence or a function of the match


def _shapes_that_do_not_match(match):
    shapes = [tuple(map(int, re.findall(r"\d+", shape))) for shape in re.findall(r"\(([\d, ]*)\)", match[0])]
    for axis in range(1, min(map(len, shapes)) + 1):
        lengths = {shape[-axis] for shape in shapes} - {1}
        if len(lengths) > 1:
            a, b = (shape[-axis] for shape in shapes[:2])
            return (
                f"shapes are matched from the right, and there {a} meets {b}: an axis of length 1 fits any "
                "other, such as [:, None] or [:, :, None] makes"
            )
    return None


def _axes_that_do_not_meet(match):
    return (
        "a product of matrices goes along the last axis of the left one and the last but one of the right, "
        f"or its only one, and here they are {match['left']} and {match['right']}: does one want .T?"
    )


def _no_such_attribute(match):
    kind, name = match["kind"], match["name"]
    if kind == "NoneType":
        return (
            "something here is None: a function without `return`, or one that changes its argument in place"
        )
    if kind in ("tuple", "range", "bytes", "generator", "map", "zip") and hasattr(list, name):
        return f"a {kind} has no `.{name}`: list(...) makes a list of it, which has"
    if kind in ("list", "tuple", "int", "float", "range", "bytes", "set", "generator", "map", "zip"):
        return NOT_A_FUNCTION_OF_NUMPY.format(kind=kind, name=name)
    return None


def _index_too_large(match):
    return f"places are counted from 0: of {match['size']} the last is {int(match['size']) - 1}"


def _no_such_axis(match):
    n = int(match["axes"])
    has = ("none: it is a single number", "axis 0 alone")[n] if n < 2 else f"axes 0 to {n - 1}"
    return f"axes are counted from 0, and this array has {has}"


def _cannot_reshape(match):
    return f"the new shape must hold all {match['size']} elements, no more and no fewer; one axis may be -1"


MEANINGS = (
    (ValueError, r"could not be broadcast together with .*", _shapes_that_do_not_match),
    (
        ValueError,
        r"matmul: Input operand 1.*\(size (?P<right>\d+) is different from (?P<left>\d+)\)",
        _axes_that_do_not_meet,
    ),
    (ValueError, r"not aligned: (?P<left>\d+) \(dim \d\) != (?P<right>\d+) \(dim", _axes_that_do_not_meet),
    (
        ValueError,
        r"could not broadcast input array from shape (?P<a>\([\d,]*\)) into shape (?P<b>\([\d,]*\))",
        lambda m: f"you write an array of shape {m['a']} to a place of shape {m['b']}: they must be alike",
    ),
    (ValueError, r"cannot reshape array of size (?P<size>\d+)", _cannot_reshape),
    (
        ValueError,
        r"^axis -?\d+ is out of bounds for array of dimension (?P<axes>\d+)",
        _no_such_axis,
    ),
    (
        ValueError,
        r"all the input array dimensions except for the concatenation axis must match",
        "arrays are joined along one axis, and all their other axes must be alike: print their shapes",
    ),
    (
        ValueError,
        r"truth value of an array",
        "an `if` wants one True or False, and this is an array of them: np.where(...), .any() or .all()",
    ),
    (
        ValueError,
        r"cannot convert float NaN to integer",
        "0 / 0 is NaN, not a number, and no integer: what if all weights are 0?",
    ),
    (ValueError, r"(too many|not enough) values to unpack", "count the names on the left of the ="),
    (
        ValueError,
        r"assignment destination is read-only|output array is read-only",
        "these bytes belong to somebody else: write into an array of your own, np.empty(...) or .copy()",
    ),
    (
        ValueError,
        r"To change to a dtype of a different size, the last axis must be contiguous"
        r"|size of its dtype must be a divisor|must be a divisor of the total size",
        "a view reads the bytes as they lie: .copy() puts them side by side first, and their number must "
        "be a multiple of the new type's bytes",
    ),
    (AttributeError, r"'(?P<kind>\w+)' object has no attribute '(?P<name>\w+)'", _no_such_attribute),
    (
        OverflowError,
        r"int8",
        "a byte out of an array stays a byte, and cannot grow: make it an int(...) first",
    ),
    (
        OverflowError,
        r"out of bounds for",
        "the type of an array sets what its numbers can be: .astype(...) a wider one first, or int(...)",
    ),
    (
        OverflowError,
        r"math range error",
        "math.exp raises from about 710 on, where a float ends; np.exp gives infinity, "
        "and a number / infinity is 0",
    ),
    (OverflowError, r"cannot convert float infinity", "something / 0 is infinite, and no integer"),
    (
        ZeroDivisionError,
        r"",
        "what do you divide by, and in which case is it 0? (In a format: where all weights are 0, so is the "
        "scale.)",
    ),
    (IndexError, r"index -?\d+ is out of bounds for axis \d+ with size (?P<size>\d+)", _index_too_large),
    (
        IndexError,
        r"^index is out of bounds$",
        "compiled code was sent to a place outside of an array. The check looks; the lesson's code does "
        "not, and would read or write what lies there. Does the array have the places that you give it?",
    ),
    (
        IndexError,
        r"^(list|tuple) index out of range$",
        "places are counted from 0: of n the last is n - 1, and of none there is not even place 0",
    ),
    (
        (IndexError, KeyError),
        r"pop from (?:an )?empty|popitem\(\)",
        "nothing is left to take out: does the loop ask whether there is, and is what has gone counted off?",
    ),
    (
        KeyError,
        r"^frozenset\(\{'\w'(?:, '\w')*\}\)$",
        "frozenset of a word is the set of its letters: frozenset([word]) holds the word",
    ),
    (
        KeyError,
        r"",
        "nothing is kept under this key: print the keys that there are, and look at their type as well",
    ),
    (
        IndexError,
        r"too many indices",
        "you give more places in [...] than the array has axes: print its shape",
    ),
    (
        IndexError,
        r"only integers, slices",
        "a place is a whole number: `//` divides in whole numbers, `/` does not",
    ),
    (
        TypeError,
        r"ufunc '(?:bitwise_\w+|\w+_shift)' not supported|unsupported operand type\(s\) for (?:>>|<<|&|\|)",
        "bits are taken from integers, and one of these is none: .astype(np.uint8), or int(...) for one",
    ),
    (
        TypeError,
        r"'(?:numpy\.)?float\d*' object cannot be interpreted as an integer",
        "a count is a whole number: `//` divides in whole numbers, `/` does not",
    ),
    (
        TypeError,
        r"takes (?P<takes>\d+) positional arguments? but (?P<given>\d+)",
        lambda m: f"the lesson calls it with {m['given']} arguments: keep the line with `def` as it was",
    ),
    (
        TypeError,
        r"missing \d+ required positional argument",
        "the lesson calls it with fewer arguments: keep the line with `def` as it was",
    ),
    (
        TypeError,
        r"Cannot cast ufunc",
        "+=, *= and their like keep the type of what stands on the left: write a = a + b, or .astype(...)",
    ),
    (
        TypeError,
        r"can't multiply sequence|can only concatenate|unsupported operand type\(s\) for [-+*/]+: 'list'",
        "a list is no array, and calculates with none of its numbers: np.array(...) makes it one",
    ),
    (
        TypeError,
        r"only (?:integer scalar|length-1|0-dimensional) arrays can be converted",
        "one number is wanted here, and this is an array of several",
    ),
    (TypeError, r"'NoneType' object", "something here is None: a function without `return`?"),
    (
        TypeError,
        r"unhashable type: '(?P<kind>list|set|bytearray|numpy\.ndarray)'",
        lambda m: f"a {m['kind']} can change, so it is no key: frozenset(...) or tuple(...) makes one of it",
    ),
    (TypeError, r"not subscriptable|not callable", "( ) calls a function, [ ] takes an element"),
    (
        NameError,
        r"name '(?P<name>\w+)' is not defined",
        lambda m: f"nothing is called {m['name']} yet: a slip of the pen, or a cell above that has not run?",
    ),
    (MemoryError, r"", "is an axis too many in your shapes? The cases are small"),
    (
        ModuleNotFoundError,
        r"No module named '(.+)'",
        lambda m: f"{m[1]} is not installed here: it can be done without, with NumPy",
    ),
)


def what_it_means(error: BaseException, text: str) -> str | None:
    """Return a sentence on an exception, or None if we have none."""
    for kind, pattern, meaning in MEANINGS:
        if isinstance(error, kind) and (match := re.search(pattern, text)):
            return meaning(match) if callable(meaning) else meaning
    return None


# Numba


def is_numbas(error: BaseException) -> bool:
    """Did Numba raise this while it compiled? Then it is a wall of text."""
    is_its_own = type(error).__module__.startswith("numba.") or isinstance(error, NotImplementedError)
    wants_scipy = isinstance(error, ImportError) and "scipy" in str(error).lower()
    learners = isinstance(error, ModuleNotFoundError)  # an import of theirs, of what is not installed
    return is_its_own or (wants_scipy and not learners)


NUMBA_REASONS = (
    (
        r"^float16$",
        lambda m: "compiled code has no float16; read_half(raw, at) reads one as a float32",
    ),
    (
        r"scipy",
        lambda m: (
            "it multiplies matrices with NumPy (np.dot or @), for which Numba wants SciPy; write the loop"
        ),
    ),
    (
        r"Untyped global name '(?P<name>\w+)'.*<class 'function'>|type of <class 'function'>",
        lambda m: (
            f"it calls {m['name'] or 'a function'}, which is plain Python; compiled code calls only what is "
            "compiled"
        ),
    ),
    (
        r"Untyped global name '(?P<name>\w+)'",
        lambda m: f"it uses {m['name']}, of a kind that compiled code does not know",
    ),
    (
        r"NameError: name '(?P<name>\w+)' is not defined",
        lambda m: f"nothing is called {m['name']} yet",
    ),
    (
        r"Unknown attribute '(?P<name>\w+)' of type (?P<type>[^\n]*)",
        lambda m: f"it has no `.{m['name']}` for {m['type'].strip()}; write it as a loop",
    ),
    (
        r"reshape\(\) supports contiguous array only",
        lambda m: "it reshapes only arrays that lie side by side: np.ascontiguousarray(...), or a loop",
    ),
    (
        r"cannot reshape|No implementation of function Function\(<(?:built-in )?function (?P<name>\w+)",
        lambda m: f"it cannot do `{m['name']}` with what you give it; write it as a loop",
    ),
    (
        r"No implementation of function Function\(<ufunc '(?P<name>\w+)'",
        lambda m: f"it cannot do np.{m['name']} with what you give it; write it as a loop",
    ),
    (
        r"Cannot unify (?P<a>[^\n]*?) and (?P<b>[^\n]*?) for '(?P<name>[\w.]+)'",
        lambda m: (
            f"{m['name'].split('.')[0]} is {m['a']} at one place and {m['b']} at another; compiled code has "
            "one type for each name"
        ),
    ),
    (
        r"Invalid use of BoundFunction\(array\.astype",
        lambda m: "it knows no .astype(int) or the like, only NumPy's types: .astype(np.int64)",
    ),
    (
        r"Invalid use of BoundFunction\((?P<owner>\w+)\.(?P<name>\w+)",
        lambda m: f"it cannot do .{m['name']}(...) with what you give it; write it as a loop",
    ),
    (
        r"The use of yield in a closure|generator ?exp",
        lambda m: "it has a generator in it, such as sum(... for ...): write the loop, and add to a total",
    ),
    (
        r"Use of unsupported (?P<what>[^\n]*)|(?P<other>The use of [^\n]*)",
        lambda m: (m["what"] or m["other"]).strip(),
    ),
)
NOISE = re.compile(
    r"^Failed in \w+ mode pipeline|^- |^During|^File |^\s*<source|^\s*\^|^Invalid use of|^There are"
    r"|^def \w+\("
)


def numba_reason(error: BaseException) -> str:
    """Return the reason in a wall of Numba's, in one sentence."""
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # colours
    for pattern, sentence in NUMBA_REASONS:
        if match := re.search(pattern, text):
            return sentence(match) + _numba_line(text)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not NOISE.match(line)]
    return _short(lines[0] if lines else type(error).__name__) + _numba_line(text)


def _numba_line(text):
    """Return the source line that Numba points at, which stands above its ^."""
    found = re.search(r"\n[ \t]*(?P<line>[^\n]*\S)[^\n]*\n[ \t]*\^", text)
    return f', in the line "{found["line"]}"' if found else ""
