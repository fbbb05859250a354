"""Do the tests notice a wrong formula? ``python -m benchmarks.mutants ssleval/metrics``.

Every mutant is one module with one operator, comparison, number or branch changed. The tests of a module are
imported once. A forked process for each mutant gives the changed function its new code and runs the tests up
to the first that fails; a mutant of what runs on import is read by a fresh process in place of the file. A
mutant that no test notices survives; each one known stands in ``benchmarks/mutants.tsv`` with the reason why
the change alters no answer, or why no test is worth its cost. Prints the survivors that are not listed, and
exits with 1 where fewer than 92 % of the others are killed. ``--sample N`` draws N mutants of all by
``--seed``; ``--jobs N`` runs so many at once.
"""

import argparse
import ast
import copy
import csv
import gc
import importlib
import importlib.machinery
import inspect
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

LISTED = Path(__file__).with_name("mutants.tsv")
BAR = 0.92
SECONDS = 100
"""After so much computing, or ten times as much waiting, a mutant that hangs the tests counts as killed."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module."""

    path: Path
    line: int
    before: str
    after: str
    source: str

    @property
    def label(self) -> tuple[str, str, str]:
        """File, the statement as it was, and as it is: no line number, which every edit would move."""
        return self.path.as_posix(), self.before, self.after


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of one module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for statement, node in _changeable(tree, None):
        for change in _changes(node):
            saved, before = copy.copy(node.__dict__), statement_text(statement)
            node.__dict__.update(change)
            yield Mutant(path, statement.lineno, before, statement_text(statement), ast.unparse(tree))
            node.__dict__ = saved


