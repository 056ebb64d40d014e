"""What the columns of a table are: decided once, on the table that a network is trained on, and kept in its file."""

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
    """What the user says about a table, over what would be inferred.

    Attributes
    ----------
    ignore : tuple of str
        Columns that are left out.
    kinds : dict of str to Kind
        What single columns are.
    missing : tuple of str
        Texts that mean that a value is missing, in all columns.
    decimal : {".", ","} or None
        What stands before decimals, where a column leaves it open.
    delimiter : str or None
        What separates the cells of a CSV file.
    encoding : str or None
        How a CSV file writes its characters, by Python's name for it.
    header : bool or None
        Whether the first line of a CSV file names the columns; if not, they are called "1", "2", …. With None it does,
        and is refused where it looks like data.
    """

    ignore: tuple[str, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    decimal: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None

    def check(self) -> None:
        """Raise if a value is none that the option can have.

        Raises
        ------
        UsageError
            Naming the option and what it can be.
        """
        for column, kind in self.kinds.items():
            if kind not in KINDS:
                raise UsageError(f'--kind {column}={kind}: unknown kind "{kind}"; {suggest(kind, KINDS)}')
        if self.decimal not in (None, ".", ","):
            raise UsageError(f'--decimal "{self.decimal}": decimals stand behind "." or ","')
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"' + DIGITS):
            raise UsageError(f'--delimiter "{self.delimiter}": name one character, such as ";" or a tab')

    def check_arrays(self, name: str) -> None:
        """Raise if anything is said of columns, for data that have none.

        Raises
        ------
        UsageError
            Naming the option, which would silently do nothing: -999 would stay a number.
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
    """What one column is, and how its cells are written.

    Attributes
    ----------
    kind : Kind
    why : str
        What it was taken so for.
    style : NumberStyle
        Numbers only.
    boolean : bool
        Whether the categories are truth values, in whatever spelling.
    missing : tuple of str
        What stands in cells of the training table that have no value, beside nothing at all.
    date_format : str
        Dates only: how they are written.
    parts : tuple of str
        Dates only: the parts, such as the weekday, that vary and are inputs beside the seconds.
    categories : tuple of str
        Texts that are categories although elsewhere they mean that a value is missing.
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
        """Whether the user said what the column is."""
        return self.why.startswith("--")


@dataclass(frozen=True)
class Schema:
    """What all columns are.

    Attributes
    ----------
    columns : dict of str to ColumnSchema
        In the order of the table.
    options : TableOptions
        What the user said.
    problems : dict of str to str
        Columns read as categories though most of their cells are numbers: what is wrong, and what to do. Not saved.
    """

    columns: dict[str, ColumnSchema]
    options: TableOptions = TableOptions()
    problems: Mapping[str, str] = field(default_factory=dict)

    def with_left_out(self, left_out: Mapping[str, str]) -> Schema:
        """Return a schema in which these columns are ignored, for these reasons."""
        ignored = {name: replace(self.columns[name], kind="ignored", why=why) for name, why in left_out.items()}
        return replace(self, columns=self.columns | ignored)

    def with_decimal(self, decimal: str) -> Schema:
        """Return a schema of columns whose numbers are written with this sign before decimals."""
        options = replace(self.options, decimal=decimal)
        options.check()
        columns = {
            name: replace(column, style=column.style.with_decimal(decimal)) for name, column in self.columns.items()
        }
        return replace(self, columns=columns, options=options)

    def to_json(self) -> dict[str, Any]:
        """Write the schema as plain JSON: lists for tuples, and nothing that is as in most columns."""
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
