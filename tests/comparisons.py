"""Comparison files of tiny models."""

from conftest import TINY


def comparison(tmp_path, methods: str, more: str = "") -> str:
    shared = {k: v for k, v in (o.split("=", 1) for o in TINY if not o.startswith("evaluation"))}
    lines = "".join(f"  {k}: {v}\n" for k, v in shared.items())
    evaluation = (
        "  evaluation: {task: {use: letters, split: test, size: 8}, samples: 2, ks: [1, 2]}\n"
    )
    body = f"seeds: [0, 1]\n{more}set:\n  steps: 2\n{lines}{evaluation}methods:\n{methods}"
    file = tmp_path / "mine.yaml"
    file.write_text(body, encoding="utf-8")
    return str(file)
