"""Tables of text: wide and long, others' and our own, and what cannot be read."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from rsatoolbox.rdm import RDMs

from softrsa import io
from softrsa.errors import DataError, DTypeError, FileFormatError, StimulusError


@pytest.fixture
def table(tmp_path):
    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_wide_recording(table, separator):
    text = "stimulus,n1,n2\nface,0.5,1e-3\nhouse,2,-3\n"
    found = io.load(table(text.replace(",", separator), "rates.txt"))
    assert found.attrs == {"source_format": "a table of text (CSV)"}
    assert found["stimulus"].values.tolist() == ["face", "house"]
    assert found["unit"].values.tolist() == ["n1", "n2"]
    assert found.values.tolist() == [[0.5, 1e-3], [2, -3]]


def test_table_of_a_spreadsheet(table):
    """A byte-order mark, CRLF, quotes and an empty last line."""
    found = io.load(table('\ufeff"id","a"\r\n"x, y","1"\r\n"z","2"\r\n\r\n'))
    assert found["stimulus"].values.tolist() == ["x, y", "z"]


def test_wide_square_is_an_rdm(table):
    text = ",face,house,dog\ndog,3,4,0\nface,0,1,3\nhouse,1,0,4\n"
    found = io.load(table(text))
    assert found.attrs["kind"] == "rdm"
    assert found["neighbor"].values.tolist() == found["anchor"].values.tolist()
    assert found.sel(anchor="dog", neighbor="house").item() == 4
    recording = io.load(table(text), kind="recording")
    assert recording.dims == ("stimulus", "unit")


def test_wide_square_of_integers(table):
    found = io.load(table("id,7,8\n7,1,0.5\n8,0.5,1\n"))
    assert (found["anchor"].values.tolist(), found.attrs["kind"]) == ([7, 8], "rsm")


def test_square_that_is_none(table):
    text = ",face,house\nface,0,1\ndog,1,0\n"
    with pytest.raises(StimulusError, match=r"other names: 'dog', 'house' .*`--stimuli FILE`"):
        io.load(table(text), kind="rdm")
    assert io.load(table(text), stimuli=["face", "dog"])["anchor"].values.tolist() == [
        "face",
        "dog",
    ]
    assert io.load(table(text), kind="recording")["unit"].values.tolist() == ["face", "house"]
    with pytest.raises(StimulusError, match=r"no square of stimuli: it has 3 rows and 4 columns"):
        io.load(table("id,x,y,z\na,1,2,3\nb,3,2,1\n"), kind="rdm")


def test_long_rdms_by_subject_and_region(table):
    text = """subject,roi,anchor,neighbor,dissimilarity
    s1,V1,a,b,1\ns1,V1,c,a,2\ns1,V1,b,c,3\ns2,V1,a,b,4\ns2,V1,c,a,5\ns2,V1,b,c,6\n"""
    found = io.load(table(text.replace("    ", "")))
    assert found.dims == ("region", "subject", "anchor", "neighbor")
    assert found.sel(subject="s2", region="V1", anchor="a", neighbor="c").item() == 5
    assert found.attrs["kind"] == "rdm"


def test_long_rdm_with_a_pair_missing_or_doubled(table):
    found = io.load(table("anchor,neighbor,dissimilarity\na,b,1\nb,c,2\n"))
    np.testing.assert_array_equal(found, [[0, 1, np.nan], [1, 0, 2], [np.nan, 2, 0]])
    with pytest.raises(DataError, match=r"more than one value for 'a' and 'b' \(row 3\)"):
        io.load(table("anchor,neighbor,dissimilarity\na,b,1\na,b,2\n"))
    with pytest.raises(FileFormatError, match=r"needs the columns `anchor` and `neighbor`"):
        io.load(table("x,y,dissimilarity\na,b,1\n"))


def test_long_recording_with_labels_of_units(table):
    text = "stimulus,unit,value,region,category\n"
    text += "a,0,1,V1,x\na,1,2,IT,x\nb,0,3,V1,y\nb,1,4,IT,y\n"
    found = io.load(table(text))
    assert found["region"].dims == ("unit",)
    assert found["category"].dims == ("stimulus",)
    assert found.values.tolist() == [[1, 2], [3, 4]]


def test_units_numbered_anew_in_each_subject(table):
    text = "stimulus,unit,value,subject\na,0,1,s1\na,0,2,s2\nb,0,3,s1\nb,0,4,s2\n"
    found = io.load(table(text))
    assert found["subject"].values.tolist() == ["s1", "s2"]
    assert found.values.tolist() == [[1, 2], [3, 4]]


def test_long_recording_with_a_hole_or_a_column_that_fits_nothing(table):
    with pytest.raises(DataError, match=r"lacks 1 value, .* stimulus 'b' and unit '1'"):
        io.load(table("stimulus,unit,value\na,0,1\na,1,2\nb,0,3\n"))
    with pytest.raises(DataError, match=r"the column 'day', which differs within a row"):
        io.load(table("stimulus,unit,value,day\na,0,1,1\na,1,2,2\nb,0,3,3\nb,1,4,4\n"))


def test_table_of_rsatoolbox(tmp_path):
    rdms = RDMs(
        np.arange(6.0).reshape(2, 3),
        rdm_descriptors={"subj": ["s1", "s2"]},
        pattern_descriptors={"conds": ["face", "house", "dog"]},
    )
    rdms.to_df().to_csv(tmp_path / "a.csv", index=False)
    found = io.load(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.values, rdms.get_matrices())
    assert found["anchor"].values.tolist() == ["face", "house", "dog"]
    assert found["subject"].values.tolist() == ["s1", "s2"]
    RDMs(np.arange(6.0).reshape(2, 3)).to_df().to_csv(tmp_path / "a.csv", index=False)
    found = io.load(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.values, rdms.get_matrices())
    assert found["subject"].values.tolist() == [0, 1]


def test_leading_zeros_stay(table):
    found = io.load(table("id,x\n01,1\n02,2\n"))
    assert found["stimulus"].values.tolist() == ["01", "02"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("id,x\na,1\nb\n", FileFormatError, r"has 2 columns, but row 3 has 1: .* cut short"),
        ("id,x,x\na,1,2\n", FileFormatError, r"columns 'x' more than once"),
        ("id,x\n", DataError, r"has a header, but no rows"),
        ("only words\nhere\n", FileFormatError, r"no table: its first line has no .*'only words'"),
        ("id,x\na,one\n", DTypeError, r"column 'x' of .* holds 'one', which is no number"),
        (
            "0.5,0.25\n0.1,0.2\n",
            FileFormatError,
            r"starts with numbers \('0.5', .*--stimuli",
        ),
        ('id,x\n"a,1\n', FileFormatError, r"is no table: unexpected end of data"),
        ("id,x\na,1\nb,\n", DataError, r"1 value that are NaN"),
    ],
)
def test_tables_that_cannot_be_read(table, text, error, message):
    with pytest.raises(error, match=message):
        io.load(table(text))


def test_stimuli_are_in_the_table(table):
    with pytest.raises(StimulusError, match=r"holds its own stimulus ids"):
        io.load(table("id,x\na,1\nb,2\n"), stimuli=[1, 2])


texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"]),
    max_size=5,
)
ids = st.one_of(
    st.lists(texts, min_size=2, max_size=4, unique=True).filter(
        lambda found: not all(t.removeprefix("-").isdecimal() for t in found)
    ),
    st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=4, unique=True),
)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(ids, st.data())
def test_recordings_survive(tmp_path_factory, stimuli, data):
    values = data.draw(st.lists(numbers, min_size=2 * len(stimuli), max_size=2 * len(stimuli)))
    array = xr.DataArray(
        np.array(values).reshape(-1, 2),
        dims=("stimulus", "unit"),
        coords={"stimulus": stimuli, "region": ("unit", ["V1", "IT"])},
    )
    path = tmp_path_factory.mktemp("x") / "a.csv"
    io.save(array, path)
    xr.testing.assert_identical(io.load(path).drop_attrs(), array)


@given(ids, st.data())
def test_rdms_survive(tmp_path_factory, stimuli, data):
    n = len(stimuli)
    draw = st.lists(numbers, min_size=2 * n * n, max_size=2 * n * n)
    values = np.array(data.draw(draw)).reshape(2, n, n)
    if data.draw(st.booleans()):
        values = values / 2 + values.swapaxes(1, 2) / 2
        values[:, range(n), range(n)] = 0
    assume(all(np.triu(m, 1).any() == np.tril(m, -1).any() for m in values))  # no empty half
    array = xr.DataArray(
        values,
        dims=("subject", "anchor", "neighbor"),
        coords={"subject": ["x", "y"], "anchor": stimuli, "neighbor": stimuli},
        attrs={"kind": data.draw(st.sampled_from(["rdm", "rsm"]))},
    )
    path = tmp_path_factory.mktemp("x") / "a.csv"
    io.save(array, path)
    xr.testing.assert_identical(io.load(path).drop_attrs(), array.drop_attrs())
    assert io.load(path).attrs["kind"] == array.attrs["kind"]


def test_trials_and_units_survive(tmp_path):
    array = xr.DataArray(
        np.arange(6.0).reshape(3, 2),
        dims=("trial", "unit"),
        coords={"stimulus": ("trial", ["a", "b", "a"]), "unit": ["n1", "n2"]},
    )
    io.save(array, tmp_path / "a.csv")
    xr.testing.assert_identical(io.load(tmp_path / "a.csv").drop_attrs(), array)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ({"stimulus": ["1", "2"]}, r"`stimulus` are texts that look like whole numbers \('1'"),
        ({"stimulus": ["a\nb", "c"]}, r"`stimulus` have line breaks"),
        ({"stimulus": ["a", "b"], "x": ("unit", [0.5, 1.5])}, r"`x` are float64"),
        ({"stimulus": ["a", "b"], "value": ("unit", [1, 2])}, r"cannot be called 'value'"),
        ({"stimulus": ["a", "b"], "x": 3}, r"no place for `x`"),
    ],
)
def test_what_a_table_cannot_keep_is_refused(tmp_path, coords, message):
    array = xr.DataArray(np.eye(2), dims=("stimulus", "unit"), coords=coords)
    with pytest.raises(DataError, match=message):
        io.save(array, tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []


def test_labels_of_rdms_a_table_cannot_keep(tmp_path):
    ids = {"anchor": ["a", "b"], "neighbor": ["a", "b"]}
    rdm = xr.DataArray(1 - np.eye(2), dims=tuple(ids), coords={**ids, "layer": "conv"})
    with pytest.raises(DataError, match=r"drop_vars\(\['layer'\]\)"):
        io.save(rdm, tmp_path / "a.csv")


@pytest.mark.parametrize(
    "header",
    [
        "subject,roi,image,voxel,beta",
        "participant,Region,stimulus_id,unit_id,response",
        "sub,area,Condition,neuron,rate",
        "subj,roi,img_name,electrode,activation",
        "subject_id,rois,stim,channel,Amplitude",
    ],
)
def test_long_table_with_the_names_of_the_field(table, header):
    rows = (
        "s1,V1,a,1,0.5\ns1,V1,b,1,1.5\ns1,IT,a,1,2.5\ns1,IT,b,1,3.5\ns2,V1,a,1,4.5\ns2,V1,b,1,5\n"
    )
    found = io.load(table(f"{header}\n{rows}"))
    assert found.values.tolist() == [[0.5, 2.5, 4.5], [1.5, 3.5, 5.0]]
    assert found["stimulus"].values.tolist() == ["a", "b"]
    assert found["region"].values.tolist() == ["V1", "IT", "V1"]
    assert found["subject"].values.tolist() == ["s1", "s1", "s2"]


def test_the_one_region_of_the_one_subject_labels_units(table):
    found = io.load(table("subject,roi,image,voxel,beta\ns1,V1,a,0,1\ns1,V1,b,0,2\n"))
    assert (found["region"].dims, found["subject"].dims) == (("unit",), ("unit",))
    assert found["region"].values.tolist() == ["V1"]


def test_exact_names_come_before_synonyms(table):
    text = "image,stimulus,unit,cell,value\nx1,a,0,7,1\nx2,b,0,7,2\nx1,a,1,8,3\nx2,b,1,8,4\n"
    found = io.load(table(text))
    assert found["stimulus"].values.tolist() == ["a", "b"]
    assert (found["image"].dims, found["cell"].dims) == (("stimulus",), ("unit",))


@pytest.mark.parametrize("pair", ["image1,image2", "stim_a,stim_b", "condition_1,condition_2"])
def test_long_rdm_of_distances(table, pair):
    found = io.load(table(f"participant,{pair},distance\ns1,a,b,1\ns1,c,a,2\ns1,b,c,3\n"))
    assert found.attrs["kind"] == "rdm"
    assert found.sel(anchor="a", neighbor="c").values.tolist() == [2.0]
    assert found["subject"].values.tolist() == ["s1"]


def test_wide_table_may_have_units_called_so(table):
    found = io.load(table("image,distance,rate\na,1,2\nb,3,4\n"))
    assert found["unit"].values.tolist() == ["distance", "rate"]
    assert found.values.tolist() == [[1, 2], [3, 4]]
    found = io.load(table("image,unit_1,unit_2,distance\na,1,2,3\nb,3,4,5\n"))
    assert found.values.tolist() == [[1, 2, 3], [3, 4, 5]]


def test_a_table_of_unknown_columns_says_which_are_known_and_which_are_there(table):
    text = "subject,roi,image,feature,beta\ns1,V1,a,x,1\ns1,V1,b,x,2\n"
    message = (
        r"holds 'V1', .* `stimulus` \(or stimuli, stim, image.*`unit` \(or voxel.*"
        r"This one has 'subject', 'roi', 'image', 'feature', 'beta': it lacks 'unit'\."
    )
    with pytest.raises(DTypeError, match=message):
        io.load(table(text))
    with pytest.raises(DTypeError, match=r"column 'value' .* holds 'high', .*: write a number"):
        io.load(table("image,unit,beta\na,0,high\nb,0,2\n"))
