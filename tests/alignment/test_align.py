"""align and its result: folds by hand, subjects left out, joins, warnings, files, messages."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import softrsa
from softrsa.alignment import (
    Aligner,
    AlignmentResult,
    FitSettings,
    RowOffsetWarning,
    Split,
    align,
    stimulus_folds,
)
from softrsa.alignment.held_out import degenerate_warnings, fit_all, make_runs
from softrsa.alignment.responses import as_responses
from softrsa.alignment.settings import Options
from softrsa.errors import (
    DataError,
    DeviceError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    StimulusError,
    UnknownNameError,
)
from softrsa.inference import noise_ceiling
from softrsa.measures import get
from softrsa.rsm import similarity_matrix
from softrsa.transforms.on_rsms import TRANSFORMS, as_chain

# learned similarities of small data win by little, some of it by scale
pytestmark = pytest.mark.filterwarnings("ignore::softrsa.alignment.StimulusScaleWarning")

CPU = torch.device("cpu")
TABLE = [
    "layer", "region", "transform", "score", "score_se", "per_anchor_score", "balanced_score",
    "identification", "train_score", "rsa_score",
    "baseline_score", "gain", "row_offset_share", "ceiling_lower", "ceiling_upper", "chosen",
    "n_stimuli",
]  # fmt: skip


@pytest.fixture(scope="module")
def layers(data):
    rng = torch.Generator().manual_seed(1)
    return {"wide": data[0], "narrow": torch.randn(24, 3, dtype=torch.float64, generator=rng)}


@pytest.fixture(scope="module")
def result(data, layers, quick):
    _, subjects = data
    return align(layers, {"V4": subjects, "IT": subjects[:2]}, folds=2, settings=quick, seed=1)


def test_every_fold_is_an_aligner_fitted_and_scored_by_hand(result, data, layers, quick):
    """Whatever else is fitted beside it: other layers, other regions, other transforms."""
    _, subjects = data
    for fold, (train, test) in enumerate(stimulus_folds(24, 2, seed=1)):
        for layer, name in [("narrow", "instance"), *(("wide", name) for name in TRANSFORMS)]:
            model = layers[layer]
            aligner = Aligner(name, settings=quick, seed=1)
            aligner.fit(model[train], [one[train] for one in subjects])
            new = model[test], [one[test] for one in subjects]
            found = result.data.sel(layer=layer, region="V4", transform=name, fold=fold)
            assert found["score"].item() == pytest.approx(aligner.score(*new), abs=1e-5)
            assert found["train_score"].item() == pytest.approx(aligner.train_score_, abs=1e-5)
            assert found["chosen"].item() == aligner.chosen_
            assert found["n_steps"].item() == aligner.n_steps_
            ceiling = noise_ceiling(aligner.transform_brain(new[1]), "centered_pearson")
            for bound, of_subjects in ceiling._asdict().items():
                mean = of_subjects.mean().item()
                assert found[f"ceiling_{bound}"].item() == pytest.approx(mean, abs=1e-5)


def test_plain_rsa_on_the_same_folds(result, data, layers):
    _, subjects = data
    upper = np.triu_indices(12, 1)
    for fold, (_, test) in enumerate(stimulus_folds(24, 2, seed=1)):
        own = np.corrcoef(layers["wide"][test])[upper]
        expected = np.mean([np.corrcoef(own, np.corrcoef(s[test])[upper])[0, 1] for s in subjects])
        found = result.data["rsa_score"].sel(layer="wide", region="V4", fold=fold)
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_table_summarizes_the_folds(result):
    table = result.table
    assert list(table.columns[: len(TABLE)]) == TABLE
    assert len(table) == 2 * 2 * len(TRANSFORMS)
    row = table.set_index(["layer", "region", "transform"]).loc[("wide", "IT", "instance")]
    folds = result.data.sel(layer="wide", region="IT")
    scores = folds["score"].sel(transform="instance").values
    assert row["score"] == pytest.approx(scores.mean())
    assert row["score_se"] == pytest.approx(abs(scores[0] - scores[1]) / 2)
    fixed = folds["score"].sel(transform=["identity", "centered", "geo_topological"])
    assert row["baseline_score"] == pytest.approx(fixed.mean("fold").max().item())
    assert row["gain"] == pytest.approx(row["score"] - row["baseline_score"])
    assert row["lower_model"] == pytest.approx(
        folds["step_mean"].sel(transform="instance", side="model", parameter="lower").mean().item()
    )
    assert (row["n_stimuli"], row["n_subjects"], row["n_folds"]) == (24, 2, 2)
    assert row["chosen"] == "instance"
    assert row["gate"] in ("profile", "embedding")
    assert 0 <= row["row_offset_share"] <= 1


def test_the_baselines_are_there_but_not_shown(data, layers):
    found = align(layers, {"V4": data[1]}, transforms="centered", folds=3)
    assert set(found.table["transform"]) == {"centered"}
    assert found.table["baseline_score"].notna().all()
    assert found.table["rsa_score"].notna().all()


def test_all_stimuli_without_folds(data, layers):
    """The mean of the subjects' scores, over all stimuli, where nothing is fitted."""
    model, subjects = data
    found = align(
        layers, {"V4": subjects}, transforms=["identity", "global"], measure="spearman", folds=2,
        settings=FitSettings(steps=(2,), inner_folds=2, grid=2),
    )  # fmt: skip
    upper = np.triu_indices(24, 1)
    scores = [
        spearmanr(np.corrcoef(model)[upper], np.corrcoef(one)[upper]).statistic for one in subjects
    ]
    expected = np.mean(scores)
    table = found.table.set_index(["layer", "transform"])["all_stimuli_score"]
    assert table[("wide", "identity")] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(table[("wide", "global")])


