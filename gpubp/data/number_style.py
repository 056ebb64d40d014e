"""Numbers as people write them: ``$1,210``, ``45%``, ``170 cm``, ``1.234,56``, ``1 234``, ``1'234``, ``(12.50)``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?inf(?:inity)?", re.ASCII | re.IGNORECASE)
SEPARATORS = {",": ",", ".": ".", " ": "[ \u00a0\u2009\u202f]", "'": "['\u2019]"}  # of thousands, with variants
CURRENCIES = frozenset("us$ r$ rs. rs kr zł eur usd gbp jpy chf inr cny sek nok dkk".split())
# Units that may follow a number without a space; after a space, any word may.
UNITS = frozenset(
    "% ‰ ° °c °f mm cm m km µm nm in ft yd mi mg g kg t lb lbs oz ml cl dl l ms s sec min h hr hrs d w kw mw kwh v a "
    "ma hz khz mhz ghz kb mb gb tb j kj mj kcal cal pa hpa kpa bar psi k km/h kmh mph m/s m2 m² m3 m³ km2 km² ha sqft "
    "cc hp bhp ps rpm kmpl km/kg px pt x".split()
)
NUMBER_WITH_UNIT = re.compile(
    r"(?P<open>\()?\s*(?P<sign>[-+\u2212])?\s*(?P<before>[^\s\d.,'()+\-\u2212]{1,3}\.?)?\s*(?P<sign_inside>[-+\u2212])?"
    r"(?P<body>[.,]?\d(?:[\d.,'\u2019 \u00a0\u2009\u202f]*\d)?[.,]?)(?P<exponent>[eE][-+]?\d+)?"
    r"(?P<space>\s*)(?P<after>[^\s\d()][^()]{0,15})?(?P<close>\))?"
)


@dataclass(frozen=True)
class NumberStyle:
    """How the numbers of a column are written.

    Attributes
    ----------
    decimal : {".", ","}
    thousands : {"", ",", ".", " ", "'"}
    unit : str
        The text before or after each number, in lower case: "$", "%", "cm".
    """

    decimal: str = "."
    thousands: str = ""
    unit: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether a number without a unit or separators has its usual meaning in programs."""
        return self.decimal == "." and self.thousands != "."

    def parse(self, text: str) -> float | None:
        """Read a number in this style, or None if it has another; the unit may be absent."""
        if self.is_plain and PLAIN_NUMBER.fullmatch(text):
            return float(text)
        parts = split_number(text)
        if parts is None or parts.unit not in ("", self.unit) or not self._has_body(parts.body):
            return None
        body = parts.body
        for variant in SEPARATORS[self.thousands].strip("[]") if self.thousands else "":
            body = body.replace(variant, "")
        number = float(body.replace(self.decimal, ".") + parts.exponent)
        return -number if parts.negative else number

    def with_decimal(self, decimal: str) -> NumberStyle:
        """The style with another decimal sign, which then does not separate thousands."""
        other = "," if decimal == "." else "."
        return replace(self, decimal=decimal, thousands=other if self.thousands == decimal else self.thousands)

    def describe(self) -> str:
        """Describe how the numbers are written, for a note."""
        how = [f'"{self.unit}" left off'] if self.unit else []
        if self.thousands:
            how.append(f'"{self.thousands}" between thousands')
        if self.decimal == ",":
            how.append('"," before decimals')
        return ", ".join(how)

    def _has_body(self, body: str) -> bool:
        point = re.escape(self.decimal)
        whole = r"\d+"
        if self.thousands:
            separator = SEPARATORS[self.thousands].replace(".", r"\.")
            # Two digits between separators are allowed too: 12,34,567.
            whole += rf"|[1-9]\d{{0,2}}(?:{separator}\d{{2,3}})*{separator}\d{{3}}"
        return re.fullmatch(rf"(?:{whole})(?:{point}\d*)?|{point}\d+", body, re.ASCII) is not None


@dataclass(frozen=True)
class NumberParts:
    """The parts of a number, with digits and separators not yet interpreted."""

    negative: bool
    body: str
    exponent: str
    unit: str


def split_number(text: str) -> NumberParts | None:
    """Split a text into sign, unit and digits; None if it is not a number in any style."""
    match = NUMBER_WITH_UNIT.fullmatch(text)
    if match is None or (match["open"] is None) != (match["close"] is None):
        return None
    before, after = (match["before"] or "").lower(), (match["after"] or "").strip().lower()
    if (before and after) or (before and not _is_currency(before)):
        return None
    if after and not match["space"] and after not in UNITS and not _is_currency(after):
        return None
    if match["sign"] and match["sign_inside"]:
        return None
    sign = match["sign"] or match["sign_inside"]
    negative = match["open"] is not None or sign in ("-", "\u2212")
    return NumberParts(negative, match["body"], match["exponent"] or "", before or after)


def possible_styles(texts: Iterable[str]) -> list[NumberStyle]:
    """Find the styles in which all these texts are numbers, with at most one unit among them.

    There are several if these texts do not show whether "1,234" has thousands or decimals.
    """
    parts = []
    for text in texts:
        part = split_number(text)
        if part is None:
            return []
        parts.append(part)
    units = {part.unit for part in parts if part.unit}
    # A zero may lack the unit; another number without it may mean something else: 45% and 0.45.
    bare = [part for part in parts if not part.unit and part.body.strip("0.,")]
    if len(units) > 1 or (units and bare and not all(map(_is_currency, units))):
        return []
    unit = next(iter(units), "")
    bodies = {part.body for part in parts}
    letters = set("".join(bodies))
    used = ["", *(mark for mark, variants in SEPARATORS.items() if letters & set(variants.strip("[]")))]
    styles = [NumberStyle(decimal, mark, unit) for decimal, mark in product(".,", used) if decimal != mark]
    # Separators that do not occur give no information: the plainest style represents the others.
    styles = [style for style in styles if style.decimal == "." or "," in letters or style.thousands == "."]
    return [
        style
        for style in styles
        if all(style._has_body(body) for body in bodies) and (not style.thousands or _occurs(style.thousands, bodies))
    ]


def _occurs(thousands: str, bodies: Iterable[str]) -> bool:
    return any(set(body) & set(SEPARATORS[thousands].strip("[]")) for body in bodies)


def _is_currency(text: str) -> bool:
    return text in CURRENCIES or (len(text) == 1 and unicodedata.category(text) == "Sc")
