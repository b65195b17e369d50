"""Sandbox: Jinja for programs of strangers, who may be after Python's insides, all memory, or all time.

    attributes that lead into Python         refused, by Jinja's own sandbox
    {% for %}, {% macro %}                   each turn costs STEP
    + ~ * ** %, filters, calls, output       cost what they may make: characters and numbers
    all together                             at most BUDGET, then the template is refused

A template of a real model spends a few units on each character of a conversation. Costs are counted before
the work is done, and no clock is read: a template that runs once runs always.
"""

import re
from collections.abc import Callable
from functools import wraps
from math import prod

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

STEP = 1000
BUDGET = 200_000_000
CHEAP = ("length", "count", "first", "last", "default", "d")  # filters that make nothing
WIDE = re.compile(r"\d{5}|\*")  # in a format: a width that makes more than it is given


class Generation(Extension):
    """{% generation %} ... {% endgeneration %}: a mark, for training, around what the assistant says."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Metered(NodeTransformer):
    """Has each turn of a loop and of a macro counted, and what ~ makes."""

    def visit_For(self, node):
        node.body.insert(0, nodes.ExprStmt(_call("step", [])))
        return self.generic_visit(node)

    visit_Macro = visit_CallBlock = visit_For

    def visit_Concat(self, node):
        return self.generic_visit(_call("joined", node.nodes))


def _call(name: str, arguments: list) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)


class Sandbox(ImmutableSandboxedEnvironment):
    """Surroundings for one rendering of one template, with a budget; `filters` and `functions` of our own."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: dict[str, Callable], functions: dict[str, Callable]):
        options = ["jinja2.ext.loopcontrols", Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=options, finalize=self._shown)
        self.spent = 0
        self.globals |= functions
        filters = self.filters | filters
        self.filters = {name: self._metered(name, function) for name, function in filters.items()}

    def spend(self, cost: int) -> None:
        """Count the cost of what is about to be done; TemplateError beyond the budget."""
        self.spent += cost
        if self.spent > BUDGET:
            raise TemplateError("it does not come to an end, or makes too long a text")

    def step(self) -> str:
        self.spend(STEP)
        return ""

    def joined(self, *parts) -> str:
        self.spend(sum(1 if isinstance(part, int) else _size(part) for part in parts))
        return "".join(map(str, parts))

    def concat(self, parts) -> str:
        """Join the output of a template, a macro or a block."""
        parts = list(parts)
        self.spend(sum(map(len, parts)))
        return "".join(parts)

    def _shown(self, value):
        """Count what is about to be made text."""
        self.spend(1 if isinstance(value, int) else _size(value))
        return value

    def wrap_str_format(self, value):
        """Look at the widths in a format when its method is taken hold of: from there it is Jinja's."""
        if getattr(value, "__name__", "") in ("format", "format_map"):
            _check_widths([value.__self__])
        return super().wrap_str_format(value)

    def call_binop(self, context, operator, left, right):
        self.spend(_cost_of_operator(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context, function, *args, **kwargs):
        of = getattr(function, "__self__", None)
        self.spend(_cost(getattr(function, "__name__", ""), [of, *args, *kwargs.values()]))
        return super().call(context, function, *args, **kwargs)

    def _metered(self, name: str, function: Callable) -> Callable:
        @wraps(function)  # with the mark that says whether it wants the context
        def metered(*args, **kwargs):
            self.spend(_cost(name, [*args, *kwargs.values()]))
            return function(*args, **kwargs)

        return metered

    def _generate(self, source, *args, **kwargs):
        return super()._generate(_Metered().visit(source), *args, **kwargs)


def _size(value, seen: dict[int, int] | None = None) -> int:
    """Return how many characters or numbers a value has, or how many a number may ask for.

    What lists hold counts as often as it is in them, and is looked at once.
    """
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, str | range):
        return len(value)
    if not isinstance(value, list | tuple | dict):
        return 1
    seen = {} if seen is None else seen
    if id(value) not in seen:
        seen[id(value)] = 1  # a list may hold itself
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        seen[id(value)] = 1 + sum(1 if isinstance(part, int) else _size(part, seen) for part in parts)
    return seen[id(value)]


def _cost(name: str, values: list) -> int:
    """Return what a filter or method called `name` may make of these values."""
    if name in CHEAP:
        return 1
    sizes = sorted(map(_size, values))
    if name in ("replace", "join", "expandtabs", "indent", "generate_lorem_ipsum"):
        return max(1, prod(sizes[-2:])) * (STEP if name == "generate_lorem_ipsum" else 1)
    if name in ("format", "format_map"):
        _check_widths(values)
    return sum(sizes)


def _cost_of_operator(operator: str, left, right) -> int:
    numbers = isinstance(left, int) and isinstance(right, int)
    if operator == "%" and isinstance(left, str):
        _check_widths([left])
    if operator == "**" and numbers:
        return left.bit_length() * abs(right)
    if numbers:
        return 1 + left.bit_length() * right.bit_length() // STEP
    return _size(left) * _size(right) if operator == "*" else _size(left) + _size(right)


def _check_widths(values: list) -> None:
    if any(isinstance(value, str) and WIDE.search(value) for value in values):
        raise SecurityError("a format that asks for thousands of characters")
