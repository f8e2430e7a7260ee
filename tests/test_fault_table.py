"""The table in docs/reliability.md has every row of the fault table, and names exactly the tests
that there are: a test is of row NN if its name says so, `test_row_NN_` or `test_row_NN_and_MM_`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "reliability.md"
ROWS = range(1, 64)
_TEST = re.compile(r"^ *def test_row_([0-9]{2}(?:_and_[0-9]{2})*)_[a-z]", re.M)
_MISNAMED = re.compile(r"^ *def (test_rows?_?[0-9]\w*)", re.M)


def files_with_tests() -> dict[int, set[str]]:
    """Row -> files below tests/ that have a test of it."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in TESTS.rglob("test_*.py"):
        for rows in _TEST.findall(path.read_text(encoding="utf-8")):
            for row in rows.split("_and_"):
                found[int(row)].add(path.relative_to(TESTS).as_posix())
    return found


def table() -> dict[int, list[str]]:
    """Row -> its cells: fault, promise, kinds of test, files, result."""
    cells = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| [0-9]+ \|", line)
    ]
    numbers = [int(first) for first, *_ in cells]
    assert len(numbers) == len(set(numbers)), "a row is there twice"
    return {number: rest for number, (_, *rest) in zip(numbers, cells)}


def test_the_table_has_every_row_with_all_its_cells() -> None:
    assert sorted(table()) == list(ROWS)
    for number, cells in table().items():
        assert len(cells) == 5, number
        assert all(cells[:3]), number
        assert cells[4], f"row {number}: a result, or why there is none"


def test_the_table_names_the_files_that_have_a_test_of_the_row_and_no_others() -> None:
    there = files_with_tests()
    for number, (_, _, _, files, _) in table().items():
        assert set(re.findall(r"`([\w/]+\.py)`", files)) == there[number], f"row {number}"


def test_every_test_named_after_a_row_is_of_a_row_that_there_is() -> None:
    assert set(files_with_tests()) <= set(ROWS)
    for path in TESTS.rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(_MISNAMED.findall(text)) == len(_TEST.findall(text)), path


def test_every_row_to_be_tested_without_namespaces_has_a_test() -> None:
    """Those of the kinds U (unit), S (simulated) and C (crash points)."""
    there = files_with_tests()
    for number, (_, _, kinds, _, _) in table().items():
        for kind, rooms in {"S": ("sim/", "core/"), "C": ("checkpoint/", "model/")}.items():
            if kind in kinds.split():
                assert any(file.startswith(rooms) for file in there[number]), (number, kind)
        if "U" in kinds.split():
            assert [file for file in there[number] if not file.startswith("live/")], number
