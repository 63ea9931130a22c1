"""Numbers are read exactly, and spellings of one answer coincide."""

from fractions import Fraction as F

import pytest

from didact.rewards.notation import (
    canonical,
    latex_notation,
    power_notation,
    read_number,
    same_number,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", F(42)),
        ("-3.50", F(-7, 2)),
        ("\N{MINUS SIGN}5", F(-5)),
        ("1,234,567.5", F(2469135, 2)),
        ("1{,}000", F(1000)),
        ("$12$", F(12)),
        (r"\$12.50", F(25, 2)),
        ("-$5", F(-5)),
        (".5", F(1, 2)),
        ("3.", F(3)),
        ("3/4", F(3, 4)),
        (r"\frac{-3}{4}", F(-3, 4)),
        (r"-\dfrac12", F(-1, 2)),
        (r"918\frac{1}{2}", F(1837, 2)),
        ("1 1/2", F(3, 2)),
        ("-1 1/2", F(-3, 2)),
        ("1e-8", F(1, 10**8)),
        (r"4.5 \times 10^{33}", F(45) * 10**32),
        ("3x10^8", F(3) * 10**8),
        ("10^{-2}", F(1, 100)),
        (r"\textbf{(051) }", F(51)),
        (r"\text{12}", F(12)),
    ],
)
def test_it_reads(text, value):
    number = read_number(text)
    assert number is not None and number.value == value and not number.percent


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1/0",
        "1,23",
        "210^5",
        "e5",
        "1e999999999",
        "9" * 201,
        "1+1",
        "()",
        "(1)(2)",
        "(1,2)",
        r"\frac{x}{2}",
        "5 m",
    ],
)
def test_it_does_not_read(text):
    assert read_number(text) is None


def test_percent_may_stand_for_either_and_signs_on_both_cancel():
    half, fifty, percent = map(read_number, ("0.5", "50", r"50\%"))
    assert same_number(half, percent) and same_number(fifty, percent)
    assert not same_number(half, fifty)
    assert not same_number(read_number("1%"), read_number("100%"))


def test_tolerance_is_the_wider_of_absolute_and_relative():
    a, b = read_number("101"), read_number("100")
    assert not same_number(a, b)
    assert same_number(a, b, absolute=1.0) and not same_number(a, b, absolute=0.99)
    assert same_number(a, b, relative=0.011) and not same_number(a, b, relative=0.009)


def test_computers_notation_becomes_latex():
    assert power_notation("1.5e-8 m, 2E3") == r"1.5 \times 10^{-8} m, 2 \times 10^{3}"
    assert power_notation("2e, x1e5, theme") == "2e, x1e5, theme"
    assert latex_notation("x**2 - y**10") == "x^2 - y^{10}"
    assert latex_notation("asin(x)/pi") == r"\arcsin (x)/\pi "
    assert latex_notation(r"\sin x + \text{sin}") == r"\sin x + \text{sin}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\dfrac\pi2)".replace(r"\pi2", r"{\pi}{2}")),
        (r"\frac12", r"\frac{1}{2}"),
        (r"90^\circ", "90"),
        (r"\text{east}", "east"),
        ("x_{1}", "x_1"),
        (r"$10\,000$", "10000"),
    ],
)
def test_one_answer_has_one_spelling(one, other):
    assert canonical(one) == canonical(other)


def test_case_and_sign_make_a_difference():
    assert canonical("x") != canonical("X")
    assert canonical("-x") != canonical("x")
