"""A run's trajectories can be read in the terminal."""

import io

import pytest
from rich.console import Console

from didact.core.errors import RunError
from didact.core.report import view


def screen():
    return Console(file=io.StringIO(), width=100)


def test_without_a_terminal_the_first_groups_are_printed(run):
    console = screen()
    assert view(run, first=2, console=console) == 2
    text = console.file.getvalue()
    assert "step 1 · train/1" in text
    assert "step 1 · train/2" in text
    assert "step 11" not in text
    assert "1/8 · demonstration · reward" in text
    assert "truncated" in text
    assert "critic: Check <i>step</i> two." in text


def test_keys_go_on_back_and_to_a_step(run):
    words = iter(["", "b", "11", "q"])
    console = screen()
    view(run, console=console, ask=lambda _: next(words))
    heads = [line.split("─")[1].strip() for line in console.file.getvalue().splitlines()
             if line.startswith("╭─ step")]  # fmt: skip
    assert [head[:18].rstrip() for head in heads] == [
        "step 1 · train/1",
        "step 1 · train/2",
        "step 1 · train/1",
        "step 11 · train/11",
    ]


def test_the_end_is_said(run):
    words = iter([*[""] * 6, "q"])
    console = screen()
    assert view(run, console=console, ask=lambda _: next(words)) == 4
    assert "that was the last group" in console.file.getvalue()


def test_an_origin_that_does_not_occur_is_an_error(run):
    with pytest.raises(RunError, match="of origin 'replay'"):
        view(run, origin="replay", console=screen())


def test_a_run_without_trajectories_is_an_error(run):
    (run / "trajectories.jsonl").unlink()
    with pytest.raises(RunError, match="no trajectories"):
        view(run, console=screen())


def test_a_line_that_was_cut_off_is_reported(run):
    file = run / "trajectories.jsonl"
    file.write_text(file.read_text()[:-20])
    console = screen()
    view(run, first=99, console=console)
    assert "1 unreadable or cut off" in console.file.getvalue()
