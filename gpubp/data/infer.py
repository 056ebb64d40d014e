"""Infers the columns of a table from its cells: numbers in which style, categories, or neither for certain.

Surprising inferences are reported. Cells that contradict the others are an error if they are few; otherwise they are
reported, with what the user can do about it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from gpubp.data.cells import Cells, PlainNumbers, TextCells, number_as_text
from gpubp.data.dates import parse_date, possible_formats, varying_parts
from gpubp.data.missing import PLAINEST, declared_numbers, is_declared, is_missing
from gpubp.data.number_style import PLAIN_NUMBER, NumberStyle, possible_styles, split_number
from gpubp.data.schema import ColumnSchema, Schema, TableOptions
from gpubp.data.source import option, printable
from gpubp.errors import DataError

# Cells that contradict all others are mistakes if they are at most this fraction of the cells, or at most this many; if
# there are more, all cells are categories.
FEW_TEXTS_FRACTION = 0.05
FEW_TEXTS = 3
MOST_NUMBERED_CODES = 20  # up to this many distinct numbers among texts may be codes; more are measurements
LONGEST_LIST = 3  # texts shown in a message
GROUPED_BY_POINTS = re.compile(r"[-+]?[1-9]\d{0,2}(?:\.\d{3})+", re.ASCII)
BOOLEAN_TEXTS = frozenset({"true", "false"})

Where = Callable[[int, str], str]
Say = Callable[[str], None]


def infer(cells: Cells, options: TableOptions, where: Where, say: Say) -> tuple[Schema, dict[str, PlainNumbers]]:
    """Infer the schema of a table.

    Parameters
    ----------
    cells : Cells
    options : TableOptions
    where : callable
        ``where(row, column)`` names a cell for a message.
    say : callable
        Called with notices for the user.

    Returns
    -------
    schema : Schema
    plain : dict of str to PlainNumbers
        The parsed cells behind the schema, for the next reader of the columns.

    Raises
    ------
    DataError
        If a few cells of a column contradict the others, or a column is ambiguous.
    """
    read = [name for name in cells.names if name not in options.ignore]
    plain = dict(zip(read, cells.plain_numbers(read), strict=True))
    columns = {name: ColumnSchema("ignored", "--ignore") for name in options.ignore}
    problems: dict[str, str] = {}
    undecided: dict[str, list[NumberStyle]] = {}
    decimals: set[str] = set() if options.decimal is None else {options.decimal}
    for name in read:
        facts = _Facts(name, cells, plain[name], options)
        styles = _number_styles(facts)
        if len({style.decimal for style in styles}) > 1:
            undecided[name] = styles
            continue
        columns[name] = _decide(facts, styles[0] if styles else None, where, say, problems)
        if columns[name].kind == "number" and (decimal := _decimal_mark(facts, columns[name].style)):
            decimals.add(decimal)
    for name, styles in undecided.items():
        facts = _Facts(name, cells, plain[name], options)
        columns[name] = _decide(facts, _choose_style(facts, styles, decimals, where), where, say, problems)
    ordered = {name: columns[name] for name in cells.names}
    return Schema(ordered, options, problems), plain


def header_is_a_row(cells: Cells, schema: Schema) -> bool:
    """Whether the column names look like the cells below: numbers above numbers, known texts above texts."""
    names: dict[str, list[str]] = {"number": [], "category": []}
    for name, column in schema.columns.items():
        if column.kind in names and column.why != "empty":
            names[column.kind].append(name)
    numbers = names["number"]
    recurs = [name in cells.texts(name) for name in names["category"]]
    if not all(split_number(name) or PLAIN_NUMBER.fullmatch(name) for name in numbers):
        return False
    if all(recurs) or not numbers:
        return all(recurs) and bool(recurs)
    # Years and other ascending numbers may well be column names.
    years = [float(name) for name in numbers if name.isdecimal()]
    return len(years) < len(numbers) or years != sorted(set(years))


class _Facts:
    """The cells of a column, grouped by what they can be.

    Attributes
    ----------
    n_plain : int
        Cells that are plain numbers.
    texts : dict of str to int
        Counts of every other text that is not a marker of a missing value.
    markers : dict of str to int
        Counts of texts that mark missing values only among numbers.
    missing : tuple of str
        Markers of missing values that occur anywhere.
    """

    def __init__(self, name: str, cells: Cells, plain: PlainNumbers, options: TableOptions) -> None:
        self.name, self.cells, self.plain, self.options = name, cells, plain, options
        self.texts: dict[str, int] = {}
        self.markers: dict[str, int] = {}
        missing = []
        odd = cells.texts(name, plain.odd) if len(plain.odd) else []
        for text, count in Counter(odd).items():
            if is_missing(text, options.missing):
                missing.append(text)
            elif is_missing(text, among_numbers=True):
                self.markers[text] = count
            else:
                self.texts[text] = count
        self.missing = tuple(sorted(text for text in missing if text))
        self.n_plain = cells.rows - len(odd)
        if declared := declared_numbers(options.missing):
            self.n_plain -= int(np.isin(plain.values, declared).sum())

    @property
    def all_plain(self) -> bool:
        """Whether every filled cell is a plain number, even of more than 15 digits."""
        return all(PLAIN_NUMBER.fullmatch(text) for text in self.texts)

    def all_texts(self) -> Counter[str]:
        """Count the texts of all filled cells, including plain numbers."""
        counts = Counter(self.cells.texts(self.name))
        unwanted = [text for text in counts if text in self.markers or is_missing(text, self.options.missing)]
        for text in unwanted:
            del counts[text]
        return counts

    def place(self, text: str, where: Where) -> str:
        """Name the first cell that holds this text."""
        return where(self.cells.texts(self.name).index(text), self.name)


def _number_styles(facts: _Facts) -> list[NumberStyle]:
    """Find the styles in which all cells of a column are numbers; empty if there is none."""
    asked = facts.options.kinds.get(facts.name)
    if asked not in (None, "number") or not (facts.n_plain or facts.texts):
        return []
    if facts.all_plain:
        if asked is None and facts.plain.zero_padded:
            return []
        return _plain_styles(facts)
    if _is_boolean(facts) or (asked is None and not any(map(split_number, facts.texts))):
        return []
    return _preferred(facts, possible_styles(facts.all_texts()))


def _plain_styles(facts: _Facts) -> list[NumberStyle]:
    """Find the styles of plain numbers, including thousands if "1.234" may mean them."""
    if facts.options.decimal == "," and not facts.texts and (styles := possible_styles(facts.all_texts())):
        return _preferred(facts, styles)
    return [NumberStyle()]


def _preferred(facts: _Facts, styles: list[NumberStyle]) -> list[NumberStyle]:
    """Keep the styles with the user's decimal sign, if there are any."""
    return [style for style in styles if style.decimal == facts.options.decimal] or styles


