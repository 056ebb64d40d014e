"""Text cells, read inside an ONNX graph as `gpubp.data` reads them: missing values, categories, dates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product

import numpy as np

from gpubp.data.dates import DAY, HOUR, ISO, ISO_DATE, PERIODS
from gpubp.data.features import as_text
from gpubp.data.missing import ALWAYS, AMONG_NUMBERS, declared_numbers
from gpubp.data.number_style import PLAIN_NUMBER
from gpubp.errors import UsageError
from gpubp.interchange.graph import ML, TEXT, Graph, Tensor

NO_DATE = "not a date"  # no runtime reads it as a number, so the session raises
MISSING_DATE = "1970-01-01"
# The format codes of a date's parts, except in ISO 8601; all are whole numbers.
PARTS_OF_FORMATS = {"%Y": r"\d{4}"} | dict.fromkeys(("%m", "%d", "%H", "%M", "%S"), r"\d{1,2}")


def is_missing(texts: Tensor, declared: Iterable[str], *, among_numbers: bool = False) -> Tensor:
    """Whether cells (rows, 1) mark a missing value, as in `gpubp.data.missing.is_missing`.

    A declared number is recognized as it was declared, and as "-999" and "-999.0".
    """
    numbers = declared_numbers(declared)
    exact = {*declared, *map(as_text, numbers), *map(repr, numbers)}
    markers = ALWAYS | AMONG_NUMBERS if among_numbers else ALWAYS
    in_any_case, as_they_are = ("|".join(map(re.escape, sorted(some))) for some in (markers, exact))
    return matches(texts, f"(?i:{in_any_case})" + (f"|(?:{as_they_are})" if exact else ""))


def matches(texts: Tensor, pattern: str) -> Tensor:
    """Whether texts match a regular expression as a whole."""
    return texts.apply("RegexFullMatch", dtype=np.bool_, pattern=pattern)


def codes(texts: Tensor, code_of: dict[str, int]) -> Tensor:
    """The code of each text, int64; -1 for other texts."""
    return texts.apply(
        "LabelEncoder",
        dtype=np.int64,
        domain=ML,
        keys_strings=list(code_of),
        values_int64s=list(code_of.values()),
        default_int64=-1,
    )


def spellings(category: str, boolean: bool) -> list[str]:
    """How a category may be written.

    Booleans in upper or lower case and as 1 and 0; whole numbers also with a point: "1.0" is the category "1".
    """
    if boolean and category in ("true", "false"):
        letters = ((letter, letter.upper()) for letter in category)
        return [*("".join(word) for word in product(*letters)), "1" if category == "true" else "0"]
    with_point = f"{category}.0"
    if PLAIN_NUMBER.fullmatch(with_point) and not category.startswith("0") and as_text(float(with_point)) == category:
        return [category, with_point]
    return [category]


# -- dates -------------------------------------------------------------------------------------------------


def seconds_of_dates(texts: Tensor, name: str, date_format: str, declared: Iterable[str]) -> Tensor:
    """Dates (rows, 1) as seconds since 1970 in UTC, NaN where they are missing, as in `gpubp.data.dates.parse_date`.

    Parameters
    ----------
    texts : Tensor
    name : str
        The column's name.
    date_format : str
        A text in another format makes the session raise.
    declared : iterable of str
        Texts that mark a missing value.

    Raises
    ------
    UsageError
        For a format that ONNX operators cannot read; the message names the column.
    """
    graph = texts.graph
    missing = is_missing(texts, declared, among_numbers=True)
    if date_format == ISO:
        pattern, read = ISO_DATE.pattern, _iso_seconds
        default = MISSING_DATE
    else:
        names = re.findall("%.", date_format)
        if not set(names) <= PARTS_OF_FORMATS.keys():
            raise UsageError(
                f'column "{name}": dates written as {date_format} cannot be read inside an ONNX graph, which has no '
                "names of months; write them as 2024-12-31 and train anew, or leave the column out by --ignore"
            )
        pattern = re.sub("%.", lambda part: PARTS_OF_FORMATS[part[0]], re.escape(date_format))
        default = re.sub("%.", "1", date_format.replace("%Y", "1970"))

        def read(texts: Tensor) -> Tensor:
            return _formatted_seconds(texts, date_format)

    readable = graph.where(missing, _text(graph, default), texts)
    readable = graph.where(matches(readable, pattern), readable, _text(graph, NO_DATE))
    return graph.where(missing, graph.constant(np.array(np.nan)), read(readable))


def _text(graph: Graph, value: str) -> Tensor:
    return graph.constant(np.array([[value]], object))


def _piece(texts: Tensor, delimiter: str, index: int) -> Tensor:
    """The text between two delimiters; "" if there are fewer."""
    graph = texts.graph
    enough = graph.node("StringConcat", [texts, _text(graph, delimiter * (index + 1))], TEXT)
    pieces = enough.apply("StringSplit", delimiter=delimiter)  # (rows, 1, most pieces)
    return graph.take(pieces, graph.constant(np.array(index)), axis=2)


def _number(texts: Tensor) -> Tensor:
    """Texts as float64; "" is 0."""
    graph = texts.graph
    return graph.where(texts.equals(""), _text(graph, "0"), texts).cast(np.float64)


def _formatted_seconds(texts: Tensor, date_format: str) -> Tensor:
    """Read ``%d.%m.%Y %H:%M`` and the like: a date, then a space and a time."""
    date, _, time = date_format.partition(" ")
    separator = re.sub("%.", "", date)[0]
    day, month, year = (
        _number(_piece(_piece(texts, " ", 0), separator, date.split(separator).index(part)))
        for part in ("%d", "%m", "%Y")
    )
    seconds = DAY * _days(year, month, day)
    for i, (_, unit) in enumerate(zip(time.split(":") if time else (), (HOUR, 60.0, 1.0), strict=False)):
        seconds = seconds + unit * _number(_piece(_piece(texts, " ", 1), ":", i))
    return seconds


def _iso_seconds(texts: Tensor) -> Tensor:
    """Read ISO 8601: a date, then "T" or a space and a time, then "Z" or the time zone's offset from UTC."""
    graph = texts.graph
    year, month, rest, west = (_piece(texts, "-", i) for i in range(4))  # west: after a third "-", hours behind UTC
    before_t = _piece(rest, "T", 0)
    time = graph.node("StringConcat", [_piece(before_t, " ", 1), _piece(rest, "T", 1)], TEXT)  # one of the two is ""
    seconds = DAY * _days(_number(year), _number(month), _number(_digits(before_t)))
    clock = _digits(time)
    for i, unit in enumerate((HOUR, 60.0, 1.0)):
        seconds = seconds + unit * _number(_piece(clock, ":", i))
    return seconds - _offset(_piece(rest, "+", 1)) + _offset(west)