def test_selected_alone_chooses_among_all(data, layers, quick):
    regions = {"V4": data[1]}
    alone = align(layers, regions, transforms=["selected"], folds=2, settings=quick, seed=1)
    every = align(layers, regions, folds=2, settings=quick, seed=1)
    assert set(alone.table["transform"]) == {"selected"}
    chosen = every.data["chosen"].sel(transform="selected")
    assert (alone.data["chosen"].sel(transform="selected") == chosen).all()


def test_seeds_decide_and_are_kept(data, layers, quick):
    def run(seed):
        chosen = {"transforms": ["global"], "folds": 2, "settings": quick, "seed": seed}
        return align(layers, {"V4": data[1]}, **chosen)

    one, again, other = run(5), run(5), run(6)
    xr.testing.assert_identical(one.data, again.data)
    assert not np.allclose(one.data["score"], other.data["score"])
    assert (one.data.attrs["seed"], other.data.attrs["seed"]) == (5, 6)
    assert json.loads(one.data.attrs["settings"])["steps"] == [3, 6]


def test_splits_of_ones_own(data, layers):
    split = Split(torch.arange(16), torch.arange(16, 24))
    found = align(layers, {"V4": data[1]}, transforms=["identity"], folds=[split])
    upper = np.triu_indices(8, 1)
    own = np.corrcoef(layers["wide"][16:])[upper]
    expected = np.mean([np.corrcoef(own, np.corrcoef(s[16:])[upper])[0, 1] for s in data[1]])
    assert found.table["rsa_score"][0] == pytest.approx(expected)
    assert found.table["score_se"].isna().all()


