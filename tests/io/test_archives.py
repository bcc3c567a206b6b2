"""NumPy's archives, arrays without labels, torch's files and plain HDF5."""

import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from softrsa import io
from softrsa.errors import (
    DataError,
    DTypeError,
    FileFormatError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)

RDM = np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]])
IDS = ["a", "b", "c"]


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_documented_keys(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.arange(6).reshape(3, 2), stimulus=IDS, region=["V1", "IT"])
    found = io.load(tmp_path / "a.npz")
    assert found.attrs["source_format"] == "an archive of NumPy (.npz)"
    assert "int64 values" in found.attrs["read_as"]
    assert (found.dims, found.dtype) == (("stimulus", "unit"), np.float64)
    assert found["region"].values.tolist() == ["V1", "IT"]
    with pytest.raises(StimulusError, match="holds its own stimulus ids"):
        io.load(tmp_path / "a.npz", stimuli=IDS)


def test_rdms_with_the_ids_of_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", rdms=np.stack([RDM, RDM]), stimulus=IDS)
    with pytest.warns(io.ReadingWarning, match=r"axis of 2 .* is taken for subjects.*`dims`"):
        found = io.load(tmp_path / "a.npz")
    assert found.dims == ("subject", "anchor", "neighbor")
    assert found["neighbor"].values.tolist() == IDS


def test_kind_decides_about_squares(tmp_path):
    np.save(tmp_path / "a.npy", RDM + 5)
    with pytest.raises(DataError, match=r"its diagonal runs from 5 to 5"):
        io.load(tmp_path / "a.npy", stimuli=IDS)
    assert io.load(tmp_path / "a.npy", stimuli=IDS, kind="rsm").attrs["kind"] == "rsm"
    recording = io.load(tmp_path / "a.npy", stimuli=IDS, kind="recording")
    assert recording.dims == ("stimulus", "unit")
    with pytest.raises(UnknownNameError, match=r"kind 'rmd'\. Did you mean .*'rdm'"):
        io.load(tmp_path / "a.npy", stimuli=IDS, kind="rmd")
    np.save(tmp_path / "a.npy", np.ones((3, 2, 2, 2, 2)))
    with pytest.raises(ShapeError, match=r"3 x 2 x 2 x 2 x 2, and nothing says what"):
        io.load(tmp_path / "a.npy", stimuli=IDS, kind="rdm")
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    with pytest.raises(ShapeError, match=r"rows of 4 pairs, which is no n"):
        io.load(tmp_path / "a.npy", stimuli=IDS, kind="rdm")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), (">f4", "float32"), ("int8", "float64"), ("bool", "float64")],
)
def test_numbers_become_floats(tmp_path, dtype, expected):
    np.save(tmp_path / "a.npy", np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype))
    found = io.load(tmp_path / "a.npy", stimuli=IDS)
    assert found.dtype == expected
    assert found.values.tolist() == [[0, 1], [1, 1], [1, 0]]


def test_complex_numbers_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2), complex))
    with pytest.raises(DTypeError, match=r"holds complex128 values"):
        io.load(tmp_path / "a.npy", stimuli=IDS)


def test_several_arrays_ask_which(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.zeros((3, 2)))
    with pytest.raises(FileFormatError, match=r"2 arrays \('x' \(3, 2\), 'y' \(3, 2\)\).*='x'"):
        io.load(tmp_path / "a.npz", stimuli=IDS)
    assert not io.load(tmp_path / "a.npz", stimuli=IDS, variable="y").any()
    with pytest.raises(UnknownNameError, match=r"array in .*'z'\. .*Known: x, y"):
        io.load(tmp_path / "a.npz", stimuli=IDS, variable="z")


def test_pickles_are_refused_unopened(tmp_path, capsys):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "noname").write_bytes(pickle.dumps(Harmful()))
    (tmp_path / "a.joblib").write_bytes(b"\x78\x01compressed")
    (tmp_path / "old.p").write_bytes(pickle.dumps(Harmful(), protocol=0))
    for name in ("a.pkl", "noname", "a.joblib", "old.p"):
        with pytest.raises(FileFormatError, match=rf"{name} is a pickle .*numpy\.savez\(path"):
            io.load(tmp_path / name, stimuli=IDS)
    objects = np.array([Harmful()], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"array in .*a\.npy is pickled"):
        io.load(tmp_path / "a.npy", stimuli=IDS)
    np.savez(tmp_path / "a.npz", data=objects, allow_pickle=True)
    with pytest.raises(FileFormatError, match=r"All that .*a\.npz holds \('data'\) is pickled"):
        io.load(tmp_path / "a.npz", stimuli=IDS)
    with pytest.raises(FileFormatError, match=r"'data' in .*a\.npz is pickled"):
        io.load(tmp_path / "a.npz", stimuli=IDS, variable="data")
    torch.save({"x": Harmful()}, tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match=r"a\.pt holds Python objects .*print"):
        io.load(tmp_path / "a.pt", stimuli=IDS)
    torch.save(Harmful(), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FileFormatError, match=r"b\.pt holds Python objects"):
        io.load(tmp_path / "b.pt", stimuli=IDS)
    assert capsys.readouterr().out == ""


def test_pickled_labels_beside_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", data=np.ones((3, 2)), stimulus=np.array(IDS, dtype=object))
    with pytest.raises(FileFormatError, match=r"'stimulus' in .*a\.npz is pickled.*str\(name\)"):
        io.load(tmp_path / "a.npz")
    assert io.load(tmp_path / "a.npz", stimuli=IDS)["stimulus"].values.tolist() == IDS


