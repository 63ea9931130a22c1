"""How long a report takes and how large it is: 10 runs of 1,000 steps and 1,000 questions.

    python benchmarks/report_speed.py [--keep FOLDER]

Bars: 10 seconds, 10 MB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from synthetic_runs import Kind, make_comparison

KINDS = {
    "grpo": Kind((0.1, 0.2, 0.15, 0.0)),
    "sft": Kind((-0.1, 0.0, 0.2, 0.4), demonstrations=32, tokens=30),
    "relift": Kind((0.1, 0.2, 0.25, 0.35), demonstrations=8),
    "luffy": Kind((0.05, 0.2, 0.2, 0.2), demonstrations=16, tokens=28),
    "nft": Kind((0.1, 0.15, 0.15, 0.0)),
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", type=Path, help="write runs and report here and keep them")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = chosen.keep or Path(made)
        if not (folder / "comparison.json").exists():
            make_comparison(folder, KINDS, (0, 1), steps=1000, questions=1000, every=100)
        began = time.perf_counter()
        from didact.core.report import build_report

        imported = time.perf_counter()
        page = build_report(folder, folder / "report")
        seconds = time.perf_counter() - began
        size = page.stat().st_size / 1e6
    sys.stdout.write(
        f"report over 10 runs x 1,000 steps x 1,000 questions: {seconds:.1f} s "
        f"(of it imports {imported - began:.1f} s), HTML {size:.1f} MB\n"
    )
    return int(seconds >= 10 or size >= 10)


if __name__ == "__main__":
    sys.exit(main())