class TestSubjectsLeftOut:
    def runs(self, subjects, model, quick):
        sides = (
            as_responses(d, similarity="correlation", name="x", device=CPU)
            for d in (model, subjects)
        )
        model_side, brain = sides
        splits = [Split(torch.arange(16), torch.arange(16, 24))]
        runs = make_runs(("layer", model_side), ("region", brain), splits, "leave_one_out")
        chains = tuple(as_chain(name) for name in ("global", "instance", "selected"))
        fit_all(runs, Options(chains, get("centered_pearson"), settings=quick), progress=False)
        return runs

    @pytest.mark.parametrize("out", [0, 2])
    def test_the_one_left_out_is_never_learned_from(self, out, data, quick, rng):
        model, subjects = data
        changed = list(subjects)
        changed[out] = torch.randn(24, 9, dtype=torch.float64, generator=rng)
        before = self.runs(subjects, model, quick)[out]
        after = self.runs(changed, model, quick)[out]
        assert before.score == after.score == (out,)
        assert out not in before.learn
        for name, fitted in before.fitted.items():
            other = after.fitted[name]
            assert fitted.chosen == other.chosen
            assert fitted.train_score == pytest.approx(other.train_score, abs=1e-7)
            for side in ("model", "brain"):
                state, same = (getattr(f, side).state_dict() for f in (fitted, other))
                for key in state:
                    torch.testing.assert_close(state[key], same[key], rtol=0, atol=1e-6)

    def test_each_subject_is_scored_in_each_fold(self, data, layers):
        """Alone, against the others' ceiling, whatever order the folds come in."""
        _, subjects = data
        chosen = {"transforms": ["identity"], "folds": 2, "seed": 1}
        left = align(layers, {"V4": subjects}, subjects="leave_one_out", **chosen).data
        left = left.sel(transform="identity", layer="wide", region="V4")
        assert left.sizes["fold"] == 6
        splits = stimulus_folds(24, 2, seed=1)
        for i, one in enumerate(subjects):
            alone = align(layers, {"V4": one}, **chosen).data
            alone = alone.sel(transform="identity", layer="wide", region="V4")
            for fold, (_, test) in enumerate(splits):
                found = left.isel(fold=3 * fold + i)
                for name in ("score", "rsa_score"):
                    expected = alone[name].isel(fold=fold).item()
                    assert found[name].item() == pytest.approx(expected, abs=1e-12)
                rsms = torch.stack([torch.corrcoef(s[test]) for s in subjects])
                ceiling = noise_ceiling(rsms, "centered_pearson")
                assert found["ceiling_lower"].item() == pytest.approx(ceiling.lower[i].item())
                assert found["ceiling_upper"].item() == pytest.approx(ceiling.upper[i].item())

    def test_embeddings_read_the_subjects_learned_from(self, data, layers, quick):
        """The one left out has other units than those the gate was fitted on."""
        settings = FitSettings(**{**vars(quick), "gates": ("embedding",)})
        found = align(
            layers, {"V4": data[1]}, transforms=["instance"], folds=2, settings=settings,
            subjects="leave_one_out",
        )  # fmt: skip
        assert found.data["score"].sel(transform="instance").notnull().all()
        assert set(found.table["gate"]) == {"embedding"}

    def test_one_subject_cannot_be_left_out(self, data, layers):
        with pytest.raises(DataError, match=r"at least 2 subjects, region 'V4' has 1"):
            align(layers, {"V4": data[1][:1]}, subjects="leave_one_out")


def test_one_subject_has_no_ceiling(data, layers):
    found = align(layers, {"V4": data[1][0]}, transforms=["identity"], folds=2).table
    assert found[["ceiling_lower", "ceiling_upper"]].isna().all(axis=None)
    assert found["score"].notna().all()


def test_arrays_turned_around_are_taken():
    values = np.random.default_rng(0).normal(size=(30, 6))
    array = xr.DataArray(values, dims=("stimulus", "unit"), coords={"stimulus": range(30)})
    found = align({"a": array[::-1]}, {"b": array}, transforms=["identity"], n_resamples=0)
    assert found.table["score"].tolist() == pytest.approx([1.0])


def test_permuted_stimuli_lose_the_score(data):
    model, subjects = data
    score = align({"a": model}, {"V4": subjects}, transforms=["identity"], folds=2).table["score"]
    shuffled = align({"a": model}, {"V4": subjects}, transforms=["identity"], folds=2, permute=True)
    assert score[0] > 0.5
    assert abs(shuffled.table["score"][0]) < 0.3
    assert shuffled.data.attrs["permuted"] == 1