def _choose_style(facts: _Facts, styles: list[NumberStyle], decimals: set[str], where: Where) -> NumberStyle:
    """Choose what a comma or point means by the other columns, the currency or the delimiter."""
    by_decimal = {style.decimal: style for style in styles}
    if len(decimals) == 1:
        return by_decimal[next(iter(decimals))]
    if not any("," in text for text in facts.texts):
        return by_decimal["."]  # "1.234" alone is a decimal number
    if not (isinstance(facts.cells, TextCells) and facts.cells.delimiter == ";"):
        return by_decimal["."]
    text = next(text for text in facts.texts if "," in text)
    raise DataError(
        f'{facts.place(text, where)}: "{printable(text)}" may have decimals or thousands behind the comma, and no '
        "other number tells; say --decimal , or --decimal ."
    )


def _decimal_mark(facts: _Facts, style: NumberStyle) -> str | None:
    """The decimal sign that a column of numbers uses, None if it has no decimals."""
    if style.decimal == "," or style.thousands == ",":
        return "," if style.decimal == "," else "."
    if style.thousands == ".":
        return ","
    return None if facts.plain.decimals == 0 else "."


def _decide(facts: _Facts, style: NumberStyle | None, where: Where, say: Say, problems: dict[str, str]) -> ColumnSchema:
    """Decide the type of a column, given its style as numbers, if any."""
    asked = facts.options.kinds.get(facts.name)
    if asked is not None:
        return _decide_as_asked(facts, asked, style, where)
    if style is not None:
        _say_how_numbers_are_written(facts, style, say)
        return _numbers(facts, style, "every cell with a value is a number")
    if not facts.texts:
        return _decide_without_texts(facts, say)
    if _is_boolean(facts):
        return ColumnSchema("category", "true and false", boolean=True, missing=facts.missing)
    if not facts.n_plain and (formats := possible_formats(facts.texts)):
        return _decide_among_dates(facts, formats, say)
    return _decide_among_texts(facts, where, say, problems)


