"""What a component must be able to do. Nothing here is meant to be inherited from.

Notation: G members of a group, B rows of a batch, T response tokens, P prompt tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from didact.core.batch import Batch
from didact.core.types import (
    Feedback,
    Group,
    Problem,
    Prompt,
    Request,
    Sample,
    Sampling,
    Trajectory,
)

T = TypeVar("T")
U = TypeVar("U")
Names = frozenset[str]
State = dict[str, Any]


@runtime_checkable
class Stateful(Protocol):
    """Survives a checkpoint. State is plain data and tensors, never pickled objects."""

    def state_dict(self) -> State: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class TaskSource(Protocol):
    """An indexable collection of problems; the same index gives the same problem, always."""

    def __getitem__(self, index: int) -> Problem: ...
    def __len__(self) -> int: ...


class Sampler(Stateful, Protocol):
    """Chooses the problems of a step, and may learn from how they went (a curriculum): from the
    groups that left the experience, and from those scored and dropped in it, without members.
    """

    def draw(self, step: int) -> Sequence[Problem]: ...
    def observe(self, groups: Sequence[Group]) -> None: ...


class RolloutSource(Protocol):
    """For each group, more trajectories: from a policy, a buffer, an expert, a critique.

    May declare `needs: frozenset[str]`, what its groups must already have.
    """

    def extend(self, groups: Sequence[Group], run: Run) -> Sequence[Sequence[Trajectory]]: ...


class Environment(Protocol):
    """Answers a response with more context, or None when the episode is over."""

    def reply(self, prompt: Prompt, response: str, turn: int) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Failed:
    """A reward or critique that could not be computed: never a number."""

    reason: str


class RewardProvider(Protocol):
    """Scores trajectories, `Failed` where it cannot. `each` lifts a function of one trajectory."""

    def __call__(self, trajectories: Sequence[Trajectory]) -> Sequence[float | Failed]: ...


class CritiqueProvider(Protocol):
    """Words about trajectories."""

    def __call__(
        self, trajectories: Sequence[Trajectory], run: Run
    ) -> Sequence[Feedback | Failed]: ...


Estimate = Tensor | Mapping[str, Tensor]
AdvantageEstimator = Callable[..., Estimate]
"""A pure function of the N trajectories of a step, bound by name like a loss.

Positional parameters are what it reads: `rewards` [N], `groups` (int64 [N], equal within a group),
`lengths` [N], `mask` (bool [N, T]), `reward_parts` ([N, K], one column per reward of the recipe,
unweighted), `reward_weights` [K], or any other signal [N] or column [N, T]. Keyword-only parameters
are settings. Returns "advantages" as [N] or [N, T], or a mapping of several such names.
"""

PerToken = Callable[..., Tensor]
"""A pure loss or weight: positional parameters are columns [B, T] or signals [B], keyword-only ones
settings; returns [B, T] (a weight may return [B])."""


class ReplayBuffer(Stateful, Protocol):
    """Where trajectories wait: for a phase to be ready, or to be replayed."""

    def add(self, trajectories: Iterable[Trajectory]) -> None: ...
    def sample(self, count: int) -> Sequence[Trajectory]: ...
    def matching(self, prompt: Prompt) -> Sequence[Trajectory]: ...
    def __len__(self) -> int: ...


class Stage(Protocol):
    """One step of the experience pipeline: groups in, groups out.

    `needs` and `adds` name signals and columns ("members" for trajectories themselves), and are
    checked when the recipe loads.
    """

    @property
    def needs(self) -> Names: ...
    @property
    def adds(self) -> Names: ...
    def __call__(self, groups: Sequence[Group], run: Run) -> Sequence[Group]: ...


BoundRule = Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Tensor]]


class UpdateRule(Protocol):
    """An objective over a mini-batch. May declare `learned: Mapping[str, Learned]`: scalars that
    are trained with the model, which it is then handed by name among the live columns."""

    @property
    def needs(self) -> Names:
        """Columns and signals it reads."""
        ...

    @property
    def ahead(self) -> Names:
        """Those of them that it reads of the whole mini-batch, before any forward pass."""
        ...

    def over(self, batch: Batch, step: int) -> BoundRule:
        """Fix the denominators over the whole mini-batch.

        Returns a function of (part, live columns [B, T] with gradient) to the scalar value of
        each term by its label. Their sum over any split of the rows not idle is the loss.
        """
        ...

    def idle(self, batch: Batch) -> Sequence[bool]:
        """Rows that surely contribute no gradient, and need no forward pass."""
        ...


class Generator(Protocol):
    """An inference engine that serves one model."""

    @property
    def version(self) -> int:
        """Number of weight syncs so far."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Sequence[Sample]: ...
    def rest(self) -> None:
        """Nothing will be asked until the next sync: leave memory to the learner, if you can."""

    def sync(self, learner: Learner) -> Mapping[str, float] | None:
        """Take over the learner's weights; the version goes up by one. May report metrics."""

    def resume(self, learner: Learner, version: int) -> None:
        """Take over the learner's weights as those of a given version."""


