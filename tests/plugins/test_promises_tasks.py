"""Samplers, buffers, tasks and observers: one that breaks a promise is found out."""

import random

from promises import broken, held

from didact import Problem, decode, encode
from didact.testing import Problems


class Draws:
    """The problems in order, unless a subclass for a test spoils it."""

    def __init__(self, task, prompts: int = 2) -> None:
        self.task, self.prompts, self.at = task, prompts, 0

    def draw(self, step):
        self.at += self.prompts
        return [self.task[k % len(self.task)] for k in range(self.at - self.prompts, self.at)]

    def observe(self, groups):
        """Learns nothing."""

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Unsaved(Draws):
    """Forgets where it was."""

    def state_dict(self):
        return {"at": 0}


class Objects(Draws):
    """Saves an object."""

    def state_dict(self):
        return {"at": self.at, "task": Problems()}


class Stranger(Draws):
    """Draws what its task does not have."""

    def draw(self, step):
        return [Problem("mine", "?")]


class Whim(Draws):
    """Ignores the seed."""

    def draw(self, step):
        return [self.task[random.randrange(len(self.task))] for _ in range(4)]


def test_a_broken_sampler_is_found_out():
    held("sampler", Draws)
    broken("sampler", Unsaved, "after load_state_dict it draws other problems")
    broken("sampler", Objects, "not plain data and tensors")
    broken("sampler", Stranger, "'mine'.*, which the task does not have")
    broken("sampler", Whim, "the same seed drew other problems")


class Bag:
    """Keeps everything, unless a subclass for a test spoils it."""

    def __init__(self) -> None:
        self.items = []

    def add(self, trajectories):
        self.items += trajectories

    def sample(self, count):
        return self.items[:count]

    def matching(self, prompt):
        return [item for item in self.items if item.prompt.id == prompt.id]

    def __len__(self):
        return len(self.items)

    def state_dict(self):
        return {"items": encode(self.items)}

    def load_state_dict(self, state):
        self.items = decode(state["items"])


class Greedy(Bag):
    """Gives everything."""

    def sample(self, count):
        return list(self.items)


class Loose(Bag):
    """Matches everything."""

    def matching(self, prompt):
        return self.items


class Leaky(Bag):
    """Forgets half in a checkpoint."""

    def state_dict(self):
        return {"items": encode(self.items[::2])}


class Scribbling(Bag):
    """Writes into what it keeps."""

    def add(self, trajectories):
        for trajectory in trajectories:
            trajectory.signals["age"] = 0.0
            self.items.append(trajectory)


def test_a_broken_buffer_is_found_out():
    held("buffer", Bag)
    broken("buffer", Scribbling, "it changes the trajectories it is given")
    broken("buffer", Greedy, r"sample\(0\) gave something")
    broken("buffer", Loose, "a trajectory of another prompt")
    broken("buffer", Leaky, "a checkpoint kept")


class Restless(Problems):
    """Another problem every time."""

    def __getitem__(self, index):
        return Problem(f"{index}/{random.random()}", "?")


class Twins(Problems):
    """Two problems of one id."""

    def __getitem__(self, index):
        return Problem("same", f"{index}?")


def test_a_broken_task_is_found_out():
    broken("task", Restless, "the same index gave two problems")
    broken("task", Twins, "two problems have one id")


class Listens:
    """Hears of steps."""

    def on_step(self, step, groups, metrics):
        """Takes it in."""


class Misspelt:
    """Hears of nothing."""

    def on_steps(self, step, groups, metrics):
        """Never called."""


class Short:
    """Cannot be told all."""

    def on_step(self, step, metrics):
        """Takes two of three."""


class Deaf:
    """Hears of nothing."""


def test_an_observer_that_would_not_be_called_is_found_out():
    held("observer", Listens)
    broken("observer", Misspelt, "nobody calls on_steps; events are on_start, on_step")
    broken("observer", Short, "on_step.* cannot be called so: too many positional arguments")
    broken("observer", Deaf, "it has none of on_start")
