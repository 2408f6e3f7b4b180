"""What puts slips into the code makes those that it says, and tells a test that sees from one that
does not."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.slips import slips

HERE = Path(__file__).parent

TEXT = '''
"""A module."""
from dataclasses import dataclass

LEAST = 3

@dataclass(frozen=True)
class Account:
    """Of somebody."""
    head: str = ""

def pay(account, *, most):
    """Debit."""
    check(account, most=most, budget=1.0)
    try:
        return account.head + LEAST if most < LEAST else None
    except (KeyError, ValueError):
        raise
'''


def test_a_slip_is_the_module_with_one_thing_changed() -> None:
    found = list(slips(TEXT))
    assert len({slip.text for slip in found}) == len({slip.key for slip in found}) == len(found)
    for slip in found:
        ast.parse(slip.text)
        assert slip.text != TEXT
        assert len(slip.text.splitlines()) == len(TEXT.splitlines())


ALIKE = '''
"""A module."""
register(once=True)
register(once=True)

class Account:
    """Of somebody."""

    most: int = 3
    """Of what is paid."""

    def left(self):
        """What may be paid yet."""
        return self.most - 1

class Other:
    most: int = 3

    def left(self):
        return self.most - 1

def pay():
    return 7 - 1
'''


def test_slips_in_places_that_are_alike_have_keys_of_their_own() -> None:
    found = list(slips(ALIKE))
    assert len({slip.key for slip in found}) == len(found)
    lines = {slip.line for slip in found}
    assert lines == {
        n for n, line in enumerate(ALIKE.split("\n"), 1) if re.search(r"\d|once", line)
    }


@pytest.mark.parametrize(
    ("taken", "put", "again"),
    [
        ("A module.", "Two lines\nof it.", ""),
        ("Of somebody.", "Of anybody.", ""),
        ("Of what is paid.", "Of a day.", ""),
        ("What may be paid yet.", "Paid no more.", ""),
        ("    return 7", "    # Why seven.\n\n    return 7", ""),
        ("return 7 - 1", "return 7 - 1 + len([])", "return 7 - 1 + len([])"),
        ("most: int = 3", "most: int = 8", "most: int = 8"),
    ],
)
def test_what_was_seen_holds_as_long_as_its_function_stays_as_it_is(
    taken: str, put: str, again: str
) -> None:
    """`again`: the line whose slips are to be tried again."""
    changed = ALIKE.replace(taken, put, 1)
    lines = changed.split("\n")
    seen = {slip.key for slip in slips(ALIKE)}
    left = {lines[slip.line - 1].strip() for slip in slips(changed) if slip.key not in seen}
    assert left == ({again} if again else set())


@pytest.mark.parametrize(
    ("operator", "line"),
    [
        ("LeaveOutCall", "    pass"),
        ("LeaveOutKeyword", "    check(account, budget=1.0)"),
        ("LeaveOutKeyword", "    check(account, most=most,)"),
        ("CatchNothing", "    except ():"),
        ("ReplaceComparisonOperator_Lt_LtE", "if most <= LEAST else"),
        ("ReplaceBinaryOperator_Add_Sub", "account.head - LEAST"),
        ("AddNot", "if not most < LEAST"),
        ("NumberReplacer", "LEAST = 4"),
    ],
)
def test_the_slips_are_those_that_are_made_by_hand(operator: str, line: str) -> None:
    made = [slip.diff.replace(" ,", ",") for slip in slips(TEXT) if slip.operator == operator]
    assert any(line in diff.replace("  ", " ") or line in diff for diff in made), made


def test_what_only_guards_programmers_is_left_as_it_is() -> None:
    for slip in slips(TEXT):
        assert "frozen=" not in slip.diff and "-def pay" not in slip.diff, slip.diff


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("assert 1 == 1", "passed"),
        ("assert 1 == 2", "failed"),
        ("import os; os._exit(3)", "failed"),
        ("while True: pass", "too slow"),
    ],
)
def test_a_trial_tells_what_came_of_the_tests(tmp_path: Path, body: str, outcome: str) -> None:
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    code = (
        "import sys; from pathlib import Path; from trial import trial; "
        "print(trial(Path(sys.argv[1]), ['test_it.py'], float(sys.argv[2])))"
    )
    seconds = "3" if outcome == "too slow" else "60"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), seconds],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert done.stdout.split("\n")[-2] == outcome, (tmp_path / "output").read_text()
