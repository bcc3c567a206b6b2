import numpy as np
import pytest
import xarray as xr

from softrsa.errors import DataError, DTypeError, ShapeError, StimulusError
from softrsa.io import check_recording, check_trials
from softrsa.io.schema import chunk_slices


def recording(values=None, ids=("face", "house", "tree"), **coords):
    values = np.arange(12.0).reshape(3, 4) if values is None else values
    return xr.DataArray(
        values, dims=("stimulus", "unit"), coords={"stimulus": np.asarray(ids), **coords}
    )


def test_what_is_in_memory_is_one_chunk():
    whole = [(slice(0, 2, None), slice(0, 3, None))]
    assert list(chunk_slices(xr.Variable(("stimulus", "unit"), np.zeros((2, 3))))) == whole


def test_order_of_dimensions_does_not_matter():
    checked = check_recording(recording().T)
    xr.testing.assert_identical(checked, recording())


def test_input_is_left_alone():
    array = recording().T
    before = array.copy(deep=True)
    check_recording(array)
    xr.testing.assert_identical(array, before)


@pytest.mark.parametrize("ids", [["b", "a", "c"], [3, 1, 2]])
def test_ids_stay_strings_or_integers(ids):
    checked = check_recording(recording(ids=np.array(ids, dtype=object if ids[0] == "b" else int)))
    assert checked["stimulus"].values.tolist() == ids
    assert checked["stimulus"].dtype.kind in "iU"


def test_big_endian_numbers_become_native():
    """Classic netCDF files hold big-endian numbers, which torch refuses."""
    checked = check_recording(recording(np.ones((3, 2), dtype=">f4")))
    assert checked.dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint8", "bool"])
def test_other_number_types_are_refused_with_the_remedy(dtype):
    with pytest.raises(DTypeError, match=rf'got {dtype}; convert it with `array.astype\("float64"'):
        check_recording(recording(np.ones((3, 4), dtype=dtype)))


def test_complex_is_refused_with_its_own_remedy():
    with pytest.raises(DTypeError, match=r"got complex128; take its real part or modulus"):
        check_recording(recording(np.ones((3, 4), dtype=complex)))


def test_what_is_not_an_array_is_refused():
    with pytest.raises(DTypeError, match=r"must be an xarray.DataArray, got ndarray"):
        check_recording(np.ones((3, 4)))


def test_wrong_dimensions_are_named():
    with pytest.raises(ShapeError, match=r"'stimulus', 'unit'\), got \('stimulus', 'time'\)"):
        check_recording(recording().rename(unit="time"))


def test_trials_are_told_how_to_become_means():
    with pytest.raises(ShapeError, match="average_trials"):
        check_recording(recording().rename(stimulus="trial"))


def test_repeated_stimuli_are_named_once():
    with pytest.raises(StimulusError, match=r"repeats the stimuli 'face'\. Average the trials"):
        check_recording(recording(ids=["face", "face", "tree"]))


def test_absent_ids_are_asked_for():
    with pytest.raises(StimulusError, match=r"assign_coords\(stimulus=\('stimulus', ids\)\)"):
        check_recording(recording().drop_vars("stimulus"))


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [([1.0, 2.0, 3.5], "float64"), (np.array(["a", 1, 2], dtype=object), "object")],
)
def test_ids_of_other_types_are_refused(ids, dtype):
    with pytest.raises(StimulusError, match=f"all strings or all integers, got {dtype}"):
        check_recording(recording(ids=ids))


def test_multiindex_of_stimuli_is_refused():
    array = recording().assign_coords(kind=("stimulus", [1, 1, 2]), n=("stimulus", [1, 2, 3]))
    array = array.drop_vars("stimulus").set_index(stimulus=["kind", "n"])
    with pytest.raises(StimulusError, match=r"MultiIndex of 'kind', 'n'"):
        check_recording(array)


def test_one_stimulus_is_too_few():
    with pytest.raises(ShapeError, match="has 1 stimulus; similarities need at least 2"):
        check_recording(recording()[:1])


@pytest.mark.parametrize(
    ("part", "dim"), [((slice(0), slice(9)), "stimulus"), ((slice(9), slice(0)), "unit")]
)
def test_empty_is_refused(part, dim):
    with pytest.raises(DataError, match=f"empty: it has 0 entries along `{dim}`"):
        check_recording(recording()[part])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_placed(value):
    array = recording(region=("unit", ["V1", "V1", "IT", "IT"]))
    array[1, 3] = value
    array[2, 3] = value
    message = r"2 values that are NaN or infinite, at 2 stimuli \('house', 'tree'\), region 'IT'\."
    with pytest.raises(DataError, match=message):
        check_recording(array)


def test_many_stimuli_are_counted_not_all_listed():
    array = recording(np.full((3, 4), np.nan).repeat(4, axis=0), ids=range(12))
    with pytest.raises(DataError, match=r"at 12 stimuli \(0, 1, 2, 3, 4, \.\.\. \(12 in all\)\)"):
        check_recording(array)


def test_blocks_cover_all_rows(monkeypatch):
    """A value is found in whichever block it lies."""
    monkeypatch.setattr("softrsa.io.schema.BLOCK_BYTES", 2 * 4 * 8)
    for row in range(3):
        array = recording()
        array[row, 0] = np.nan
        with pytest.raises(DataError, match=f"at 1 stimulus \\('{array.stimulus.values[row]}'\\)"):
            check_recording(array)
    check_recording(recording())


def test_trials_may_repeat_stimuli():
    trials = xr.DataArray(
        np.ones((2, 3)), dims=("unit", "trial"), coords={"stimulus": ("trial", ["a", "b", "a"])}
    )
    assert check_trials(trials).dims == ("trial", "unit")
    with pytest.raises(StimulusError, match="coordinate `stimulus` along `trial`"):
        check_trials(trials.drop_vars("stimulus"))
