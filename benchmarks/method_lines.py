"""Table of what a method costs: lines of its recipe, and of the parts outside the core it uses.

A method's lines are those of its recipe and of the recipes it extends, up to the embedded world,
and the code of every loss, rule, weight and advantage that it names, with the private functions of
their modules. Neither headers and docstrings count, nor the arithmetic on groups and masks that the
parts share (`algorithms/groups.py`, `tensors.py`). Exits with an error if a method is above LIMIT.

    python benchmarks/method_lines.py
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import FunctionType

from didact.configs.document import locate, packaged, parse, read
from didact.configs.load import check
from didact.core.errors import RecipeError
from didact.plugins.manager import load
from didact.plugins.registry import Entry

LIMIT = 150
WORLD = {"letters", "letters_base"}
KINDS = ("loss", "weight", "advantage", "rule")


def main() -> int:
    """Print the table; the exit status says whether every method is within the limit."""
    registry = load(installed=False)
    parts = {(e.kind, e.name): e for e in registry.entries() if e.kind in KINDS}
    rows = []
    for name in packaged():
        own = len(text(name))
        inherited = sum(len(text(parent)) for parent in set(parents(name)) - WORLD)
        try:
            data = check(read(name), registry).model_dump(mode="json")
        except RecipeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        used = sorted({pair for pair in named(data) if pair in parts})
        functions = set().union(*(sources(parts[key]) for key in used)) if used else set()
        code = sum(count(function) for function in functions)
        if used:
            rows.append((own + inherited + code, name, own, inherited, code, used))
    print("| method | recipe | inherited | parts | total | of which |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for total, name, own, inherited, code, used in sorted(rows):
        names = ", ".join(part for _, part in used)
        print(f"| {name} | {own} | {inherited} | {code} | {total} | {names} |")
    over = [name for total, name, *_ in rows if total > LIMIT]
    print(f"\n{len(rows)} methods, {len(over)} above {LIMIT} lines: {', '.join(over) or 'none'}")
    return 1 if over else 0


def text(name: str) -> list[str]:
    """The lines of a recipe that are neither empty nor its header."""
    lines = locate(name).read_text(encoding="utf-8").splitlines()
    body = next(at for at, line in enumerate(lines) if at and not line.startswith(" "))
    return [line for line in lines[body:] if line.strip()]


def parents(name: str) -> Iterator[str]:
    """Every recipe that this one extends, directly or not."""
    above = parse(locate(name)).data.get("extends", [])
    for parent in [above] if isinstance(above, str) else above:
        yield parent
        yield from parents(parent)


def named(data: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Kind and name of every loss, rule, weight and advantage of a resolved recipe; a name under
    `rule` is given as both."""
    kinds = {"rule": "loss", "times": "weight", "select": "weight", "estimator": "advantage"}
    if isinstance(data, dict):
        if key in kinds and isinstance(data.get("use"), str):
            yield kinds[key], data["use"]
            if key == "rule":
                yield "rule", data["use"]
        for name, value in data.items():
            yield from named(value, name)
    elif isinstance(data, list):
        for value in data:
            yield from named(value, key)


def sources(entry: Entry) -> set[object]:
    """A part's function or class, and the private functions of its module that it calls."""
    found: set[object] = set()
    waiting = [inspect.unwrap(entry.factory)]
    while waiting:
        here = waiting.pop()
        if here in found:
            continue
        found.add(here)
        module = vars(sys.modules[here.__module__])
        for word in set(re.findall(r"\b_\w+", inspect.getsource(here))):
            called = module.get(word)
            if isinstance(called, FunctionType) and called.__module__ == here.__module__:
                waiting.append(called)
    return found


def count(function: object) -> int:
    """Lines of code: without docstring, comments and empty lines."""
    lines = inspect.getsource(function)  # type: ignore[arg-type]
    bare = re.sub(r'"""[\s\S]*?"""', "", lines)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") for line in bare.splitlines()
    )


if __name__ == "__main__":
    sys.exit(main())