class TestJoin:
    @pytest.fixture
    def arrays(self, data, label):
        """Two layers in one array, two subjects of two regions in another."""
        model, subjects = data
        layers = label(torch.cat([model, model[:, :4]], 1), layer=["a"] * 8 + ["b"] * 4)
        regions = label(
            torch.cat([*subjects[:2], *subjects[:2]], 1),
            region=["V4"] * 15 + ["IT"] * 15,
            subject=(["s1"] * 8 + ["s2"] * 7) * 2,
        )
        return layers, regions

    def test_coordinates_name_layers_regions_and_subjects(self, arrays, data):
        found = align(*arrays, transforms=["identity"], folds=2)
        model, subjects = data
        plain = align(
            {"a": model, "b": model[:, :4]}, {"V4": subjects[:2]}, transforms=["identity"], folds=2
        )
        assert found.data["layer"].values.tolist() == ["a", "b"]
        assert found.data["region"].values.tolist() == ["V4", "IT"]
        assert found.data["n_subjects"].values.tolist() == [2, 2]
        for region in ("V4", "IT"):
            np.testing.assert_allclose(
                found.data["score"].sel(region=region), plain.data["score"].sel(region="V4")
            )

    def test_order_of_stimuli_does_not_matter(self, arrays, quick, rng):
        layers, regions = arrays
        order = torch.randperm(24, generator=rng).tolist()
        one = align(layers, regions, folds=2, settings=quick)
        other = align(layers, regions.isel(stimulus=order), folds=2, settings=quick)
        xr.testing.assert_allclose(one.data["score"], other.data["score"], atol=1e-6)

    def test_rdms_and_lists_join_too(self, data, label, rng):
        model, subjects = data
        ids = [f"s{i:02}" for i in range(24)]
        order = torch.randperm(24, generator=rng).tolist()
        stack = xr.DataArray(
            np.stack([1 - np.corrcoef(one) for one in subjects])[None],
            dims=("region", "subject", "anchor", "neighbor"),
            coords={"region": ["V4"], "subject": list("abc"), "anchor": ids, "neighbor": ids},
        ).isel(anchor=order)
        listed = {"V4": [label(one).isel(stimulus=order) for one in subjects]}
        found = [
            align({"a": label(model)}, given, transforms=["identity"], folds=2).table["score"][0]
            for given in ({"V4": subjects}, stack, listed)
        ]
        np.testing.assert_allclose(found, found[0], rtol=0, atol=1e-12)

    def test_differing_stimuli(self, arrays):
        layers, regions = arrays
        fewer = regions.isel(stimulus=slice(0, 20))
        with pytest.raises(StimulusError, match=r"Only in the first: .*s20.*s23"):
            align(layers, fewer)
        found = align(layers, fewer, join="intersection", transforms=["identity"], folds=2)
        assert found.table["n_stimuli"].tolist() == [20] * 4

    def test_unlabelled_data_of_unequal_length(self, data):
        model, subjects = data
        with pytest.raises(StimulusError, match=r"'a' 24, 'V4' 20\. Label them"):
            align({"a": model}, {"V4": [one[:20] for one in subjects]}, folds=2)
        with pytest.raises(StimulusError, match=r"'a' 20, 'V4' 24"):
            align({"a": model[:20]}, {"V4": subjects}, folds=2)


class TestRowOffsets:
    @pytest.fixture
    def shortcut(self, rng):
        """Two RSMs that agree on how central a stimulus is, and on nothing else."""
        central = torch.rand(24, generator=rng, dtype=torch.float64)
        rsms = []
        for _ in range(2):
            noise = 0.05 * torch.randn(24, 24, generator=rng, dtype=torch.float64)
            rsm = 0.4 * (central[:, None] + central) + noise + noise.T
            rsms.append(rsm.fill_diagonal_(1))
        return rsms

    def test_pearson_is_warned_of(self, shortcut):
        model, brain = shortcut
        with pytest.warns(RowOffsetWarning, match=r"in 1 of 1 scores under 'pearson' \(most: 0\.9"):
            found = align(model, brain, measure="pearson", transforms=["identity"], folds=2)
        assert found.table["row_offset_share"][0] > 0.9
        assert found.table["score"][0] > 0.8
        assert len(found.warnings) == 1
        assert "layer / region / identity" in found.warnings[0]

    def test_centered_pearson_is_not_fooled(self, shortcut):
        found = align(*shortcut, transforms=["identity"], folds=2)
        assert abs(found.table["score"][0]) < 0.4
        assert found.warnings == []

    def test_only_what_is_shown_is_warned_of(self, shortcut):
        found = align(*shortcut, measure="pearson", transforms=["centered"], folds=2)
        assert found.warnings == []


