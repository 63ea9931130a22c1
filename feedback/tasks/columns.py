"""The column mapping of a task that is read from rows: which column holds what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from didact.core.errors import unknown


class Columns(BaseModel):
    """Which column holds what. A dot reaches into an object: `reward_model.ground_truth`.

    Attributes:
        question: text, or a chat as a list of `{role, content}`.
        answer: what the verifier compares with; null if the data has none.
        answer_pattern: regular expression whose first group, at its last match, is the answer
            within that column, e.g. `#### (.+)`. It may not match an empty answer.
        answer_boxed: the answer is the content of the last `\\boxed{}` of that column.
        demonstrations: a column or several, of text or lists of text.
        id: a column that is different in every row; unset: the file's name and the row's number.
        metadata: columns to keep for selecting and reporting.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    question: str = "question"
    answer: str | None = "answer"
    answer_pattern: str | None = None
    answer_boxed: bool = False
    demonstrations: str | list[str] = []
    id: str | None = None
    metadata: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        for key in given if isinstance(given, Mapping) else ():
            if key not in cls.model_fields:
                raise ValueError(unknown("key", str(key), cls.model_fields))
        return given

    @field_validator("answer_pattern")
    @classmethod
    def _with_group(cls, given: str | None) -> str | None:
        try:
            groups = re.compile(given or "()").groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if not groups:
            raise ValueError("needs a group, in round brackets, for what is the answer")
        return given

    @property
    def demonstrated(self) -> list[str]:
        """The columns of demonstrations."""
        given = self.demonstrations
        return [given] if isinstance(given, str) else given

    @property
    def used(self) -> list[str]:
        """Every column that must be there."""
        single = [self.question, self.answer, self.id]
        return [name for name in single if name] + self.demonstrated + self.metadata
