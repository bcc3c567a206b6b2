"""What a reader must know before believing scores: warnings raised, and what the table shows."""

from __future__ import annotations

import json

import pandas as pd
import xarray as xr

from softrsa.io.wording import counted, listed
from softrsa.reports.figures import LEARNED

SAME = 1 - 1e-6  # a score above is of data that are the same
FEW_SUBJECTS = 3
FEW_TESTED = 20  # stimuli of a fold: below it a fold's score is next to noise


def cautions(data: xr.Dataset, table: pd.DataFrame) -> list[str]:
    """List reasons to doubt, the gravest first.

    Parameters
    ----------
    data : Dataset
        `AlignmentResult.data`.
    table : DataFrame
        `AlignmentResult.table`.

    Returns
    -------
    list of str
        A sentence or two each; none where there is nothing to say.
    """
    attrs = data.attrs
    found = []
    if attrs["permuted"]:
        found.append(
            "This is a control: the brain's stimuli were shuffled. Scores and gains other than 0 "
            "are not about the brain, and names of stimuli below are those of the model's side."
        )
    found += json.loads(attrs["warnings"])
    left_out = json.loads(attrs["stimuli_left_out"])
    if left_out:
        named = sorted({str(stimulus) for each in left_out.values() for stimulus in each})
        found.append(
            f"{counted(len(named), 'stimulus was', 'stimuli were')} not on both sides and left "
            f"out: {listed(named)}."
        )
    tested = attrs.get("n_tested_mean", attrs["n_tested"] / attrs["n_folds"])
    if tested < FEW_TESTED:
        found.append(
            f"A fold tests about {tested:.0f} stimuli. Scores of so few vary much from fold to "
            "fold: the third decimal says nothing."
        )
    if int(data["n_subjects"].max()) == 1:
        found.append(
            "One subject per region: there is no noise ceiling, and nothing here says what would "
            "hold for other subjects."
        )
    most = int(data["n_subjects"].max())
    if 1 < most <= FEW_SUBJECTS and table["score_low"].notna().any():
        found.append(
            f"{most} subjects: intervals for other people are wide with so few, and rightly so."
        )
    return [*found, *same_data(table), *_of_table(table)]


def same_data(table: pd.DataFrame) -> list[str]:
    """Ask whether both sides hold the same data, where a score is 1."""
    same = table[table["score"] > SAME]
    if not len(same):
        return []
    pairs = dict.fromkeys(f"{row.layer} / {row.region}" for row in same.itertuples())
    return [f"Some scores are 1: {', '.join(list(pairs)[:3])}. Do both sides hold the same data?"]


def _of_table(table: pd.DataFrame) -> list[str]:
    """Gains that are none, and scores above what the data allow."""
    found = []
    learned = table[table["transform"].isin([*LEARNED, "selected"])]
    if len(learned):
        worse = int((learned["gain"] <= 0).sum())
        if worse:
            found.append(
                f"In {worse} of {len(learned)} rows a learned or selected transform is not better "
                "than the best fixed one: a fixed transform is the simpler account."
            )
    above = int((table["score"] > table["ceiling_upper"]).sum())
    if above:
        found.append(
            f"{counted(above, 'score is', 'scores are')} above the upper noise ceiling: subjects "
            "agree less with each other than with the model, so the ceiling is itself noisy."
        )
    unsure = int((table["p_chance"] > 0.05).sum())
    if unsure:
        found.append(
            f"{unsure} of {len(table)} scores are not above chance at .05 (permuted stimulus "
            "labels, not corrected)."
        )
    return found
