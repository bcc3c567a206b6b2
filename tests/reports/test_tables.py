import numpy as np
import pandas as pd

from softrsa.reports import format_best, format_table

TABLE = pd.DataFrame(
    {
        "layer": ["conv", "conv", "fc", "fc"],
        "region": ["IT"] * 4,
        "transform": ["identity", "selected"] * 2,
        "score": [0.1, 0.2, 0.45678, 0.3],
        "score_se": [0.01] * 4,
        "ceiling_lower": [np.nan, 0.5, np.nan, 0.6],
        "ceiling_upper": [np.nan, 0.55, np.nan, 0.65],
        "n_steps": [0, 10, 0, 20],
    }
)


def test_table_has_three_decimals_and_the_main_columns():
    header, *lines = format_table(TABLE).splitlines()
    assert header.split() == ["layer", "region", "transform", "score", "±", "SE", "ceiling", "to"]
    assert lines[2].split() == ["fc", "IT", "identity", "0.457", "0.010", "-", "-"]
    assert len(lines) == 4


def test_table_has_the_four_scores_and_sides_where_one_is_left_alone():
    beside = {"per_anchor_score": 0.2, "balanced_score": 0.3, "identification": 0.9}
    both = TABLE.assign(**beside, sides=["", "both"] * 2)
    header, first = format_table(both).splitlines()[:2]
    start = ["layer", "region", "transform", "score", "±", "SE", "per", "anchor", "balanced"]
    assert header.split()[:10] == [*start, "identified"]
    assert first.split()[5:8] == ["0.200", "0.300", "0.900"]
    assert "steps of" not in header
    header, _, second = format_table(both.assign(sides=["", "model"] * 2)).splitlines()[:3]
    assert header.endswith("steps of")
    assert second.endswith(" model")


def test_table_leaves_out_columns_without_any_value():
    assert "ceiling" not in format_table(TABLE[TABLE["transform"] == "identity"])


def test_best_layer_is_that_of_the_last_transform():
    expected = "IT: best layer fc (selected 0.300, noise ceiling 0.600 to 0.650)"
    assert format_best(TABLE) == expected


def test_no_layer_above_chance_is_said():
    sure, unsure = (TABLE.assign(p_corrected=p) for p in (0.001, 0.4))
    assert format_best(sure).startswith("IT: best layer fc (selected 0.300, ")
    assert format_best(sure).endswith(", corrected p 0.001)")
    assert format_best(unsure).startswith("IT: no layer above chance; best fc (selected 0.300, ")
    assert format_best(unsure).endswith(", corrected p 0.4)")


def test_best_layer_without_a_ceiling():
    plain = TABLE[TABLE["transform"] == "identity"]
    assert format_best(plain) == "IT: best layer fc (identity 0.457, no noise ceiling)"


def test_best_layer_where_no_score_is_defined():
    undefined = TABLE.assign(score=np.nan)
    assert format_best(undefined) == "IT: no layer has a score"
