"""Tokens of a micro-batch, and what becomes of them when memory does not hold one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch

from didact.core.errors import RunError

log = logging.getLogger(__name__)
CPU = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
REMEDY = (
    "shorten the prompts or sampling.max_tokens, set learner.gradient_checkpointing, or give "
    "learner.logits a smaller number"
)


class TooLarge(Exception):
    """A micro-batch did not fit into memory. Every rank raises it, of the same update.

    Attributes:
        tokens: of the smallest micro-batch that did not fit.
        alone: names a single row that did not fit; empty if there were several rows.
    """

    def __init__(self, tokens: int, alone: str) -> None:
        super().__init__(f"a micro-batch of {tokens} tokens does not fit into memory")
        self.tokens, self.alone = tokens, alone


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory has run out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU)


def release() -> None:
    """Give freed GPU memory back to the device, so that what comes next finds it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Budget:
    """Most tokens (prompt and response) of a micro-batch; falls for good when memory runs out."""

    def __init__(self, tokens: int) -> None:
        self.given = self.tokens = tokens

    def spend(self, update: Callable[[int], Mapping[str, float]]) -> dict[str, float]:
        """Try an update, with half of what did not fit until it does; reports how often.

        Args:
            update: takes the tokens; raises `TooLarge` on all ranks and has then changed nothing.

        Raises:
            RunError: a single row does not fit.
        """
        tries = 0
        while True:
            try:
                report = dict(update(self.tokens))
            except TooLarge as error:
                found = error.tokens, error.alone
            else:
                break
            tries += 1
            self._halve(*found)
        if tries:
            report["out_of_memory"] = float(tries)
        if self.tokens < self.given:
            report["max_tokens"] = float(self.tokens)
        return report

    def _halve(self, tokens: int, alone: str) -> None:
        if alone:
            raise RunError(f"out of memory: {alone} does not fit by itself; {REMEDY}.")
        before, self.tokens = self.tokens, max(min(self.tokens, tokens) // 2, 1)
        log.warning(
            f"out of memory with a micro-batch of {tokens} tokens: max_tokens is {self.tokens} "
            f"from now on, not {before}; the step is tried again"
        )
        release()

    def lower(self, tokens: int) -> None:
        """Take over what an earlier part of the run has learned."""
        self.tokens = min(self.tokens, tokens)
