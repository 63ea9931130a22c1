"""Parts held to the promises of their kind, as if a plug-in had registered them."""

from types import SimpleNamespace

import pytest

from didact import hookimpl
from didact.plugins.manager import load
from didact.plugins.registry import HOOKS
from didact.testing import Broken, check, parts_of


def held(kind, factory, example=None):
    """Check a part as if a plug-in had registered it."""
    plugin = SimpleNamespace(__name__="mine")
    setattr(plugin, HOOKS[kind], hookimpl(lambda register: register("it", factory)))
    registry = load([plugin], installed=False)
    (part,) = parts_of(registry, "mine", {f"{kind}:it": example} if example else {})
    check(part)


def broken(kind, factory, said, example=None):
    factory.__doc__ = factory.__doc__ or "Documented."
    with pytest.raises(Broken, match=said):
        held(kind, factory, example)
