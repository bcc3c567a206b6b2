"""Figures of inference: models' scores with their uncertainty, and which models differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from softrsa.reports.figures import COLORS, MAX_WIDE, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVEL = 0.05


def plot_inference(data: xr.Dataset, table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw mean scores as bars with 95 % intervals, and the noise ceiling as a band.

    Parameters
    ----------
    data : Dataset
        `InferenceResult.data`.
    table : DataFrame
        `InferenceResult.table`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Points are subjects. A star below a name: above 0 at .05 (corrected over models where a
        permutation test did so); a triangle: below the lower noise ceiling at .05.
    """
    if ax is None:
        ax = panels(1)[1][0]
    place = np.arange(len(table))
    scores = table["score"].to_numpy()
    reach = np.abs(table[["ci_low", "ci_high"]].to_numpy().T - scores)
    bounds = table[["ceiling_lower", "ceiling_upper"]].iloc[0]
    if bounds.notna().all():
        ax.axhspan(*bounds, color="0.85", linewidth=0, zorder=0, label="noise ceiling")
    ax.bar(place, scores, color=COLORS[0], alpha=0.7, width=0.7, zorder=1)
    each = data["score"].transpose("model", "subject").values
    spread = np.linspace(-0.2, 0.2, each.shape[1]) if each.shape[1] > 1 else np.zeros(1)
    ax.scatter(place[:, None] + spread, each, s=6, color="0.4", linewidths=0, zorder=2)
    shown = np.isfinite(reach).all(0)
    ax.errorbar(
        place[shown], scores[shown], reach[:, shown], fmt="none", ecolor="black", elinewidth=1,
        capsize=2, zorder=3,
    )  # fmt: skip
    long = len(table) > MAX_WIDE or max(map(len, table.iloc[:, 0])) > 10
    ax.set_xticks(
        place, _marked(table), fontsize=8, rotation=60 if long else 0,
        ha="right" if long else "center", rotation_mode="anchor" if long else "default",
    )  # fmt: skip
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.tick_params(axis="y", labelsize=8)
    ax.set_ylabel(data.attrs["measure"].replace("_", " "), fontsize=9)
    if bounds.notna().all():
        ax.legend(fontsize=8, frameon=False)
    return ax


def _marked(table: pd.DataFrame) -> list[str]:
    """Names with their marks of significance."""
    tests = [c for c in ("p_permutation_fwer", "p_permutation", "p_zero") if c in table]
    names = []
    for _, row in table.iterrows():
        mark = " *" if tests and row[tests[0]] < LEVEL else ""
        mark += " ▽" if "p_ceiling" in table and row["p_ceiling"] < LEVEL else ""
        names.append(f"{row.iloc[0]}{mark}")
    return names


def plot_comparisons(
    names: list[str], comparisons: pd.DataFrame, *, ax: Axes | None = None
) -> Axes:
    """Draw the differences between models as a matrix, starred where they are significant.

    Parameters
    ----------
    names : list of str
        The models in their order.
    comparisons : DataFrame
        `InferenceResult.comparisons`.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
        Color: score of the row less that of the column. Stars: corrected p below .05, .01, .001.
    """
    if ax is None:
        ax = panels(1, height=3.2)[1][0]
    place = {name: i for i, name in enumerate(names)}
    difference = np.full((len(names), len(names)), np.nan)
    for row in comparisons.itertuples():
        i, j = place[str(row.model)], place[str(row.other)]
        difference[i, j], difference[j, i] = row.difference, -float(str(row.difference))
        stars = "*" * sum(float(str(row.p_corrected)) < level for level in (0.05, 0.01, 0.001))
        for x, y in ((i, j), (j, i)):
            ax.text(x, y, stars, ha="center", va="center", fontsize=9)
    known = np.abs(difference[np.isfinite(difference)])
    limit = float(known.max()) if known.size and known.max() > 0 else 1.0
    image = ax.imshow(difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
    bar = ax.figure.colorbar(image, ax=ax, label="score of row − column")
    bar.ax.tick_params(labelsize=8)
    slanted = max(map(len, names)) > 4
    ax.set_xticks(
        range(len(names)), names, fontsize=8, rotation=60 if slanted else 0,
        ha="right" if slanted else "center", rotation_mode="anchor" if slanted else "default",
    )  # fmt: skip
    ax.set_yticks(range(len(names)), names, fontsize=8)
    return ax
