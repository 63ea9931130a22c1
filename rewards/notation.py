"""Numbers as people and models write them, read exactly; and answers in one spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 200
"""Characters: longer texts are no plain number."""

GREATEST_EXPONENT = 400
"""Powers of ten beyond this are left to others: exact fractions of them are slow."""

PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*([^{}]+?)\s*\}|(\d))\s*(?:\{\s*([^{}]+?)\s*\}|(\d))")
SCIENTIFIC = re.compile(
    rf"({PLAIN})(?:[eE]([-+]?\d+)|\s*(?:\\times|\\cdot|\*|x|\N{{MULTIPLICATION SIGN}})\s*"
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d+)))"
)
POWER = re.compile(r"10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d+))")
E_NOTATION = re.compile(r"(?<![\w.\\])(\d+(?:\.\d*)?|\.\d+)[eE]([-+]?\d+)(?![\w.])")
CALLED = re.compile(
    r"(?<![\\A-Za-z{])(a?(?:sin|cos|tan)h?|arc(?:sin|cos|tan)|sec|csc|cot|exp|ln|log|pi|theta)"
    r"(?![A-Za-z])"
)
INVERSE = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
RAISED = re.compile(r"\s*(?:\*\*|\^)\s*(-?\d{2,}|-\d|\\frac\{[^{}]*\}\{[^{}]*\})")
SPACES = re.compile(r"\\[,;:! ]|\\q?quad\b|~|\s+")
CURRENCY = re.compile(r"^([-+]?)\s*(?:\\?\$|\\text\s*\{\s*\\?\$\s*\}|[€£])")
WORDY = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, and whether a percent sign stood behind it (the value is before it)."""

    value: Fraction
    percent: bool = False

    def readings(self) -> tuple[Fraction, ...]:
        """What it may stand for: 50% is 50 or 1/2."""
        return (self.value, self.value / 100) if self.percent else (self.value,)


def read_number(text: str) -> Number | None:
    r"""The number a text is, exactly; None if it is anything else.

    Text style and parentheses around it, signs, thousands commas, decimals, a currency sign in
    front, a percent sign behind, `a/b`, `\frac{a}{b}`, mixed numbers (`1\frac{1}{2}`,
    `1 1/2`), `1e-8`, `3 \times 10^{8}`.
    """
    if len(text) > LONGEST:
        return None
    text = WORDY.sub(r"\1", text).strip().strip("$").strip()
    text = re.sub(r"^\((.*)\)$", r"\1", text).strip()
    text = text.replace("\N{MINUS SIGN}", "-").replace("{,}", ",").rstrip(".")
    text = re.sub(r"^\\\((.*)\\\)$", r"\1", CURRENCY.sub(r"\1", text)).replace("\\!", "").strip()
    percent = re.search(r"\s*\\?%$", text)
    text = text[: percent.start()] if percent else text
    negative, text = text.startswith("-"), text.lstrip("+-").strip()
    value = _unsigned(text)
    return None if value is None else Number(-value if negative else value, bool(percent))


def same_number(a: Number, b: Number, *, absolute: float = 0.0, relative: float = 0.0) -> bool:
    """Whether |a - b| <= max(absolute, relative |b|) for some reading of both.

    Percent signs are ignored if both have one.
    """
    if a.percent and b.percent:
        pairs = [(a.value, b.value)]
    else:
        pairs = [(x, y) for x in a.readings() for y in b.readings()]
    slack, share = Fraction(absolute), Fraction(relative)
    return any(abs(x - y) <= max(slack, share * abs(y)) for x, y in pairs)


def power_notation(text: str) -> str:
    r"""Programmers' `1.5e-8` as `1.5 \times 10^{-8}`; computer algebra reads E as a symbol."""
    return E_NOTATION.sub(lambda m: rf"{m[1]} \times 10^{{{int(m[2])}}}", text)


def latex_notation(answer: str) -> str:
    r"""An answer written for a computer (`2**10*pi`, `sin(x)`, `1e-8`) as LaTeX means it."""
    answer = power_notation(answer.replace("\N{MINUS SIGN}", "-"))
    answer = RAISED.sub(r"^{\1}", answer).replace("**", "^")
    return CALLED.sub(lambda m: f"\\{INVERSE.get(m[1], m[1])} ", answer)


def canonical(text: str) -> str:
    r"""One spelling for answers that differ in typesetting only.

    Dollar signs, spaces, `\left`, `\text{}`, fraction styles, degree signs and a final full stop
    go; `\frac12` gets its braces. Case stays: x is not X.
    """
    text = text.strip().strip("$").strip().rstrip(".")
    text = WORDY.sub(r"\1", text).replace("{,}", ",")
    text = re.sub(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|limits)\b", "", text)
    text = re.sub(r"\\[dtc]frac\b", r"\\frac", text)
    text = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})", "", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\^(\\frac\{[^{}]*\}\{[^{}]*\})", r"^{\1}", text)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"([_^])\s*\{\s*(\w)\s*\}", r"\1\2", text)
    return SPACES.sub("", text.replace("\\$", "").replace("\\%", "%"))


def _unsigned(text: str) -> Fraction | None:
    if re.fullmatch(PLAIN, text):
        return _plain(text)
    whole, rest = _leading_whole(text)
    frac = FRACTION.fullmatch(rest)
    if frac:
        return _ratio(frac[1] or frac[2], frac[3] or frac[4], whole)
    slash = re.fullmatch(r"([^/]+)/([^/]+)", rest)
    if slash:
        return _ratio(slash[1].strip(), slash[2].strip(), whole)
    product, power = SCIENTIFIC.fullmatch(text), POWER.fullmatch(text)
    if product:
        return _power(_plain(product[1]), product[2] or product[3] or product[4])
    return _power(Fraction(1), power[1] or power[2]) if power else None


def _power(base: Fraction, exponent: str) -> Fraction | None:
    ten = int(exponent)
    return None if abs(ten) > GREATEST_EXPONENT else base * Fraction(10) ** ten


def _leading_whole(text: str) -> tuple[int, str]:
    r"""The whole part of a mixed number (`1\frac{1}{2}`, `1 1/2`) and the rest; 0 without one."""
    mixed = re.match(r"(\d+)\s*(?=\\[dtc]?frac)|(\d+)\s+(?=\d+\s*/)", text)
    return (int(mixed[1] or mixed[2]), text[mixed.end() :]) if mixed else (0, text)


def _ratio(above: str, below: str, whole: int) -> Fraction | None:
    sign = -1 if above.startswith("-") != below.startswith("-") else 1
    above, below = above.lstrip("-"), below.lstrip("-")
    if not (re.fullmatch(PLAIN, above) and re.fullmatch(PLAIN, below)):
        return None
    divisor = _plain(below)
    return None if divisor == 0 else whole + sign * _plain(above) / divisor


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))
