"""The ranges that settings come in: checked where a recipe is read, shown where it is described.

A setting of a part is declared with its range, `n: Count = 8`, or with one of its own,
`Annotated[float, Field(gt=1)]`. Where the float may be a schedule, the range holds for all of it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
"""How many: 1, 2, …"""

Whole = Annotated[int, Field(ge=0)]
"""How many, or none: 0, 1, …"""

Share = Annotated[float, Field(ge=0, le=1)]
"""A probability or a share."""

Fraction = Annotated[float, Field(gt=0, le=1)]
"""A share that is not nothing."""

Positive = Annotated[float, Field(gt=0)]
"""Above 0; may be infinite."""

NonNegative = Annotated[float, Field(ge=0)]
"""0 or more; may be infinite."""
