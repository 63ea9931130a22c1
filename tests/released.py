"""Released figures: cases by name with their references resolved, and how ours are compared."""

import json
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"
SCALE = {True: "group", False: "none"}


def content(path):
    return json.loads((GOLDEN / path).read_text())


def golden(path, *prefixes):
    """Cases whose name starts with a prefix, their references resolved."""
    file = content(path)

    def value(x):
        if isinstance(x, str) and x.startswith("$"):
            bundle, _, name = x[1:].rpartition(".")
            return file["bundles"][bundle][name] if bundle else file["shared"][name]
        return x

    cases = []
    for case in file["cases"]:
        if case["case"].startswith(prefixes):
            inputs, outputs = (
                {k: value(v) for k, v in case[part].items()} for part in ("inputs", "outputs")
            )
            cases.append((case["case"], case["args"], inputs, outputs))
    assert cases, f"no case of {path} starts with {prefixes}"
    return cases


def ids(cases):
    return [f"{at}-{case[0]}" for at, case in enumerate(cases)]


def over(*source):
    """A test runs for every case, with its settings, inputs and outputs."""
    cases = golden(*source)
    return pytest.mark.parametrize(("args", "i", "o"), [c[1:] for c in cases], ids=ids(cases))


def t(x):
    return torch.tensor(x, dtype=torch.float64)


def close(actual, expected, atol=1e-7):
    expected = t(expected) if not isinstance(expected, torch.Tensor) else expected
    torch.testing.assert_close(actual.to(expected), expected, rtol=0, atol=atol)


def batch(inputs):
    """Rewards of rows and of tokens, loss tokens, and groups if there are any."""
    tokens, mask = t(inputs["token_level_rewards"]), t(inputs["response_mask"]).bool()
    groups = torch.tensor(inputs["index"]) if "index" in inputs else None
    return tokens.sum(1), tokens, mask, groups
