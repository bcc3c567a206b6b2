"""Aligner: scikit-learn habits, files, joins and messages."""

import pickle
import re

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import pearsonr, spearmanr
from sklearn.base import clone

from softrsa import measures
from softrsa.alignment import Aligner, FitSettings
from softrsa.errors import (
    DataError,
    DeviceError,
    DTypeError,
    FileFormatError,
    FileMissingError,
    NotFittedError,
    ShapeError,
    StimulusError,
    UnknownNameError,
)
from softrsa.pairs import condense, off_diagonal
from softrsa.transforms import TRANSFORMS

train, test = slice(0, 16), slice(16, 24)


def parts(data, where):
    model, subjects = data
    return model[where], [one[where] for one in subjects]


def test_identity_is_plain_rsa(data):
    """The mean over subjects of NumPy's and SciPy's correlations."""
    model, subjects = parts(data, test)
    upper = np.triu_indices(8, 1)
    own = np.corrcoef(model)[upper]
    for measure, reference in (("pearson", pearsonr), ("spearman", spearmanr)):
        aligner = Aligner("identity", measure=measure).fit(*parts(data, train))
        expected = np.mean([reference(own, np.corrcoef(s)[upper])[0] for s in subjects])
        assert aligner.score(model, subjects) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("gates", [("profile",), ("embedding",)])
class TestEveryTransform:
    def test_score_is_the_measure_of_both_transforms(self, transform, gates, data, quick):
        settings = FitSettings(**{**vars(quick), "gates": gates})
        aligner = Aligner(transform, settings=settings).fit(*parts(data, train))
        model, subjects = parts(data, test)
        a, b = aligner.transform_model(model), aligner.transform_brain(subjects)
        assert a.shape == ((3, 8, 8) if aligner.chosen_ == "encoding" else (8, 8))
        assert b.shape == (3, 8, 8)
        expected = measures.centered_pearson(a, b).mean().item()
        assert aligner.score(model, subjects) == pytest.approx(expected, abs=1e-12)
        on_training = aligner.score(*parts(data, train))
        assert on_training == pytest.approx(aligner.train_score_, abs=1e-5)

    def test_saved_and_loaded_is_the_same(self, transform, gates, data, quick, tmp_path):
        settings = FitSettings(**{**vars(quick), "gates": gates})
        aligner = Aligner(transform, settings=settings, measure="pearson", seed=7)
        aligner.fit(*parts(data, train))
        aligner.save(tmp_path / "aligner.pt")
        loaded = Aligner.load(tmp_path / "aligner.pt")
        assert loaded.get_params() == aligner.get_params()
        new = parts(data, test)
        assert loaded.score(*new) == aligner.score(*new)
        assert torch.equal(loaded.transform_model(new[0]), aligner.transform_model(new[0]))
        assert torch.equal(loaded.transform_brain(new[1]), aligner.transform_brain(new[1]))
        for name in ("chosen_", "train_score_", "n_steps_", "gate_"):
            assert getattr(loaded, name) == getattr(aligner, name)
        np.testing.assert_equal(loaded.penalty_, aligner.penalty_)
        assert torch.equal(loaded.inner_scores_, aligner.inner_scores_)


@pytest.mark.parametrize("transform", ["identity", "centered", "geo_topological"])
def test_order_of_stimuli_does_not_matter(transform, data, rng):
    """For learned transforms too, but for the inner folds, which are drawn by position."""
    order = torch.randperm(16, generator=rng)
    model, subjects = parts(data, train)
    one = Aligner(transform).fit(model, subjects)
    other = Aligner(transform).fit(model[order], [s[order] for s in subjects])
    assert other.train_score_ == pytest.approx(one.train_score_, abs=1e-12)


def test_seeds_and_refits_are_reproducible(data, quick):
    first = Aligner(settings=quick, seed=3).fit(*parts(data, train))
    again = Aligner(settings=quick, seed=3).fit(*parts(data, train))
    other = Aligner(settings=quick, seed=4).fit(*parts(data, train))
    assert first.score(*parts(data, test)) == again.score(*parts(data, test))
    assert torch.equal(first.inner_scores_, again.inner_scores_)
    assert not torch.equal(first.inner_scores_, other.inner_scores_)
    assert first.fit(*parts(data, train)).train_score_ == again.train_score_


def test_data_are_left_as_they_were(data, quick):
    model, subjects = data
    before = model.clone(), [one.clone() for one in subjects]
    Aligner("selected", settings=quick).fit(model, subjects).score(model, subjects)
    assert torch.equal(model, before[0])
    assert all(torch.equal(a, b) for a, b in zip(subjects, before[1], strict=True))


