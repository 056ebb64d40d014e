"""The encodings of numbers: how the columns of numbers of a table become inputs.

Each is fitted on training rows, what was fitted is plain JSON, and it is applied to whatever rows come. Several are
combined by ``+``: ``"robust+piecewise"`` has the columns of both, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gpubp import registry
from gpubp.errors import UsageError

Numbers: TypeAlias = NDArray[np.float64]
Fitted: TypeAlias = dict[str, Any]  # plain JSON

QUANTILES = 256  # that the distribution of a column is kept by
LEAST_PROBABILITY = 1e-3  # quantile: values beyond the outermost thousandths are as far out as these
FURTHEST = 1e100  # robust: greater distances from the median count as this one, so that their squares are finite
NARROWEST_BIN = 1e-9  # of half the range of a column
MOST_TREE_ROWS = 50_000  # that trees are grown on
CHANCE = 1e-3  # of a split by a column that says nothing of the target to be taken for one that does
PART_OF_ROWS = 0.2  # forest: each tree sees so many, so that leaves tell a network little of its own rows' targets
FEWEST_IN_LEAF = 4  # forest: rows, of those that the tree sees
PART_OF_COLUMNS = 0.5  # forest: each split is the best among so many columns, which are drawn


@dataclass(frozen=True)
class Target:
    """What a small tree on a column is to predict.

    Attributes
    ----------
    y : (m,) or (m, n) array
        Class indices, or values.
    classes : bool
    weight : (m,) array or None
        Sample weights; a row of weight 0 does not count.
    """

    y: NDArray[Any]
    classes: bool
    weight: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class NumberEncoding:
    """How columns of numbers become inputs.

    Attributes
    ----------
    name : str
        The spelling that `get_encoding` reads back.
    fit : callable
        ``fit(values, target, rng)``: what is to be remembered of the columns (m, n), in which no value is missing, as
        plain JSON. `target` is None where there is none, and `rng` draws whatever is random.
    width : callable
        ``width(fitted)``: how many inputs the columns become.
    apply : callable
        ``apply(fitted, values, out)`` writes the inputs (m, width) of columns (m, n) into `out`.
    sees_categories : bool
        Whether the columns that it gets have those of categories behind them, 1 in the rows of one and 0 in others.
    """

    name: str
    fit: Callable[[Numbers, Target | None, np.random.Generator], Fitted]
    width: Callable[[Fitted], int]
    apply: Callable[[Fitted, Numbers, NDArray[Any]], None]
    sees_categories: bool = False


def standard() -> NumberEncoding:
    """Mean 0 and standard deviation 1: an input a column."""

    def fit(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
        spread = values.std(axis=0)
        return {"center": values.mean(axis=0).tolist(), "scale": np.where(spread > 0, spread, 1.0).tolist()}

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        out[...] = (values - fitted["center"]) / fitted["scale"]

    return NumberEncoding("standard", fit, lambda fitted: len(fitted["center"]), apply)


def robust(clip: float = 3.0) -> NumberEncoding:
    """u / √(1 + (u / clip)²) of u = (x − median) / (upper − lower quartile): outliers come no further than `clip`."""
    registry.require("robust", "clip", clip, clip > 0, "clip > 0")

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        out[...] = _smoothly_clipped(fitted, values, clip)

    name = registry.canonical("robust", clip=(clip, 3.0))
    return NumberEncoding(name, _fit_robust, lambda fitted: len(fitted["center"]), apply)


def quantile() -> NumberEncoding:
    """The quantile of a normal distribution that a value's rank among the training rows stands for."""

    def fit(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
        points = np.linspace(0, 1, min(QUANTILES, max(2, len(values))))
        return {"quantiles": np.quantile(values, points, axis=0).T.tolist()}

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        from scipy.special import ndtri

        for j, quantiles in enumerate(map(np.array, fitted["quantiles"])):
            points = np.linspace(0, 1, len(quantiles))
            # Of equal values the mean rank: from below, and from above.
            rank = np.interp(values[:, j], quantiles, points)
            rank += 1 - np.interp(-values[:, j], -quantiles[::-1], points)
            out[:, j] = ndtri(np.clip(rank / 2, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))

    return NumberEncoding("quantile", fit, lambda fitted: len(fitted["quantiles"]), apply)


def piecewise(bins: int = 16, by: str = "tree", leaf: int = 5) -> NumberEncoding:
    """Gorishniy et al. 2022: an input a bin, 0 below it, 1 above it, and linear within.

    A column's bins are the leaves of a small tree on the target (``by=tree``), with `leaf` training rows at least and
    without splits that chance explains, or lie between its quantiles (``by=quantile``, and where there is no target).
    """
    _check_bins("piecewise", bins, by, leaf)

    def fit(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
        return {"edges": _edges_of_columns(values, target if by == "tree" else None, bins, leaf, rng)}

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        left = 0
        for j, edges in enumerate(map(np.array, fitted["edges"])):
            width = len(edges) - 1
            with np.errstate(over="ignore"):
                within = (values[:, j, None] - edges[:-1]) / np.diff(edges)
            out[:, left : left + width] = np.clip(within, 0, 1)
            left += width

    name = registry.canonical("piecewise", bins=(bins, 16), by=(by, "tree"), leaf=(leaf, 5))
    return NumberEncoding(name, fit, lambda fitted: sum(len(edges) - 1 for edges in fitted["edges"]), apply)


def steps(bins: int = 64, by: str = "tree", leaf: int = 20) -> NumberEncoding:
    """1 for the bin that the value lies in and 0 for all others, for columns with spikes; bins as of `piecewise`."""
    _check_bins("steps", bins, by, leaf)

    def fit(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
        return {"edges": _edges_of_columns(values, target if by == "tree" else None, bins, leaf, rng)}

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        out[...] = 0
        left, rows = 0, np.arange(len(values))
        for j, edges in enumerate(fitted["edges"]):
            out[rows, left + np.searchsorted(edges[1:-1], values[:, j])] = 1
            left += len(edges) - 1

    name = registry.canonical("steps", bins=(bins, 64), by=(by, "tree"), leaf=(leaf, 20))
    return NumberEncoding(name, fit, lambda fitted: sum(len(edges) - 1 for edges in fitted["edges"]), apply)


def fourier(frequencies: int = 8, sigma: float = 0.1) -> NumberEncoding:
    """cos(2π f u + p) of the value u of `robust`, for frequencies f from N(0, sigma²) and phases p that are drawn."""
    registry.require("fourier", "frequencies", frequencies, _is_count(frequencies), "a whole number of at least 1")
    registry.require("fourier", "sigma", sigma, sigma > 0, "sigma > 0")

    def fit(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
        shape = values.shape[1], frequencies
        drawn = {
            "frequencies": rng.normal(0, sigma, shape).tolist(),
            "phases": rng.uniform(-np.pi, np.pi, shape).tolist(),
        }
        return _fit_robust(values, target, rng) | drawn

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        clipped = _smoothly_clipped(fitted, values, 3.0)[:, :, None]  # (m, n, 1)
        waves = np.cos(2 * np.pi * np.array(fitted["frequencies"]) * clipped + fitted["phases"])
        out[...] = waves.reshape(len(values), -1)

    name = registry.canonical("fourier", frequencies=(frequencies, 8), sigma=(sigma, 0.1))
    return NumberEncoding(name, fit, lambda fitted: int(np.size(fitted["phases"])), apply)


def forest(trees: int = 32, leaves: int = 8, height: float = 0.25) -> NumberEncoding:
    """He et al. 2014: one input per leaf of small trees, `height` in the leaf that the row falls into, 0 elsewhere.

    So what trees see at once becomes an input, for example that one column matters only where another is large. Each
    tree looks at all numbers, and at the categories of columns that have few. It is grown on a fifth of the rows, with
    at least four of them in a leaf, and each split is the best among half of the columns. Where there is no target,
    trees are grown on random numbers.
    """
    registry.require("forest", "trees", trees, _is_count(trees), "a whole number of at least 1")
    registry.require("forest", "leaves", leaves, _is_count(leaves) and leaves > 1, "a whole number of at least 2")
    registry.require("forest", "height", height, height > 0, "height > 0")

    def fit(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
        return _fit_forest(values, target or Target(rng.normal(size=len(values)), classes=False), trees, leaves, rng)

    def apply(fitted: Fitted, values: Numbers, out: NDArray[Any]) -> None:
        above = values.T[fitted["columns"]] > np.array(fitted["borders"])[:, None]  # (splits, m)
        sides = np.concatenate([above, ~above[::-1]])  # so that a row is below split s where sides[~s] says so
        everywhere = np.ones(len(values), np.bool_)
        inside = [reduce(np.logical_and, [sides[side] for side in path], everywhere) for path in fitted["leaves"]]
        out[...] = height * np.array(inside).T

    name = registry.canonical("forest", trees=(trees, 32), leaves=(leaves, 8), height=(height, 0.25))
    return NumberEncoding(name, fit, lambda fitted: len(fitted["leaves"]), apply, sees_categories=True)


ENCODINGS: dict[str, Callable[..., NumberEncoding]] = {
    "standard": standard,
    "robust": robust,
    "quantile": quantile,
    "piecewise": piecewise,
    "steps": steps,
    "fourier": fourier,
    "forest": forest,
}


def get_encodings(spec: str | Sequence[str | NumberEncoding]) -> list[NumberEncoding]:
    """The encodings that are combined in ``"robust+piecewise(32)"``, or in a list of names or records.

    Raises
    ------
    UsageError
        If one is unknown, or its arguments do not fit.
    """
    if not isinstance(spec, Iterable):
        raise UsageError(f"{spec!r} is no encoding of numbers; give names, such as robust+piecewise, or a list")
    parts = spec.split("+") if isinstance(spec, str) else list(spec)
    if not parts:
        raise UsageError(f"no encoding of numbers is named; known: {', '.join(ENCODINGS)}")
    return [registry.resolve("encoding of numbers", ENCODINGS, part, NumberEncoding) for part in parts]


def fit(
    spec: str | Sequence[str | NumberEncoding],
    values: Numbers,
    target: Target | None,
    rng: np.random.Generator,
    categories: NDArray[np.bool_] | None = None,
) -> list[Fitted]:
    """Fit combined encodings on columns (m, n) without missing values: plain JSON, an entry each, with its name.

    `categories` (m, c) says which category each row is in, for encodings that look at them too. If all rows have weight
    0, there is no target.
    """
    if target is not None and target.weight is not None and not target.weight.any():
        target = None
    return [
        {"name": one.name, **one.fit(_seen_by(one, values, categories), target, rng)} for one in get_encodings(spec)
    ]


def width(fitted: Sequence[Fitted]) -> int:
    """Count the inputs of encodings that `fit` returned."""
    return sum(one.width(entry) for one, entry in _with_records(fitted))


def apply(
    fitted: Sequence[Fitted], values: Numbers, out: NDArray[Any], categories: NDArray[np.bool_] | None = None
) -> None:
    """Write the inputs (m, width) of columns (m, n), and of categories (m, c), into `out`."""
    left = 0
    for one, entry in _with_records(fitted):
        right = left + one.width(entry)
        one.apply(entry, _seen_by(one, values, categories), out[:, left:right])
        left = right


def _seen_by(one: NumberEncoding, values: Numbers, categories: NDArray[np.bool_] | None) -> Numbers:
    return np.hstack([values, categories]) if one.sees_categories and categories is not None else values


def _with_records(fitted: Sequence[Fitted]) -> list[tuple[NumberEncoding, Fitted]]:
    return [(get_encodings([entry["name"]])[0], entry) for entry in fitted]


def _fit_robust(values: Numbers, target: Target | None, rng: np.random.Generator) -> Fitted:
    """Median and the distance of the quartiles; where these are one, half of the range, as of a value that is rare."""
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    half_range = (values.max(axis=0) - values.min(axis=0)) / 2
    scale = np.where(upper > lower, upper - lower, half_range)
    return {"center": median.tolist(), "scale": np.where(scale > 0, scale, 1.0).tolist()}


def _smoothly_clipped(fitted: Fitted, values: Numbers, clip: float) -> Numbers:
    with np.errstate(over="ignore"):
        u = np.clip((values - fitted["center"]) / fitted["scale"], -FURTHEST, FURTHEST)
    clipped: Numbers = u / np.hypot(1, u / clip)
    return clipped


def _check_bins(name: str, bins: int, by: str, leaf: int) -> None:
    registry.require(name, "bins", bins, _is_count(bins) and bins > 1, "a whole number of at least 2")
    registry.require(name, "leaf", leaf, _is_count(leaf), "a whole number of at least 1")
    if by not in ("tree", "quantile"):
        raise UsageError(f'{name}: by="{by}" does not fit; use tree or quantile')


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _edges_of_columns(
    values: Numbers, target: Target | None, bins: int, leaf: int, rng: np.random.Generator
) -> list[list[float]]:
    """The edges of each column's bins, of which there is one at least."""
    if target is None:
        inner = [np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]) for column in values.T]
    else:
        rows, some = _rows_for_trees(target, rng)
        inner = [_splits_of_tree(column[rows], some, bins, leaf) for column in values.T]
    return [_edges(column, borders) for column, borders in zip(values.T, inner, strict=True)]


def _rows_for_trees(target: Target, rng: np.random.Generator) -> tuple[NDArray[np.int64], Target]:
    """Those that have a weight, of many rows some, and their targets."""
    rows = np.arange(len(target.y)) if target.weight is None else np.flatnonzero(target.weight)
    if len(rows) > MOST_TREE_ROWS:
        rows = rng.choice(rows, MOST_TREE_ROWS, replace=False)
    return rows, _of_rows(target, rows)


def _of_rows(target: Target, rows: NDArray[np.int64]) -> Target:
    return Target(target.y[rows], target.classes, None if target.weight is None else target.weight[rows])


def _splits_of_tree(column: Numbers, target: Target, bins: int, leaf: int) -> Numbers:
    """The thresholds of a tree with `bins` leaves at most that predicts the target by this column alone.

    A column that says nothing of the target has none, so that a network cannot learn its rows by heart by their bins.
    """
    ranks, borders = _ranked(column)
    tree = _kind_of_tree(target)(max_leaf_nodes=bins, min_samples_leaf=leaf, random_state=0)
    tree.fit(ranks[:, None], target.y, target.weight)
    rows = tree.tree_.n_node_samples
    if target.weight is not None:
        in_node = tree.decision_path(ranks[:, None]).T  # (nodes, rows)
        rows = (in_node @ target.weight) ** 2 / (in_node @ target.weight**2)
    splits: Numbers = borders[np.floor(tree.tree_.threshold[_splits_beyond_chance(tree.tree_, rows)]).astype(np.int64)]
    return splits


def _kind_of_tree(target: Target) -> Any:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    return DecisionTreeClassifier if target.classes else DecisionTreeRegressor


def _ranked(column: Numbers) -> tuple[NDArray[np.int64], Numbers]:
    """The rank (m,) of each value from 0 on, and the border behind each rank but the last.

    Columns beyond float32 would be refused by a tree, which asks for the order of values alone. Values that rounding
    alone tells apart, such as cosines of weekdays, have one rank, so that no border lies between them.
    """
    distinct, places = np.unique(column, return_inverse=True)
    first = np.flatnonzero(np.diff(distinct, prepend=-np.inf) > _narrowest(column))  # of each rank
    borders: Numbers = distinct[first[1:] - 1] / 2 + distinct[first[1:]] / 2
    return np.searchsorted(first, places, side="right") - 1, borders


def _fit_forest(values: Numbers, target: Target, trees: int, leaves: int, rng: np.random.Generator) -> Fitted:
    """Grow trees: the column and border of every split; for every leaf, the splits s that it is above, ~s if below."""
    rows, target = _rows_for_trees(target, rng)
    ranked = [_ranked(column) for column in values[rows].T]
    ranks = np.column_stack([ranks.astype(np.float32) for ranks, _ in ranked])  # (rows, n)
    forest: Fitted = {"columns": [], "borders": [], "leaves": []}
    for _ in range(trees):
        drawn = rng.choice(len(rows), math.ceil(PART_OF_ROWS * len(rows)), replace=False)
        some = _of_rows(target, drawn)
        tree = _kind_of_tree(target)(
            max_leaf_nodes=leaves,
            min_samples_leaf=FEWEST_IN_LEAF,
            max_features=PART_OF_COLUMNS,
            random_state=int(rng.integers(2**31)),
        )
        tree = tree.fit(ranks[drawn], some.y, some.weight).tree_
        forest["leaves"] += _leaves(tree, len(forest["columns"]))
        for column, threshold in zip(tree.feature, tree.threshold, strict=True):
            if column >= 0:  # a split, no leaf
                forest["columns"].append(int(column))
                forest["borders"].append(float(ranked[column][1][int(threshold)]))
    return forest


def _leaves(tree: Any, first: int) -> list[list[int]]:
    """The path to each leaf: the splits that it is above, s, or below, ~s; splits are counted from `first` on."""
    paths: dict[int, list[int]] = {0: []}
    split, leaves = first, []
    for node in range(tree.node_count):  # a node stands before those below it
        path = paths.pop(node)
        if tree.children_left[node] < 0:
            leaves.append(path)
            continue
        paths[int(tree.children_left[node])] = [*path, ~split]
        paths[int(tree.children_right[node])] = [*path, split]
        split += 1
    return leaves


def _splits_beyond_chance(tree: Any, rows: NDArray[Any]) -> NDArray[np.int64]:
    """The nodes of a grown tree whose split, or one below it, tells the target apart better than chance would.

    A split that lowers the impurity to a part q would, on a column that says nothing of the target, have a statistic
    -d (n - 2) log q of about a chi-square distribution, for n rows and d degrees of freedom. Where rows have weights, n
    is how many of equal weight vary as much, (sum of w)^2 / sum of w^2.
    """
    from scipy.special import chdtri

    splits = np.flatnonzero(tree.children_left >= 0)
    left, right = tree.children_left[splits], tree.children_right[splits]
    total = tree.weighted_n_node_samples * tree.impurity  # (nodes,)
    remaining = (total[left] + total[right]) / total[splits]
    degrees = int(np.maximum(np.asarray(tree.n_classes) - 1, 1).sum())  # n_classes is 1 for values
    statistic = -degrees * (rows[splits] - 2) * np.log(np.maximum(remaining, np.finfo(float).tiny))
    kept = np.zeros(tree.node_count, bool)
    kept[splits] = statistic > chdtri(degrees, CHANCE)
    for node in splits[::-1]:  # a node stands before those below it
        kept[node] |= kept[tree.children_left[node]] | kept[tree.children_right[node]]
    return np.flatnonzero(kept)


def _narrowest(column: Numbers) -> float:
    """Differences up to this are rounding, or nothing that matters in a column of this range."""
    return NARROWEST_BIN * (float(column.max()) / 2 - float(column.min()) / 2)


def _edges(column: Numbers, inner: Numbers) -> list[float]:
    """The edges of a column's bins in order: the least value, borders within, the largest value.

    Borders that rounding alone tells apart are one, so that no input depends on the last bit of a number.
    """
    low, high = float(column.min()), float(column.max())
    if not high > low:
        return [low, low + 1.0]
    narrowest, edges = _narrowest(column), [low]
    for border in np.unique(inner).tolist():
        if border - edges[-1] > narrowest and high - border > narrowest:
            edges.append(border)
    return [*edges, high]
