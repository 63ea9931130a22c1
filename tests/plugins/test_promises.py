"""Every promise can be broken: a part that breaks it is found out, by that promise."""

import random
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from didact import (
    Failed,
    Feedback,
    PluginError,
    Problem,
    Trajectory,
    adds,
    decode,
    each,
    encode,
    hookimpl,
    vanishes_with,
    whole_mini_batch,
)
from didact.plugins.manager import load
from didact.plugins.registry import HOOKS
from didact.testing import Broken, Example, Problems, check, parts_of


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


def nll(logprobs):
    """-log p."""
    return -logprobs


def test_a_sound_loss_keeps_every_promise():
    held("loss", nll)


def test_a_part_without_a_docstring_is_found_out():
    def bare(logprobs):
        return -logprobs

    with pytest.raises(Broken, match="no docstring"):
        held("loss", bare)


def reserved(logprobs, *, where: int = 1):
    return -logprobs


def untyped(logprobs, *, gamma=1.0):
    return -logprobs


def summed(logprobs):
    return -logprobs.sum(1)


def single(logprobs):
    return -logprobs.float()


def meant_as_setting(logprobs, clip=0.2):
    return -logprobs * clip


def across_rows(logprobs):
    return -(logprobs - logprobs.mean(0))


def over_padding(logprobs):
    return -logprobs / logprobs.shape[1]


def in_order(logprobs):
    return -logprobs * torch.arange(1, len(logprobs) + 1)[:, None]


def detached(logprobs):
    return -logprobs.detach() * 2


def no_model(advantages, old_logprobs):
    return advantages[:, None] * old_logprobs


def random_loss(logprobs):
    return -logprobs * torch.rand(())


def in_place(logprobs, old_logprobs):
    old_logprobs.mul_(2)
    return -logprobs + old_logprobs * 0


def exploding(logprobs, old_logprobs):
    return -torch.exp(4 * (logprobs - old_logprobs))


def nothing_left(logprobs, advantages):
    return -logprobs * advantages[:, None] / advantages.abs().max()


def slow(logprobs):
    time.sleep(0.3)
    return -logprobs


@vanishes_with("advantages")
def does_not_vanish(logprobs, advantages):
    return -logprobs * (1 + advantages[:, None])


def raises(logprobs):
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (reserved, "setting called 'where'"),
        (untyped, "settings without a type: gamma"),
        (meant_as_setting, r"clip has a default, but no '\*' before it makes it a setting"),
        (summed, r"returned \(6,\), not \(6, 7\)"),
        (single, "returned torch.float32 for inputs in torch.float64"),
        (across_rows, "in micro-batches .* looks across rows"),
        (over_padding, "in micro-batches"),
        (in_order, "with the rows in another order"),
        (detached, "no gradient reaches the model"),
        (no_model, "reads no column of the model"),
        (random_loss, "draws from the global generator"),
        (in_place, "changes its input old_logprobs in place"),
        (exploding, "not finite with a log-ratio of -?30 in float32|value is -?inf"),
        (nothing_left, "with every signal 0"),
        (does_not_vanish, "marked as vanishing with 'advantages', and does not"),
        (raises, "it raised KeyError: 'oops'"),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_a_broken_loss_is_found_out(loss, said):
    broken("loss", loss, said)


def test_a_slow_part_is_found_out():
    broken("loss", slow, "takes longer than 0.1 s", Example(seconds=0.1))


def live_weight(logprobs):
    return logprobs.exp()


def ranked(old_logprobs):
    return (old_logprobs > old_logprobs.median()).to(old_logprobs.dtype)


def endless(old_logprobs):
    return torch.exp(-10 * old_logprobs)


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (live_weight, "it has a gradient"),
        (ranked, "mark it with `whole_mini_batch`"),
        (endless, "log-probabilities are far apart"),
    ],
)
def test_a_broken_weight_is_found_out(weight, said):
    broken("weight", weight, said)


def test_a_weight_that_is_marked_may_look_at_the_whole_mini_batch():
    ranked.__doc__ = "Above the median."

    @whole_mini_batch
    def marked(old_logprobs, mask):
        """Above the mean of the tokens that count."""
        inside = old_logprobs[mask]
        middle = inside.mean() if len(inside) else 0.0
        return (old_logprobs > middle).to(old_logprobs.dtype)

    held("weight", marked)