class TestScikitLearnHabits:
    def test_clone_is_unfitted_with_the_same_parameters(self, data, quick):
        aligner = Aligner("centered", measure="pearson", settings=quick, seed=5)
        copy = clone(aligner.fit(*parts(data, train)))
        assert copy.get_params() == aligner.get_params()
        assert not hasattr(copy, "chosen_")
        with pytest.raises(NotFittedError, match=r"not fitted yet; call `fit"):
            copy.score(*parts(data, test))

    def test_set_params(self):
        aligner = Aligner().set_params(transform="global", seed=9)
        assert (aligner.transform, aligner.seed) == ("global", 9)
        assert repr(aligner).startswith("Aligner(transform='global', measure='centered_pearson'")
        with pytest.raises(UnknownNameError, match=r"parameter 'sede'\. Did you mean 'seed'"):
            aligner.set_params(sede=1)

    @pytest.mark.parametrize("use", ["transform_model", "transform_brain", "save"])
    def test_unfitted(self, use):
        with pytest.raises(NotFittedError):
            getattr(Aligner(), use)("anything")


class TestJoin:
    def test_by_id_whatever_the_order(self, data, label, quick, rng):
        model, subjects = parts(data, train)
        ids = [f"s{i}" for i in range(16)]
        order = torch.randperm(16, generator=rng).tolist()
        shuffled = label(subjects[0][order], [ids[i] for i in order])
        plain = Aligner("selected", settings=quick).fit(model, subjects[0])
        joined = Aligner("selected", settings=quick).fit(label(model, ids), shuffled)
        assert joined.train_score_ == pytest.approx(plain.train_score_, abs=1e-9)
        assert joined.chosen_ == plain.chosen_

    def test_lists_of_subjects_too(self, data, label, rng):
        model, subjects = parts(data, test)
        shuffled = []
        for one in subjects:
            order = torch.randperm(8, generator=rng).tolist()
            shuffled.append(label(one[order], [f"s{i:02}" for i in order]))
        plain = Aligner("identity").fit(model, subjects)
        joined = Aligner("identity").fit(label(model), shuffled)
        assert joined.train_score_ == pytest.approx(plain.train_score_, abs=1e-12)
        torch.testing.assert_close(
            joined.transform_brain(shuffled)[0],
            joined.transform_brain([shuffled[0]])[0],
        )

    def test_subject_coordinate_is_a_list_of_subjects(self, data, label):
        model, subjects = parts(data, test)
        names = [n for n, one in zip("bac", subjects, strict=True) for _ in range(one.shape[1])]
        stacked = label(torch.cat(subjects, 1), subject=names)
        plain = Aligner("identity").fit(model, subjects)
        assert plain.fit(label(model), stacked).train_score_ == pytest.approx(
            plain.fit(model, subjects).train_score_, abs=1e-12
        )

    def test_rdms_are_as_good_as_recordings(self, data, label):
        model, subjects = parts(data, train)
        rdms = torch.stack([1 - torch.corrcoef(one) for one in subjects])
        ids = [f"s{i:02}" for i in range(16)]
        stack = xr.DataArray(
            rdms.numpy(),
            dims=("subject", "anchor", "neighbor"),
            coords={"subject": list("abc"), "anchor": ids, "neighbor": ids},
        )
        plain = Aligner("geo_topological").fit(model, subjects).train_score_
        for given in (rdms, list(rdms), 1 - rdms, rdms.numpy()):
            assert Aligner("geo_topological").fit(model, given).train_score_ == pytest.approx(
                plain, abs=1e-9
            )
        shuffled = stack.isel(anchor=slice(None, None, -1))
        fitted = Aligner("geo_topological").fit(label(model), shuffled)
        assert fitted.train_score_ == pytest.approx(plain, abs=1e-9)

    def test_missing_extra_and_repeated_stimuli_are_named(self, data, label):
        model, subjects = parts(data, test)
        ids = [f"s{i:02}" for i in range(8)]
        other = label(subjects[0], [*ids[:7], "s99"])
        with pytest.raises(StimulusError, match=r"first: .*s07.*second: .*s99"):
            Aligner("identity").fit(label(model, ids), other)
        twice = label(subjects[0], [*ids[:7], "s00"])
        with pytest.raises(StimulusError, match=r"s00"):
            Aligner("identity").fit(label(model, ids), twice)
        with pytest.raises(StimulusError, match=r"`model` has 8, `brain` 7\. Label them"):
            Aligner("identity").fit(model, subjects[0][:7])
        with pytest.raises(StimulusError, match=r"`brain` has subjects with \[7, 8\] stimuli"):
            Aligner("identity").fit(model, [subjects[0], subjects[1][:7]])


