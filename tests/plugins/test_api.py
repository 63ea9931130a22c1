"""The public interface is what is written down: docs/api.md lists it, api.txt holds its signatures.

After a deliberate change, `python tests/plugins/test_api.py` writes both anew. A change of a line
or its loss is a change that plug-ins may not survive: raise `didact.plugins.manager.API`.
"""

import ast
import inspect
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

import didact
import didact.testing

HERE = Path(__file__).parent
SNAPSHOT, PAGE = HERE / "api.txt", HERE.parents[1] / "docs" / "api.md"
DUNDERS = ("__call__", "__len__", "__getitem__")
MODULES = {"didact": didact, "didact.testing": didact.testing}
HEAD = """# Public interface

What `didact` and `didact.testing` export is what plug-ins may rely on. A plug-in states the version
of it that it was written for, `DIDACT_API = ">=1,<2"`; the present version is 1. Names that are not
listed here may change at any time. A test holds this page and the signatures.
"""


def public():
    """Every public name with its object, in order."""
    for module, where in MODULES.items():
        for name in sorted(where.__all__):
            yield f"{module}.{name}", getattr(where, name)


def signatures(name, thing):
    """A line for each thing that can be called or read on a public object."""
    if inspect.isclass(thing):
        protocol = getattr(thing, "_is_protocol", False)
        bare = protocol or issubclass(thing, Exception | BaseModel)
        yield name if bare else f"{name}{called(thing)}"
        for member, value in sorted(vars(thing).items()):
            if member.startswith("_") and not (protocol and member in DUNDERS):
                continue
            if inspect.isfunction(value):
                yield f"{name}.{member}{called(value)}"
            elif isinstance(value, property):
                yield f"{name}.{member}: property"
    elif inspect.isroutine(thing):
        yield f"{name}{called(thing)}"
    else:
        yield name


def called(thing):
    signature = inspect.signature(thing)
    plain = [
        parameter.replace(default=Ellipsis)
        if parameter.default is not parameter.empty
        else parameter
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain)).replace("Ellipsis", "...").replace("'", "")


def snapshot():
    return "".join(f"{line}\n" for name, thing in public() for line in signatures(name, thing))


def page():
    lines = [HEAD]
    for module in MODULES:
        lines += [f"\n## {module}\n", "| name | what it is |", "| --- | --- |"]
        for name, thing in public():
            if name.rpartition(".")[0] == module:
                lines.append(f"| `{name.rpartition('.')[2]}` | {about(name, thing)} |")
    return "\n".join(lines) + "\n"


def about(name, thing):
    """The first sentence of a docstring; of a constant, the string below it."""
    plain = not (inspect.isclass(thing) or inspect.isroutine(thing))
    text = below(name) if plain else inspect.getdoc(thing) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.partition(". ")[0].rstrip(".").replace("|", "\\|") + "."


ALIASES = {
    "Names": "A frozen set of names of signals and columns.",
    "State": "What a checkpoint holds: plain data and tensors by name.",
    "Estimate": "What an estimator returns: a tensor, or several by name.",
    "hookimpl": "Marks a function of a plug-in's module as the hook of its name.",
    "PROBLEMS": "Four problems: a number, two accepted answers, a chat, and one without an answer.",
}


def below(name):
    short = name.rpartition(".")[2]
    if short in ALIASES:
        return ALIASES[short]
    for file in (HERE.parents[1] / "plugins" / "testing").glob("*.py"):
        body = ast.parse(file.read_text()).body
        for node, after in pairwise(body):
            target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
            if getattr(target, "id", None) == short and isinstance(after, ast.Expr):
                return ast.literal_eval(after.value)
    raise LookupError(f"{name} has no description")


def test_the_public_interface_is_as_written_down():
    assert SNAPSHOT.read_text().splitlines() == snapshot().splitlines()


def test_the_page_lists_the_public_interface():
    text = PAGE.read_text()
    for module, part in zip(MODULES, text.split("\n## ")[1:], strict=True):
        listed = [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")]
        assert part.startswith(module) and listed == sorted(MODULES[module].__all__)


def test_what_type_checkers_see_is_what_there_is():
    (guarded,) = [
        n for n in ast.parse(Path(didact.__file__).read_text()).body if isinstance(n, ast.If)
    ]
    seen = {(node.module, node.names[0].name, node.names[0].asname) for node in guarded.body}
    there = {
        (f"didact.{module}", name, name)
        for module, names in didact.PUBLIC.items()
        for name in names
    }
    assert seen == there


def test_a_name_that_is_not_public_is_no_attribute():
    assert not hasattr(didact, "Registry")


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
    PAGE.write_text(page())
