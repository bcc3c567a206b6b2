"""Squares taken for something else: right values by hand and by SciPy, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import torch
import xarray as xr
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import softrsa
from softrsa import io
from softrsa.errors import DataError, FileFormatError, ShapeError, StimulusError
from softrsa.inference import evaluate

RNG = np.random.default_rng(0)
N = 8
IDS = [f"im{i}" for i in range(N)]
UNITS = RNG.normal(size=(N, 12))
RDM = squareform(pdist(UNITS, "correlation"))
ROUNDED = RDM + np.triu(3e-8 * RNG.random((N, N)), 1)


def write(path, values, *, name="x"):
    """Write values in the format of the path's suffix."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, **{name: values})
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {name: values})
    else:
        np.savetxt(path, values, delimiter={".tsv": "\t", ".txt": " "}.get(path.suffix, ","))
    return path


EVERY = pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".csv", ".tsv", ".txt"])


@EVERY
@pytest.mark.parametrize("name", ["x", "RDM"])
def test_square_symmetric_up_to_rounding_is_an_rdm(tmp_path, suffix, name):
    found = io.load(write(tmp_path / f"a{suffix}", ROUNDED, name=name), stimuli=IDS)
    assert found.dims == ("anchor", "neighbor")
    assert found.attrs["kind"] == "rdm"
    assert "within rounding" in found.attrs["read_as"]
    np.testing.assert_allclose(found, RDM, atol=3e-8)
    np.testing.assert_array_equal(found, found.T)


@EVERY
def test_diagonal_of_rounding_is_zero_and_one_in_doubt_asks(tmp_path, suffix):
    near = RDM + 1e-7 * np.eye(N)
    assert io.load(write(tmp_path / f"a{suffix}", near), stimuli=IDS).attrs["kind"] == "rdm"
    path = write(tmp_path / f"b{suffix}", RDM + 0.5 * np.eye(N))
    with pytest.raises(DataError, match=r'from 0.5 to 0.5.*`kind="rdm"`.*`--kind rdm`'):
        io.load(path, stimuli=IDS)
    assert io.load(path, stimuli=IDS, kind="rdm").attrs["kind"] == "rdm"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
@pytest.mark.parametrize("leading", [(), (3,), (3, 2, 4)])
def test_diagonal_of_nan_is_ignored(tmp_path, suffix, leading):
    values = np.broadcast_to(np.where(np.eye(N) == 1, np.nan, RDM), (*leading, N, N))
    dims = (*("subject", "session", "time")[: len(leading)], "anchor", "neighbor")
    found = io.load(write(tmp_path / f"a{suffix}", values), stimuli=IDS, dims=dims)
    assert found.dims == dims
    np.testing.assert_array_equal(found, np.broadcast_to(RDM, values.shape))


@EVERY
@pytest.mark.parametrize("empty", [0.0, np.nan])
@pytest.mark.parametrize("half", [np.tril, np.triu])
def test_one_half_is_mirrored_and_that_is_said(tmp_path, suffix, empty, half):
    there = half(np.ones((N, N), bool))
    path = write(tmp_path / f"a{suffix}", np.where(there, RDM, empty))
    which = "upper" if half is np.tril else "lower"
    with pytest.warns(
        io.ReadingWarning, match=f"[Tt]he {which} half of the .* is empty: .* mirrored"
    ):
        found = io.load(path, stimuli=IDS)
    np.testing.assert_allclose(found, RDM, rtol=1e-15)


@EVERY
def test_halves_that_differ_are_refused_with_a_way_out(tmp_path, suffix):
    apart = RDM + np.triu(RNG.random((N, N)), 1)
    path = write(tmp_path / f"a{suffix}", apart, name="rdm")
    with pytest.raises(DataError, match=r'28 of 28 pairs.*`halves="lower"`.*`--halves`'):
        io.load(path, stimuli=IDS, kind="rdm")
    with pytest.raises(DataError, match=r'`kind="recording"`'):  # its diagonal says RDM
        io.load(path, stimuli=IDS)
    lower = io.load(path, stimuli=IDS, halves="lower")
    np.testing.assert_allclose(lower, RDM, rtol=1e-15)
    mean = io.load(path, stimuli=IDS, halves="mean")
    np.testing.assert_allclose(mean, (apart + apart.T) / 2, rtol=1e-15)
    assert io.load(path, stimuli=IDS, kind="recording").dims == ("stimulus", "unit")


@EVERY
def test_square_recording_stays_one(tmp_path, suffix):
    values = RNG.normal(size=(N, N))
    found = io.load(write(tmp_path / f"a{suffix}", values), stimuli=IDS)
    assert found.dims == ("stimulus", "unit")
    np.testing.assert_allclose(found, values, rtol=1e-15)


