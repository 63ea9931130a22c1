"""Rewrites: sampled under the critique, trained under the question."""

from dataclasses import replace

import pytest

from didact.core.errors import RecipeError
from didact.core.types import Feedback
from didact.feedback.refine import RefinementSource

SHORT = "Q{question} R{response} C{critique}"


def criticised(tools, group, *drafts):
    return group.add(
        tools.said(text, group.prompt, feedback=tuple(Feedback(c, "x") for c in critique))
        for text, *critique in drafts
    )


def test_each_criticised_member_is_rewritten_under_question_response_and_critique(tools):
    run = tools.make_run(lambda context, seed: f"<{context}>", version=2)
    one = criticised(tools, tools.group("a", "1+1"), ("3", "no"), ("2",), ("4", "no", "lower"))
    two = criticised(tools, tools.group("b", "2+2"), ("5",))
    rows = RefinementSource(template=SHORT).extend([one, two], run)
    assert [[m.text for m in row] for row in rows] == [
        ["<Q1+1 R3 Cno>", "<Q1+1 R4 Cno\nlower>"],
        [],
    ]
    assert run.metrics["tokens/generated"] == len("<Q1+1 R3 Cno>") + len("<Q1+1 R4 Cno lower>") + 2


def test_a_rewrite_is_rerooted_under_the_original_prompt_and_inherits_nothing(tools):
    group = criticised(tools, tools.group("a", "1+1"), ("3", "SECRET"))
    draft = group.members[0].with_signals(reward=1.0, success=0.0)
    draft = draft.with_columns(behavior_logprobs=draft.tokens.float())
    run = tools.make_run(lambda context, seed: "2", version=2)
    ((new,),) = RefinementSource(template=SHORT).extend(
        [replace(group, members=(replace(draft, truncated=True),))], run
    )
    assert new.prompt is group.prompt
    trained = [*new.prompt.tokens.tolist(), *new.tokens.tolist()]
    assert tools.Letters().text(run.generators["policy"].calls[0][0][0].context).count("SECRET")
    assert not {ord(c) for c in "SECRET"} & set(trained)
    assert (new.origin, new.version, new.truncated) == ("refinement", 2, False)
    assert new.signals == {} and new.columns == {} and new.feedback == ()
    assert new.trainable.tolist() == [True, True]


def test_a_chat_keeps_its_other_messages(tools):
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "1+1"}]
    run = tools.make_run(lambda context, seed: context)
    group = criticised(tools, tools.group("a", chat), ("3", "no"))
    ((new,),) = RefinementSource(template=SHORT).extend([group], run)
    assert new.text == "<system>S<user>Q1+1 R3 Cno"


def test_braces_and_field_names_in_texts_are_left_alone(tools):
    run = tools.make_run(lambda context, seed: context)
    group = criticised(tools, tools.group("a", "{response}"), (r"\boxed{3}", "{question} {no}"))
    source = RefinementSource(template=r"\boxed{} " + SHORT)
    ((new,),) = source.extend([group], run)
    assert new.text == r"\boxed{} Q{response} R\boxed{3} C{question} {no}"


def test_rewrites_have_other_seeds_than_samples_and_than_each_other(tools):
    from didact.feedback.policy import PolicySource

    run = tools.make_run()
    group = criticised(tools, tools.group("a"), ("3", "no"), ("4", "no"))
    RefinementSource(n=2).extend([group], run)
    PolicySource(n=4).extend([group], run)
    seeds = [r.seed for requests, _ in run.generators["policy"].calls for r in requests]
    assert len(set(seeds)) == 8


def test_the_default_template_has_three_labelled_blocks(tools):
    run = tools.make_run(lambda context, seed: context)
    group = criticised(tools, tools.group("a", "1+1"), ("3", "wrong!"))
    ((new,),) = RefinementSource(max_tokens=5000).extend([group], run)
    assert "1+1" in new.text and "wrong!" in new.text and "{" not in new.text
    assert sum(line.endswith(":") for line in new.text.splitlines()) == 3


def test_a_template_without_a_place_for_the_critique_is_refused():
    with pytest.raises(RecipeError, match=r"lacks \{critique\}"):
        RefinementSource(template="{question}{response}")
    assert RefinementSource().needs == {"feedback"}


def test_the_default_template_can_be_read_by_the_embedded_tokenizer(tools):
    from didact.core.backends.tokenizers import character_tokenizer
    from didact.core.render import TextRenderer

    run = tools.make_run(lambda context, seed: "")
    run.renderer = TextRenderer(character_tokenizer())
    group = criticised(tools, tools.group("a", "1+1"), ("3", "wrong!"))
    RefinementSource().extend([group], run)
    (request,) = run.generators["policy"].calls[0][0]
    said = run.renderer.text(request.context)
    assert "1+1" in said and "wrong!" in said and said.count("{") == 0
