"""The slips that can be made in a module: Cosmic Ray's operators, and what may be forgotten.

Of the many replacements that Cosmic Ray has for an operator the nearest are taken: what sees that a
plus became a minus would see a power too. What only guards programmers from themselves (a frozen
class, a strict zip) is left as it is.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from hashlib import sha256
from typing import Any

import parso
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

_BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Div Mod_Mul Pow_Mul RShift_LShift LShift_RShift"
_COMPARED = "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Lt_Gt Gt_Lt LtE_GtE GtE_LtE Is_IsNot"
_NAMES = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in f"{_BINARY} BitAnd_BitOr".split()),
    *(f"ReplaceComparisonOperator_{pair}" for pair in f"{_COMPARED} IsNot_Is".split()),
    "ReplaceUnaryOperator_USub_UAdd",
    "ReplaceUnaryOperator_Delete_Not",
    "ReplaceUnaryOperator_Delete_Invert",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "RemoveDecorator",
    "ZeroIterationForLoop",
)
_HOUSEKEEPING = ("frozen=", "kw_only=", "strict=", "@dataclass", "@override", "@abstractmethod")


class _LeaveOut(Operator):  # type: ignore[misc]
    """What Cosmic Ray has no operator for: something is forgotten."""

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class LeaveOutCall(_LeaveOut):
    """A statement that is a call becomes `pass`: a check not made, a row not written."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        calls = node.type == "atom_expr" and node.children[-1].get_code().startswith("(")
        if calls and node.parent.type == "simple_stmt":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        return parso.parse(node.get_first_leaf().prefix + "pass")


class LeaveOutKeyword(_LeaveOut):
    """A call without one of its keyword arguments: a bound not handed on."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        # Listed first: the walk goes on in a node that it has changed.
        found = [node.children[at] for at in self._keywords(node)]
        yield from [(argument.start_pos, argument.end_pos) for argument in found]

    def mutate(self, node: Any, index: int) -> Any:
        at = self._keywords(node)[index]
        del node.children[at : at + 2 if node.type == "arglist" else at + 1]
        return node

    @staticmethod
    def _keywords(node: Any) -> list[int]:
        if node.type not in ("arglist", "trailer"):
            return []
        return [
            at
            for at, child in enumerate(node.children)
            if child.type == "argument" and child.children[1].get_code().strip() == "="
        ]


class CatchNothing(_LeaveOut):
    """An `except` whose exceptions pass by it."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "except_clause":
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(" ()")
        return node


@dataclass(frozen=True)
class Slip:
    """A module with one slip in it."""

    key: str
    """Of the function, or the statement outside of any, that has the slip in it: stays as it is
    when another function or a docstring changes."""
    operator: str
    line: int
    diff: str
    """The lines taken out and put in."""
    text: str

    @property
    def change(self) -> str:
        """The lines taken out and those put in, without those that are empty."""
        lines = [(line[:1], line[1:].strip()) for line in self.diff.splitlines()]
        return "\n".join(sign + words for sign, words in lines if words)


def slips(text: str) -> Iterator[Slip]:
    """Every slip of a module's text, each once."""
    before = _code(text)
    seen = {_digest("")}
    for name, operator in _operators():
        occurrence = 0
        while (changed := mutate_code(text, operator, occurrence)) is not None:
            occurrence += 1
            with suppress(SyntaxError):
                slip = _slip(name, text, changed, _digest(_changed(before, _code(changed))))
                if slip.key not in seen and _worth_trying(slip):
                    seen.add(slip.key)
                    yield slip


def _worth_trying(slip: Slip) -> bool:
    # A bare star in a signature is no product.
    star = re.search(r"^-.*\*[,)]", slip.diff) and slip.operator.endswith("Mul_Div")
    return not star and not any(word in slip.diff for word in _HOUSEKEEPING)


def _operators() -> Iterator[tuple[str, Operator]]:
    for name in _NAMES:
        yield name, get_operator(f"core/{name}")()
    for own in (LeaveOutCall, LeaveOutKeyword, CatchNothing):
        yield own.__name__, own()


def _slip(operator: str, text: str, changed: str, key: str) -> Slip:
    lines = list(unified_diff(text.splitlines(), changed.splitlines(), lineterm="", n=0))[2:]
    line = int(lines[0].split()[1].split(",")[0].lstrip("-"))
    return Slip(key, operator, line, "\n".join(lines[1:]), changed)


def _code(text: str) -> ast.Module:
    """The syntax tree without docstrings, an attribute's included."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [one for one in body if not _words(one)]  # type: ignore[attr-defined]
    return tree


def _words(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _changed(before: ast.Module | ast.ClassDef, after: ast.Module | ast.ClassDef) -> str:
    """What was changed into what: the function, or the statement outside of any, with the classes
    around it and with how many there are before it that were just like it. "" if nothing was."""
    for at, (was, now) in enumerate(zip(before.body, after.body, strict=True)):
        if ast.dump(was) == ast.dump(now):
            continue
        within = isinstance(was, ast.ClassDef) and isinstance(now, ast.ClassDef)
        if within and (inside := _changed(was, now)):
            return f"{was.name}.{inside}"
        alike = [one for one in before.body[:at] if ast.dump(one) == ast.dump(was)]
        return f"{len(alike)} {ast.dump(now)}"
    return ""


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
