"""The promises of every kind of part, and the check that asks for all of them."""

from __future__ import annotations

import inspect
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import numpy
import torch

from didact.core.bind import columns_of
from didact.plugins.spec import CALLED
from didact.plugins.testing import advantages, flow, losses, providers, rules
from didact.plugins.testing.part import Broken, Part, demand, settings_of
from didact.plugins.testing.state import picture

Promise = Callable[[Part], None]


def part_is_documented(part: Part) -> None:
    """A docstring whose first line says what it is, and one for each of its settings' names."""
    demand(
        bool(part.entry.summary.strip()), "it has no docstring; its first line is its description"
    )


def part_has_settings_that_a_recipe_can_give(part: Part) -> None:
    """No reserved names, and a type for each setting."""
    settings = settings_of(part)
    signature = inspect.signature(part.entry.factory).parameters
    untyped = [
        name
        for name in settings.model_fields
        if name in signature and signature[name].annotation is inspect.Parameter.empty
    ]
    demand(not untyped, f"settings without a type: {', '.join(untyped)}")
    read = columns_of(part.entry.factory) if part.entry.kind in CALLED - {"critic"} else ()
    none = inspect.Parameter.empty
    meant = [name for name in read if name in signature and signature[name].default is not none]
    demand(not meant, f"{', '.join(meant)} has a default, but no '*' before it makes it a setting")


GENERAL: tuple[Promise, ...] = (part_is_documented, part_has_settings_that_a_recipe_can_give)
PROMISES: Mapping[str, tuple[Promise, ...]] = {
    "loss": (
        losses.loss_is_one_number_per_token_in_the_dtype_it_was_given,
        losses.loss_ignores_what_stands_where_no_loss_is,
        losses.loss_does_not_depend_on_the_order_of_rows,
        losses.loss_does_not_depend_on_micro_batches,
        losses.loss_has_a_gradient_that_stays_inside_the_mask,
        losses.loss_is_finite_on_degenerate_input,
        losses.loss_vanishes_where_it_says_so,
        losses.tensor_function_is_pure,
    ),
    "weight": (
        losses.weight_is_a_number_without_gradient_per_token_or_row,
        losses.weight_ignores_what_stands_where_no_loss_is,
        losses.weight_does_not_depend_on_order_or_micro_batches,
        losses.weight_is_finite_on_degenerate_input,
        losses.tensor_function_is_pure,
    ),
    "rule": (
        rules.rule_says_what_it_reads,
        rules.rule_does_not_depend_on_order_micro_batches_or_padding,
    ),
    "advantage": (
        advantages.advantage_returns_what_it_declares,
        advantages.advantage_does_not_depend_on_the_order_of_trajectories,
        advantages.advantage_is_finite_on_degenerate_input,
        advantages.advantage_is_pure,
        advantages.advantage_survives_a_checkpoint,
    ),
    "reward": (
        providers.reward_is_one_number_or_failure_per_trajectory,
        providers.reward_does_not_depend_on_its_company,
        providers.reward_is_repeatable_and_can_be_sent_to_a_worker,
        providers.reward_bears_degenerate_input,
    ),
    "critic": (providers.critic_says_something_about_each_trajectory,),
    "environment": (providers.environment_answers_with_text_or_none,),
    "source": (flow.source_gives_trajectories_for_each_group, flow.source_is_decided_by_the_seed),
    "stage": (flow.stage_turns_groups_into_groups, flow.stage_is_repeatable_and_bears_nothing),
    "sampler": (
        flow.sampler_draws_problems_of_its_task,
        flow.sampler_is_decided_by_the_seed_and_its_state,
        flow.sampler_bears_a_small_task,
    ),
    "buffer": (flow.buffer_gives_what_it_was_given, flow.buffer_survives_a_checkpoint),
    "task": (flow.task_is_an_indexable_collection,),
    "observer": (providers.observer_listens_to_events_that_exist,),
}
"""What each kind promises beside being documented; other kinds promise nothing more."""


def promises_of(part: Part) -> tuple[Promise, ...]:
    """Everything that a part of its kind promises."""
    return (*GENERAL, *PROMISES.get(part.entry.kind, ()))


def kept(part: Part, promise: Promise) -> None:
    """Ask for one promise, within the example's time.

    Raises:
        Broken: it is not kept; says the part, its plug-in and the promise.
    """
    head = f"{part.entry.kind} '{part.entry.name}' of '{part.entry.origin}'"
    said = promise.__name__.replace("_", " ")
    try:
        with within(part.example.seconds), undisturbed():
            promise(part)
    except Broken as broken:
        raise Broken(f"{head}: {said}: {broken}") from broken.__cause__
    except Exception as error:  # a stranger's code may raise anything
        told = traceback.format_exc(limit=-2).strip()
        raise Broken(
            f"{head}: {said}: it raised {type(error).__name__}: {error}\n{told}"
        ) from error


def check(part: Part) -> None:
    """Ask for every promise of a part.

    Raises:
        Broken: some are not kept; says which, and how.
    """
    broken = []
    for promise in promises_of(part):
        try:
            kept(part, promise)
        except Broken as error:
            broken.append(str(error))
    if broken:
        raise Broken("\n".join(broken))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Raise `Broken` if the block draws from a random generator that all share, or seeds it."""
    before = _shared()
    yield
    demand(_shared() == before, "it draws from a global random generator, or seeds it")


def _shared() -> list[object]:
    """The states of the generators of Python, numpy and torch."""
    return [random.getstate(), picture(numpy.random.get_state()), torch.get_rng_state().tolist()]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `Broken` if the block takes longer; in the main thread of a POSIX process."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise Broken(f"it takes longer than {seconds:g} s (Example.seconds)")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