def _decide_among_dates(facts: _Facts, formats: list[str], say: Say) -> ColumnSchema:
    """Decide the type of a column of dates; if day and month are ambiguous, its texts are categories."""
    example = printable(next(iter(facts.texts)))
    if len(formats) > 1:
        say(
            f'column "{facts.name}": dates such as "{example}" may have the day or the month first, read as '
            'categories; write them as "2024-12-31"'
        )
        return ColumnSchema("category", "dates whose day cannot be told from the month", missing=facts.missing)
    dates = np.array([parse_date(text, formats[0]) for text in facts.texts], dtype=np.float64)
    parts = varying_parts(dates)
    beside = f", beside {', '.join(parts)} as sine and cosine" if parts else ""
    say(
        f'column "{facts.name}": dates such as "{example}", read as seconds in UTC{beside}; '
        f"for categories, {option('--kind', f'{facts.name}=category')}"
    )
    missing = (*facts.missing, *sorted(facts.markers))
    return ColumnSchema(
        "date", "every cell with a value is a date", missing=missing, date_format=formats[0], parts=parts
    )


def _decide_without_texts(facts: _Facts, say: Say) -> ColumnSchema:
    """Decide the type of a column of codes such as 007, or of an empty one."""
    if not facts.n_plain:
        if facts.markers:
            return ColumnSchema("category", "texts", missing=facts.missing)
        return _numbers(facts, NumberStyle(), "empty")
    texts = facts.all_texts()
    code = next(text for text in texts if text.startswith("0") and len(text) > 1)
    say(
        f'column "{facts.name}": begins with zero in cells such as "{printable(code)}", read as categories; '
        f"for numbers, {option('--kind', f'{facts.name}=number')}"
    )
    return ColumnSchema("category", "codes that begin with zero", missing=facts.missing)


def _decide_as_asked(facts: _Facts, asked: str, style: NumberStyle | None, where: Where) -> ColumnSchema:
    why = "--kind"
    if asked == "ignored":
        return ColumnSchema("ignored", why)
    if asked == "date":
        formats = possible_formats(facts.texts) if not facts.n_plain else []
        if len(formats) != 1:
            raise DataError(
                f"{where(0, facts.name)}: {option('--kind', f'{facts.name}=date')} needs dates written alike, the day "
                'told from the month, such as "2024-12-31"'
            )
        return replace(_decide_among_dates(facts, formats, lambda note: None), why=why)
    if asked == "category":
        # A user who declares texts to be categories means all of them: NA is Namibia.
        known = tuple(text for text in facts.missing if not is_declared(text, facts.options.missing))
        missing = tuple(text for text in facts.missing if text not in known)
        return ColumnSchema("category", why, boolean=_is_boolean(facts), missing=missing, categories=known)
    if style is None and facts.texts and not _is_boolean(facts):
        text = _first_contradiction(facts)
        raise DataError(
            f'{facts.place(text, where)}: "{printable(text)}" is not a number written as the others, and '
            f"{option('--kind', f'{facts.name}=number')} needs one; correct it, or where the value is missing, "
            f"{_missing(text)}"
        )
    return _numbers(facts, style or NumberStyle(), why)


def _decide_among_texts(facts: _Facts, where: Where, say: Say, problems: dict[str, str]) -> ColumnSchema:
    """Decide the type of a column whose cells are not all numbers, or not all written alike."""
    texts = facts.all_texts()
    numbers = {text: count for text, count in texts.items() if split_number(text) is not None}
    n_numbers = sum(numbers.values())
    n_texts = sum(texts.values()) - n_numbers
    categories = ColumnSchema("category", "texts", missing=facts.missing)
    if not numbers or n_numbers < n_texts:
        _say_mixed(facts, texts, say)
        _say_missing_codes(facts, say)
        return categories
    contradicting = {text: texts[text] for text in texts if text not in numbers} or _minority(numbers)
    n_contradicting = sum(contradicting.values())
    first = next(iter(contradicting))
    if n_contradicting <= max(FEW_TEXTS_FRACTION * texts.total(), FEW_TEXTS) and n_contradicting < texts.total() / 2:
        raise DataError(f'{facts.place(first, where)}: "{printable(first)}" {_fault(facts.name, first, numbers)}')
    if len(numbers) <= MOST_NUMBERED_CODES:
        _say_mixed(facts, texts, say)
        return categories
    problem = (
        f"{facts.place(first, where)}: {n_contradicting} of {texts.total()} cells are not numbers as the others are "
        f"({_some(contradicting)}); {_remedy(facts.name, first)}"
    )
    problems[facts.name] = problem
    say(f'column "{facts.name}", read as categories: {problem}')
    return replace(categories, why="numbers and texts")