class TestMessages:
    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"transform": "instnce"}, r"transform 'instnce'\. Did you mean 'instance'"),
            ({"measure": "spaerman"}, r"measure 'spaerman'\. Did you mean 'spearman'"),
            ({"similarity": "corelation"}, r"similarity 'corelation'\. Did you mean 'correlation'"),
        ],
    )
    def test_unknown_names(self, parameters, message, data):
        with pytest.raises(UnknownNameError, match=message):
            Aligner(**parameters).fit(*data)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
    def test_cuda_absent(self, data):
        with pytest.raises(DeviceError, match=r"`device='cuda'` was asked for"):
            Aligner("identity", device="cuda").fit(*data)
        with pytest.raises(DeviceError, match=r"got 'gpu'"):
            Aligner("identity", device="gpu").fit(*data)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.complex64])
    def test_number_types(self, dtype, data):
        model, subjects = data
        with pytest.raises(DTypeError, match=rf"`model` must be float32 or float64, got {dtype}"):
            Aligner("identity").fit(model.to(dtype), subjects)
        array = subjects[1].to(dtype).numpy()
        with pytest.raises(DTypeError, match=rf"`brain\[1\]` .* got {dtype}"):
            Aligner("identity").fit(model, [subjects[0], array])

    def test_shapes(self, data):
        model, subjects = data
        with pytest.raises(ShapeError, match=r"`model` must be .* got shape \(8,\)"):
            Aligner("identity").fit(model[0], subjects)
        with pytest.raises(DataError, match=r"`brain` is an empty list"):
            Aligner("identity").fit(model, [])
        with pytest.raises(ShapeError, match=r"at least 4: `x` has 3"):
            Aligner("identity").fit(model[:3], subjects[0][:3])
        with pytest.raises(ShapeError, match=r"at least 2 stimuli, got 1"):
            Aligner("identity").fit(model[:1], subjects[0][:1])
        for wrong, name in (("a path", "str"), (None, "NoneType"), ({"a": model}, "dict")):
            with pytest.raises(DTypeError, match=rf"`model` must be an array.* got {name}"):
                Aligner("identity").fit(wrong, subjects)
        with pytest.raises(DTypeError, match=r"`model\[0\]` must be an array.* got float"):
            Aligner("identity").fit([1.0, 2.0], subjects)
        with pytest.raises(DTypeError, match=r"`brain` must hold float.*got <U"):
            Aligner("identity").fit(model, np.array([["a", "b"]] * 24))

    def test_values(self, data, label):
        model, subjects = data
        bad = model.clone()
        bad[3, 2] = torch.nan
        with pytest.raises(DataError, match=r"`model` has similarities that are not finite"):
            Aligner("identity").fit(bad, subjects)
        with pytest.raises(DataError, match=r"s03"):
            Aligner("identity").fit(label(bad), label(subjects[0]))
        bad[3] = 1.5
        with pytest.raises(DataError, match=r"`model` .*no stimulus may be constant"):
            Aligner("identity").fit(bad, subjects)
        with pytest.raises(DataError, match=r"1 stimulus \(s03\) are\s*constant|s03.*constant"):
            Aligner("identity").fit(label(bad), label(subjects[0]))

    def test_other_units_for_an_embedding(self, data, quick):
        settings = FitSettings(**{**vars(quick), "gates": ("embedding",)})
        aligner = Aligner(settings=settings).fit(*parts(data, train))
        model, subjects = parts(data, test)
        with pytest.raises(ShapeError, match=r"fitted on 8 units, got 7"):
            aligner.score(model[:, :7], subjects)
        with pytest.raises(DataError, match=r"The brain's gate reads embeddings .* got RDMs"):
            aligner.score(model, 1 - torch.corrcoef(subjects[0]))


class TestFiles:
    def test_foreign_files_are_refused_and_nothing_runs(self, tmp_path, data):
        path = tmp_path / "aligner.pt"
        with pytest.raises(FileMissingError, match=re.escape(str(path))):
            Aligner.load(path)
        marker = tmp_path / "executed"
        payload = type("Evil", (), {"__reduce__": lambda self: (open, (str(marker), "w"))})
        contents = [
            b"not a file of ours",
            b"",
            pickle.dumps(payload()),
        ]
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(FileFormatError, match=r"aligner\.pt is not a file written by"):
                Aligner.load(path)
        torch.save(payload(), path)
        with pytest.raises(FileFormatError, match=r"aligner\.pt is not a file written by"):
            Aligner.load(path)
        assert not marker.exists()
        for foreign in ({"weights": torch.ones(3)}, torch.ones(3)):
            torch.save(foreign, path)
            with pytest.raises(FileFormatError, match=r"aligner\.pt is not a file written by"):
                Aligner.load(path)

    def test_damaged_files_are_refused(self, tmp_path, data):
        path = tmp_path / "aligner.pt"
        Aligner("identity").fit(*data).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(FileFormatError, match=r"aligner\.pt is not a file written by"):
            Aligner.load(path)
        path.write_bytes(whole)
        content = torch.load(path, weights_only=True)
        del content["params"]
        torch.save(content, path)
        with pytest.raises(FileFormatError, match=r"damaged: KeyError\('params'\)"):
            Aligner.load(path)


def test_spearman_is_learned_under_centered_pearson_and_scored_by_ranks(data, quick):
    aligner = Aligner("instance", measure="spearman", settings=quick).fit(*parts(data, train))
    model, subjects = parts(data, test)
    a, b = aligner.transform_model(model), aligner.transform_brain(subjects)
    expected = [spearmanr(off_diagonal(a), off_diagonal(one))[0] for one in b]
    assert aligner.score(model, subjects) == pytest.approx(np.mean(expected), abs=1e-9)


def test_a_model_of_single_precision_agrees(data):
    model, subjects = data
    double = Aligner("identity").fit(model, subjects)
    single = Aligner("identity").fit(model.float(), [one.float() for one in subjects])
    assert single.train_score_ == pytest.approx(double.train_score_, abs=1e-5)
    assert condense(single.transform_model(model.float())).dtype == torch.float64