def _changeable(node: ast.AST, statement: ast.stmt | None) -> Iterator[tuple[ast.stmt, ast.AST]]:
    """Yield nodes with their statement; not those of annotations, messages and assertions of lengths."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Raise | ast.Assert):
                continue
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            within = child if isinstance(child, ast.stmt) else statement
            if within is not None:
                yield within, child
            yield from _changeable(child, within)


def _changes(node: ast.AST) -> list[dict[str, object]]:  # noqa: PLR0911
    match node:
        case ast.Compare(ops=ops):
            swapped = [SWAPS[type(operator)]() for operator in ops]
            return [{"ops": [*ops[:place], new, *ops[place + 1 :]]} for place, new in enumerate(swapped)]
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.AugAssign(op=operator):
            return [{"op": SWAPS[type(operator)]()}] if type(operator) in SWAPS else []
        case ast.UnaryOp(op=ast.USub()):
            return [{"op": ast.UAdd()}]
        case ast.UnaryOp(op=ast.Not() | ast.Invert() as operator, operand=operand):
            return [{"operand": ast.UnaryOp(operator, operand)}]
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            return [{"test": ast.UnaryOp(ast.Not(), test)}]
        case ast.Constant(value=bool(value)):
            return [{"value": not value}]
        case ast.Constant(value=int(value)):
            return [{"value": value + 1}]
        case ast.Constant(value=float(value)):
            return [{"value": value * 2 or 1.0}]
        case ast.Name(id=name) if name in NAMES:
            return [{"id": NAMES[name]}]
        case ast.Attribute(attr=name) if name in NAMES:
            return [{"attr": NAMES[name]}]
        case _:
            return []


def statement_text(statement: ast.stmt) -> str:
    """Return a statement on one line; of a compound one its head."""
    lines = ast.unparse(statement).splitlines()
    return next(line for line in lines if not line.startswith("@"))


@cache
def tests_of(path: Path) -> list[str]:
    """Return the files of tests that import a module, those named after it first.

    They are those of the module's room, where there are any. Of a module that no test imports, they are those
    of the modules that import it.
    """
    files = _importing(path, sorted(Path("tests").rglob("test_*.py")))
    files = [file for file in files if file.parts[1] == path.parts[1]] or files
    if not files:
        users = _importing(path, sorted(Path("ssleval").rglob("*.py")))
        return list(dict.fromkeys(test for user in users for test in tests_of(user)))
    return [str(file) for file in sorted(files, key=lambda file: (path.stem not in file.name, file))]


def _importing(path: Path, files: Sequence[Path]) -> list[Path]:
    package, _, name = ".".join(path.with_suffix("").parts).rpartition(".")
    names = rf"from {re.escape(package)} import (\([^)]*|[^\n(]*)\b{name}\b"
    pattern = re.compile(rf"{re.escape(package)}\.{name}\b|{names}")
    return [file for file in files if pattern.search(file.read_text("utf-8"))]


# Running ------------------------------------------------------------------------------------------


def survivors(path: Path, mutants: Sequence[Mutant], tests: Sequence[str], jobs: int) -> Iterator[Mutant]:
    """Run the tests of one module against its mutants, ``jobs`` at once; yield those that no test notices.

    Raises:
        SystemExit: there are no tests, or they fail without any change.
    """
    if not tests:
        sys.exit(f"no test imports {path}: name files of tests with --tests")
    codes = [changed_functions(mutant) for mutant in mutants]
    swapped = [place for place, code in enumerate(codes) if code is not None]
    receiver, sender = os.pipe()
    if not (child := os.fork()):
        plugin = _Swapping(path, [{}] + [codes[place] or {} for place in swapped], jobs, sender)
        _quietly_tested(tests, plugin)
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as lines:
        if next(lines, "") != "0\n":
            sys.exit(f"the tests of {path} fail without any change: mend them first")
        yield from (mutants[swapped[int(line) - 1]] for line in lines)
    os.waitpid(child, 0)
    read = [place for place, code in enumerate(codes) if code is None]
    unnoticed = _unnoticed(len(read), jobs, lambda number: _read_and_tested(mutants[read[number]], tests))
    yield from (mutants[read[number]] for number in unnoticed)


def _unnoticed(count: int, jobs: int, failing: Callable[[int], bool]) -> Iterator[int]:
    """Call ``failing`` in a process for each number, ``jobs`` at once; yield those where it is false."""
    running: dict[int, int] = {}
    left = list(range(count))[::-1]
    while left or running:
        if left and len(running) < jobs:
            number = left.pop()
            if not (child := os.fork()):
                # Else it looks for garbage among all that was imported.
                gc.freeze()
                # Not the time of the clock alone: on a busy machine tests that pass are slow too.
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                signal.alarm(10 * SECONDS)
                os._exit(failing(number))
            running[child] = number
            continue
        process, status = os.wait()
        number = running.pop(process)
        if status == 0:
            yield number


def _quietly_tested(tests: Sequence[str], *plugins: object) -> bool:
    """Return whether a test fails."""
    import pytest

    sys.dont_write_bytecode = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # No explanation of failures, which nobody reads: it would rewrite every module of tests for each mutant.
    options = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
    return pytest.main([*options, *tests], plugins=plugins) != pytest.ExitCode.OK


def _read_and_tested(mutant: Mutant, tests: Sequence[str]) -> bool:
    """Return whether a test fails where the import system reads the mutant in place of its file."""
    loader, file = importlib.machinery.SourceFileLoader, str(mutant.path.resolve())
    get_data, path_stats = loader.get_data, loader.path_stats

    def mutated(self: importlib.machinery.SourceFileLoader, path: str) -> bytes:
        return mutant.source.encode() if path == file else get_data(self, path)

    def changed_since(self: importlib.machinery.SourceFileLoader, path: str) -> Mapping[str, Any]:
        # Another time of change than the compiled file's, which would be used instead.
        return {**path_stats(self, path), **({"mtime": 1} if path == file else {})}

    loader.get_data, loader.path_stats = mutated, changed_since
    return _quietly_tested(tests)


class _Swapping:
    """A plug-in of pytest: in place of one run of the tests, one for each of the given codes."""

    def __init__(self, path: Path, codes: Sequence[Mapping[str, CodeType]], jobs: int, sender: int) -> None:
        self.file, self.codes, self.jobs, self.sender = str(path.resolve()), codes, jobs, sender

    def pytest_runtestloop(self, session: Any) -> bool:
        """Send the numbers of the codes with which all tests pass, a line for each."""
        # Asking an object for its class wakes those of torch that warn of their age.
        functions: list[FunctionType] = [one for one in gc.get_objects() if type(one) is FunctionType]
        own = [one for one in functions if one.__code__.co_filename == self.file]

        def failing(number: int) -> bool:
            for function in own:
                code = self.codes[number].get(function.__code__.co_qualname)
                function.__code__ = code or function.__code__
            return _a_test_fails(session)

        for number in _unnoticed(1, 1, failing):
            os.write(self.sender, f"{number}\n".encode())
            for other in _unnoticed(len(self.codes) - 1, self.jobs, lambda place: failing(place + 1)):
                os.write(self.sender, f"{other + 1}\n".encode())
        return True


def _a_test_fails(session: Any) -> bool:
    for item, following in zip(session.items, [*session.items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
    return False


def changed_functions(mutant: Mutant) -> dict[str, CodeType] | None:
    """Return the code of the functions that a mutant changes, by their full names; None if any other code."""
    unchanged = ast.unparse(ast.parse(mutant.path.read_text("utf-8")))
    first, second = (compile(text, str(mutant.path), "exec") for text in (unchanged, mutant.source))
    return _changed(first, second)


def _changed(first: CodeType, second: CodeType) -> dict[str, CodeType] | None:
    if _without_bodies(first) != _without_bodies(second):
        return None
    found: dict[str, CodeType] = {}
    for one, other in zip(first.co_consts, second.co_consts, strict=True):
        if not isinstance(one, CodeType) or one == other:
            continue
        is_function = bool(one.co_flags & inspect.CO_NEWLOCALS)
        inner = {other.co_qualname: other} if is_function else _changed(one, other)
        # What has no name of its own, such as a comprehension, has run already.
        if inner is None or one.co_name.startswith("<"):
            return None
        found |= inner
    return found


def _without_bodies(code: CodeType) -> CodeType:
    return code.replace(co_consts=tuple(None if isinstance(c, CodeType) else c for c in code.co_consts))


# The command --------------------------------------------------------------------------------------


def listed() -> set[tuple[str, str, str]]:
    """Return the mutants that are known to survive."""
    with LISTED.open(encoding="utf-8", newline="") as file:
        return {(row["file"], row["before"], row["after"]) for row in csv.DictReader(file, delimiter="\t")}


def _import_once() -> None:
    """Import what every child would import again."""
    for name in (
        "faiss", "hypothesis", "pandas", "scipy.stats", "sklearn.linear_model", "torchmetrics", "torchvision",
    ):  # fmt: skip
        importlib.import_module(name)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, help="modules, or folders of modules")
    parser.add_argument(
        "--tests", nargs="*", default=[], help="files of tests to run beside those that import"
    )
    parser.add_argument("--sample", type=int, help="draw so many mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="so many at once")
    return parser.parse_args()


def _drawn(asked: argparse.Namespace) -> list[Mutant]:
    """Return the mutants that are asked for."""
    folders = [sorted(place.rglob("*.py")) if place.is_dir() else [place] for place in asked.places]
    mutants = [mutant for paths in folders for path in paths for mutant in mutants_of(path)]
    if asked.sample is not None and asked.sample < len(mutants):
        return random.Random(asked.seed).sample(mutants, asked.sample)
    return mutants


def main() -> int:
    """Run the tests against the mutants asked for."""
    asked, known = _asked(), listed()
    drawn = _drawn(asked)
    tried = [mutant for mutant in drawn if mutant.label not in known]
    _import_once()
    alive = 0
    for path in dict.fromkeys(mutant.path for mutant in tried):
        own = [mutant for mutant in tried if mutant.path == path]
        for mutant in survivors(path, own, [*tests_of(path), *asked.tests], asked.jobs):
            alive += 1
            print(f"{path}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
    share = 1 - alive / max(1, len(tried))
    print(f"{len(tried)} mutants, {alive} survive, {share:.1%} killed; {len(drawn) - len(tried)} listed")
    return int(share < BAR)


if __name__ == "__main__":
    sys.exit(main())