class Reader(Protocol):
    """A model that is read out."""

    def freeze(self, rows: Sequence[Trajectory], columns: Names) -> Sequence[Trajectory]:
        """Attach readouts of the model as it is now, without gradient, as columns.

        A column is a readout ("logprobs", "entropy", "values", …) with any prefix before a first
        underscore: "old_logprobs" stores the log-probabilities under that very name.
        """


class Learner(Reader, Stateful, Protocol):
    """A training engine that owns one model's weights and named optimizers."""

    def update(
        self, batch: Batch, rule: UpdateRule, optimizer: str, step: int
    ) -> Mapping[str, float]:
        """One optimizer step on a mini-batch, in as many micro-batches as memory asks for."""

    def rest(self) -> None:
        """Nothing will be learned until there are new samples: leave memory to the generators."""

    def scale_lr(self, factor: float) -> None:
        """Multiply every learning rate by this, from now on, on top of its schedule."""

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter by name, gathered, in a stable order."""

    def save(self, folder: Path) -> None:
        """Write the model so that `AutoModelForCausalLM.from_pretrained` loads it."""


class World(Protocol):
    """The processes of a run. One process: map is a call, rank 0 of 1."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def map(self, call: Callable[[Sequence[T]], Sequence[U]], items: Sequence[T]) -> Sequence[U]:
        """Each rank calls on its stripe; all get all results, in order."""

    def barrier(self) -> None: ...
    def beside(self) -> World:
        """The same processes, for use by a second thread at the same time."""


class Renderer(Protocol):
    """Text to token ids and back, for one tokenizer."""

    def prompts(self, problems: Sequence[Problem]) -> Sequence[Prompt]: ...
    def demonstrations(self, problems: Sequence[Problem]) -> Sequence[Sequence[Tensor]]: ...
    def context(self, messages: str | Sequence[Mapping[str, str]]) -> Tensor: ...
    def response(self, text: str, *, end: bool = True) -> Tensor: ...
    def text(self, tokens: Tensor) -> str: ...
    def texts(self, responses: Sequence[Tensor]) -> Sequence[str]: ...


@dataclass
class Run:
    """What stages and phases may reach for while the loop runs; the only mutable bag.

    Attributes:
        generators: by the name of the model they serve; "policy" always.
        learners: trainable models by name; "policy" always.
        frozen: models that only read out columns, by column prefix ("ref", "teacher", …).
        sampling: how the policy is sampled unless a source says otherwise.
        metrics: of the current step; stages add to them.
        seconds: wall time of the current step by what it went to.
        scored: groups of the current step by prompt id, as last scored, without their members.
        drawn: how many seeds (step, role, prompt id) has had, so that a prompt which comes twice
            in a step gets new samples. A copy of the run starts without.
    """

    seed: int
    generators: Mapping[str, Generator]
    learners: Mapping[str, Learner]
    frozen: Mapping[str, Reader]
    buffers: Mapping[str, ReplayBuffer]
    renderer: Renderer
    world: World
    sampler: Sampler
    sampling: Sampling
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scored: dict[str, Group] = field(default_factory=dict)
    drawn: Counter[tuple[int, str, str]] = field(default_factory=Counter, init=False, repr=False)
