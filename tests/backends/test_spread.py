"""Requests over several servers: who is asked, and what is checked before."""

from threading import Event
from types import SimpleNamespace

from didact.core.backends.endpoint import Unreachable
from didact.core.backends.spread import spread


def test_a_server_that_was_idle_is_looked_at_again_before_it_takes_what_another_gave_back():
    """FAKE servers: one holds its request until the other is idle, then goes down for good."""
    admitted, rest = [], Event()

    def falls(path, body, stop):
        rest.wait(10)
        raise Unreachable("gone")

    def answers(path, body, stop):
        if body["n"] == 1:
            rest.set()
        return {"asked": body["n"], "after": len(admitted)}

    def server(name, ask, wait):
        return SimpleNamespace(url=name, concurrency=1, wait=wait, pause=0.01, ask=ask)

    servers = [server("falls", falls, 0.02), server("answers", answers, 5.0)]

    def admit(one):
        if one.url == "answers" and not admitted:
            while not taken.is_set():
                taken.wait(10)
        admitted.append(one.url)

    taken = Event()
    inner = servers[0].ask
    servers[0].ask = lambda *given: (taken.set(), inner(*given))[1]
    out = spread(servers, "/completions", [{"n": 0}, {"n": 1}], admit)
    assert [answer["asked"] for answer in out] == [0, 1]
    assert admitted.count("answers") == 2, "once at the start, once before what came back"
