import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from softrsa import io
from softrsa.errors import DataError, DTypeError, StimulusError, UnknownNameError
from softrsa.recordings import average_trials, join_stimuli, select, split_units

IDS = list("abcdef")
orders = st.permutations(IDS)


def recording(ids):
    """Rows that tell which stimulus they belong to."""
    values = [[float(ord(i)), -float(ord(i))] for i in ids]
    return xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": list(ids)})


def stack(ids):
    """Entries that tell which pair they belong to."""
    codes = np.array([ord(i) for i in ids], dtype=float)
    values = np.stack([abs(codes[:, None] - codes), 2 * abs(codes[:, None] - codes)])
    coords = {"anchor": list(ids), "neighbor": list(ids)}
    return xr.DataArray(values, dims=("subject", "anchor", "neighbor"), coords=coords)


@given(orders, orders)
def test_order_never_matters(order_a, order_b):
    a, b = join_stimuli(recording(order_a), stack(order_b))
    assert a["stimulus"].values.tolist() == list(order_a)
    xr.testing.assert_identical(b, stack(order_a))
    b, a = join_stimuli(stack(order_b), recording(order_a))
    xr.testing.assert_identical(a, recording(order_b))


@given(orders, orders, st.integers(2, 6), st.integers(2, 6))
def test_intersection_keeps_what_both_have(order_a, order_b, n_a, n_b):
    ids_a, ids_b = list(order_a)[:n_a], list(order_b)[:n_b]
    shared = [i for i in ids_a if i in ids_b]
    if len(shared) < 2:
        with pytest.raises(StimulusError, match=f"share {len(shared)} stimul"):
            join_stimuli(recording(ids_a), stack(ids_b), how="intersection")
        return
    a, b = join_stimuli(recording(ids_a), stack(ids_b), how="intersection")
    xr.testing.assert_equal(a, recording(shared))
    xr.testing.assert_equal(b, stack(shared))
    assert set(a.attrs.get("stimuli_left_out", [])) == set(ids_a) - set(ids_b)
    assert set(b.attrs.get("stimuli_left_out", [])) == set(ids_b) - set(ids_a)


def test_inputs_are_left_alone():
    a, b = recording("abc"), recording("cbd")
    join_stimuli(a, b, how="intersection")
    xr.testing.assert_identical(a, recording("abc"))
    xr.testing.assert_identical(b, recording("cbd"))


def test_missing_and_extra_stimuli_are_named_from_both_sides():
    message = (
        r"differ: 2 of 3 and 4 are shared\. Only in the first: 'a'\. "
        r"Only in the second: 'x', 'y'\. To keep the 2 that both have, ask for the intersection"
    )
    with pytest.raises(StimulusError, match=message):
        join_stimuli(recording("abc"), stack("bcxy"))


def test_many_missing_stimuli_are_counted():
    with pytest.raises(StimulusError, match=r"'c', 'd', 'e', 'f', 'g', \.\.\. \(8 in all\)"):
        join_stimuli(recording("ab"), recording("abcdefghij"))


def test_nothing_in_common_says_why_where_types_differ():
    a = recording("123")
    b = recording("123").assign_coords(stimulus=[1, 2, 3])
    with pytest.raises(StimulusError, match=r"share 0 stimuli.*integers and the other strings"):
        join_stimuli(a, b, how="intersection")


def labelled(ids):
    return xr.DataArray(np.eye(len(ids)), dims=("stimulus", "unit"), coords={"stimulus": ids})


def test_ids_that_differ_by_folder_and_extension_say_how_to_match():
    bare, files = (
        labelled(["o1", "o2", "o3"]),
        labelled(["img/o3.jpg", "img\\o1.jpg", "img/o2.jpg"]),
    )
    with pytest.raises(StimulusError, match=r"differ: none of 3 and 3 are shared\.") as caught:
        join_stimuli(bare, files)
    message = str(caught.value)
    assert "intersection" not in message
    assert r"3 would be shared, such as 'o1' and 'img\\o1.jpg': join with" in message
    matched = join_stimuli(bare, files, ids="normalize")[1]
    assert matched.values.tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    with pytest.raises(StimulusError, match=r"share 0 stimuli.* 3 would be shared"):
        join_stimuli(bare, files, how="intersection")


def test_ids_of_rdms_are_matched_on_both_sides():
    rdm = stack("abc").assign_coords(anchor=["x/a.png", "x/b.png", "x/c.png"])
    rdm = rdm.assign_coords(neighbor=rdm["anchor"].values)
    with pytest.raises(StimulusError, match=r"ids=.normalize"):
        join_stimuli(recording("abc"), rdm)
    matched = join_stimuli(recording("abc"), rdm, ids="normalize")[1]
    assert matched["neighbor"].values.tolist() == matched["anchor"].values.tolist() == list("abc")
    np.testing.assert_array_equal(matched, rdm)


def test_one_shared_stimulus_is_no_intersection_to_ask_for():
    with pytest.raises(StimulusError, match=r"1 of 2 and 2 is shared\.") as caught:
        join_stimuli(labelled(["a", "b"]), labelled(["a", "c"]))
    assert "intersection" not in str(caught.value)
    with pytest.raises(StimulusError) as caught:  # without folders, both would be x
        join_stimuli(labelled(["p/x", "q/x"]), labelled(["x", "y"]))
    assert "would be shared" not in str(caught.value)