class TestFiles:
    def test_round_trip(self, result, tmp_path):
        result.to_netcdf(tmp_path / "result.nc")
        again = AlignmentResult.from_netcdf(tmp_path / "result.nc")
        xr.testing.assert_identical(
            again.data.drop_attrs(deep=False), result.data.drop_attrs(deep=False)
        )
        assert dict(again.data.attrs) == dict(result.data.attrs)
        assert again.table.equals(result.table)
        assert again.warnings == result.warnings

    def test_other_files_are_refused(self, result, tmp_path):
        path = tmp_path / "result.nc"
        with pytest.raises(FileMissingError, match=r"result\.nc"):
            AlignmentResult.from_netcdf(path)
        xr.Dataset({"x": ("stimulus", [1.0, 2.0])}).to_netcdf(path)
        with pytest.raises(FileFormatError, match=r"result\.nc holds no alignment result"):
            AlignmentResult.from_netcdf(path)
        result.to_netcdf(path)
        whole = path.read_bytes()
        for content in (b"text", b"", whole[: len(whole) // 2], whole[:1000]):
            path.write_bytes(content)
            with pytest.raises(FileFormatError, match=r"result\.nc is not a readable netCDF"):
                AlignmentResult.from_netcdf(path)

    def test_written_whole_or_not_at_all(self, result, tmp_path):
        path = tmp_path / "result.nc"
        result.to_netcdf(path)
        before = path.read_bytes()
        broken = AlignmentResult(result.data.assign(bad=("fold", [{}, {}])))
        with pytest.raises((TypeError, ValueError)):
            broken.to_netcdf(path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


class TestMessages:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"transforms": ["identty"]}, r"transform 'identty'\. Did you mean 'identity'"),
            ({"measure": "persn"}, r"measure 'persn'\. Did you mean 'pearson'"),
            ({"similarity": "cosin"}, r"similarity 'cosin'\. Did you mean 'cosine'"),
            ({"subjects": "leave_one"}, r"subjects 'leave_one'\. Did you mean 'leave_one_out'"),
        ],
    )
    def test_unknown_names(self, wrong, message, data, layers):
        with pytest.raises(UnknownNameError, match=message):
            align(layers, {"V4": data[1]}, **wrong)

    def test_unknown_way_to_join_and_coordinate(self, data, label):
        model, subjects = data
        layers, regions = label(model, layer=["a"] * 8), label(subjects[0], region=["V4"] * 8)
        with pytest.raises(UnknownNameError, match=r"'inner'.*Known: exact, intersection"):
            align(layers, regions, join="inner")
        with pytest.raises(UnknownNameError, match=r"layer coordinate 'lyer'.*'layer'"):
            align(layers, regions, by="lyer")
        with pytest.raises(UnknownNameError, match=r"region coordinate 'area'.*Known: region"):
            align(layers, regions, region="area")

    def test_nothing_given(self, data, layers):
        with pytest.raises(DataError, match=r"No region given"):
            align(layers, {})
        with pytest.raises(DataError, match=r"`transforms` is empty; choose among identity, cent"):
            align(layers, {"V4": data[1]}, transforms=[])

    def test_fewer_stimuli_than_folds(self, data, layers):
        with pytest.raises(DataError, match=r"30 folds of 24 stimuli .* at most 6 folds"):
            align(layers, {"V4": data[1]}, folds=30)
        with pytest.raises(DataError, match=r"`folds` must be at least 2, got 1"):
            align(layers, {"V4": data[1]}, folds=1)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
    def test_cuda_absent(self, data, layers):
        with pytest.raises(DeviceError, match=r"`device='cuda:0'` was asked for"):
            align(layers, {"V4": data[1]}, device="cuda:0")

    @pytest.mark.parametrize("dtype", ["float16", "int64", "complex64"])
    def test_number_types(self, dtype, data, label, layers):
        values = data[1][0].numpy().astype(dtype)
        with pytest.raises(DTypeError, match=rf"`V4` must be .*{dtype}"):
            align(layers, {"V4": values})
        with pytest.raises(DTypeError, match=rf"V4.*{dtype}"):
            align({"a": label(layers["wide"])}, {"V4": label(values)})

    def test_empty_and_broken_regions(self, data, label):
        model, subjects = data
        values = torch.cat(subjects[:2], 1).numpy()
        names = ["V4"] * 8 + ["IT"] * 7
        values[:, 8:] = np.nan
        with pytest.raises(DataError, match=r"The region 'IT' is empty"):
            align(label(model, layer=["a"] * 8), label(values, region=names))
        values[:, 8:] = 1.0
        values[5, 9] = np.nan
        with pytest.raises(DataError, match=r"s05"):
            align(label(model, layer=["a"] * 8), label(values, region=names))

    def test_constant_rows_are_named_with_their_layer(self, data, label):
        model, subjects = data
        flat = model.clone()
        flat[[2, 7]] = 0.25
        with pytest.raises(DataError, match=r"2 stimuli \('?s02'?, '?s07'?\) are constant"):
            align({"conv": label(flat)}, {"V4": label(subjects[0])})
        with pytest.raises(DataError, match=r"`conv` .*no stimulus may be constant"):
            align({"conv": flat}, {"V4": subjects})

    def test_splits_must_not_leak_or_be_too_small(self, data, layers):
        overlapping = Split(torch.arange(20), torch.arange(16, 24))
        with pytest.raises(DataError, match=r"split 0 .*\b16, 17, 18, 19\b"):
            align(layers, {"V4": data[1]}, folds=[overlapping])
        small = Split(torch.arange(21), torch.arange(21, 24))
        with pytest.raises(DataError, match=r"split 0 .*21 training and 3 test"):
            align(layers, {"V4": data[1]}, folds=[small])
        beyond = Split(torch.arange(12), torch.arange(20, 30))
        with pytest.raises(DataError, match=r"split 0 .*positions 24, 25.*of 24 stimuli"):
            align(layers, {"V4": data[1]}, folds=[beyond])
        with pytest.raises(DataError, match=r"`folds` is empty"):
            align(layers, {"V4": data[1]}, folds=[])


