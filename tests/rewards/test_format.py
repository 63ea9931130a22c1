"""Rewards for form."""

import pytest

from didact.rewards.format import (
    block_present,
    boxed_present,
    full_match,
    tag_share,
    tagged_format,
    thinks_first,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        ("<think>\na\n</think>\n\n<answer>b</answer>\n", 1.0),
        ("<think>a</think>so<answer>b</answer>", 0.0),
        ("hm <think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer> bye", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a</think><think>a</think><answer>b</answer>", 0.0),
        ("<think> </think><answer>b</answer>", 0.0),
        ("<think>a<answer>b</answer></think>", 0.0),
        ("</think>a<think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("", 0.0),
    ],
)
def test_tagged_format_is_all_or_nothing(response, text, value):
    assert tagged_format(response(text)) == value


def test_the_prompt_may_have_opened_the_first_tag(response):
    said = response("a</think><answer>b</answer>")
    assert tagged_format(said) == 0.0
    assert tagged_format(said, opened=True) == 1.0
    assert thinks_first(said, opened=True) == 1.0
    assert tag_share(said) == 0.75
    assert tag_share(said, opened=True) == 1.0


def test_other_tags_may_be_named(response):
    said = response("<plan>a</plan><code>b</code>")
    assert tagged_format(said, tags=("plan", "code")) == 1.0
    assert block_present(said, tag="code") == 1.0
    assert block_present(response("</code><code>"), tag="code") == 0.0


def test_a_box_must_be_complete_and_not_blank(response):
    assert boxed_present(response(r"\boxed{1}")) == 1.0
    assert boxed_present(response(r"\boxed{1")) == 0.0
    assert boxed_present(response(r"\boxed{ }")) == 0.0


def test_full_match_sees_the_whole_response(response):
    assert full_match(response(" a\nb "), pattern="a.b") == 1.0
    assert full_match(response(" a\nb "), pattern="a.b", strip=False) == 0.0
    assert full_match(response("a\nb c"), pattern="a.b") == 0.0
