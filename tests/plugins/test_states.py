"""A part that keeps a state can be resumed, or the run is refused before it needs to be."""

from collections import deque

import pytest

from didact.configs.resolve import checked
from didact.core import checkpoint
from didact.core.errors import RecipeError, RunError
from didact.core.folder import RunFolder
from didact.plugins.testing.data import make_run

CODE = '''
from didact import hookimpl

class Draws:
    """The problems in order; where it is would be lost."""

    def __init__(self, task, prompts: int = 16):
        self.task, self.prompts, self.at = task, prompts, 0

    def draw(self, step):
        self.at += self.prompts
        return [self.task[at] for at in range(self.at - self.prompts, self.at)]

    def observe(self, groups):
        pass

@hookimpl
def register_samplers(register):
    register("draws", Draws)
'''


def test_a_sampler_without_a_state_is_refused(install):
    install("draws", CODE)
    with pytest.raises(RecipeError, match="sampler 'draws' lacks 'state_dict'"):
        checked("grpo", ["sampler={use: draws}"])


class Waiting:
    """Holds something that is no plain data."""

    def state_dict(self):
        return {"waiting": deque([1])}

    def load_state_dict(self, state):
        """Takes nothing."""


def test_a_state_that_could_not_be_read_again_names_its_part_when_it_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    run = make_run()
    run.generators["policy"].version = 1
    with pytest.raises(RunError, match="sampler: its state_dict holds more than plain data"):
        checkpoint.save(folder, 1, run, {"sampler": Waiting()}, keep=1)
    assert not folder.states()
