"""What runs in a grading process: one JSON line per answer in, one verdict out.

`python -m didact.rewards.math_worker SECONDS`. Everything that touches a model's words happens
here, behind the hard time limit of the pool: extraction, parsing, comparison.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, BinaryIO

from didact.rewards.extract import final
from didact.rewards.notation import (
    canonical,
    latex_notation,
    power_notation,
    read_number,
    same_number,
)

MEMORY = 8 * 2**30
"""Bytes of address space of a worker; more is a MemoryError instead of a machine that swaps."""

TAIL = 20_000
"""Characters at the end of a response that are searched when it marks no answer."""

SHORT = 200
"""Characters; an unmarked response of one line up to this length may be the bare answer."""

SMALL = 1e-2
SIGNIFICANT = 1e-3
"""math-verify rounds to 6 decimals, so small numbers all come out equal (1e-7 and 2e-7). Below
`SMALL` we also want 3 significant digits."""


def main() -> None:
    """Answer jobs until the parent is gone."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not reach the protocol
    seconds = float(sys.argv[1])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.disable(logging.ERROR)
    try:
        _limit_memory()
        grade(r"\boxed{\frac{1}{3}}", ["2/6"], "auto", "math_verify")  # imports and first uses
    except Exception as error:
        _say(out, {"failed": f"{type(error).__name__}: {error}"})
        return
    _say(out, {"ready": True})
    for line in sys.stdin.buffer:
        signal.alarm(math.ceil(seconds) + 5)  # ends us even if the parent was killed meanwhile
        _say(out, _answer(json.loads(line), out))
        signal.alarm(0)


def _answer(job: Mapping[str, Any], out: BinaryIO) -> dict[str, Any]:
    try:
        for gold in job["golds"]:
            _gold(gold)
    except Exception as error:
        return {"failed": f"gold answer {gold!r}: {type(error).__name__}: {error}"}
    _say(out, {"stage": "response"})
    try:
        return {"equal": grade(job["text"], job["golds"], job["extract"], job["compare"])}
    except (MemoryError, RecursionError) as error:
        return {"exhausted": type(error).__name__}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}


def grade(text: str, golds: Sequence[str], extract: Any, compare: str) -> bool:
    """Whether a response's final answer equals one of the gold answers.

    Args:
        text: the response, or the part of it that counts.
        golds: equally right answers.
        extract: how to find the answer (`rewards.extract.final`). If "auto" finds no mark,
            math-verify searches the end of the text.
        compare: "either" for equal spelling, equal numbers or math-verify; "math_verify" for
            nothing but math-verify.
    """
    said = final(text, extract)
    if said is None and extract != "auto":
        return False
    if compare == "either" and said and any(_same_spelling(gold, said) for gold in golds):
        return True
    if said is not None and extract != "whole":
        readings = [_boxed(said)]
    else:
        readings = _unmarked(text, bare=compare == "either")
    parsed = [_parse(reading) for reading in readings]
    return any(_equal(gold, one) for one in parsed for gold in golds)


def _unmarked(text: str, *, bare: bool) -> list[str]:
    """What math-verify reads of a response that marks no answer: its end.

    And, if the text may be a `bare` answer and is short, the same as if it were boxed.
    """
    end = power_notation(text[-TAIL:])
    short = bare and len(text) <= SHORT and "\n" not in text.strip() and "\\boxed" not in text
    return [end, _boxed(text)] if short else [end]


def _same_spelling(gold: str, said: str) -> bool:
    gold = _bare(gold)
    a, b = read_number(said), read_number(gold)
    if a is not None and b is not None:
        return same_number(a, b)
    return canonical(said) == canonical(gold) != ""


def _equal(gold: str, parsed: list[Any]) -> bool:
    from math_verify import verify

    wanted = _gold(gold)
    if not verify(list(wanted), parsed, timeout_seconds=None):
        return False
    return _near(wanted[0], parsed[0])


def _near(a: Any, b: Any) -> bool:
    """Whether two small real numbers share their first digits; True of anything else."""
    numbers = all(getattr(x, "is_number", False) and getattr(x, "is_real", False) for x in (a, b))
    if not numbers:
        return True
    x, y = a.evalf(), b.evalf()
    if not (x.is_Number and y.is_Number):
        return True
    greatest = max(abs(x), abs(y))
    return bool(greatest >= SMALL or abs(x - y) <= SIGNIFICANT * greatest)


@lru_cache(maxsize=1024)
def _gold(gold: str) -> tuple[Any, ...]:
    r"""The parsed gold answer; wrapped in `$…$`, because bare LaTeX is often not recognised."""
    bare = _bare(gold)
    wrapped = [] if "$" in bare else _parse(f"${latex_notation(bare)}$")
    return tuple(wrapped or _parse(_boxed(bare)))


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    parsed: list[Any] = parse(text, parsing_timeout=None)
    return parsed


def _boxed(answer: str) -> str:
    return rf"\boxed{{{latex_notation(_bare(answer))}}}"


def _bare(answer: str) -> str:
    """An answer without a box or dollar signs around all of it."""
    answer = answer.strip()
    boxed = final(answer, "boxed") if answer.startswith(("\\boxed", "$\\boxed")) else None
    answer = answer if boxed is None else boxed
    alone = answer.count("$") == 2 and answer.startswith("$") and answer.endswith("$")
    return answer.strip("$").strip() if alone else answer


def _say(out: BinaryIO, message: Mapping[str, Any]) -> None:
    out.write(json.dumps(message).encode() + b"\n")


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
