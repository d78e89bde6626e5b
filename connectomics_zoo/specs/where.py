"""The expressions of `--where`: comparisons over named fields, checked and evaluated without `eval`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

from connectomics_zoo.errors import LimitError, UnknownNameError, ZooError, nearest

MAX_LENGTH = 500

_CONSTANTS = {"true": True, "false": False, "null": None}

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}

_ALLOWED = "fields, numbers, 'texts', [lists], < <= > >= == != in, and, or, not and parentheses"


def compile_where(expression: str, *, fields: Collection[str]) -> Callable[[Mapping[str, Any]], bool]:
    """Return the predicate that `expression` states, such as `parameters < 20e6 and deep_supervision`.

    A comparison with a field that has no value is false, except `== null` and `!= null`.

    Raises:
        UnknownNameError: it names a field that is not in `fields`.
        ZooError: it is no expression, or uses what is not allowed; the predicate raises it when a field cannot be
            compared with the value given.
    """
    if len(expression) > MAX_LENGTH:
        raise LimitError(f"--where has {len(expression)} characters, at most {MAX_LENGTH} are allowed, shorten it.")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ZooError(f"--where {expression!r} is no expression ({problem}), write {_ALLOWED}.") from None
    for name in [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]:
        if name not in fields and name not in _CONSTANTS:
            raise UnknownNameError(f"--where {expression!r}: unknown field {name!r}: {nearest(name, fields)}")
    _check(tree, expression)

    def predicate(row: Mapping[str, Any]) -> bool:
        try:
            return bool(_evaluate(tree, row))
        except TypeError as error:
            raise ZooError(f"--where {expression!r} compares what cannot be compared: {error}.") from None

    return predicate


def _check(node: ast.expr, expression: str) -> None:
    """Refuse every kind of node that `_evaluate` does not know."""
    match node:
        case ast.Name() | ast.Constant(value=bool() | int() | float() | str() | None):
            return
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            parts = [operand]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) as operand):
            parts = [operand]
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARISONS for op in ops):
            parts = [left, *comparators]
        case _:
            text = ast.get_source_segment(expression.strip(), node) or type(node).__name__
            raise ZooError(f"--where {expression!r}: {text!r} is not allowed, write {_ALLOWED}.")
    for part in parts:
        _check(part, expression)


def _evaluate(node: ast.expr, row: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return _CONSTANTS[name] if name in _CONSTANTS else row[name]
        case ast.Constant(value=value):
            return value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_evaluate(part, row) for part in parts]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, row)
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, row)
        case ast.BoolOp(op=op, values=parts):
            decide = all if isinstance(op, ast.And) else any
            return decide(_evaluate(part, row) for part in parts)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            values = [_evaluate(part, row) for part in (left, *comparators)]
            return all(_compare(op, *pair) for op, pair in zip(ops, pairwise(values), strict=True))
    raise AssertionError(f"_check let {node} pass")


def _compare(op: ast.cmpop, first: Any, second: Any) -> bool:
    if not isinstance(op, ast.Eq | ast.NotEq) and (first is None or second is None):
        return False
    return _COMPARISONS[type(op)](first, second)