def test_collapsed_fits_are_named():
    names = ["layer", "region", "transform", "fold"]
    degenerate = np.zeros((1, 2, 1, 3))
    degenerate[0, 1, 0, :2] = 1
    fallback = np.full((1, 2, 1, 3), "", dtype=object)
    data = xr.Dataset(
        {"degenerate": (names, degenerate), "fallback": (names, fallback)},
        {"layer": ["fc"], "region": ["V1", "IT"], "transform": ["instance"]},
    )
    (message,) = degenerate_warnings(data)
    assert message.startswith("2 fits collapsed")
    assert "fc / IT / instance" in message
    data["degenerate"] *= 0
    assert degenerate_warnings(data) == []
    fallback[0, 0, 0, 1] = "centered"
    (message,) = degenerate_warnings(data)
    assert message.startswith("1 fits could not start, most of them for fc / V1 / instance")


def test_an_intersection_names_what_it_left_out(rng):
    values = torch.randn(26, 6, generator=rng).double().numpy()
    layer = xr.DataArray(
        values, dims=("stimulus", "unit"), coords={"stimulus": [f"s{i:02d}" for i in range(26)]}
    )
    result = align(
        {"fc": layer[:25]}, {"IT": layer[1:]}, transforms=["identity"], folds=3,
        join="intersection",
    )  # fmt: skip
    assert json.loads(result.data.attrs["stimuli_left_out"]) == {"fc": ["s00"], "IT": ["s25"]}
    assert result.data.attrs["n_stimuli"] == 24