@dataclass(frozen=True)
class Whole:
    """-log p over the loss tokens of the mini-batch, unless a subclass for a test spoils it."""

    needs = frozenset({"logprobs", "mask"})
    ahead = frozenset()

    def over(self, batch, step):
        count = batch.mask.sum()

        def value(part, live):
            return {"nll": -torch.where(part.mask, live["logprobs"], 0.0).sum() / count}

        return value

    def idle(self, batch):
        return [False] * len(batch)


class OfTheMicroBatch(Whole):
    """Divides by what it sees."""

    def over(self, batch, step):
        return lambda part, live: Whole.over(self, part, step)(part, live)


class OverPadding(Whole):
    """Forgets the mask."""

    def over(self, batch, step):
        return lambda part, live: {"nll": -live["logprobs"].sum()}


class OfNothing(Whole):
    """Names what it reads in a list."""

    needs = ["logprobs"]


class AllAtOnce(Whole):
    """One answer for all rows."""

    def idle(self, batch):
        return False


def test_a_broken_rule_is_found_out():
    held("rule", Whole)
    broken("rule", OfTheMicroBatch, r"in micro-batches .*; over\(\) fixes denominators")
    broken("rule", OverPadding, "with NaN outside of the mask")
    broken("rule", OfNothing, r"'needs' is \['logprobs'\], not a frozenset of names")
    broken("rule", AllAtOnce, "'bool' object is not iterable")


def by_position(rewards, groups):
    return rewards * torch.arange(1, len(rewards) + 1)


def unguarded(rewards, groups):
    return (rewards - rewards.mean()) / rewards.std()


@adds("advantages", "kept")
def undeclared(rewards):
    return rewards.clone()


def aliased(rewards):
    return rewards.sub_(1)


def whole_numbers(rewards):
    return (rewards > 0.5).long()


def lucky(rewards):
    return rewards + torch.rand(len(rewards))


class Forgetful:
    """Counts, and forgets to save it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, rewards):
        self.calls += 1
        return rewards * self.calls

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        """Takes nothing."""


class Running:
    """Counts, and has no state."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, rewards):
        self.calls += 1
        return rewards * self.calls


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (by_position, "changes by .* with the order of trajectories"),
        (unguarded, "not finite when every reward is 0"),
        (undeclared, "declares \\['advantages', 'kept'\\]"),
        (aliased, "changes its input rewards in place"),
        (whole_numbers, "int64, not a float|is torch.int64"),
        (lucky, "take `draws` for chance|global generator"),
        (Forgetful, "after load_state_dict it goes on differently"),
        (Running, "resumed without a state_dict it goes on differently"),
    ],
)
def test_a_broken_estimator_is_found_out(estimator, said):
    broken("advantage", estimator, said)


def half(trajectories):
    return [1.0] * (len(trajectories) // 2)


def boolean(trajectories):
    return ["good" for _ in trajectories]


def infinite(trajectories):
    return [float("inf") for _ in trajectories]


def best_of_all(trajectories):
    most = max((len(t.tokens) for t in trajectories), default=0)
    return [float(len(t.tokens) == most) for t in trajectories]


def chance(trajectories):
    return [random.random() for _ in trajectories]


def never(trajectories):
    return [Failed("no") for _ in trajectories]


def only_answered(trajectories):
    return [float(len(t.prompt.problem.metadata["level"] * "x")) for t in trajectories]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (half, "values for"),
        (boolean, "returned 'good'"),
        (infinite, "returned inf"),
        (best_of_all, "grouped=True"),
        (chance, "another reward|two results"),
        (never, "all failed, the first"),
        (only_answered, "KeyError: 'level'|TypeError"),
    ],
)
def test_a_broken_reward_is_found_out(reward, said):
    broken("reward", reward, said)


def test_a_reward_that_cannot_be_pickled_is_found_out():
    broken("reward", each(lambda trajectory: 1.0), "cannot be sent to a worker process")


def shelved(trajectories):
    trajectories.sort(key=lambda trajectory: len(trajectory.text))
    return [1.0 for _ in trajectories]


def relabelling(trajectories):
    for trajectory in trajectories:
        trajectory.signals["success"] = 1.0
    return [1.0 for _ in trajectories]


def erasing(trajectories):
    for trajectory in trajectories:
        trajectory.tokens.fill_(1)
    return [1.0 for _ in trajectories]


@pytest.mark.parametrize("reward", [shelved, relabelling, erasing])
def test_a_reward_or_critic_that_changes_what_it_is_given_is_found_out(reward):
    def critic(trajectories, run):
        reward(trajectories)
        return [Feedback("no", "critic") for _ in trajectories]

    broken("reward", reward, "it changes the trajectories it is given")
    broken("critic", critic, "it changes the trajectories it is given")


