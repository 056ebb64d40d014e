"""Dates and times as numbers: seconds, and the position of a date in the year, the week and the day."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

ISO = "ISO 8601"
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)? ?(Z|[-+]\d{2}(:?\d{2})?)?", re.ASCII)
# Other formats, in which some cell shows which number is the day.
FORMATS = tuple(
    f"{day}{time}"
    for day in ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%d %b %Y", "%b %d, %Y")
    for time in ("", " %H:%M", " %H:%M:%S")
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY, HOUR = 86400.0, 3600.0
# Periodic parts of a date: a name and the length of the period.
PERIODS = {"month": 12.0, "weekday": 7.0, "hour": 24.0}


def parse_date(text: str, date_format: str) -> float | None:
    """Read a date as seconds since 1970, in UTC; without a time zone, UTC is assumed. None if it is not a date."""
    try:
        if date_format == ISO:
            moment = datetime.fromisoformat(text) if ISO_DATE.fullmatch(text) else None
        else:
            moment = datetime.strptime(text, date_format)
    except ValueError:
        return None
    if moment is None:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH).total_seconds()


def possible_formats(texts: Iterable[str]) -> list[str]:
    """Find the formats in which all these texts are dates: more than one if day and month are ambiguous."""
    every = list(texts)
    if not every or not any(character.isdigit() for character in every[0]):
        return []
    formats = [date_format for date_format in (ISO, *FORMATS) if parse_date(every[0], date_format) is not None]
    return [date_format for date_format in formats if all(parse_date(text, date_format) is not None for text in every)]


def part_of_date(seconds: NDArray[Any], part: str) -> NDArray[np.float64]:
    """The position of dates (m,) in a period: the month from 0 to 11, the weekday from 0 for Monday, or the hour.

    NaN where the date is missing.
    """
    known = np.isfinite(seconds)
    values = np.full(len(seconds), np.nan)
    some = seconds[known]
    if part == "month":
        values[known] = np.floor(some).astype("datetime64[s]").astype("datetime64[M]").astype(np.int64) % 12
    elif part == "weekday":
        values[known] = (np.floor(some / DAY) + 3) % 7  # 1970 began on a Thursday
    else:
        values[known] = some % DAY / HOUR
    return values


def varying_parts(seconds: NDArray[Any]) -> tuple[str, ...]:
    """The names of the parts in which these dates differ."""
    return tuple(part for part in PERIODS if len(np.unique(part_of_date(seconds[np.isfinite(seconds)], part))) > 1)


def derived_names(name: str, parts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name the columns for parts of a date: each column's name to (its part, "sine" or "cosine")."""
    return {f"{name} ({part}, {wave})": (part, wave) for part in parts for wave in ("sine", "cosine")}


def derived_column(seconds: NDArray[Any], part: str, wave: str) -> NDArray[np.float64]:
    """Put the part of a date on a circle, whose end meets its beginning; 0 where the date is missing."""
    angle = 2 * np.pi * part_of_date(seconds, part) / PERIODS[part]
    return np.nan_to_num(np.sin(angle) if wave == "sine" else np.cos(angle))
