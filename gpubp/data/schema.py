"""The schema of a table: decided once, on the table that a network is trained on, and kept in the network's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from gpubp.data.number_style import NumberStyle
from gpubp.errors import UsageError, suggest

Kind = Literal["number", "category", "date", "ignored"]
DIGITS = "0123456789"
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class TableOptions:
    """The user's settings for a table, which override inference.

    Attributes
    ----------
    ignore : tuple of str
        Columns that are left out.
    kinds : dict of str to Kind
        The kinds of single columns.
    missing : tuple of str
        Texts that mark missing values, in all columns.
    decimal : {".", ","} or None
        The decimal sign, where a column leaves it open.
    delimiter : str or None
        The separator of cells in a CSV file.
    encoding : str or None
        The character encoding of a CSV file, by Python's name.
    header : bool or None
        Whether the first line of a CSV file names the columns; if not, they are called "1", "2", …. None means that it
        does, but a line that looks like data is refused.
    """

    ignore: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    decimal: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None

    def check(self) -> None:
        """Raise for an invalid value of an option.

        Raises
        ------
        UsageError
            Naming the option and its allowed values.
        """
        for column, kind in self.kinds.items():
            if kind not in KINDS:
                raise UsageError(f'--kind {column}={kind}: unknown kind "{kind}"; {suggest(kind, KINDS)}')
        if self.decimal not in (None, ".", ","):
            raise UsageError(f'--decimal "{self.decimal}": decimals stand behind "." or ","')
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"' + DIGITS):
            raise UsageError(f'--delimiter "{self.delimiter}": name one character, such as ";" or a tab')

    def check_arrays(self, name: str) -> None:
        """Raise if an option concerns columns, for data that have none.

        Raises
        ------
        UsageError
            Naming the option, which would silently have no effect: -999 would stay a number.
        """
        said = {"--ignore": self.ignore, "--kind": self.kinds, "--missing": self.missing, "--decimal": self.decimal}
        for option, value in said.items():
            if value:
                raise UsageError(
                    f"{name}: {option} is of tables, and this is arrays without named columns; leave it out"
                )

    def check_columns(self, name: str, columns: list[str]) -> None:
        """Raise if a column is named that the table lacks.

        Raises
        ------
        UsageError
            With the nearest name that the table has.
        """
        for option, named in (("--ignore", self.ignore), ("--kind", self.kinds)):
            for column in named:
                if column not in columns:
                    raise UsageError(f'{name}: {option}: there is no column "{column}"; {suggest(column, columns)}')


@dataclass(frozen=True)
class ColumnSchema:
    """The type of one column, and how its cells are written.

    Attributes
    ----------
    kind : Kind
    why : str
        The reason for its kind.
    style : NumberStyle
        Numbers only.
    boolean : bool
        Whether the categories are booleans, in any spelling.
    missing : tuple of str
        Texts in the training table's cells that mark missing values, besides empty cells.
    date_format : str
        Dates only: their format.
    parts : tuple of str
        Dates only: the parts, such as the weekday, that vary and are inputs besides the seconds.
    categories : tuple of str
        Texts that are categories here although elsewhere they mark missing values.
    """

    kind: Kind
    why: str
    style: NumberStyle = NumberStyle()
    boolean: bool = False
    missing: tuple[str, ...] = ()
    date_format: str = ""
    parts: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def chosen_by_user(self) -> bool:
        """Whether the user set the column's kind."""
        return self.why.startswith("--")


@dataclass(frozen=True)
class Schema:
    """The types of all columns.

    Attributes
    ----------
    columns : dict of str to ColumnSchema
        In the order of the table.
    options : TableOptions
        The user's settings.
    problems : dict of str to str
        Columns read as categories although most of their cells are numbers: what is wrong, and what to do. Not saved.
    """

    columns: dict[str, ColumnSchema]
    options: TableOptions = TableOptions()
    problems: Mapping[str, str] = field(default_factory=dict)

    def with_left_out(self, left_out: Mapping[str, str]) -> Schema:
        """Return a schema in which these columns are ignored, for these reasons."""
        ignored = {name: replace(self.columns[name], kind="ignored", why=why) for name, why in left_out.items()}
        return replace(self, columns=self.columns | ignored)

    def with_decimal(self, decimal: str) -> Schema:
        """Return a schema whose numbers are written with this decimal sign."""
        options = replace(self.options, decimal=decimal)
        options.check()
        columns = {
            name: replace(column, style=column.style.with_decimal(decimal)) for name, column in self.columns.items()
        }
        return replace(self, columns=columns, options=options)

    def to_json(self) -> dict[str, Any]:
        """Write the schema as plain JSON: lists for tuples, and without default values."""
        columns = {name: _without_defaults(column) for name, column in self.columns.items()}
        options = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.options).items()
        }
        return {"columns": columns, "options": options}

    @staticmethod
    def from_json(saved: Mapping[str, Any]) -> Schema:
        """Read what `to_json` wrote."""
        columns = {
            name: ColumnSchema(
                kind=column["kind"],
                why=column["why"],
                style=NumberStyle(**column.get("style", {})),
                boolean=column.get("boolean", False),
                missing=tuple(column.get("missing", ())),
                date_format=column.get("date_format", ""),
                parts=tuple(column.get("parts", ())),
                categories=tuple(column.get("categories", ())),
            )
            for name, column in saved["columns"].items()
        }
        options = dict(saved["options"])
        options |= {key: tuple(options[key]) for key in ("ignore", "missing")}
        return Schema(columns, TableOptions(**options))


def _without_defaults(column: ColumnSchema) -> dict[str, Any]:
    saved: dict[str, Any] = {"kind": column.kind, "why": column.why}
    if column.style != NumberStyle():
        saved["style"] = asdict(column.style)
    if column.boolean:
        saved["boolean"] = True
    if column.date_format:
        saved |= {"date_format": column.date_format, "parts": list(column.parts)}
    if column.missing:
        saved["missing"] = list(column.missing)
    if column.categories:
        saved["categories"] = list(column.categories)
    return saved
