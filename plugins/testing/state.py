"""A checkpoint and a process boundary, as the framework crosses them."""

from __future__ import annotations

import io
import pickle
from typing import TypeVar

import torch

from didact.core.protocols import Stateful
from didact.plugins.testing.part import Broken

T = TypeVar("T")
S = TypeVar("S", bound=Stateful)


def picture(things: object) -> bytes:
    """All that records are at this moment, to see whether a part changed them."""
    return pickle.dumps(things)


def reloaded(old: Stateful, new: S) -> S:
    """`new` with the state of `old`, written and read as a checkpoint is.

    Raises:
        Broken: the state is more than plain data and tensors.
    """
    written = io.BytesIO()
    try:
        torch.save(old.state_dict(), written)
        written.seek(0)
        state = torch.load(written, weights_only=True)
    except Exception as error:  # whatever pickle meets in a stranger's state
        first = str(error).strip().splitlines()[0]
        raise Broken(f"its state is not plain data and tensors: {first}") from error
    new.load_state_dict(state)
    return new


def sent(thing: T) -> T:
    """A copy as a worker process gets it.

    Raises:
        Broken: it cannot be pickled.
    """
    try:
        copy: T = pickle.loads(pickle.dumps(thing))
    except Exception as error:  # whatever pickle meets in a stranger's object
        raise Broken(f"it cannot be sent to a worker process: {error}") from error
    return copy
