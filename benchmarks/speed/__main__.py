"""Run one speed benchmark, or all: ``python -m benchmarks.speed NAME``. Exit 1 when one falls short."""

import pkgutil
import sys
from importlib import import_module

import benchmarks.speed


def main(arguments: list[str]) -> int:
    """Run what ``arguments`` name; return 0 where every bar is met, 1 where not, 2 for an unknown name."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.speed.__path__))
    names.remove("__main__")
    asked = names if arguments == ["all"] else arguments
    if not asked or set(asked) - set(names):
        print(f"usage: python -m benchmarks.speed {{{','.join(names)},all}}", file=sys.stderr)
        return 2
    return max([import_module(f"benchmarks.speed.{name}").main() for name in asked])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
