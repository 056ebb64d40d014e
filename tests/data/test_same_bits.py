"""A row is encoded and predicted alike, to the last bit, whatever file it comes in, whatever stands beside it there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from gpubp import MLP
from gpubp.data import encode, prepare, read

ROWS = 60
COLUMNS: dict[str, list[Any]] = {
    "plain numbers": [f"{i * 0.37 % 5:.3f}" for i in range(ROWS)],
    "whole numbers": [i * 7 % 11 for i in range(ROWS)],
    "17 digits": [repr(1 / (i + 3)) for i in range(ROWS)],
    "exponents": [f"{i % 9}e-{i % 5}" for i in range(ROWS)],
    "numbers with holes": ["" if i % 7 == 0 else i % 5 for i in range(ROWS)],
    "numbers with N/A": ["N/A" if i % 7 == 0 else i % 5 for i in range(ROWS)],
    "numbers with dashes": ["-" if i % 7 == 0 else i % 5 for i in range(ROWS)],
    "codes with zeros": [f"{i % 12:03}" for i in range(ROWS)],
    "mixed codes": [["007", "A12", "2.0", "1.50", "3E2"][i % 5] for i in range(ROWS)],
    "truth": [["True", "FALSE"][i % 2] for i in range(ROWS)],
    "truth and digits": [["true", "0", "1"][i % 3] for i in range(ROWS)],
    "texts": [["red", "None", "NA", "größer"][i % 4] for i in range(ROWS)],
    "dollars": [f"${i * 731 % 4000:,}" for i in range(ROWS)],
    "percent": [f"{i * 13 % 90}%" for i in range(ROWS)],
    "units": [f"{i * 13 % 90 + 1} cm" for i in range(ROWS)],
    "european": [f"{i * 731 % 4000:,}".replace(",", ".") + f",{i % 9}5" for i in range(ROWS)],
    "spaces": [f"{i * 731 % 4000:,}".replace(",", " ") for i in range(ROWS)],
    "accounts": [f"({i % 9}.50)" if i % 3 else f"{i % 7}.25" for i in range(ROWS)],
    "dates": [f"2024-{i % 12 + 1:02}-{i % 28 + 1:02}" for i in range(ROWS)],
    "times with zones": [f"2024-03-{i % 28 + 1:02}T{i % 24:02}:30:00{['Z', '+02:00'][i % 2]}" for i in range(ROWS)],
    "german dates": ["" if i % 8 == 0 else f"{i % 28 + 1}.{i % 12 + 1}.2024 {i % 24}:05" for i in range(ROWS)],
    "markers in texts": [["unknown", "known", "-"][i % 3] for i in range(ROWS)],
    "one value or none": ["" if i % 3 else 5 for i in range(ROWS)],
}


def write_csv(path: Path, columns: dict[str, list[Any]]) -> Path:
    rows = ["|".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(["|".join(columns), *rows, ""]))
    return path


@pytest.mark.parametrize("case", COLUMNS)
def test_a_row_is_encoded_and_predicted_alike_wherever_it_stands(case: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    cells = COLUMNS[case]
    table = {"x": cells, "other": [i * 3 % 7 for i in range(ROWS)], "y": [i * 5 % 9 / 2 for i in range(ROWS)]}
    prepared = prepare(read(write_csv(tmp_path / "train.csv", table)), test=0)
    net = MLP([prepared.n_inputs, 33, 17, 1], "tanh", loss="half_squared_error", device="cpu")

    def encoded(source: Any) -> np.ndarray:
        X = encode(prepared.preprocessing, read(source), with_target=False)[0]
        assert X.dtype == np.float32
        return np.hstack([X, net.forward(X)])

    rows = {name: column[::-1] for name, column in table.items() if name != "y"}
    X = encoded(write_csv(tmp_path / "rows.csv", rows))
    np.testing.assert_array_equal(X[::-1], encoded(tmp_path / "train.csv"))

    for size in (1, 7):
        for start in range(0, ROWS, size):
            block = {name: column[start : start + size] for name, column in rows.items()}
            np.testing.assert_array_equal(encoded(write_csv(tmp_path / "block.csv", block)), X[start : start + size])
    order = np.random.default_rng(0).permutation(ROWS)
    shuffled = {
        "extra": [f"{i}?" for i in range(ROWS)],
        **{name: [column[i] for i in order] for name, column in reversed(rows.items())},
    }
    np.testing.assert_array_equal(encoded(write_csv(tmp_path / "shuffled.csv", shuffled)), X[order])

    frame = pandas.DataFrame(rows).astype({"x": object})
    np.testing.assert_array_equal(encoded(frame), X)
    texts = f"read_csv('{tmp_path / 'rows.csv'}', all_varchar=true, delim='|')"
    duckdb.connect().execute(f"COPY (SELECT * FROM {texts}) TO '{tmp_path / 'rows.parquet'}'")
    np.testing.assert_array_equal(encoded(tmp_path / "rows.parquet"), X)


def test_typed_columns_are_read_as_their_texts(tmp_path: Path) -> None:
    values = "(VALUES (1, true, 1.5::FLOAT, '1.50'), (3, false, 2.5::FLOAT, '007'), (8, true, 1.5::FLOAT, '1.50'))"
    names = "i, b, f, s"
    duckdb.execute(
        f"COPY (SELECT {names}, i % 2 AS y FROM {values} t({names}), range(9)) TO '{tmp_path / 'train.parquet'}'"
    )
    preprocessing = prepare(read(tmp_path / "train.parquet"), test=0).preprocessing
    csv = write_csv(
        tmp_path / "rows.csv", {"s": ["007", "1.50"], "f": ["2.5", "1.5"], "b": ["FALSE", "1"], "i": ["3.0", "8"]}
    )
    duckdb.execute(
        f"COPY (SELECT {names} FROM {values} t({names}) WHERE i > 1 ORDER BY i) TO '{tmp_path / 'rows.parquet'}'"
    )
    X = encode(preprocessing, read(csv))[0]
    np.testing.assert_array_equal(encode(preprocessing, read(tmp_path / "rows.parquet"))[0], X)


def test_the_time_zone_of_the_machine_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "times.parquet"
    duckdb.execute(
        "COPY (SELECT TIMESTAMPTZ '2024-03-01 12:00:00+00' + INTERVAL (i % 9) HOUR AS t, i % 7 AS x, i % 3 AS y "
        f"FROM range(60) r(i)) TO '{path}'"
    )
    code = (
        "import sys; from gpubp.data import read, prepare; r = prepare(read(sys.argv[1]), test=0); "
        "print(r.train[0].tobytes().hex(), r.preprocessing)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={"TZ": zone, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for zone in ("Asia/Tokyo", "America/New_York")
    }
    assert len(printed) == 1