def _digits(text: Tensor) -> Tensor:
    """The text before a space, a "Z" and a "+"."""
    return _piece(_piece(_piece(text, " ", 0), "Z", 0), "+", 0)


def _offset(zone: Tensor) -> Tensor:
    """Seconds of a time zone written as 02, 02:30 or 0230; "" is 0."""
    graph = zone.graph
    first, minutes = _number(_piece(zone, ":", 0)), _number(_piece(zone, ":", 1))
    hours = (first / 100.0).apply("Floor")
    together = matches(zone, r"\d{4}")
    hours_and_minutes = HOUR * hours + 60.0 * (first - 100.0 * hours)
    return graph.where(together, hours_and_minutes, HOUR * first + 60.0 * minutes)


def _days(year: Tensor, month: Tensor, day: Tensor) -> Tensor:
    """Days since 1970 in the Gregorian calendar, float64; years are counted from March, so that leap days end them."""
    early = (month <= 2.0).cast(np.float64)
    year, month = year - early, month - 3.0 + 12.0 * early
    leap_days = _floor(year / 4.0) - _floor(year / 100.0) + _floor(year / 400.0)
    days_before_month = _floor((153.0 * month + 2.0) / 5.0)
    return 365.0 * year + leap_days + days_before_month + day - 719469.0


def _floor(x: Tensor) -> Tensor:
    return x.apply("Floor")


def part_of_date(seconds: Tensor, part: str, wave: str) -> Tensor:
    """Sine or cosine of the position of dates (rows, 1) in a period, 0 where the date is missing."""
    if part == "month":
        place = _month(seconds)
    elif part == "weekday":
        days = _floor(seconds / DAY) + 3.0  # 1970 began on a Thursday
        place = days - 7.0 * _floor(days / 7.0)
    else:
        place = (seconds - DAY * _floor(seconds / DAY)) / HOUR
    angle = (2 * np.pi) * place / PERIODS[part]
    values = angle.apply("Sin" if wave == "sine" else "Cos")
    graph = seconds.graph
    return graph.where(seconds.apply("IsNaN", dtype=np.bool_), graph.constant(np.array(0.0)), values)


def _month(seconds: Tensor) -> Tensor:
    """The month of dates, from 0 to 11: the days since a 1 March of a year that 400 divides, then that of the year."""
    graph = seconds.graph
    days = _floor(seconds / DAY) + 719468.0
    of_era = days - 146097.0 * _floor(days / 146097.0)
    leap_days = _floor(of_era / 1460.0) - _floor(of_era / 36524.0) + _floor(of_era / 146096.0)
    year = _floor((of_era - leap_days) / 365.0)
    of_year = of_era - (365.0 * year + _floor(year / 4.0) - _floor(year / 100.0))
    from_march = _floor((5.0 * of_year + 2.0) / 153.0)
    return graph.where(from_march < 10.0, from_march + 2.0, from_march - 10.0)
