"""The table of methods and a card for each packaged recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from generated.site import Method, Site
from generated.text import fenced, linked, plain, table

SHOWN = ("source", "environment", "critic", "advantage", "loss", "weight", "reward", "buffer")
"""Kinds of parts that tell methods apart."""
STATUSES = {
    "reproduction": "its formulas agree with executed code, of the authors or of the library named",
    "reconstruction": "built from a paper, or from code that was read; no such figures, or not for "
    "all of it",
    "composition": "a task, a baseline or a combination; no published method",
}
NOTHING: Mapping[str, Any] = {"status": "not recorded", "verified": []}


def method_pages(site: Site) -> dict[str, str]:
    """The table, and a card for each method."""
    cards = {f"methods/{method.name}.md": card(site, method) for method in site.methods}
    return {"methods/index.md": _index(site), **cards}


def _index(site: Site) -> str:
    head = "---\nhide: [toc]\n---\n\n# Methods\n\n"
    head += "Every packaged recipe. `didact train NAME` runs one.\n\n"
    head += table(("status", "means"), [(f"**{k}**", v) for k, v in STATUSES.items()])
    head += "\nAll train three steps on a tiny model in our tests. A status speaks of formulas: "
    head += "no recipe here repeats the training runs of a paper.\n\n"
    rows = [_row(site, method) for method in site.methods]
    columns = ("recipe", "paper", "parts", "verified against", "tolerance", "status")
    body = table(columns, rows)
    return f"{head}{body}\n## Evidence\n\n{_evidence(site)}"


def _row(site: Site, method: Method) -> tuple[str, ...]:
    kept = site.statuses.get(method.name, NOTHING)
    evidence = [site.evidence[name] for name in kept["verified"]]
    papers = ", ".join(dict.fromkeys(re.findall(r"arXiv:\d{4}\.\d{5}", method.about)))
    parts = [part.split("/")[1] for part in _telling(method) if not part.startswith("reward")]
    return (
        f"[{method.name}]({method.name}.md)",
        linked(papers) or plain(method.about.split(":")[0].split(",")[0]),
        ", ".join(f"`{part}`" for part in parts),
        "; ".join(f"[{name}](#{name})" for name in kept["verified"]) or "nothing",
        "; ".join(dict.fromkeys(plain(each["tolerance"].split(" (")[0]) for each in evidence)),
        kept["status"],
    )


def _telling(method: Method) -> list[str]:
    return [part for part in method.parts if part.split("/")[0] in SHOWN]


def _evidence(site: Site) -> str:
    text = ""
    for name, kept in site.evidence.items():
        golden = ", ".join(f"`tests/golden/{path}`" for path in kept["golden"])
        executed = "" if kept["executed"] else " Nobody's released output."
        text += f"### {name}\n\n"
        text += f"{plain(kept['what'][0].upper() + kept['what'][1:])}, against "
        text += f"{linked(kept['against'])}.{executed} Absolute tolerance "
        text += f"{plain(kept['tolerance'])}. Test `{kept['test']}`, figures {golden}.\n\n"
    return text


def card(site: Site, method: Method) -> str:
    """What it is, its standing, its parts, its file."""
    kept = site.statuses.get(method.name, NOTHING)
    lines = [f"# {method.name}", "", linked(method.about), ""]
    lines += [f"**Status: {kept['status']}.** {_meaning(kept)}", ""]
    if method.parents:
        parents = ", ".join(f"[{parent}]({parent}.md)" for parent in method.parents)
        lines += [f"Extends {parents}.", ""]
    lines += ["## Verified against", "", _verified(site, kept["verified"])]
    lines += ["## Parts", "", _parts(site, method)]
    lines += ["## The recipe", "", fenced(method.text, "yaml")]
    lines += ["## Run it", "", fenced(_commands(method), "sh")]
    return "\n".join(lines)


def _meaning(kept: Mapping[str, Any]) -> str:
    note = kept.get("note", "")
    told = STATUSES.get(kept["status"], "")
    both = f"{told[:1].upper()}{told[1:]}." if told else ""
    return f"{both} {plain(note[:1].upper() + note[1:])}." if note else both


def _verified(site: Site, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        kept = site.evidence[name]
        cells = (kept["what"], kept["against"], kept["tolerance"])
        rows.append((f"[{name}](index.md#{name})", *(linked(cell) for cell in cells)))
    said = table(("evidence", "of what", "whose figures", "tolerance"), rows)
    return said or "Nothing but our own tests: there are no figures of others.\n"


def _parts(site: Site, method: Method) -> str:
    entries = site.entries()
    rows = []
    for part in method.parts:
        kind, name = part.split("/")
        covered = ", ".join(f"[{e}](index.md#{e})" for e in site.covered.get(part, [])[:4])
        link = f"[{name}](../reference/parts/{kind}.md#{name})"
        rows.append((kind, link, plain(entries[part].summary), covered))
    return table(("kind", "part", "", "figures of others"), rows)


def _commands(method: Method) -> str:
    lines = [f"didact plan {method.name}", f"didact train {method.name}"]
    lines += [f"didact recipe diff {parent} {method.name}" for parent in method.parents[:1]]
    return "\n".join(lines)
