"""Do the tests notice a wrong formula? ``python -m benchmarks.mutants ssleval/metrics``.

Every mutant is one module with one operator, comparison, number or branch changed. The tests run against it
in a forked process, so that torch is imported once for all. A mutant that no test notices survives; each one
known stands in ``benchmarks/mutants.tsv`` with the reason why the change alters no answer, or why no test
is worth its cost. Prints the survivors that are not listed, and exits with 1 where fewer than 92 % of the
others are killed. ``--sample N`` draws N mutants of all by ``--seed``; ``--jobs N`` runs so many at once.
"""

import argparse
import ast
import copy
import csv
import gc
import importlib
import importlib.machinery
import os
import random
import re
import signal
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LISTED = Path(__file__).with_name("mutants.tsv")
BAR = 0.92
SECONDS = 60
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
            saved, before = copy.copy(node.__dict__), _text(statement)
            node.__dict__.update(change)
            yield Mutant(path, statement.lineno, before, _text(statement), ast.unparse(tree))
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


def _text(statement: ast.stmt) -> str:
    """Return a statement on one line; of a compound one its head."""
    lines = ast.unparse(statement).splitlines()
    return next(line for line in lines if not line.startswith("@"))


@cache
def tests_of(path: Path) -> list[str]:
    """Return the files of tests that import a module, those named after it or its room first.

    Of a module that no test imports, they are those of the modules that import it.
    """
    files = _importing(path, sorted(Path("tests").rglob("test_*.py")))
    if not files:
        users = _importing(path, sorted(Path("ssleval").rglob("*.py")))
        return list(dict.fromkeys(test for user in users for test in tests_of(user)))
    return sorted(map(str, files), key=lambda file: (path.stem not in file, path.parts[1] not in file, file))


def _importing(path: Path, files: Sequence[Path]) -> list[Path]:
    package, _, name = ".".join(path.with_suffix("").parts).rpartition(".")
    names = rf"from {re.escape(package)} import (\([^)]*|[^\n(]*)\b{name}\b"
    pattern = re.compile(rf"{re.escape(package)}\.{name}\b|{names}")
    return [file for file in files if pattern.search(file.read_text("utf-8"))]


def survivors(mutants: Sequence[Mutant], extra: Sequence[str], jobs: int) -> Iterator[Mutant]:
    """Run the tests against every mutant, ``jobs`` at once; yield those that no test notices."""
    running: dict[int, Mutant] = {}
    left = list(reversed(mutants))
    while left or running:
        if left and len(running) < jobs:
            mutant = left.pop()
            running[_start(mutant, [*tests_of(mutant.path), *extra])] = mutant
            continue
        process, status = os.wait()
        mutant = running.pop(process)
        if status == 0:
            yield mutant


def _start(mutant: Mutant, tests: Sequence[str]) -> int:
    child = os.fork()
    if child == 0:
        # Else it looks for garbage among all that was imported.
        gc.freeze()
        # Not the time of the clock alone: on a busy machine tests that pass are slow too.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(10 * SECONDS)
        _install(mutant)
        os._exit(_failures(tests))
    return child


def _install(mutant: Mutant) -> None:
    """Let the import system read the mutant in place of its file."""
    loader, file = importlib.machinery.SourceFileLoader, str(mutant.path.resolve())
    get_data, path_stats = loader.get_data, loader.path_stats

    def mutated(self: importlib.machinery.SourceFileLoader, path: str) -> bytes:
        return mutant.source.encode() if path == file else get_data(self, path)

    def changed_since(
        self: importlib.machinery.SourceFileLoader, path: str
    ) -> Mapping[str, float | int | None]:
        # Another time of change than the compiled file's, which would be used instead.
        return path_stats(self, path) | ({"mtime": 1} if path == file else {})

    loader.get_data, loader.path_stats = mutated, changed_since


def _failures(tests: Sequence[str]) -> int:
    import pytest

    sys.dont_write_bytecode = True
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # No explanation of failures, which nobody reads: it would rewrite every module of tests for each mutant.
    code = pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
    return 0 if code == pytest.ExitCode.OK else 1


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


def _refuse_failing(paths: Collection[Path], extra: Sequence[str], jobs: int) -> None:
    """Exit where the tests of a module fail without any change, or there are none."""
    if untested := [str(path) for path in paths if not tests_of(path) and not extra]:
        sys.exit(f"no test imports {', '.join(untested)}: name files of tests with --tests")
    unchanged = [Mutant(path, 0, "", "", path.read_text("utf-8")) for path in paths]
    passing = {mutant.path for mutant in survivors(unchanged, extra, jobs)}
    if failing := [str(path) for path in paths if path not in passing]:
        sys.exit(f"the tests of {', '.join(failing)} fail without any change: mend them first")


def main() -> int:
    """Run the tests against the mutants asked for."""
    asked, known = _asked(), listed()
    drawn = _drawn(asked)
    tried = [mutant for mutant in drawn if mutant.label not in known]
    _import_once()
    _refuse_failing({mutant.path for mutant in tried}, asked.tests, asked.jobs)
    alive = 0
    for mutant in survivors(tried, asked.tests, asked.jobs):
        alive += 1
        print(f"{mutant.path}:{mutant.line}: {mutant.before}  ->  {mutant.after}", flush=True)
    share = 1 - alive / max(1, len(tried))
    print(f"{len(tried)} mutants, {alive} survive, {share:.1%} killed; {len(drawn) - len(tried)} listed")
    return int(share < BAR)


if __name__ == "__main__":
    sys.exit(main())
