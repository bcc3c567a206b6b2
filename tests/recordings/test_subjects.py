"""Subjects brought together: by stimulus id, with their names, and refused where they differ."""

import numpy as np
import pytest
import xarray as xr

from softrsa.errors import DataError, StimulusError
from softrsa.io import ReadingWarning
from softrsa.recordings import join_subjects, split_units


def recording(ids, n_units, *, seed=0, **coords):
    values = np.random.default_rng(seed).standard_normal((len(ids), n_units))
    labels = {name: ("unit", label) for name, label in coords.items()}
    return xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": ids, **labels})


def rdms(ids, *, seed=0, **leading):
    values = np.random.default_rng(seed).random((*map(len, leading.values()), len(ids), len(ids)))
    values = values + values.swapaxes(-1, -2)
    values[..., range(len(ids)), range(len(ids))] = 0
    coords = {**leading, "anchor": ids, "neighbor": ids}
    return xr.DataArray(values, dims=[*coords], coords=coords, attrs={"kind": "rdm"})


def test_recordings_lie_side_by_side_by_id():
    ann = recording(["a", "b", "c"], 2, region=["V1", "IT"], x=[0.0, 1.0])
    bob = recording(["c", "a", "b"], 3, seed=1, region=["IT"] * 3)
    found = join_subjects({"ann": ann, "bob": bob})
    assert found["subject"].values.tolist() == ["ann"] * 2 + ["bob"] * 3
    assert found["region"].values.tolist() == ["V1", "IT", "IT", "IT", "IT"]
    assert "x" not in found.coords  # only one has it
    expected = np.hstack([ann.values, bob.values[[1, 2, 0]]])
    np.testing.assert_array_equal(found, expected)
    alone = join_subjects({"ann": ann})
    np.testing.assert_array_equal(alone, ann)


def test_rdms_are_stacked_by_id():
    ann, bob = rdms(["a", "b", "c"], region=["V1", "IT"]), rdms(["c", "a", "b"], seed=1,
                                                                region=["V1", "IT"])  # fmt: skip
    found = join_subjects({"ann": ann, "bob": bob})
    assert (found.dims[0], found.attrs["kind"]) == ("subject", "rdm")
    for name, one in (("ann", ann), ("bob", bob)):
        np.testing.assert_array_equal(
            found.sel(subject=name, region="IT", anchor="a", neighbor=["b", "c"]),
            one.sel(region="IT", anchor="a", neighbor=["b", "c"]),
        )


def test_stimuli_that_all_share():
    arrays = {
        "1": recording(["a", "b", "c", "d"], 1), "2": recording(["b", "c", "d", "e"], 1, seed=1),
        "3": recording(["d", "b", "a"], 1, seed=2),
    }  # fmt: skip
    found = join_subjects(arrays, how="intersection")
    assert found["stimulus"].values.tolist() == ["b", "d"]
    np.testing.assert_array_equal(found[:, 2], arrays["3"].values[[1, 0], 0])
    with pytest.raises(StimulusError, match="Only in the first: 'a'"):
        join_subjects(arrays)
    spelled = {"1": recording(["a", "b"], 1), "2": recording(["B.png", "A.png"], 1, seed=1)}
    found = join_subjects(spelled, ids="normalize")
    np.testing.assert_array_equal(found[:, 1], spelled["2"].values[::-1, 0])


def test_movies_and_recordings_with_time():
    ann = recording(["a", "b"], 2).expand_dims(time=[0.0, 0.1], axis=-1)
    bob = recording(["b", "a"], 1, seed=1).expand_dims(time=[0.0, 0.1], axis=-1)
    found = join_subjects({"ann": ann, "bob": bob})
    np.testing.assert_array_equal(found[:, 2], bob[::-1, 0])
    with pytest.raises(
        DataError, match=r"different labels along `time`: 0\.0, 0\.1 and 0\.0, 0\.2"
    ):
        join_subjects({"ann": ann, "bob": bob.assign_coords(time=[0.0, 0.2])})
    with pytest.raises(DataError, match="only one has 'time'"):
        join_subjects({"ann": ann, "bob": bob[..., 0].drop_vars("time")})


def test_names_of_their_own_are_kept():
    both = recording(["a", "b"], 2, subject=["m1", "m2"])
    found = join_subjects({"one": both, "three": recording(["a", "b"], 1)})
    assert found["subject"].values.tolist() == ["m1", "m2", "three"]
    assert list(split_units(found, "subject")) == ["m1", "m2", "three"]
    with pytest.raises(DataError, match="Several arrays have the subjects 'm1', 'm2'"):
        join_subjects({"one": both, "two": both})
    same = {name: recording(["a", "b"], 1, subject=["1"]) for name in ("ann", "bob")}
    with pytest.warns(
        ReadingWarning, match="have the subject '1'; subjects are named 'ann', 'bob'"
    ):
        assert join_subjects(same)["subject"].values.tolist() == ["ann", "bob"]
    stacks = {name: rdms(["a", "b"], subject=["1"]) for name in ("ann", "bob")}
    with pytest.warns(ReadingWarning, match="are named 'ann', 'bob'"):
        assert join_subjects(stacks)["subject"].values.tolist() == ["ann", "bob"]


def test_what_cannot_be_one():
    ids = ["a", "b", "c"]
    with pytest.raises(DataError, match="mapping is empty"):
        join_subjects({})
    with pytest.raises(DataError, match="Of 'r' there are RDMs or RSMs, of 'u' recordings"):
        join_subjects({"r": rdms(ids), "u": recording(ids, 2)})
    with pytest.raises(DataError, match="only one has 'region'"):
        join_subjects({"1": recording(ids, 1, region=["V1"]), "2": recording(ids, 1)})
    with pytest.raises(DataError, match="only one has 'region'"):
        join_subjects({"1": rdms(ids, region=["V1"]), "2": rdms(ids)})
    with pytest.raises(DataError, match="different labels along `region`: 'V1' and 'IT'"):
        join_subjects({"1": rdms(ids, region=["V1"]), "2": rdms(ids, region=["IT"])})
    with pytest.raises(DataError, match="'1' holds an rdm, '2' an rsm"):
        join_subjects({"1": rdms(ids), "2": (1 - rdms(ids)).assign_attrs(kind="rsm")})
