"""MATLAB files: structs of RDMs in both formats, and the real ones of two data sets."""

from contextlib import nullcontext

import h5py
import numpy as np
import pytest
import scipy.io
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

from softrsa import io
from softrsa.errors import (
    FileFormatError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)

IDS = ["face", "house", "dog"]
RDM = squareform([1.0, 2.0, 3.0])


def save73(path, content):
    """Write as MATLAB 7.3 does: axes turned, classes as attributes, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        for name, value in content.items():
            put73(file, refs, name, value)
    content = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + content[512:])


def put73(group, refs, name, value):
    if isinstance(value, dict):
        inner = group.create_group(name)
        inner.attrs["MATLAB_class"] = np.bytes_("struct")
        for key, held in value.items():
            put73(inner, refs, key, held)
        return
    if isinstance(value, list) and isinstance(value[0], dict):  # an array of structs
        inner = group.create_group(name)
        inner.attrs["MATLAB_class"] = np.bytes_("struct")
        for key in value[0]:
            inner[key] = references(refs, [each[key] for each in value])
        return
    if isinstance(value, list):
        group[name] = references(refs, value)
        group[name].attrs["MATLAB_class"] = np.bytes_("cell")
        return
    if isinstance(value, str):
        group[name] = np.array([[ord(c)] for c in value], dtype=np.uint16)
        group[name].attrs["MATLAB_class"] = np.bytes_("char")
        return
    group[name] = np.atleast_2d(value).T
    group[name].attrs["MATLAB_class"] = np.bytes_("double")


def references(refs, values):
    found = np.empty((len(values), 1), dtype=h5py.ref_dtype)
    for i, value in enumerate(values):
        name = f"r{len(refs)}"
        put73(refs, refs, name, value)
        found[i, 0] = refs[name].ref
    return found


def save5(path, content):
    """Write before 7.3; lists become cells or arrays of structs."""
    scipy.io.savemat(path, {name: shape5(value) for name, value in content.items()})


def shape5(value):
    if isinstance(value, dict):
        return {key: shape5(held) for key, held in value.items()}
    if isinstance(value, list) and isinstance(value[0], dict):
        dtype = [(key, object) for key in value[0]]
        records = np.empty((1, len(value)), dtype=dtype)
        for i, each in enumerate(value):
            for key, held in each.items():
                records[0, i][key] = held
        return records
    if isinstance(value, list):
        cells = np.empty((1, len(value)), dtype=object)
        cells[0, :] = value
        return cells
    return value


both = pytest.mark.parametrize("save", [save5, save73], ids=["v5", "v7.3"])


@both
def test_struct_of_trsa(tmp_path, save):
    """Rows × pairs with subject and region as integers, in any order."""
    rows = np.arange(12.0).reshape(4, 3) + 1
    d = {"rdm": rows, "subj": np.array([[1.0, 2, 1, 2]]).T, "roi": np.array([[3.0, 3, 7, 7]]).T}
    save(tmp_path / "a.mat", {"D": d})
    found = io.load(tmp_path / "a.mat", stimuli=IDS)
    assert found.dims == ("region", "subject", "anchor", "neighbor")
    assert found["region"].values.tolist() == [3, 7]
    assert found["subject"].dtype.kind == "i"
    np.testing.assert_array_equal(found.sel(subject=2, region=7).values, squareform(rows[3]))
    assert found.attrs["source_format"].startswith("a MATLAB ")


@both
def test_array_of_structs_with_names(tmp_path, save):
    models = [{"RDM": (i + 1) * RDM, "name": name} for i, name in enumerate(["V1", "IT"])]
    save(tmp_path / "a.mat", {"Models": models})
    found = io.load(tmp_path / "a.mat", stimuli=IDS)
    assert found["subject"].values.tolist() == ["V1", "IT"]
    np.testing.assert_array_equal(found.sel(subject="IT").values, 2 * RDM)


@both
def test_one_struct_with_an_rdm_of_integers(tmp_path, save):
    save(tmp_path / "a.mat", {"Model": {"RDM": RDM.astype(np.uint8), "name": "V1"}})
    found = io.load(tmp_path / "a.mat", stimuli=IDS)
    assert (found.dims, found.dtype) == (("anchor", "neighbor"), np.float64)
    np.testing.assert_array_equal(found.values, RDM)


@both
def test_cells_of_upper_triangles(tmp_path, save):
    save(tmp_path / "a.mat", {"rdms": [np.array([[1.0, 2, 3]]), np.array([[4.0, 5, 6]])]})
    found = io.load(tmp_path / "a.mat", stimuli=IDS)
    np.testing.assert_array_equal(found.sel(subject=2).values, squareform([4.0, 5, 6]))


@both
@pytest.mark.parametrize(
    ("values", "dims"),
    [
        (RDM, ()),
        (np.stack([RDM, 2 * RDM, 3 * RDM, 4 * RDM]), ("subject",)),
        (np.stack([RDM, 2 * RDM], axis=-1), ("subject",)),
        (np.array([[1.0, 2, 3]]), ()),
    ],
    ids=["square", "stack", "stack as in MATLAB", "upper triangle"],
)
def test_plain_rdms(tmp_path, save, values, dims):
    save(tmp_path / "a.mat", {"rdms": values})
    said = pytest.warns(io.ReadingWarning, match="subjects") if dims else nullcontext()
    with said:
        found = io.load(tmp_path / "a.mat", stimuli=IDS)
    assert (found.dims, found.attrs["kind"]) == ((*dims, "anchor", "neighbor"), "rdm")
    first = found.isel(subject=0) if dims else found
    np.testing.assert_array_equal(first.values, RDM)


@both
def test_rows_of_upper_triangles_have_to_be_called_so(tmp_path, save):
    rows = np.array([[1.0, 2, 3], [4, 5, 6]])
    save(tmp_path / "a.mat", {"x": rows})
    recording = io.load(tmp_path / "a.mat", stimuli=["a", "b"])
    assert recording.dims == ("stimulus", "unit")
    with pytest.warns(io.ReadingWarning, match="axis of 2 .* subjects"):
        found = io.load(tmp_path / "a.mat", stimuli=IDS, kind="rdm")
    np.testing.assert_array_equal(found.sel(subject=1).values, RDM)


@both
def test_recordings_with_the_ids_of_the_caller(tmp_path, save):
    values = np.arange(6.0).reshape(3, 2)
    save(tmp_path / "a.mat", {"betas": values, "note": "hello", "n": 3.0})
    with pytest.raises(StimulusError, match=r"'betas' .* give the ids of its 3 rows"):
        io.load(tmp_path / "a.mat")
    found = io.load(tmp_path / "a.mat", stimuli=IDS)
    np.testing.assert_array_equal(found.values, values)
    with pytest.raises(StimulusError, match=r"3 stimuli, .* 2 ids\. Its columns fit: turn it"):
        io.load(tmp_path / "a.mat", stimuli=["a", "b"])
    with pytest.raises(FileFormatError, match=r"'note' .* is the text 'hello'"):
        io.load(tmp_path / "a.mat", variable="note")


@both
def test_one_unit_is_no_upper_triangle(tmp_path, save):
    values = np.arange(6.0).reshape(6, 1)  # as many as four stimuli have pairs
    save(tmp_path / "a.mat", {"rates": values})
    assert io.load(tmp_path / "a.mat", stimuli=range(6)).dims == ("stimulus", "unit")
    assert io.load(tmp_path / "a.mat", stimuli=range(4)).dims == ("anchor", "neighbor")


@both
def test_several_variables_are_listed_with_shapes(tmp_path, save):
    save(tmp_path / "a.mat", {"EVC": RDM, "IT": 2 * RDM})
    with pytest.raises(FileFormatError, match=r"2 variables \(EVC \(3 x 3 float64\), IT"):
        io.load(tmp_path / "a.mat", stimuli=IDS)
    found = io.load(tmp_path / "a.mat", stimuli=IDS, variable="IT")
    np.testing.assert_array_equal(found.values, 2 * RDM)
    with pytest.raises(UnknownNameError, match=r"'it'\. Did you mean 'IT'"):
        io.load(tmp_path / "a.mat", stimuli=IDS, variable="it")


@both
def test_nothing_to_read(tmp_path, save):
    save(tmp_path / "a.mat", {"D": {"data": RDM}})
    with pytest.raises(FileFormatError, match=r"only D \(struct with 'data'\)\. Known are"):
        io.load(tmp_path / "a.mat", stimuli=IDS)
    with pytest.raises(FileFormatError, match=r"struct without `RDM` or `rdm`: 'data'"):
        io.load(tmp_path / "a.mat", stimuli=IDS, variable="D")


@both
def test_rdms_of_unlike_sizes(tmp_path, save):
    models = [{"RDM": RDM, "name": "a"}, {"RDM": np.zeros((4, 4)), "name": "b"}]
    save(tmp_path / "a.mat", {"Models": models})
    with pytest.raises(ShapeError, match=r"other numbers of stimuli: 3, 4"):
        io.load(tmp_path / "a.mat", stimuli=IDS)


@both
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated(tmp_path, save, share):
    path = tmp_path / "a.mat"
    save(path, {"rdms": np.random.default_rng(0).random((30, 30, 30))})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileFormatError, match=r"a.mat was taken for a MATLAB .* cut short"):
        io.load(path, stimuli=range(30))


def test_kriegeskorte92(data_dir):
    folder = data_dir / "kriegeskorte92"
    brain = io.load(folder / "92_brainRDMs.mat", stimuli=range(92))
    assert dict(brain.sizes) == {"subject": 4, "session": 2, "anchor": 92, "neighbor": 92}
    assert brain["name"].values[1, 0] == "hIT | KO | Session: 1"
    pairs = np.triu_indices(92, 1)
    mean = brain.mean(("subject", "session")).values[pairs]
    fig1 = io.load(
        folder / "Kriegeskorte_Neuron2008_supplementalData.mat",
        stimuli=range(92), variable="RDMs_mIT_hIT_fig1",
    )  # fmt: skip
    monkey = fig1.sel(subject="mIT_674neurons").values[pairs]
    assert spearmanr(mean, monkey).statistic == pytest.approx(0.439, abs=5e-4)
    models = io.load(folder / "92_modelRDMs.mat", stimuli=range(92))
    animacy = models.sel(subject="animacy").values[pairs]
    assert spearmanr(mean, animacy).statistic == pytest.approx(0.588, abs=5e-4)
    behavior = io.load(folder / "92_behavRDMs.mat", stimuli=range(92))
    assert behavior.sizes["subject"] == 16
    behavior = behavior.mean("subject").values[pairs]
    assert spearmanr(mean, behavior).statistic == pytest.approx(0.392, abs=5e-4)
    hmax = io.load(
        folder / "rdm92_HMAXnatImPatch.mat", stimuli=range(92), variable="rdm92_HMAXnatImPatch"
    ).values[pairs]
    assert spearmanr(mean, hmax).statistic == pytest.approx(0.101, abs=5e-4)


def test_algonauts(data_dir):
    path = data_dir / "algonauts2019" / "92_target_fmri.mat"
    with pytest.raises(FileFormatError, match=r"EVC_RDMs \(15 x 92 x 92 float64\), IT_RDMs"):
        io.load(path, stimuli=range(92))
    dims = ("subject", "anchor", "neighbor")
    found = io.load(path, stimuli=range(92), variable="IT_RDMs", dims=dims)
    assert found.dims == ("subject", "anchor", "neighbor")
    pairs = np.triu_indices(92, 1)
    mean = found.mean("subject").values[pairs]
    squared = [spearmanr(rdm.values[pairs], mean).statistic ** 2 for rdm in found]
    assert np.mean(squared) == pytest.approx(0.3075, abs=5e-5)  # the published upper ceiling