@pytest.mark.parametrize("new", [True, False])
def test_tensors(tmp_path, new):
    path = tmp_path / "a.pt"
    torch.save(torch.arange(6).reshape(3, 2), path, _use_new_zipfile_serialization=new)
    found = io.load(path, stimuli=IDS)
    assert found.attrs["source_format"] == "tensors of torch (.pt)"
    assert found.values.tolist() == [[0, 1], [2, 3], [4, 5]]
    layers = {"conv": torch.ones(3, 2, 2, dtype=torch.bfloat16), "fc": torch.zeros(3, 1)}
    torch.save(layers, path, _use_new_zipfile_serialization=new)
    found = io.load(path, stimuli=IDS)
    assert found["layer"].values.tolist() == ["conv"] * 4 + ["fc"]
    assert io.load(path, stimuli=IDS, variable="fc").shape == (3, 1)
    torch.save([1, 2], path)
    with pytest.raises(FileFormatError, match=r"holds a list, not a tensor"):
        io.load(path, stimuli=IDS)


def test_plain_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rdm"] = RDM
        file["stimulus"] = IDS
    found = io.load(tmp_path / "a.h5")
    assert found.attrs == {"kind": "rdm", "source_format": "plain arrays in HDF5"}
    assert found["anchor"].values.tolist() == IDS


@pytest.mark.parametrize("suffix", ["npz", "npy", "pt", "h5"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    values = np.random.default_rng(0).random((50, 40))
    if suffix == "npz":
        np.savez(path, data=values, stimulus=range(50))
    elif suffix == "npy":
        np.save(path, values)
    elif suffix == "pt":
        torch.save(torch.from_numpy(values), path)
    else:
        with h5py.File(path, "w") as file:
            file["data"] = values
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=rf"a\.{suffix} .*(cut short|is a zip file)"):
        io.load(path, stimuli=range(50))


def test_damaged_inside(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, data=np.random.default_rng(0).random((50, 40)), stimulus=range(50))
    content = bytearray(path.read_bytes())
    content[5000:5100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"was taken for an archive of NumPy .*CRC-32"):
        io.load(path)


def test_damaged_inside_what_is_compressed(tmp_path):
    import scipy.io

    values = np.random.default_rng(0).random((50, 40))
    scipy.io.savemat(tmp_path / "a.mat", {"data": values}, do_compression=True)
    np.savez_compressed(tmp_path / "a.npz", data=values)
    for name in ("a.mat", "a.npz"):
        content = bytearray((tmp_path / name).read_bytes())
        content[5000:5100] = bytes(100)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError, match=rf"{name} was taken for .* cannot be read"):
            io.load(tmp_path / name, stimuli=range(50))


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileFormatError, match=r"a\.zip is a zip file with 'readme.txt', not"):
        io.load(tmp_path / "a.zip")
    np.savez(tmp_path / "a.npz", note="hello")
    with pytest.raises(FileFormatError, match=r"no array of numbers, only 'note'"):
        io.load(tmp_path / "a.npz")


labels = st.one_of(
    st.lists(st.text(max_size=5).filter(lambda t: not t.endswith("\0")),
             min_size=2, max_size=4, unique=True),
    st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=4, unique=True),
)  # fmt: skip
attributes = st.dictionaries(
    st.text(min_size=1, max_size=5),
    st.one_of(st.text(), st.integers(), st.lists(st.integers(), min_size=1)),
    max_size=3,
)


@given(labels, st.sampled_from(["float32", "float64"]), attributes)
def test_recordings_survive(tmp_path_factory, stimuli, dtype, attrs):
    array = xr.DataArray(
        np.arange(3.0 * len(stimuli), dtype=dtype).reshape(-1, 3) / 7,
        dims=("stimulus", "unit"),
        coords={
            "stimulus": stimuli, "layer": ("unit", ["x", "y", "y"]),
            "depth": ("unit", [0.1, 2.0, np.inf]), "good": ("unit", [True, False, True]),
            "session": 3,
        },
        attrs=attrs,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("x") / "a.npz"
    io.save(array, path)
    found = io.load(path)
    del found.attrs["source_format"]
    xr.testing.assert_identical(found, array)
    assert found.dtype == array.dtype


@given(labels, labels)
def test_rdms_survive_in_npz_and_netcdf(tmp_path_factory, stimuli, subjects):
    n = len(stimuli)
    array = xr.DataArray(
        np.arange(float(len(subjects) * n * n)).reshape(-1, n, n),
        dims=("subject", "anchor", "neighbor"),
        coords={
            "subject": subjects, "anchor": stimuli, "neighbor": stimuli,
            "name": ("subject", [f"n{i}" for i in range(len(subjects))]),
        },
        attrs={"kind": "rdm"},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("x")
    io.save(array, folder / "a.npz")
    found = io.load(folder / "a.npz")
    del found.attrs["source_format"]
    xr.testing.assert_identical(found, array)


def test_trials_survive(tmp_path):
    array = xr.DataArray(
        np.eye(3), dims=("trial", "unit"), coords={"stimulus": ("trial", ["a", "b", "a"])}
    )
    io.save(array, tmp_path / "a.NPZ")
    xr.testing.assert_identical(io.load(tmp_path / "a.NPZ").drop_attrs(), array)


def test_reserved_names(tmp_path):
    array = xr.DataArray(
        np.eye(2), dims=("stimulus", "unit"), coords={"stimulus": [1, 2], "dims": ("unit", [1, 2])}
    )
    with pytest.raises(DataError, match=r"cannot be called 'dims'"):
        io.save(array, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
