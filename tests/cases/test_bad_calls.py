"""Calls that once gave a number without a word are refused, and the message says what was found."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from softrsa import reports
from softrsa._checks import checked
from softrsa.errors import DataError, DTypeError, ShapeError
from softrsa.identification import identify_regions
from softrsa.measures import svcca
from softrsa.pairs import expand
from softrsa.prediction.tasks import label_strata
from softrsa.rsm import similarity_matrix
from softrsa.transforms import (
    GlobalGate,
    SoftStep,
    geo_topological,
    log_soft_step,
    log_soft_step_s2,
    soft_step,
    soft_step_s2,
)

S = torch.linspace(0, 1, 6)
RDM = torch.cdist(S[:, None], S[:, None])
X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def of_regions(subjects, regions):
    return identify_regions(RDM.repeat(4, 1, 1), subjects, regions, transform="identity")


def asymmetric():
    matrix = RDM.clone()
    matrix[0, 1] += 0.1
    return matrix


def infinite():
    matrix = RDM.clone()
    matrix[0, 1] = matrix[1, 0] = torch.inf
    return matrix


CALLS = [
    (soft_step, (S, 0.8, 0.2, 0.5), DataError, r"lower=0\.8 and upper=0\.2"),
    (log_soft_step, (S, S + 0.1, S, 0.5), DataError, r"lower=0\.1 and upper=0"),
    (soft_step, (S, 0.2, 0.8, -1.0), DataError, r"in \(0, 1\], got -1"),
    (soft_step, (S, 0.2, 0.8, 2.0), DataError, "got 2"),
    (soft_step, (S, 0.2, 0.8, None), DTypeError, "`transition` must be .* got None"),
    (soft_step_s2, (S, 0.8, torch.tensor([[0.5], [2.0]])), DataError, r"got 0\.5 to 2"),
    (log_soft_step_s2, (S, -0.5, 0.5), DataError, r"`upper` must be in \[0, 1\], got -0\.5"),
    (SoftStep(GlobalGate()).step, (RDM, [S + 1, S, S]), DataError, "lower=1 and upper=0"),
    (geo_topological, (S[:5], 0.1, 0.9), ShapeError, "got 5; 3 stimuli have 3"),
    (geo_topological, (X[:4], 0.1, 0.9), ShapeError, r"\(4, 5\)"),
    (geo_topological, (asymmetric(), 0.1, 0.9), DataError, r"differ by up to 0\.1"),
    (geo_topological, (infinite(), 0.1, 0.9), DataError, "1 infinite"),
    (geo_topological, (RDM, S, 0.5), DataError, "`lower` must not exceed"),
    (geo_topological, (RDM, "0.1", 0.5), DTypeError, "`lower` must be .* got '0.1'"),
    (expand, (torch.tensor([1, 2, 3]), 0.5), DTypeError, r"no 0\.5 for the diagonal"),
    (of_regions, (["V1", "IT"] * 2, ["a", "a", "b", "b"]), DataError, "seem to be swapped"),
    (of_regions, ([*"abab"], ["sub-01", "sub-01", "sub-02", "sub-02"]), DataError, "swapped"),
    (lambda: svcca(X, X, n_components=2.5), (), DataError, r"whole number or None, got 2\.5"),
    (
        label_strata,
        (np.array([1.0, np.nan, 2.0]),),
        DataError,
        "got 1 that are not, the first at 1",
    ),
    (label_strata, (np.arange(4.0), 2.5), DataError, r"`bins` .* got 2\.5"),
]


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_refused_with_what_was_found(call):
    function, arguments, error, match = call
    with pytest.raises(error, match=match):
        function(*arguments)


def test_mahalanobis_takes_positive_definite_matrices_only():
    matrix = torch.eye(5)
    matrix[0, 0] = -0.1
    for precision, match in ((matrix, "positive definite"), (matrix.tril() + X[:5], "symmetric")):
        with pytest.raises(DataError, match=match):
            similarity_matrix(X, similarity="mahalanobis", precision=precision)
    semidefinite = torch.diag(torch.tensor([1.0, 1, 0, 0, 0]))
    found = similarity_matrix(X, similarity="mahalanobis", precision=semidefinite)
    expected = -torch.cdist(X[:, :2], X[:, :2]).square() / 5
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_not_a_number_among_parameters_of_steps_gives_not_a_number():
    assert soft_step(S, torch.tensor(torch.nan), 0.8, 0.5)[1:-2].isnan().all()


TABLE = pd.DataFrame({"layer": ["a"], "score": [0.1]})
FIGURES = [
    (reports.plot_alignment, TABLE, DataError, "'ceiling_upper' is missing, there is 'layer'"),
    (reports.plot_profile, TABLE.iloc[:0], DataError, "'transform'.* missing"),
    (reports.plot_curve, TABLE, DTypeError, "A DataArray is drawn here: .* got DataFrame"),
    (reports.plot_capture, xr.Dataset(), DataError, "'restart'.* missing, there is nothing"),
    (reports.plot_rsm, "rdm.nc", DTypeError, "`matrix` must be an array of numbers"),
    (reports.plot_mds, TABLE, DTypeError, "a mapping from names to RSMs, got DataFrame"),
]


@pytest.mark.parametrize("figure", FIGURES, ids=range(len(FIGURES)))
def test_figures_of_something_else_are_refused(figure):
    draw, given, error, match = figure
    options = {"measure": "pearson"} if draw is reports.plot_alignment else {}
    with pytest.raises(error, match=match):
        draw(given, **options)


@checked
def example(
    n: int,
    share: float = 0.5,
    *,
    seed: int = 0,
    shown: bool = True,
    name: "str | None" = None,
) -> tuple:
    return n, share, seed, shown, name


def test_arguments_are_checked_against_their_annotations():
    assert example(np.int64(2), 1, name="a") == (2, 1, 0, True, "a")
    for arguments, options, match in (
        ((2.5,), {}, r"`n` must be a whole number, got 2\.5 \(float\)"),
        ((True,), {}, r"`n` must be a whole number, got True \(bool\)"),
        ((2, "0.5"), {}, r"`share` must be a number, got '0\.5' \(str\)"),
        ((2, np.nan), {}, "`share` must be a number, got nan"),
        ((2,), {"shown": "no"}, "`shown` must be True or False, got 'no'"),
        ((2,), {"name": 3}, "`name` must be a string or None, got 3"),
        ((2,), {"seed": -1}, "`seed` must be from 0 to 2147483647, got -1"),
        ((2,), {"seed": 2**32}, "`seed` must be from 0 to 2147483647, got 4294967296"),
    ):
        with pytest.raises(DataError, match=match):
            example(*arguments, **options)
