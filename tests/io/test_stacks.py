import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io import check_rdms


def stack(n_subjects=2, diagonal=0.0, ids="abcd"):
    """Build matrices whose entry (i, j) of subject s is 100 s + |i - j| + 1."""
    n = len(ids)
    place = np.arange(n)
    one = abs(place[:, None] - place) + 1.0
    one[place, place] = diagonal
    values = np.stack([one + 100 * s * (1 - np.eye(n)) for s in range(n_subjects)])
    coords = {
        "anchor": list(ids),
        "neighbor": list(ids),
        "subject": [f"s{i}" for i in range(n_subjects)],
    }
    return xr.DataArray(values, dims=("subject", "anchor", "neighbor"), coords=coords)


@given(
    st.permutations("abcd"),
    st.permutations("abcd"),
    st.permutations(["subject", "anchor", "neighbor"]),
)
def test_order_of_stimuli_and_dimensions_does_not_matter(anchors, neighbors, dims):
    shuffled = stack().sel(anchor=list(anchors), neighbor=list(neighbors)).transpose(*dims)
    checked = check_rdms(shuffled)
    assert checked.dims == ("subject", "anchor", "neighbor")
    assert checked["anchor"].values.tolist() == checked["neighbor"].values.tolist() == list(anchors)
    expected = stack().sel(anchor=list(anchors), neighbor=list(anchors))
    np.testing.assert_array_equal(checked, expected)


@pytest.mark.parametrize(("diagonal", "kind"), [(0.0, "rdm"), (1.0, "rsm"), (1.0 + 1e-15, "rsm")])
def test_kind_follows_from_the_diagonal(diagonal, kind):
    assert check_rdms(stack(diagonal=diagonal)).attrs["kind"] == kind


def test_stated_kind_wins_over_the_diagonal():
    assert check_rdms(stack(diagonal=7.0).assign_attrs(kind="rsm")).attrs["kind"] == "rsm"


def test_unclear_kind_is_asked_for():
    with pytest.raises(DataError, match=r'runs from 0.5 to 0.5. Set `array.attrs\["kind"\]`'):
        check_rdms(stack(diagonal=0.5))


def test_unknown_kind_is_refused():
    with pytest.raises(DataError, match=r"= 'dissimilarity'; it must be"):
        check_rdms(stack().assign_attrs(kind="dissimilarity"))


def test_different_neighbors_are_named():
    array = stack().assign_coords(neighbor=list("abcx"))
    with pytest.raises(StimulusError, match=r"anchors: 'd'; only among the neighbors: 'x'"):
        check_rdms(array)


def test_repeated_anchors_are_named():
    with pytest.raises(StimulusError, match="repeats the stimuli 'b'"):
        check_rdms(stack().assign_coords(anchor=list("abbd")))


def test_absent_neighbors_are_asked_for():
    with pytest.raises(StimulusError, match="coordinate `neighbor`"):
        check_rdms(stack().drop_vars("neighbor"))


def test_subject_that_was_not_recorded_is_fine():
    array = stack()
    array[0] = np.nan
    assert check_rdms(array).attrs["kind"] == "rdm"
    array[1] = np.nan
    with pytest.raises(DataError, match="nothing but NaN"):
        check_rdms(array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_stimulus_is_the_only_one_named(value):
    """One missing stimulus spoils pairs with all others; only it is to be left out."""
    array = stack()
    array.loc[{"subject": "s1", "anchor": "c"}] = value
    array.loc[{"subject": "s1", "neighbor": "c"}] = value
    with pytest.raises(
        DataError, match=r"has [67] values .* in subject 's1', all .* stimuli 'c'\."
    ):
        check_rdms(array, complete=True)
    if np.isnan(value):
        assert np.isnan(check_rdms(array)).sum() == 6  # pairs; the diagonal is known


def test_matrix_infinite_throughout_is_not_taken_for_absent():
    array = stack()
    array[0] = np.inf
    with pytest.raises(DataError, match="has 16 values that are infinite in subject 's0'"):
        check_rdms(array)


def test_labels_that_are_python_objects_are_named_too():
    """As `expand_dims(subject=[...])` and pandas leave them."""
    labels = np.array(["s0", "s1", "s2"], dtype=object)[: stack().sizes["subject"]]
    array = stack().assign_coords(subject=labels)
    array[1, 0, 1] = np.inf
    with pytest.raises(DataError, match="in subject 's1'"):
        check_rdms(array)


def test_integer_matrices_are_refused():
    with pytest.raises(DTypeError, match="got int64"):
        check_rdms(stack().astype("int64"))


def test_wrong_leading_dimension_is_named():
    with pytest.raises(ShapeError, match="got \\('participant', 'anchor', 'neighbor'\\)"):
        check_rdms(stack().rename(subject="participant"))


def test_repeated_subject_is_named():
    with pytest.raises(DataError, match="the subject 's0' more than once"):
        check_rdms(stack().assign_coords(subject=["s0", "s0"]))


def test_one_stimulus_is_too_few():
    with pytest.raises(ShapeError, match="has 1 stimulus"):
        check_rdms(stack(ids="a"))


def test_empty_stack_is_refused():
    with pytest.raises(DataError, match="0 entries along `subject`"):
        check_rdms(stack()[:0])
