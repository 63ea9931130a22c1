"""Trajectories of a run in the terminal: page through groups, or print the first few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from didact.core.errors import RunError
from didact.core.report.answers import as_text
from didact.core.report.read import Row, read_lines

FIRST = 3
KEYS = "Enter next · b back · number go to step · q quit"


@dataclass(frozen=True)
class ShownGroup:
    """What was recorded of one prompt in one step."""

    step: int
    prompt: str
    members: Sequence[Row]


def read_groups(run: Path, said: list[str], origin: str | None = None) -> Iterator[ShownGroup]:
    """Recorded groups in order; with an origin, only those that hold a response of it.

    Args:
        said: takes a notice about lines that are cut off, once all are read.

    Raises:
        RunError: the run recorded no trajectories.
    """
    file = run / "trajectories.jsonl"
    if not file.exists():
        raise RunError(
            f"{run}: no trajectories.jsonl; the run was told not to record any "
            "(trajectories: none), or this is no run's folder."
        )
    rows = (row for row in read_lines(file, said) if "step" in row and "prompt" in row)
    for (step, prompt), members in groupby(rows, key=lambda row: (row["step"], row["prompt"])):
        group = ShownGroup(int(step), str(prompt), tuple(members))
        if origin is None or any(row.get("origin") == origin for row in group.members):
            yield group


def view(
    run: Path | str,
    *,
    origin: str | None = None,
    first: int = FIRST,
    console: Console | None = None,
    ask: Callable[[str], str] | None = None,
) -> int:
    """Show recorded groups; returns how many were shown.

    Args:
        origin: only groups that hold a response of this origin.
        first: groups printed where nobody can be asked (output is a file or a pipe).
        ask: reads a key word; by default the terminal, if there is one.

    Raises:
        RunError: the run recorded no trajectories, or none of this origin.
    """
    screen = console or Console()
    said: list[str] = []
    groups = read_groups(Path(run), said, origin)
    if ask is None and not screen.is_terminal:
        shown = list(islice(groups, first))
        for group in shown:
            screen.print(*described(group), sep="\n")
        count = len(shown)
    else:
        count = _browse(groups, screen, ask or screen.input)
    for notice in said:
        screen.print(f"[yellow]{escape(notice)}[/yellow]")
    if not count:
        raise RunError(
            f"{run}: no recorded trajectories{f' of origin {origin!r}' if origin else ''}."
        )
    return count


def _browse(groups: Iterator[ShownGroup], screen: Console, ask: Callable[[str], str]) -> int:
    """Page until the end or `q`; groups are read as far as somebody looks."""
    seen: list[ShownGroup] = []
    at, word = 0, ""
    while word != "q":
        while at >= len(seen) and (group := next(groups, None)) is not None:
            seen.append(group)
        if not seen:
            return 0
        if at >= len(seen):
            screen.print("[dim]that was the last group[/dim]")
            at = len(seen) - 1
        else:
            screen.print(*described(seen[at]), sep="\n")
        word = ask(f"[dim]{KEYS}[/dim] ").strip().lower()
        at = _next(word, at, seen, groups)
    return len(seen)


def _next(word: str, at: int, seen: list[ShownGroup], groups: Iterator[ShownGroup]) -> int:
    if word == "b":
        return max(at - 1, 0)
    if not word.isdigit():
        return at + 1
    for place, group in enumerate(seen):
        if group.step >= int(word):
            return place
    for group in groups:
        seen.append(group)
        if group.step >= int(word):
            break
    return len(seen) - 1


def described(group: ShownGroup) -> list[Panel]:
    """A group for the screen: the question, then every response with what is known of it."""
    question = as_text(group.members[0].get("question", ""))
    head = f"step {group.step} · {escape(group.prompt)}"
    out = [Panel(Text(question), title=head, title_align="left", border_style="bold")]
    for at, row in enumerate(group.members, 1):
        out.append(_member(at, len(group.members), row))
    return out


def _member(at: int, of: int, row: Row) -> Panel:
    signals: Mapping[str, Any] = row.get("signals") or {}
    facts = [f"{at}/{of}", escape(str(row.get("origin", "?")))]
    facts += [f"reward {signals['reward']:.3g}"] if "reward" in signals else ["no reward"]
    facts += [f"advantage {signals['advantages']:+.3g}"] if "advantages" in signals else []
    facts += [f"{row['tokens']} tokens"] if "tokens" in row else []
    facts += ["truncated"] if row.get("truncated") else []
    text = Text(str(row.get("response", "")))
    for said in row.get("feedback") or ():
        text.append(f"\n\n{said.get('source', '?')}: {said.get('text', '')}", style="italic dim")
    right = signals.get("success")
    color = "white" if right is None else "green" if right >= 0.5 else "red"
    mark = "" if right is None else "✓ " if right >= 0.5 else "✗ "
    return Panel(text, title=mark + " · ".join(facts), title_align="left", border_style=color)
