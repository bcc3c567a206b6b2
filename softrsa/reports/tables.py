"""The table of an alignment as text."""

from __future__ import annotations

import pandas as pd

SHOWN = {
    "layer": "layer",
    "region": "region",
    "transform": "transform",
    "score": "score",
    "score_se": "± SE",
    "rsa_score": "Pearson RSA",
    "baseline_score": "best fixed",
    "gain": "gain",
    "row_offset_share": "row offset",
    "ceiling_lower": "ceiling",
    "ceiling_upper": "to",
    "all_stimuli_score": "all stimuli",
    "chosen": "chosen",
}


def format_table(table: pd.DataFrame) -> str:
    """Lay out the main columns of an alignment's table, three decimals, for a terminal.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.

    Returns
    -------
    str
        One line per row, with a header.
    """
    columns = [name for name in SHOWN if name in table.columns]
    shown = table[columns].dropna(axis="columns", how="all").rename(columns=SHOWN)
    return shown.to_string(index=False, float_format=lambda x: f"{x:.3f}", na_rep="-")


def format_best(table: pd.DataFrame) -> str:
    """Name the best layer of every region, under the last transform of the table.

    Parameters
    ----------
    table : DataFrame
        `AlignmentResult.table`.

    Returns
    -------
    str
        One line per region.
    """
    transform = table["transform"].iloc[-1]
    part = table[table["transform"] == transform]
    lines = []
    for region in dict.fromkeys(part["region"]):
        rows = part[part["region"] == region]
        if rows["score"].isna().all():
            lines.append(f"{region}: no layer has a score")
            continue
        best = rows.loc[rows["score"].idxmax()]
        low, high = best["ceiling_lower"], best["ceiling_upper"]
        ceiling = f"noise ceiling {low:.3f} to {high:.3f}" if pd.notna(low) else "no noise ceiling"
        lines.append(
            f"{region}: best layer {best['layer']} ({transform} {best['score']:.3f}, {ceiling})"
        )
    return "\n".join(lines)
