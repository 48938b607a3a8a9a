"""`ast.parse` for a client that threads share.

Python 3.11 counts the depth of the tree that it builds per interpreter, not per thread: of two
threads that parse at a time one gets "SystemError: AST constructor recursion depth mismatch"
(python/cpython#106905).
"""

import ast
import threading

_one_at_a_time = threading.Lock()


def parse_module(source: str | bytes, filename: str = "<unknown>") -> ast.Module:
    """The syntax tree of a module. Raises SyntaxError, ValueError."""
    with _one_at_a_time:
        return ast.parse(source, filename)


def parse_expression(source: str) -> ast.Expression:
    """The syntax tree of an expression. Raises SyntaxError, ValueError."""
    with _one_at_a_time:
        return ast.parse(source, mode="eval")