def test_repeated_stimuli_are_named():
    with pytest.raises(StimulusError, match="The second array repeats the stimuli 'b'"):
        join_stimuli(recording("abc"), recording("abbc"))


def test_absent_ids_are_named():
    with pytest.raises(StimulusError, match="first array has no stimulus ids along `anchor`"):
        join_stimuli(stack("abc").drop_vars("anchor"), recording("abc"))


def test_single_trials_are_to_be_averaged_first():
    trials = recording("abc").rename(stimulus="trial")
    with pytest.raises(StimulusError, match=r"second array holds single trials.*average_trials"):
        join_stimuli(recording("abc"), trials)


def test_unknown_way_to_join():
    with pytest.raises(UnknownNameError, match="Did you mean 'intersection'"):
        join_stimuli(recording("abc"), recording("abc"), how="intersect")


@given(st.lists(st.sampled_from(IDS), min_size=1, max_size=12), st.sampled_from(["f4", "f8"]))
def test_average_equals_pandas(ids, dtype):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(ids), 3)).astype(dtype)
    trials = xr.DataArray(values, dims=("trial", "unit"), coords={"stimulus": ("trial", ids)})
    means = average_trials(trials)
    frame = pd.DataFrame(values.astype("f8")).groupby(ids, sort=False).mean()
    assert means["stimulus"].values.tolist() == frame.index.tolist()
    assert means.dtype == np.dtype(dtype)
    rtol = 1e-6 if dtype == "f4" else 1e-12  # rounding of the result's number type
    np.testing.assert_allclose(means, frame, rtol=rtol, atol=rtol)


def test_average_keeps_unit_labels_and_attributes():
    trials = xr.DataArray(
        np.ones((3, 2)),
        dims=("trial", "unit"),
        coords={
            "stimulus": ("trial", [4, 2, 4]),
            "run": ("trial", [0, 0, 1]),
            "region": ("unit", ["V4", "IT"]),
        },
        attrs={"unit": "spikes/s"},
    )
    means = average_trials(trials)
    assert set(means.coords) == {"stimulus", "region"}
    assert means.attrs == {"unit": "spikes/s"}
    assert io.check_recording(means)["stimulus"].values.tolist() == [4, 2]


def test_average_refuses_what_is_not_checked():
    trials = xr.DataArray(
        np.ones((2, 1), dtype=int), dims=("trial", "unit"), coords={"stimulus": ("trial", [1, 1])}
    )
    with pytest.raises(DTypeError, match="The trials must be float32 or float64, got int64"):
        average_trials(trials)


def test_average_in_float64_loses_no_digits():
    """In float32 every further 1 would be lost beside 2 ** 24, and the mean fall 1 short."""
    trials = xr.DataArray(
        np.float32([[2.0**24]] + [[1.0]] * 999),
        dims=("trial", "unit"),
        coords={"stimulus": ("trial", ["a"] * 1000)},
    )
    assert average_trials(trials).item() == np.float32((2**24 + 999) / 1000)


def units(labels, **more):
    values = np.arange(2.0 * len(labels)).reshape(2, -1)
    coords = {"stimulus": ["a", "b"], "region": ("unit", labels), **more}
    return xr.DataArray(values, dims=("stimulus", "unit"), coords=coords)


@given(st.lists(st.sampled_from(["V1", "V4", "IT"]), min_size=1, max_size=8))
def test_split_keeps_every_unit_once_and_in_order(labels):
    parts = split_units(units(labels), "region")
    assert list(parts) == list(dict.fromkeys(labels))
    for label, part in parts.items():
        expected = [i for i, other in enumerate(labels) if other == label]
        assert part[0].values.tolist() == expected
        assert set(part["region"].values.tolist()) == {label}


def test_split_by_numbers_gives_string_labels():
    assert list(split_units(units([3, 1, 3]), "region")) == ["3", "1"]


def test_contiguous_units_are_not_read_from_disk(tmp_path):
    io.save(units(["V1", "V1", "IT"]), tmp_path / "a.nc")
    with io.open_array(tmp_path / "a.nc") as lazy:
        assert not split_units(lazy, "region")["IT"].variable._in_memory


def test_split_by_unknown_coordinate_lists_those_there_are():
    with pytest.raises(UnknownNameError, match=r"'regoin'\. Did you mean 'region'\? Known: region"):
        split_units(units(["V1"]), "regoin")


@pytest.mark.parametrize("label", [None, "", np.nan])
def test_units_without_label_are_counted(label):
    labels = np.array(["V1", label, "IT"], dtype=object)
    with pytest.raises(DataError, match="1 unit of 3 have no region"):
        split_units(units(labels), "region")


def test_empty_region_is_named():
    array = units(["V1", "V4", "V4"])
    array[:, 1:] = np.nan
    with pytest.raises(DataError, match="The region 'V4' is empty"):
        split_units(array, "region")


def test_select_takes_in_the_order_asked_for():
    parts = {"conv1": 1, "conv2": 2, "fc": 3}
    assert list(select(parts, ["fc", "conv1"], kind="layer")) == ["fc", "conv1"]
    assert select(parts, None, kind="layer") == parts


def test_select_offers_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"Unknown layer 'cnv1'\. Did you mean 'conv1'"):
        select({"conv1": 1, "fc": 3}, ["cnv1"], kind="layer")
