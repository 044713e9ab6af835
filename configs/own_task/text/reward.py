"""Calculations with +, - and * whose result is `reference`; two are the same class if they are the same text.

An item has `prompt`, `completion`, `reference`, `metadata` and `messages`. A score is a number in [0, 1], or a
dictionary whose `class` says which completions count as the same solution, or None where it could not be computed.
"""

import ast
import operator

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def score(items):
    return [judge(item["completion"], int(item["reference"])) for item in items]


def judge(completion, wanted):
    text = completion.strip().partition("=")[0].replace(" ", "")
    try:
        tree = ast.parse(text, mode="eval").body
        is_right = isinstance(tree, ast.BinOp) and value(tree) == wanted
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"score": 0.0, "class": -1}
    return {"score": 1.0, "class": text} if is_right else {"score": 0.1, "class": -1}


def value(node):
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10**6:
        return node.value
    raise ValueError("no calculation with whole numbers, +, - and *")