def numbered(trajectories):
    return dict.fromkeys(range(len(trajectories)), 5.0)


def test_a_reward_that_is_a_mapping_is_found_out():
    broken("reward", numbered, "returned a dict, no sequence")


def seeding(trajectories):
    torch.manual_seed(0)
    return [float(torch.rand(())) for _ in trajectories[:1]] * len(trajectories)


def test_a_part_that_seeds_a_generator_of_all_is_found_out():
    broken("reward", seeding, "draws from a global random generator, or seeds it")


def mute(trajectories, run):
    return [Feedback("", "mute") for _ in trajectories]


def curt(trajectories, run):
    return ["no" for _ in trajectories]


def test_a_broken_critic_is_found_out():
    broken("critic", mute, "has no text")
    broken("critic", curt, "neither Feedback nor Failed")


class Shouts:
    """Replies with a number."""

    def reply(self, prompt, response, turn):
        return turn


def test_a_broken_environment_is_found_out():
    broken("environment", Shouts, "neither str nor None")


@dataclass(frozen=True)
class Source:
    """Says the same to everybody, unless a subclass for a test spoils it."""

    def extend(self, groups, run):
        return [[self.one(group, run)] for group in groups]

    def one(self, group, run):
        tokens = torch.tensor([1, 2, 3])
        return Trajectory(group.prompt, tokens, torch.ones(3, dtype=torch.bool), "source")


class Chancy(Source):
    """Draws from the global generator."""

    def one(self, group, run):
        return replace(super().one(group, run), tokens=torch.randint(1, 1000, (3,)))


class Mixed(Source):
    """Answers for another group."""

    def extend(self, groups, run):
        return super().extend(groups, run)[::-1]


class Skewed(Source):
    """Has a column that is too short."""

    def one(self, group, run):
        return super().one(group, run).with_columns(behavior_logprobs=torch.zeros(2))


class Few(Source):
    """Answers for the first group alone."""

    def extend(self, groups, run):
        return super().extend(groups, run)[:1]


class Marking(Source):
    """Writes into the groups."""

    def one(self, group, run):
        group.signals["seen"] = 1.0
        return super().one(group, run)


class Streaming(Source):
    """Yields."""

    def extend(self, groups, run):
        yield from super().extend(groups, run)


def test_a_broken_source_is_found_out():
    held("source", Source)
    broken("source", Marking, "it changed the groups it was given")
    broken("source", Streaming, "returned a generator, not a sequence")
    broken("source", Chancy, "the same seed gave other trajectories")
    broken("source", Mixed, "a trajectory of .* came for")
    broken("source", Skewed, "column 'behavior_logprobs' must be float")
    broken("source", Few, "1 sequences for 4 groups")


@dataclass(frozen=True)
class Plain:
    """Does nothing, unless a subclass for a test spoils it."""

    needs = frozenset()
    adds = frozenset()

    def __call__(self, groups, run):
        return groups


class Liar(Plain):
    """Says that it adds something."""

    adds = frozenset({"wisdom"})


class Secretive(Plain):
    """Adds something and does not say so."""

    def __call__(self, groups, run):
        return [group.each(lambda member: member.with_signals(secret=1.0)) for group in groups]


class Blanking(Plain):
    """Writes into columns."""

    def __call__(self, groups, run):
        for member in groups[0].members:
            member.columns["behavior_logprobs"].zero_()
        return groups


class Yielding(Plain):
    """Yields."""

    def __call__(self, groups, run):
        yield from groups


class Fragile(Plain):
    """Cannot bear a group without members."""

    def __call__(self, groups, run):
        assert all(group.members[0] for group in groups)
        return groups


def test_a_broken_stage_is_found_out():
    held("stage", Plain)
    broken("stage", Liar, "declares that it adds 'wisdom'")
    broken("stage", Fragile, "IndexError")
    broken("stage", Secretive, "it adds secret and does not declare it")
    broken("stage", Blanking, "it changed the groups it was given")
    broken("stage", Yielding, "returned a generator, not a sequence")


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


def test_settings_without_a_default_are_asked_for():
    def needy(logprobs, *, beta: float):
        """Needs beta."""
        return -beta * logprobs

    broken("loss", needy, "loss:it needs settings in its example: beta: Field required")
    held("loss", needy, Example({"beta": 0.5}))


def test_an_example_for_no_part_is_refused():
    with pytest.raises(PluginError, match="an example is for no part"):
        list(parts_of(load(installed=False), "didact", {"loss:nope": Example()}))