def test_a_layer_with_several_subjects_is_the_mean_of_their_rsms():
    rng = np.random.default_rng(0)
    people = [rng.normal(size=(30, 6)) for _ in range(3)]
    region = rng.normal(size=(30, 8))
    options = {"transforms": ["identity", "global"], "folds": 3, "n_resamples": 0}
    options |= {"settings": FitSettings(gates=("profile",), steps=(5,), inner_folds=2)}
    found = softrsa.align({"others": people}, {"V4": region}, **options)
    mean = np.mean([np.corrcoef(x) for x in people], axis=0)
    np.fill_diagonal(mean, 1.0)
    stack = xr.DataArray(
        mean,
        dims=("anchor", "neighbor"),
        coords={name: [f"s{i:02}" for i in range(30)] for name in ("anchor", "neighbor")},
        attrs={"kind": "rsm", "similarity": "correlation"},
    )
    wanted = softrsa.align({"others": stack}, {"V4": region}, **options)
    assert [each.data.attrs["layers_averaged"] for each in (found, wanted)] == [1, 0]
    scores = (each.table.set_index("transform")["score"] for each in (found, wanted))
    for one, other in zip(*scores, strict=True):
        assert one == pytest.approx(other, abs=2e-4)
    aligner = softrsa.Aligner("centered").fit(people, region)
    assert aligner.score(people, region) == pytest.approx(
        softrsa.Aligner("centered").fit(mean, region).score(mean, region), abs=1e-9
    )
    np.testing.assert_allclose(
        aligner.transform_model(people), aligner.transform_model(mean), atol=1e-9
    )


def distances(n, seed=0):
    """Euclidean distances between points and between the same points, moved a little."""
    generator = torch.Generator().manual_seed(seed)
    x, e = torch.randn(2, n, 4, generator=generator, dtype=torch.float64)
    return [-similarity_matrix(y, similarity="l2") for y in (x, torch.tanh(x) + 0.3 * e)]


QUICK = FitSettings(gates=("profile",), steps=(4,), inner_folds=2)


def test_small_distances_are_no_correlations():
    """Learned transforms start from distances of .001 to .03, and gain as from large ones."""
    model, brain = distances(30)
    options = {"transforms": ["identity", "global", "instance"], "folds": 3, "n_resamples": 0}
    scores = [
        softrsa.align(
            model * size / model.max(), brain * size / brain.max(), settings=QUICK, **options
        ).table["score"]
        for size in (0.03, 30.0)
    ]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-4, 1e6), st.floats(1e-4, 1e6))
def test_the_unit_of_distances_does_not_matter(a, b):
    model, brain = distances(24)
    options = {"folds": 2, "n_resamples": 0, "settings": QUICK}
    found, wanted = (
        softrsa.align(x, y, **options).table for x, y in ((a * model, b * brain), (model, brain))
    )
    assert found["transform"].tolist() == wanted["transform"].tolist()
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=0, atol=1e-6)
    fitted, other = (
        softrsa.Aligner("instance", settings=QUICK).fit(x, y)
        for x, y in ((a * model, b * brain), (model, brain))
    )
    assert fitted.train_score_ == pytest.approx(other.train_score_, abs=1e-6)
    np.testing.assert_allclose(
        fitted.transform_model(a * model), other.transform_model(model), rtol=0, atol=1e-6
    )


def test_a_stack_says_whether_it_holds_correlations():
    rsm = np.corrcoef(np.random.default_rng(0).normal(size=(6, 5)))
    np.fill_diagonal(rsm, 1.0)
    coords = {name: [f"s{i}" for i in range(6)] for name in ("anchor", "neighbor")}
    for attrs, bounded in (
        ({"kind": "rsm", "similarity": "cosine"}, True),
        ({"kind": "rsm", "similarity": "rbf"}, False),
        ({"kind": "rdm", "dissimilarity": "correlation"}, True),
        ({"kind": "rdm", "dissimilarity_measure": "euclidean"}, False),
        ({"kind": "rdm"}, False),
    ):
        values = rsm if attrs["kind"] == "rsm" else 1 - rsm
        stack = xr.DataArray(values, dims=("anchor", "neighbor"), coords=coords, attrs=attrs)
        side = as_responses(stack, similarity="correlation", name="x", device=CPU)
        assert side.bounded == bounded


def test_a_result_says_what_it_is():
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    result = softrsa.align(x, x + 1, transforms=["identity"], folds=3, n_resamples=0)
    assert repr(result) == (
        "AlignmentResult(1 layers × 1 regions, 24 stimuli, 3 folds, centered_pearson; transforms "
        "identity); see .table, .plot(), .report(path)"
    )
