import tempfile
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softrsa import io
from softrsa.errors import DataError
from softrsa.io import FORMATS, Format, OutputError

text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
ids = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True),
    st.lists(text, min_size=2, max_size=6, unique=True),
)


@st.composite
def recordings(draw):
    stimuli = draw(ids)
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    n_units = draw(st.integers(1, 5))
    width = np.dtype(dtype).itemsize * 8
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return xr.DataArray(
        draw(arrays(dtype, (len(stimuli), n_units), elements=numbers)),
        dims=("stimulus", "unit"),
        coords={
            "stimulus": stimuli,
            "region": ("unit", draw(st.lists(text, min_size=n_units, max_size=n_units))),
            "depth": ("unit", np.linspace(0, 1, n_units)),
        },
        attrs=draw(
            st.dictionaries(
                st.sampled_from(["source", "note"]), st.one_of(text, st.integers(-9, 9))
            )
        ),
    )


@given(recordings())
def test_loading_gives_back_what_was_saved(array):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.nc"
        io.save(array, path)
        back = io.load(path)
    xr.testing.assert_identical(back, array)
    assert back.dtype == array.dtype
    assert back["stimulus"].dtype.kind == array["stimulus"].dtype.kind


def stack():
    values = np.zeros((2, 3, 3), dtype=np.float32)
    values[1] = np.nan
    coords = {"subject": ["BE", "KO"], "anchor": list("abc"), "neighbor": list("abc")}
    return xr.DataArray(values, dims=("subject", "anchor", "neighbor"), coords=coords)


def test_stack_with_a_subject_not_recorded(tmp_path):
    io.save(stack(), tmp_path / "rdms.nc")
    xr.testing.assert_identical(io.load(tmp_path / "rdms.nc"), stack().assign_attrs(kind="rdm"))


def test_trials(tmp_path):
    trials = xr.DataArray(
        np.ones((3, 2)), dims=("trial", "unit"), coords={"stimulus": ("trial", ["a", "b", "a"])}
    )
    io.save(trials, tmp_path / "trials.nc")
    xr.testing.assert_identical(io.load(tmp_path / "trials.nc"), trials)


def test_file_as_the_netcdf_library_sees_it(tmp_path):
    io.save(stack().assign_attrs(kind="rdm"), tmp_path / "rdms.nc")
    with netCDF4.Dataset(tmp_path / "rdms.nc") as file:
        assert file["data"].softrsa_schema == "1"
        assert file["data"].filters()["zlib"]
        assert file["data"].dimensions == ("subject", "anchor", "neighbor")


def test_multiindex_is_reset(tmp_path):
    array = xr.DataArray(
        np.ones((2, 2)),
        dims=("stimulus", "unit"),
        coords={"stimulus": [1, 2], "region": ("unit", ["V4", "IT"]), "n": ("unit", [0, 1])},
    )
    io.save(array.set_index(unit=["region", "n"]), tmp_path / "a.nc")
    xr.testing.assert_identical(io.load(tmp_path / "a.nc"), array)


@pytest.mark.parametrize("value", [None, True, {"a": 1}, [], ["a", None], np.eye(2)])
def test_attributes_netcdf_cannot_hold_are_refused(tmp_path, value):
    with pytest.raises(DataError, match=f"attribute 'setting' is a {type(value).__name__}, which"):
        io.save(stack().assign_attrs(setting=value), tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [["V4", None], np.array(["2020-01-01"] * 2, dtype="M8[ns]")])
def test_coordinates_netcdf_cannot_hold_are_refused(tmp_path, labels):
    array = xr.DataArray(
        np.ones((2, 2)),
        dims=("stimulus", "unit"),
        coords={"stimulus": [1, 2], "tag": ("unit", labels)},
    )
    with pytest.raises(DataError, match=r"coordinate `tag` holds (object|datetime64.*) values"):
        io.save(array, tmp_path / "a.nc")


def test_invalid_arrays_are_not_written(tmp_path):
    array = xr.DataArray(
        [[1.0, np.nan], [2.0, 3.0]], dims=("stimulus", "unit"), coords={"stimulus": [1, 2]}
    )
    with pytest.raises(DataError, match=r"1 value .* at 1 stimulus \(1\)"):
        io.save(array, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"taken is a file, not a folder"):
        io.save(stack(), tmp_path / "taken" / "rdms.nc")


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OutputError, match=r"Cannot write .*a.nc: NetCDF: HDF error"):
        io.save(stack(), tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_a_format_of_ones_own_is_written_by_its_suffix(tmp_path, monkeypatch):
    monkeypatch.setattr(FORMATS, "_rows", dict(FORMATS.items()))
    FORMATS.add(
        Format(
            name="sums", title="a sum", recognizes=lambda seen: False, read=lambda *_: None,
            suffix=".sum", write=lambda array, path: path.write_text(str(array.values.sum())),
        )
    )  # fmt: skip
    array = xr.DataArray(np.eye(3), dims=("stimulus", "unit"), coords={"stimulus": [1, 2, 3]})
    io.save(array, tmp_path / "all.sum")
    assert (tmp_path / "all.sum").read_text() == "3.0"