def named(rows, columns, *, separator=",", corner="", short=False):
    """Write a square with names on its sides."""
    lines = (
        []
        if columns is None
        else [separator.join(([] if rows is None or short else [corner]) + columns)]
    )
    for i in range(N):
        cells = [] if rows is None else [rows[i]]
        lines.append(separator.join(cells + [repr(float(v)) for v in RDM[i]]))
    return "\n".join(lines) + "\n"


NUMBERS = [str(i) for i in range(N)]
DIGITS = [f"{i}a" for i in range(N)]
MANGLED = [f"face.{i}" for i in range(N)]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (named(IDS, IDS), IDS),
        (named(None, IDS), IDS),
        (named(IDS, None), IDS),
        (named(NUMBERS, IDS), IDS),
        (named([str(i + 1) for i in range(N)], IDS, short=True), IDS),
        (named(IDS, NUMBERS), IDS),
        (named(IDS, [f"V{i + 1}" for i in range(N)]), IDS),
        (named([f"face {i}" for i in range(N)], MANGLED), [f"face {i}" for i in range(N)]),
        (named(DIGITS, [f"X{name}" for name in DIGITS]), DIGITS),
        (named(IDS, IDS[::-1]), None),
        (named(IDS, IDS, separator="\t", corner="image"), IDS),
        (named(IDS, IDS, separator=" ", short=True), IDS),
    ],
)  # fmt: skip
def test_names_are_those_of_the_side_that_has_them(tmp_path, text, ids):
    (tmp_path / "a.csv").write_text(text)
    if ids is None:  # columns in another order: not symmetric once they are put in order
        with pytest.raises(DataError, match="halves differ"):
            io.load(tmp_path / "a.csv")
        return
    found = io.load(tmp_path / "a.csv")
    assert found.dims == ("anchor", "neighbor")
    assert found["anchor"].values.tolist() == ids
    np.testing.assert_array_equal(found, RDM)


@pytest.mark.parametrize("separator", [" ", "  ", "\t", ",", ";"])
def test_square_of_whole_numbers_without_names_keeps_its_first_row(tmp_path, separator):
    ranks = squareform(np.argsort(np.argsort(pdist(UNITS[:6]))) + 1)
    lines = [separator.join(map(str, row)) for row in ranks.tolist()]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    ids = list("abcdef")
    found = io.load(tmp_path / "a.txt", stimuli=ids)
    np.testing.assert_array_equal(found, ranks)
    assert found["anchor"].values.tolist() == ids
    with pytest.warns(io.ReadingWarning, match=r"The 6 stimuli .* are numbered from 0.*--stimuli"):
        assert io.load(tmp_path / "a.txt")["anchor"].values.tolist() == [*range(6)]


def test_decimal_commas(tmp_path):
    lines = [";".join(f"{v:.17g}".replace(".", ",") for v in row) for row in RDM]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    np.testing.assert_array_equal(io.load(tmp_path / "a.csv", stimuli=IDS), RDM)
    (tmp_path / "b.csv").write_text("image;u1;u2\na;0,5;1\nb;1,5;2,25\n")
    assert io.load(tmp_path / "b.csv").values.tolist() == [[0.5, 1], [1.5, 2.25]]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_axes_have_to_be_named_where_there_are_two_readings(tmp_path, suffix):
    times, subjects = 5, 3
    stack = np.array([[RDM * (1 + t + 10 * s) for s in range(subjects)] for t in range(times)])
    path = write(tmp_path / f"a{suffix}", stack)
    with pytest.raises(
        ShapeError, match=r"5 x 3 x 8 x 8.*\('time', 'subject'.*\('subject', 'time'"
    ):
        io.load(path, stimuli=IDS)
    found = io.load(path, stimuli=IDS, dims=("time", "subject", "anchor", "neighbor"))
    np.testing.assert_allclose(found.isel(time=2, subject=1), RDM * 13, rtol=1e-15)
    last = write(tmp_path / f"b{suffix}", np.moveaxis(stack, (0, 1), (2, 3)))
    with pytest.raises(ShapeError, match="nothing says what its axes are"):
        io.load(last, stimuli=IDS)
    found = io.load(last, stimuli=IDS, dims=("anchor", "neighbor", "time", "subject"))
    np.testing.assert_allclose(found.sel(subject=2).isel(time=2), RDM * 13, rtol=1e-15)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_one_leading_axis_is_said_aloud(tmp_path, suffix):
    stack = np.stack([RDM, 2 * RDM, 3 * RDM])
    for values in (stack, np.moveaxis(stack, 0, -1)):
        path = write(tmp_path / f"a{suffix}", values)
        with pytest.warns(
            io.ReadingWarning, match=r"[Tt]he axis of 3 .* taken for subjects.*`dims`"
        ):
            assert io.load(path, stimuli=IDS).dims == ("subject", "anchor", "neighbor")
    found = io.load(path, stimuli=IDS, dims=("anchor", "neighbor", "time"))
    np.testing.assert_allclose(found.isel(time=1), 2 * RDM, rtol=1e-15)


