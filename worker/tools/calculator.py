"""Arithmetic on decimals: 0.1 + 0.2 is 0.3. Python's grammar is parsed, never executed.

34 significant digits, exponents up to ±9999, at most `MAX_CHARS` of text: no expression takes long.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from types import MappingProxyType
from typing import Any, Final

from pydantic import Field, JsonValue

from shared.agents.tool_names import CALCULATOR
from worker.tools.base import Arguments, Tool, ToolContext, ToolFailed

MAX_CHARS: Final = 1000
DIGITS: Final = 34
_PLAIN_EXPONENT: Final = 40
"""Beyond it a number is written with an exponent."""
_MAX_ARGUMENTS: Final = 100
_NUMBER: Final = re.compile(r"[0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]{1,4})?")

_CONTEXT: Final = Context(
    prec=DIGITS,
    rounding=ROUND_HALF_EVEN,
    Emin=-9999,
    Emax=9999,
    traps=[InvalidOperation, DivisionByZero, Overflow],
)


def _floor_divide(left: Decimal, right: Decimal) -> Decimal:
    quotient = _CONTEXT.divide_int(left, right)
    exact = _CONTEXT.multiply(quotient, right) == left
    return quotient if exact or (left < 0) == (right < 0) else _CONTEXT.subtract(quotient, 1)


def _modulo(left: Decimal, right: Decimal) -> Decimal:
    """With the sign of the divisor, as in Python and in mathematics."""
    rest = _CONTEXT.remainder(left, right)
    return _CONTEXT.add(rest, right) if rest and (rest < 0) != (right < 0) else rest


def _round(value: Decimal, digits: Decimal = Decimal(0)) -> Decimal:
    if digits != digits.to_integral_value() or abs(digits) > DIGITS:
        raise ToolFailed(f"round: the number of digits is a whole number up to {DIGITS}")
    return _CONTEXT.quantize(value, Decimal(1).scaleb(-int(digits)))


def _floor(value: Decimal) -> Decimal:
    return value.to_integral_value("ROUND_FLOOR")


def _ceil(value: Decimal) -> Decimal:
    return value.to_integral_value("ROUND_CEILING")


_BINARY: Final[MappingProxyType[type[ast.operator], Callable[[Decimal, Decimal], Decimal]]] = (
    MappingProxyType(
        {
            ast.Add: _CONTEXT.add,
            ast.Sub: _CONTEXT.subtract,
            ast.Mult: _CONTEXT.multiply,
            ast.Div: _CONTEXT.divide,
            ast.FloorDiv: _floor_divide,
            ast.Mod: _modulo,
            ast.Pow: _CONTEXT.power,
        }
    )
)
_FUNCTIONS: Final[MappingProxyType[str, tuple[Callable[..., Decimal], int, int]]] = (
    MappingProxyType(
        {
            "abs": (_CONTEXT.abs, 1, 1),
            "ceil": (_ceil, 1, 1),
            "exp": (_CONTEXT.exp, 1, 1),
            "floor": (_floor, 1, 1),
            "ln": (_CONTEXT.ln, 1, 1),
            "log10": (_CONTEXT.log10, 1, 1),
            "max": (max, 1, _MAX_ARGUMENTS),
            "min": (min, 1, _MAX_ARGUMENTS),
            "round": (_round, 1, 2),
            "sqrt": (_CONTEXT.sqrt, 1, 1),
            "sum": (lambda *values: _add_up(values), 1, _MAX_ARGUMENTS),
        }
    )
)
"""Name → function, fewest and most arguments."""
_CONSTANTS: Final = MappingProxyType(
    {
        "pi": Decimal("3.141592653589793238462643383279502884"),
        "e": Decimal("2.718281828459045235360287471352662498"),
    }
)


class CalculatorArguments(Arguments):
    expression: str = Field(
        min_length=1, max_length=MAX_CHARS, description="For example round(1250 * 1.19, 2)"
    )


class Calculator(Tool[CalculatorArguments]):
    name = CALCULATOR
    description = (
        "Evaluates an arithmetic expression exactly in decimal (34 significant digits). Operators"
        " + - * / // % ** and parentheses; functions abs, ceil, exp, floor, ln, log10, max, min,"
        " round(x, digits), sqrt, sum(a, b, …); constants pi and e. No variables, no units, no"
        " thousands separators. The result is a text of digits."
    )
    parameters = CalculatorArguments
    is_deterministic = True

    async def run(self, context: ToolContext, arguments: CalculatorArguments) -> JsonValue:
        return {"result": calculate(arguments.expression)}


def calculate(expression: str) -> str:
    """The value of an expression, in digits.

    Raises:
        ToolFailed: it is no expression, or has no value.
    """
    text = expression.strip()
    if len(text) > MAX_CHARS:
        raise ToolFailed(f"The expression has more than {MAX_CHARS} characters")
    try:
        tree = ast.parse(text, mode="eval")
        value = _evaluate(tree.body, text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolFailed("This is no arithmetic expression") from None
    except DivisionByZero:
        raise ToolFailed("Division by zero") from None
    except Overflow:
        raise ToolFailed("The number is too large") from None
    except InvalidOperation:
        raise ToolFailed("The expression has no value") from None
    return _digits(value)


def _evaluate(node: ast.expr, text: str) -> Decimal:
    match node:
        case ast.Constant():
            return _number(node, text)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _CONTEXT.minus(_evaluate(operand, text))
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _CONTEXT.plus(_evaluate(operand, text))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
            return _BINARY[type(operator)](_evaluate(left, text), _evaluate(right, text))
        case ast.BinOp(op=ast.BitXor()):
            raise ToolFailed("Write ** for powers")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            return _call(name, [_evaluate(arg, text) for arg in args])
        case _:
            raise ToolFailed("Only numbers, + - * / // % **, parentheses and known functions")


def _call(name: str, values: list[Decimal]) -> Decimal:
    function, fewest, most = _FUNCTIONS[name]
    if not fewest <= len(values) <= most:
        raise ToolFailed(f"{name} does not take {len(values)} arguments")
    return function(*values)


def _number(node: ast.Constant, text: str) -> Decimal:
    # From the text itself: the parser has made a binary float of it.
    written = ast.get_source_segment(text, node) or ""
    if isinstance(node.value, bool) or not _NUMBER.fullmatch(written):
        raise ToolFailed("Only decimal numbers are known")
    return _CONTEXT.create_decimal(written.replace("_", ""))


def _add_up(values: tuple[Any, ...]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = _CONTEXT.add(total, value)
    return total


def _digits(value: Decimal) -> str:
    if not value.is_finite():  # such as ln(0)
        raise ToolFailed("The expression has no value")
    if not value:
        return "0"
    normal = value.normalize(_CONTEXT)
    return format(normal, "f" if abs(normal.adjusted()) <= _PLAIN_EXPONENT else "E")