def _say_mixed(facts: _Facts, texts: Counter[str], say: Say) -> None:
    """Report numbers in a column of categories."""
    numbers = sum(count for text, count in texts.items() if PLAIN_NUMBER.fullmatch(text))
    if numbers:
        say(f'column "{facts.name}": {numbers} numbers and {texts.total() - numbers} texts, read as categories')


def _say_missing_codes(facts: _Facts, say: Say) -> None:
    """Report texts read as missing values that may be codes, as NA is Namibia's."""
    codes = [text for text in facts.missing if text.isalpha() and not is_declared(text, facts.options.missing)]
    if codes:
        count = sum(text in codes for text in facts.cells.texts(facts.name))
        say(
            f'column "{facts.name}": {count} cells ({_some(codes)}) among texts, read as missing; where they are '
            f"categories, {option('--kind', f'{facts.name}=category')}"
        )


def _minority(numbers: dict[str, int]) -> dict[str, int]:
    """Find the numbers written unlike most, if each alone could be one."""
    groups: dict[tuple[str, str], dict[str, int]] = {}
    for text, count in numbers.items():
        style = (possible_styles([text]) or [NumberStyle()])[0]
        groups.setdefault((style.decimal, style.unit), {})[text] = count
    most = max(groups.values(), key=lambda group: sum(group.values()))
    others = {text: count for group in groups.values() if group is not most for text, count in group.items()}
    return others or dict([next(iter(numbers.items()))])


def _first_contradiction(facts: _Facts) -> str:
    """Find a text that is not a number, or written unlike most."""
    texts = facts.all_texts()
    return next((text for text in texts if split_number(text) is None), None) or next(iter(_minority(texts)))


def _fault(name: str, text: str, numbers: dict[str, int]) -> str:
    if split_number(text) is not None:
        usual = next(other for other in numbers if other != text)
        return f'is not written as the other numbers are, such as "{printable(usual)}"; write all alike'
    return f"is not a number; correct it; where the value is missing, write {PLAINEST}, or say {_missing(text)}"


def _remedy(name: str, text: str) -> str:
    return (
        f"where the value is missing, {_missing(text)}; where they are categories, "
        f"{option('--kind', f'{name}=category')}; to leave the column out, {option('--ignore', name)}; else write all "
        "cells alike"
    )


def _missing(text: str) -> str:
    return option("--missing", printable(text))


def _some(texts: Iterable[str]) -> str:
    quoted = [f'"{printable(text)}"' for text in texts]
    return ", ".join(quoted[:LONGEST_LIST]) + (", …" if len(quoted) > LONGEST_LIST else "")


def _is_boolean(facts: _Facts) -> bool:
    """Whether the filled cells are true and false, 1 and 0 among them."""
    if not facts.texts or not {text.lower() for text in facts.texts} <= BOOLEAN_TEXTS:
        return False
    numbers = facts.plain.values
    return bool(np.isin(numbers[~np.isnan(numbers)], (0, 1)).all())


def _numbers(facts: _Facts, style: NumberStyle, why: str) -> ColumnSchema:
    return ColumnSchema("number", why, style, missing=(*facts.missing, *sorted(facts.markers)))


def _say_how_numbers_are_written(facts: _Facts, style: NumberStyle, say: Say) -> None:
    """Report what was stripped or interpreted, with an example, and what was taken for missing."""
    if style != NumberStyle():
        texts = facts.texts or facts.all_texts()
        text = max(texts, key=len)
        number = style.parse(text)
        assert number is not None
        say(
            f'column "{facts.name}": numbers, {style.describe()}: "{printable(text)}" is {number_as_text(number)}; '
            f"for categories, {option('--kind', f'{facts.name}=category')}"
        )
    elif example := _possible_thousands(facts):
        say(
            f'column "{facts.name}": each "." stands before three digits ("{example}") and is read as a decimal point; '
            f"if it stands between thousands, {option('--decimal', ',')}"
        )
    if facts.markers:
        count = sum(facts.markers.values())
        say(f'column "{facts.name}": {count} cells ({_some(facts.markers)}) among numbers, read as missing')


def _possible_thousands(facts: _Facts) -> str | None:
    """Return a text of a column of plain numbers whose points could all separate thousands."""
    # As thousands, 1.25 would not have two digits after the point, nor would 0.123 begin with zero.
    if facts.options.decimal == "." or facts.plain.decimals != 3 or (np.abs(facts.plain.values) < 1).any():
        return None
    texts = [text for text in facts.cells.texts(facts.name) if "." in text]
    return texts[0] if texts and all(map(GROUPED_BY_POINTS.fullmatch, texts)) else None