def test_each_participant_is_read_by_its_own_ids(tmp_path):
    orders = {"anna": RNG.permutation(N), "ben": RNG.permutation(N)}
    content = {}
    for k, (name, order) in enumerate(orders.items()):
        content[f"rdm_{name}"] = (k + 1) * RDM[np.ix_(order, order)]
        content[f"stimuli_{name}"] = np.array(IDS)[order]
    np.savez(tmp_path / "a.npz", **content)
    cells = {k: v.astype(object) for k, v in content.items() if v.dtype.kind == "U"}
    rows = {k: squareform(v, checks=False)[None] for k, v in content.items() if k not in cells}
    scipy.io.savemat(tmp_path / "a.mat", cells | rows)
    for file in ("a.npz", "a.mat"):
        found = io.load(tmp_path / file).sel(anchor=IDS, neighbor=IDS)
        assert found["subject"].values.tolist() == ["anna", "ben"]
        np.testing.assert_allclose(found.sel(subject="ben"), 2 * RDM, rtol=1e-15)
    with pytest.raises(StimulusError, match="leave out `stimuli`"):
        io.load(tmp_path / "a.npz", stimuli=IDS)
    rows = [np.array(IDS)[order] for order in orders.values()]
    both = np.stack([content[f"rdm_{name}"] for name in orders])
    np.savez(tmp_path / "b.npz", rdms=both, stimuli=np.array(rows))
    found = io.load(tmp_path / "b.npz").sel(anchor=IDS, neighbor=IDS)
    np.testing.assert_allclose(found.sel(subject=2), 2 * RDM, rtol=1e-15)


def test_participants_with_other_stimuli_lack_pairs(tmp_path):
    first, second = slice(0, 5), slice(3, None)
    content = {"rdm_1": RDM[first, first], "rdm_2": RDM[second, second]}
    np.savez(tmp_path / "a.npz", **content, stimuli_1=IDS[first], stimuli_2=IDS[second])
    found = io.load(tmp_path / "a.npz")
    assert int(found.sel(subject=1).isnull().sum()) == N * (N - 1) - 5 * 4
    assert found.sel(subject=2, anchor="im3", neighbor="im7").item() == RDM[3, 7]


def test_kind_is_never_ignored(tmp_path):
    array = xr.DataArray(UNITS, dims=("stimulus", "unit"), coords={"stimulus": IDS})
    io.save(array, tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"\('stimulus', 'unit'\), which `kind='rdm'` cannot be"):
        io.load(tmp_path / "a.nc", kind="rdm")


def test_half_of_a_labelled_matrix_is_mirrored_too():
    array = xr.DataArray(
        np.tril(RDM), dims=("anchor", "neighbor"), coords={"anchor": IDS, "neighbor": IDS}
    )
    with pytest.warns(io.ReadingWarning, match="upper half .* is empty"):
        np.testing.assert_array_equal(io.check_rdms(array), RDM)


def test_own_orders_of_upper_triangles_and_of_matlab_stacks(tmp_path):
    orders = [RNG.permutation(N) for _ in range(3)]
    squares = np.stack([(k + 1) * RDM[np.ix_(o, o)] for k, o in enumerate(orders)])
    ids = np.array([np.array(IDS)[o] for o in orders])
    triangles = np.stack([squareform(square, checks=False) for square in squares])
    np.savez(tmp_path / "a.npz", rdms=triangles, order=ids, subject=[7, 5, 9])
    np.savez(tmp_path / "b.npz", rdms=np.moveaxis(squares, 0, -1), stimuli=ids, subject=[7, 5, 9])
    content = {"RDMs": np.moveaxis(squares, 0, -1), "stimuli": ids.astype(object).T}
    scipy.io.savemat(tmp_path / "c.mat", content | {"subject": [7, 5, 9]})
    for file in ("a.npz", "b.npz", "c.mat"):
        found = io.load(tmp_path / file).sel(anchor=IDS, neighbor=IDS)
        assert found["subject"].values.tolist() == [7, 5, 9]
        np.testing.assert_allclose(found.sel(subject=9), 3 * RDM, rtol=1e-15)
    with pytest.raises(StimulusError, match="leave out `stimuli`"):
        io.load(tmp_path / "a.npz", stimuli=IDS, kind="rdm")


