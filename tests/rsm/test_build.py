"""Labelled recordings to labelled RSMs, and RDMs to RSMs."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError, DeviceError, DTypeError, ShapeError, UnknownNameError
from softrsa.io import check_rdms
from softrsa.rsm import SIMILARITIES, build_rsms, similarity_matrix, to_rsm

STIMULI = ["face", "house", "tree", "dog", "car"]


@pytest.fixture
def recording():
    """12 units: V4 and IT of two subjects, interleaved; subject b has no IT."""
    values = np.random.default_rng(7).normal(3, 1, (5, 12))
    return xr.DataArray(
        values,
        dims=("stimulus", "unit"),
        coords={
            "stimulus": STIMULI,
            "region": ("unit", ["V4"] * 4 + ["IT"] * 4 + ["V4"] * 4),
            "subject": ("unit", ["a", "b"] * 2 + ["a"] * 4 + ["a", "b"] * 2),
        },
    )


def rsm_of(recording, units, similarity="correlation"):
    return similarity_matrix(
        torch.from_numpy(recording.values[:, units].copy()), similarity=similarity
    ).numpy()


@pytest.mark.parametrize("similarity", ["correlation", "sqeuclidean", "rbf"])
def test_one_rsm_per_combination(recording, similarity):
    rsms = build_rsms(recording, by=("region", "subject"), similarity=similarity)
    assert rsms.dims == ("region", "subject", "anchor", "neighbor")
    assert rsms.region.values.tolist() == ["V4", "IT"]
    assert rsms.attrs == {"kind": "rsm", "similarity": similarity}
    for name in ("anchor", "neighbor"):
        assert rsms[name].values.tolist() == STIMULI
    mine = (recording.region == "V4").values & (recording.subject == "b").values
    np.testing.assert_array_equal(
        rsms.sel(region="V4", subject="b"), rsm_of(recording, mine, similarity)
    )
    assert rsms.sel(region="IT", subject="b").isnull().all()
    check_rdms(rsms)


@pytest.mark.parametrize("similarity", SIMILARITIES[:-1])
@given(n=st.integers(2, 9), n_units=st.integers(2, 300), seed=st.integers(0, 2**32 - 1))
def test_the_layout_in_memory_does_not_matter(similarity, n, n_units, seed):
    x = torch.randn(n, n_units, generator=torch.Generator().manual_seed(seed))
    by_columns = x.T.contiguous().T
    found = similarity_matrix(by_columns, similarity=similarity)
    assert torch.equal(found, similarity_matrix(x, similarity=similarity))


def test_by_one_coordinate_and_by_none(recording):
    whole = build_rsms(recording)
    assert whole.dims == ("anchor", "neighbor")
    np.testing.assert_allclose(whole, np.corrcoef(recording), rtol=0, atol=1e-12)
    regions = build_rsms(recording, by="region")
    assert regions.dims == ("region", "anchor", "neighbor")
    np.testing.assert_array_equal(regions[1], rsm_of(recording, slice(4, 8)))


def test_order_of_stimuli_and_dimensions_does_not_matter(recording):
    rsms = build_rsms(recording, by="region")
    for other in (recording[[3, 1, 4, 0, 2]].T, recording[::-1]):
        moved = build_rsms(other, by="region").sel(anchor=STIMULI, neighbor=STIMULI)
        xr.testing.assert_allclose(moved, rsms, rtol=0, atol=1e-14)


def test_type_follows_the_input_or_the_wish(recording):
    single = recording.astype(np.float32)
    assert build_rsms(single).dtype == np.float32
    double = build_rsms(single, dtype=torch.float64)
    assert double.dtype == np.float64
    np.testing.assert_allclose(build_rsms(single), double, rtol=0, atol=1e-6)


def test_input_is_unchanged_and_may_be_read_only(recording):
    before = recording.copy(deep=True)
    expected = build_rsms(recording, by="region")
    xr.testing.assert_identical(recording, before)
    recording.values.flags.writeable = False
    xr.testing.assert_identical(build_rsms(recording, by="region"), expected)


def test_float32_stays_accurate_over_many_units():
    """600 000 units far from zero: sums in float32 alone would lose the sixth digit."""
    values = np.random.default_rng(3).normal(5, 1, (6, 600_000)).astype(np.float32)
    recording = xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": range(6)})
    for similarity in ("correlation", "cosine", "sqeuclidean"):
        exact = build_rsms(recording, similarity=similarity, dtype=torch.float64)
        found = build_rsms(recording, similarity=similarity)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)


def test_constant_responses_are_named(recording):
    recording[1, 4:8] = 0.1
    with pytest.raises(DataError, match=r"1 stimulus \('house'\) are constant, region 'IT'"):
        build_rsms(recording, by="region")
    assert build_rsms(recording, by="region", similarity="l2").notnull().all()
    recording[[1, 3], 4:8] = 0.0
    with pytest.raises(DataError, match=r"2 stimuli \('house', 'dog'\) are zero in all units"):
        build_rsms(recording, by="region", similarity="cosine")


def test_one_unit_is_too_few_for_a_correlation(recording):
    with pytest.raises(DataError, match="at least 2 units, got 1, region 'V4', subject 'a'"):
        build_rsms(recording[:, [0, 4, 5]], by=("region", "subject"))


def test_other_mistakes_are_named(recording):
    with pytest.raises(UnknownNameError, match=r"'regoin'\. Did you mean 'region'"):
        build_rsms(recording, by="regoin")
    with pytest.raises(UnknownNameError, match=r"'cosin'\. Did you mean 'cosine'"):
        build_rsms(recording, similarity="cosin")
    with pytest.raises(DTypeError, match="float16"):
        build_rsms(recording.astype(np.float16))
    with pytest.raises(ShapeError, match="1 stimulus"):
        build_rsms(recording[:1])
    with pytest.raises(DeviceError, match="'gpu'"):
        build_rsms(recording, device="gpu")


def stack(values, kind=None):
    return xr.DataArray(
        values,
        dims=("anchor", "neighbor"),
        coords={"anchor": STIMULI[:2], "neighbor": STIMULI[:2]},
        attrs={"kind": kind, "source": "paper"} if kind else {},
    )


def test_rdms_become_rsms():
    rsm = to_rsm(stack([[0.0, 0.25], [0.25, 0.0]], "rdm"))
    assert rsm.values.tolist() == [[1.0, 0.75], [0.75, 1.0]]
    assert rsm.attrs == {"kind": "rsm", "source": "paper"}
    xr.testing.assert_equal(to_rsm(stack([[0.0, 0.25], [0.25, 0.0]])), rsm)  # by its diagonal


def test_rsms_stay_as_they_are():
    for kind in ("rsm", None):
        rsm = stack([[1.0, 0.75], [0.75, 1.0]], kind)
        xr.testing.assert_equal(to_rsm(rsm), rsm)
    with pytest.raises(DataError, match="runs from 2 to 2"):
        to_rsm(stack([[2.0, 0.75], [0.75, 2.0]]))


@pytest.mark.parametrize("similarity", ["correlation", "cosine", "l2", "rbf", "dot"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_movies_are_the_rsms_of_each_time(similarity, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    array = xr.DataArray(
        rng.normal(size=(6, 9, 5)).astype(dtype),
        dims=("stimulus", "unit", "time"),
        coords={
            "stimulus": list("abcdef"),
            "region": ("unit", ["V4"] * 4 + ["IT"] * 5),
            "time": np.arange(5) / 10,
        },
        attrs={"source": "here"},
    )
    monkeypatch.setattr("softrsa.rsm.build.MOVIE_BYTES", 6 * 5 * 8 * 2)  # two times
    found = build_rsms(array.transpose("time", ...), by="region", similarity=similarity)
    assert found.dims == ("region", "time", "anchor", "neighbor")
    assert (found.dtype, found.attrs["source"]) == (dtype, "here")
    np.testing.assert_array_equal(found["time"], array["time"])
    for i in range(5):
        one = build_rsms(array.isel(time=i, drop=True), by="region", similarity=similarity)
        np.testing.assert_allclose(found.isel(time=i), one, rtol=0, atol=1e-6)
    array[2, 4:, 3] = 1.0
    if similarity == "correlation":
        with pytest.raises(DataError, match=r"1 stimulus \('c'\) are constant, region 'IT'"):
            build_rsms(array, by="region")
