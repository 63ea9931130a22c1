"""What a recipe may say. Every part's settings are checked against its signature while parsed."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from didact.algorithms.average import Average
from didact.configs.document import locate
from didact.core.backends.models import ModelSpec
from didact.core.backends.optim import OptimizerSpec
from didact.core.errors import RecipeError
from didact.core.learned import Learned
from didact.core.ranges import Count, Fraction, NonNegative, Positive, Whole
from didact.core.schedule import Scalar
from didact.core.types import Sampling
from didact.core.where import Range, Where
from didact.plugins.spec import (
    Buffer,
    Generator,
    Learner,
    Observer,
    Reward,
    Sampler,
    Stage,
    Task,
    Use,
    Weight,
)
from didact.plugins.strict import Strict

TermWeight = Annotated[
    Annotated[Scalar, Tag("scalar")] | Annotated[Learned, Tag("learned")],
    Discriminator(lambda given: "learned" if _is_learned(given) else "scalar"),
]


def _is_learned(given: Any) -> bool:
    return isinstance(given, Learned) or (isinstance(given, dict) and "learned" in given)


class LossSpec(Use):
    """A term of a rule: a loss by name with its settings, and how it is weighed.

    Attributes:
        weight: multiplies the loss; may be a schedule. `{learned: s, start: 0.0}` trains s with
            the model: the term is exp(-2 s) times the loss, plus s.
        where: rows it is for.
        tokens: tokens it is for, by the value of a column.
        times: per-token multipliers.
        select: multipliers decided over the whole mini-batch.
        bind: reads a column of the loss from another name.
        average: the denominator; the phase's unless given.
        batch_average: count all rows of the mini-batch in it, not only this term's.
        recount: leave tokens for which `select` gives 0 out of it.
        label: what it is logged as; the loss's name unless given.
    """

    kind = "loss"
    weight: TermWeight = 1.0
    where: Where = Where()
    tokens: dict[str, Range | float] = {}
    times: list[Weight] = []
    select: list[Weight] = []
    bind: dict[str, str] = {}
    average: Average | None = None
    batch_average: bool = False
    recount: bool = False
    label: str | None = None

    @field_validator("times", "select", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]


class RuleSpec(Use):
    """A whole update rule, for objectives that are no sum of per-token losses."""

    kind = "rule"


def _loss_or_rule(value: Any, info: ValidationInfo) -> Any:
    """An item of `rule:`, by which of the two kinds has its name."""
    if isinstance(value, LossSpec | RuleSpec):
        return value
    name = value.get("use") if isinstance(value, Mapping) else value
    rules = (info.context or {})["registry"].names("rule")
    spec = RuleSpec if str(name).rpartition("/")[2] in rules else LossSpec
    return spec.model_validate(value, context=info.context)


Objective = Annotated[LossSpec | RuleSpec, BeforeValidator(_loss_or_rule)]


class When(Strict):
    """When a phase steps: enough trajectories waiting, within a window of steps, every so many."""

    at_least: Count = 1
    every: Count = 1
    first: Whole = 0
    last: NonNegative = inf


class PhaseSpec(Strict):
    """One kind of update.

    Attributes:
        take: which trajectories of a step it learns from.
        pool: where they wait.
        when: when it steps.
        rule: its loss or whole rule, or a list of such that are added.
        average: the denominator of its terms, and of a whole rule that takes one.
        batch_size: most rows of one optimizer step; unset: what is drawn makes one step.
        draw: rows taken from the pool when it steps; unset: all.
        epochs: passes over them.
        shuffle: take them in another order in each pass.
        optimizer: which of `optimizers:` steps.
        model: which of `models:` learns.
        max_age: most weight versions a row may be old.
    """

    take: Where = Where({"origin": "policy"})
    pool: Buffer = Field(default="queue", validate_default=True)
    when: When = When()
    rule: list[Objective] = Field(min_length=1)
    average: Average = "tokens"
    batch_size: Count | None = None
    draw: Count | None = None
    epochs: Count = 1
    shuffle: bool = False
    optimizer: str = "main"
    model: str = "policy"
    max_age: Whole | None = None

    @field_validator("rule", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [value]


class SamplingSpec(Strict):
    """How the policy is sampled. Temperature 0 is greedy; max_tokens is the longest response."""

    temperature: NonNegative = 1.0
    top_p: Fraction = 1.0
    top_k: Whole = 0
    max_tokens: Count = 256

    def made(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.top_k, self.max_tokens)


class PromptSpec(Strict):
    """How problems become tokens.

    Attributes:
        max_tokens: longest prompt; a longer one is an error.
        chat: render with the tokenizer's chat template; unset: if it has one.
        system: system message of the chat.
    """

    max_tokens: Count = 1024
    chat: bool | None = None
    system: str | None = None


class EvaluationSpec(Strict):
    """What is measured, and when.

    Attributes:
        task: the problems; all of them, so give the task a size.
        every: steps between evaluations; 0: only at the end.
        greedy: also answer each problem once at temperature 0 (pass@1 greedy).
        samples: answers per problem at the sampling of the run (avg@k, pass@k).
        ks: the k of pass@k; those above `samples` are refused.
        by: metadata keys to break accuracy down by.
        bins: break down by base-model difficulty: easy >= 0.75, medium, hard, hardest = 0.
        kl: measure how far the policy is from its start, on the sampled answers (loads `ref`);
            they must be drawn at the run's temperature, without top_p and top_k.
        samples_every: sampled answers also at the intermediate evaluations, not only at the end.
        sampling: overrides of the run's sampling.
    """

    task: Task
    every: Whole = 0
    greedy: bool = True
    samples: Whole = 8
    ks: list[Count] = [1, 8]
    by: list[str] = []
    bins: bool = False
    kl: bool = False
    samples_every: bool = False
    sampling: SamplingSpec | None = None


class CheckpointSpec(Strict):
    """When the state of the run is written, and how many states are kept. 0: only on signals."""

    every: Whole = 0
    keep: Count = 1


class StopSpec(Strict):
    """End early once a metric of the evaluation reaches a value; then cool down.

    Attributes:
        metric: a name as it is logged, e.g. `eval/greedy/level=2`.
        at_least: the value to reach.
        cooldown: further steps, over which every learning rate falls linearly to 0.
        after: not before this step.
    """

    metric: str
    at_least: float
    cooldown: Whole = 0
    after: Whole = 0


class BudgetSpec(Strict):
    """What a run may spend; it ends with the step that reaches any of these.

    Attributes:
        generated_tokens, trained_tokens: of all models together.
        demonstrations: expert responses that phases learnt from, counted each time.
        seconds: of training, evaluation left out.
    """

    generated_tokens: Positive | None = None
    trained_tokens: Positive | None = None
    demonstrations: Positive | None = None
    seconds: Positive | None = None


class Recipe(Strict):
    """A whole run.

    Attributes:
        about: the paper, and what departs from it.
        seed: of everything random in the run.
        steps: how often the loop goes round.
        staleness: 1 makes the next step's experience while this one updates: one update old.
        models: by name. `policy` learns; other names are read as columns (`ref_logprobs` reads
            model `ref`, by default the policy at the start) or learn in phases of their own.
        base: a recipe whose final model is the policy to start from, made once and cached.
        task, sampler: the training problems and how a step draws from them.
        rewards: what `score` computes; the first decides what counts as solved.
        experience: the stages of a step.
        phases: the updates of a step, in order.
    """

    about: str = ""
    seed: int = 0
    steps: Count
    staleness: Literal[0, 1] = 0
    models: dict[str, ModelSpec] = {}
    base: str | None = None
    learner: Learner = Field(default="torch", validate_default=True)
    generator: Generator = Field(default="hf", validate_default=True)
    optimizers: dict[str, OptimizerSpec] = {"main": OptimizerSpec()}
    prompt: PromptSpec = PromptSpec()
    sampling: SamplingSpec = SamplingSpec()
    task: Task
    sampler: Sampler = Field(default="shuffled", validate_default=True)
    rewards: dict[str, Reward] = {}
    buffers: dict[str, Buffer] = {}
    experience: list[Stage] = []
    phases: dict[str, PhaseSpec] = {}
    evaluation: EvaluationSpec | None = None
    checkpoint: CheckpointSpec = CheckpointSpec()
    stop: StopSpec | None = None
    budget: BudgetSpec = BudgetSpec()
    observers: list[Observer] = Field(
        default=["jsonl", "tensorboard", "trajectories"], validate_default=True
    )

    @field_validator("base")
    @classmethod
    def _exists(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                locate(value)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def trained(self) -> frozenset[str]:
        """The models that learn, by name: the policy, and those with phases of their own."""
        return frozenset({"policy", *(phase.model for phase in self.phases.values())})