def test_labels_of_a_stack_are_used_even_where_they_repeat(tmp_path):
    stack = np.stack([RDM * k for k in (1, 2, 3, 4)])
    labels = {"subject": [1, 2, 1, 2], "session": [1, 1, 2, 2]}
    np.savez(tmp_path / "a.npz", rdms=stack, stimulus=IDS, **labels)
    found = io.load(tmp_path / "a.npz")
    np.testing.assert_allclose(found.sel(subject=2, session=2), 4 * RDM, rtol=1e-15)
    np.savez(tmp_path / "b.npz", rdms=stack, stimulus=IDS, subject=[5, 5, 6, 6])
    with pytest.raises(DataError, match=r"2 RDMs of subject 5\. Average them"):
        io.load(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", rdms=stack, stimulus=IDS, time=[0.1, 0.2, 0.3, 0.4])
    assert io.load(tmp_path / "c.npz")["time"].values.tolist() == [0.1, 0.2, 0.3, 0.4]


def test_rdms_by_layer_in_one_dictionary(tmp_path):
    content = {"V1": torch.from_numpy(RDM), "V4": torch.from_numpy(2 * RDM), "stimulus": IDS}
    torch.save(content, tmp_path / "a.pt")
    found = io.load(tmp_path / "a.pt")
    assert found.dims == ("layer", "anchor", "neighbor")
    np.testing.assert_array_equal(found.sel(layer="V4"), 2 * RDM)
    with pytest.raises(DataError, match=r"`dims` is about one: name it with `variable='V1'`"):
        io.load(tmp_path / "a.pt", dims=("stimulus", "unit"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rdm": RDM, "rdms": RDM, "stimulus": IDS}, r"2 arrays .*`variable='rdm'`"),
        ({"rdm": RDM, "stimulus": IDS, "region": ["V1"] * N}, r"beside labels of units.*--kind"),
    ],
)
def test_two_readings_of_an_archive_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises((DataError, FileFormatError), match=message):
        io.load(tmp_path / "a.npz")


def test_half_of_a_tensor_is_mirrored_in_inference():
    rng = np.random.default_rng(1)
    whole = [np.corrcoef(rng.normal(size=(28, 6))) for _ in range(3)]
    pairs = np.triu_indices(28, 1)
    expected = [spearmanr(whole[0][pairs], one[pairs]).statistic for one in whole[1:]]
    subjects = torch.tensor(np.stack(whole[1:]))
    with pytest.warns(io.ReadingWarning, match="One half is empty"):
        found = evaluate(torch.tensor(np.tril(whole[0])), subjects, "spearman")
    np.testing.assert_allclose(found.data["score"][0], expected)
    with pytest.warns(io.ReadingWarning, match="One half of 2 RSMs is empty"):
        found = evaluate(whole[0], subjects.tril(), "spearman")  # NumPy's are taken too
    np.testing.assert_allclose(found.data["score"][0], expected)


def test_times_of_a_stack_are_not_averaged_unasked():
    array = xr.DataArray(
        np.stack([RDM, 2 * RDM]), dims=("time", "anchor", "neighbor"),
        coords={"time": [0.1, 0.2], "anchor": IDS, "neighbor": IDS},
    )  # fmt: skip
    model = xr.DataArray(UNITS, dims=("stimulus", "unit"), coords={"stimulus": IDS})
    with pytest.raises(DataError, match=r"RDMs of 2 times.*softrsa.inference.time_courses"):
        softrsa.align(model, array, folds=None)
    table = softrsa.align(model, array, region="time", folds=None, n_resamples=0).table
    assert table["region"].unique().tolist() == ["0.1", "0.2"]


def test_similarities_of_participants_stay_similarities(tmp_path):
    for form in ("square", "condensed"):
        content = {}
        for name in ("anna", "ben"):
            rsm = 1 - RDM
            content[f"rsm_{name}"] = rsm if form == "square" else rsm[np.triu_indices(N, 1)]
            content[f"stimuli_{name}"] = IDS
        np.savez(tmp_path / "a.npz", **content)
        found = io.load(tmp_path / "a.npz")
        assert found.attrs["kind"] == "rsm"
        np.testing.assert_allclose(found.sel(subject="ben"), 1 - RDM, rtol=1e-15)
    np.save(tmp_path / "rsm.npy", (1 - RDM)[np.triu_indices(N, 1)])
    with pytest.raises(ShapeError, match=r'`kind="rsm"` or `kind="rdm"` \(`--kind rsm`\)'):
        io.load(tmp_path / "rsm.npy", stimuli=IDS)
    assert io.load(tmp_path / "rsm.npy", stimuli=IDS, kind="rsm").attrs["kind"] == "rsm"
