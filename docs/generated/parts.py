"""The pages of registered parts: one a kind, a card a part, from docstrings and signatures."""

from __future__ import annotations

import inspect
from functools import partial

from didact.core.bind import adds_of, columns_of
from didact.plugins import hookspecs
from didact.plugins.registry import HOOKS, Entry
from didact.plugins.signature import hints_of, shown
from didact.plugins.spec import RESERVED
from generated.site import Site
from generated.text import code, docstring, fenced, plain, table

COLUMNS = ("loss", "weight", "advantage")
"""Kinds whose positional parameters are what they read."""
WHERE = {
    "source": "`- rollout: {use: NAME}` in `experience:`",
    "environment": "`environment:` of a source",
    "reward": "`rewards: {LABEL: NAME}`",
    "critic": "`- critique: NAME` in `experience:`",
    "advantage": "`- advantage: NAME` in `experience:`",
    "loss": "`rule: NAME` of a phase",
    "weight": "`times:` or `select:` of a term",
    "rule": "`rule:` of a phase",
    "buffer": "`buffers: {LABEL: NAME}`, and `pool:` of a phase",
    "sampler": "`sampler: NAME`",
    "stage": "`- NAME` in `experience:`",
    "task": "`task: NAME`",
    "generator": "`generator: NAME`",
    "learner": "`learner: NAME`",
    "observer": "`observers: [NAME]`",
}


def part_pages(site: Site) -> dict[str, str]:
    """One page a kind, and the table of all kinds."""
    pages = {f"reference/parts/{kind}.md": _kind_page(site, kind) for kind in HOOKS}
    return {"reference/parts/index.md": _index(site), **pages}


def _index(site: Site) -> str:
    rows = [
        (f"[{kind}]({kind}.md)", str(len(site.registry.names(kind))), _what(kind), WHERE[kind])
        for kind in HOOKS
    ]
    head = "# Parts\n\nEverything that a recipe can name. `didact plugins list` prints the same, "
    head += "with the parts of installed plug-ins; `didact plugins show NAME` prints one card.\n\n"
    return head + table(
        ("kind", "built in", "what a plug-in adds", "where a recipe names it"), rows
    )


def _what(kind: str) -> str:
    said = docstring(getattr(hookspecs, HOOKS[kind]))[0]
    return plain(said.removeprefix("Add ").rstrip("."))


def _kind_page(site: Site, kind: str) -> str:
    names = site.registry.names(kind)
    said = _what(kind)
    head = f"# {kind.capitalize()} parts\n\n{said[0].upper()}{said[1:]}. "
    head += f"A recipe names one in {WHERE[kind]}. A plug-in adds one with the hook "
    head += f"`{HOOKS[kind]}`.\n\n"
    if RESERVED.get(kind):
        beside = ", ".join(f"`{name}`" for name in sorted(RESERVED[kind]))
        head += f"Beside its own settings a recipe may write: {beside}"
        head += "; see the [recipe reference](../recipe.md).\n\n"
    if not names:
        return head + "There is none built in.\n"
    return head + "\n".join(card(site, site.registry.get(kind, name)) for name in names)


def card(site: Site, entry: Entry) -> str:
    """What a part is, what it reads and adds, its settings, who uses it, what it agrees with."""
    first, rest, said = docstring(entry.factory)
    lines = [f"## {entry.name}", "", plain(first), ""]
    if rest:
        lines += [fenced(rest)]
    if entry.kind in COLUMNS:
        lines += [_reads(entry), ""]
    lines += [_settings(entry, said), _standing(site, f"{entry.kind}/{entry.name}")]
    return "\n".join(lines)


def _reads(entry: Entry) -> str:
    bare = partial(entry.factory) if not inspect.isclass(entry.factory) else entry.factory
    call = bare.__call__ if inspect.isclass(entry.factory) else bare
    names = [name for name in columns_of(call) if name != "self"]
    text = f"Reads {', '.join(f'`{name}`' for name in names)}."
    if entry.kind == "advantage":
        text += f" Adds {', '.join(f'`{name}`' for name in sorted(adds_of(entry.factory)))}."
    return text


def _settings(entry: Entry, said: dict[str, str]) -> str:
    fields = entry.params.model_fields
    hints = hints_of(entry.factory)
    rows = []
    for name, field in fields.items():
        hint = shown(hints[name])
        default = "required" if field.is_required() else code(_default(field))
        rows.append((code(name), code(hint), default, plain(said.get(name, ""))))
    return table(("setting", "type", "default", ""), rows) or "No settings.\n"


def _default(field: object) -> str:
    factory = getattr(field, "default_factory", None)
    value = factory() if factory else getattr(field, "default", None)
    return repr(value)


def _standing(site: Site, part: str) -> str:
    users = site.users(part)
    shown = [f"[{name}](../../methods/{name}.md)" for name in users[:12]]
    shown += [f"and {len(users) - 12} more"] if len(users) > 12 else []
    text = f"Used by: {', '.join(shown) or 'no packaged recipe'}.\n"
    covered = site.covered.get(part, [])
    if covered:
        told = "; ".join(
            f"[{name}](../../methods/index.md#{name}) ({plain(site.evidence[name]['tolerance'])})"
            for name in covered
        )
        text += f"\nCompared with figures of others: {told}.\n"
    return text
