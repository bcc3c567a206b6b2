"""Regression tasks: shapes, scales and what keeps a split honest."""

from __future__ import annotations

import sys
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import wavfile
from scipy.stats import spearmanr
from skimage.color import rgb2gray
from skimage.data import stereo_motorcycle

from softrsa import datasets
from softrsa.cli import main
from softrsa.errors import (
    DataError,
    FileFormatError,
    FileMissingError,
    ShapeError,
    UnknownNameError,
)
from softrsa.prediction import encoding
from softrsa.prediction.encoding import encode_in_chunks, image_features, sound_features
from softrsa.prediction.experiment import run_experiment, split_samples
from softrsa.prediction.task_files import PUBLISHED
from softrsa.prediction.tasks import (
    SENTENCE_ENCODER,
    TASKS,
    _v4_features,
    label_strata,
    load_task,
    make_task,
)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("diabetes", (442, 10)), ("motorcycle", (4000, 264)), ("emobank", (10062, 300))],
)
def test_labels_fill_the_unit_interval(name, shape, data_dir, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    task = load_task(name)
    assert task.features.shape == shape
    assert task.features.dtype == task.labels.dtype == np.float32
    assert (task.labels.min(), task.labels.max()) == (0, 1)


def test_stereo_patches_hold_the_match(monkeypatch):
    """Shifted by the true disparity, the right patch is like the left: labels belong to pixels."""
    left, right, disparity = stereo_motorcycle()
    left, right = rgb2gray(left), rgb2gray(right)
    rows, columns = np.nonzero(np.isfinite(disparity[20:-20, 100:-20]))
    chosen = np.random.default_rng(0).permutation(len(rows))[:500]
    r, c = rows[chosen] + 20, columns[chosen] + 100
    shifted = right[r, (c - disparity[r, c]).round().astype(int)]
    assert spearmanr(left[r, c], shifted).statistic > 0.9
    assert spearmanr(left[r, c], right[r, c]).statistic < 0.7


def test_tiles_of_the_stereo_pair_are_groups():
    task = load_task("motorcycle", seed=1)
    assert len(np.unique(task.groups)) > 30
    assert np.bincount(task.groups).max() < 400
    assert not np.array_equal(task.labels, load_task("motorcycle", seed=2).labels)


def test_sentences_may_be_encoded_by_a_model(data_dir, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    task = load_task("emobank", encode=lambda texts: [[len(t), t.count(" ")] for t in texts])
    table = datasets.load("emobank").table
    assert task.features.shape == (10062, 2)
    assert task.features[:, 0].tolist() == table["text"].str.len().tolist()
    valence = task.labels * (table["V"].max() - table["V"].min()) + table["V"].min()
    np.testing.assert_allclose(valence, table["V"], atol=1e-6)


def test_features_of_v4_images_are_means_over_places(data_dir, monkeypatch):
    monkeypatch.setenv("SOFTRSA_DATA", str(data_dir))
    images = datasets.load("macaque-v4").images
    few = {name: images[name] for name in list(images)[:2]}
    found = _v4_features(few, progress=False)
    assert found.shape == (2, 80 * 9)
    assert found["stimulus"].values.tolist() == list(few)


def test_mistakes_are_named():
    with pytest.raises(UnknownNameError, match=r"task 'motor'\. Did you mean 'motorcycle'"):
        load_task("motor")
    with pytest.raises(ShapeError, match=r"shapes \(3, 2\) and \(4,\)"):
        make_task("mine", "Mine", np.ones((3, 2)), np.arange(4))
    with pytest.raises(DataError, match=r"labels of task 'mine' are 1\.0: there is nothing"):
        make_task("mine", "Mine", np.ones((3, 2)), np.ones(3))
    with pytest.raises(DataError, match="features of task 'mine' must be finite"):
        make_task("mine", "Mine", np.full((3, 2), np.nan), np.arange(3))


def test_a_task_is_split_in_one_way():
    x, y = np.ones((4, 2)), np.arange(4)
    with pytest.raises(DataError, match="split in one way; got strata and test"):
        make_task("mine", "Mine", x, y, strata=y, test=y > 2)
    with pytest.raises(ShapeError, match=r"value per sample: 4, got shape \(3,\)"):
        make_task("mine", "Mine", x, y, test=y[:3] > 1)


def test_bins_of_labels_hold_about_equally_many():
    labels = np.random.default_rng(0).permutation(100)
    strata = label_strata(labels, 10)
    assert np.bincount(strata).tolist() == [10] * 10
    assert strata[labels.argmax()] == 9
    assert len(np.unique(label_strata(np.array([5, 5, 5, 5, 1])))) <= 2


def test_sentences_are_encoded_by_what_is_installed(monkeypatch):
    class Encoder:
        def __init__(self, name):
            self.name = name

        def encode(self, sentences):
            return [[len(sentence), len(self.name)] for sentence in sentences]

    module = types.SimpleNamespace(SentenceTransformer=Encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    features = load_task("emobank").features
    assert features.shape == (10062, 2)
    assert (features[:, 1] == len(SENTENCE_ENCODER)).all()


N = 12
LABELS = np.linspace(10, 21, N)  # from 0 to 1 in elevenths


def brightness(images):
    """Encode images by their mean and width."""
    return [[np.asarray(image).mean(), image.width] for image in images]


def loudness(sounds):
    """Encode recordings by their rate, length and largest value."""
    return [[rate, len(wave), wave.max()] for rate, wave in sounds]


def lengths(texts):
    return [[len(text), text.count(" ")] for text in texts]


def gray(path, value, width=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, 5), value).save(path)


def sound(path, i, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.full(100 + i, 1000 * i, dtype=np.int16))


def write_rsna(folder):
    table = pd.DataFrame({"id": np.arange(N) + 70, "boneage": LABELS, "male": True})
    table.to_csv(folder / "boneage-training-dataset.csv", index=False)
    for i in range(N):
        gray(folder / "boneage-training-dataset" / f"{i + 70}.png", i)


def write_medsegbench(folder):
    images = np.arange(N, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
    masks = np.zeros((N, 16), np.uint8)
    for i in range(N):
        masks[i, : i + 1] = 1
    parts = {"train": slice(0, 7), "val": slice(7, 9), "test": slice(9, N)}
    arrays = {f"{part}_images": images[at] for part, at in parts.items()}
    arrays |= {f"{part}_label": masks[at].reshape(-1, 4, 4) for part, at in parts.items()}
    np.savez(folder / "busi_4.npz", **arrays)


def write_adresso(folder):
    ids = [f"adrso{i:03d}" for i in range(9)] + [f"adrsdt{i}" for i in range(3)]
    words = ["a " * i + "b" for i in range(N)]
    table = pd.DataFrame({"id": ids, "text": words, "mmse": LABELS})
    table.to_csv(folder / "transcripts.csv", index=False)


def write_coughvid(folder):
    names = [f"u{i}" for i in range(N)]
    table = pd.DataFrame({"uuid": [*names, "silent"], "age": [*LABELS, np.nan], "status": "x"})
    table.to_csv(folder / "metadata_compiled.csv", index=False)
    for i, name in enumerate(names):
        sound(folder / f"{name}.wav", i)


def write_nosemic(folder):
    names = [f"audio/{i}.wav" for i in range(N)]
    pd.DataFrame({"file": names, "label": LABELS}).to_csv(folder / "labels.csv", index=False)
    for i, name in enumerate(names):
        sound(folder / name, i)


def write_udacity(folder):
    cameras = ["left_camera", "center_camera"] * N
    names = [f"{camera.split('_')[0]}/{i // 2}.png" for i, camera in enumerate(cameras)]
    table = pd.DataFrame({"frame_id": cameras, "filename": names, "angle": LABELS.repeat(2)})
    table.to_csv(folder / "interpolated.csv", index=False)
    for i in range(N):
        gray(folder / "center" / f"{i}.png", i)


def write_pitchfork(folder):
    table = pd.DataFrame({"review": ["a " * i + "b" for i in range(N)], "rating": LABELS})
    table.to_csv(folder / "reviews.csv", index=False)


def write_houses(folder):
    rows = "".join(f"4 2.5 3000 85255  {price:.0f}\n" for price in LABELS * 1000)
    (folder / "HousesInfo.txt").write_text(rows)
    for i in range(N):
        for j, room in enumerate(("bathroom", "bedroom", "frontal", "kitchen")):
            gray(folder / f"{i + 1}_{room}.jpg", 10 * j + i)


def write_books(folder):
    table = pd.DataFrame({"text": ["a " * i + "b" for i in range(N)], "label": LABELS})
    table.to_csv(folder / "books.csv", index=False)


def write_austin(folder):
    columns = {
        "zpid": np.arange(N), "city": "austin", "yearBuilt": 1980 + np.arange(N),
        "hasSpa": np.arange(N) % 2 == 0, "latestPrice": LABELS * 1e5,
    }  # fmt: skip
    pd.DataFrame(columns).to_csv(folder / "austinHousingData.csv", index=False)


WRITERS = {name: globals()[f"write_{name}"] for name in PUBLISHED}
ENCODERS = {"image": brightness, "sound": loudness, "text": lengths, "table": None}
WIDTHS = {"image": 2, "sound": 3, "text": 2, "table": 2}


def written(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    WRITERS[name](folder)
    return folder


def loaded(name, folder, **options):
    return load_task(name, folder=folder, encode=ENCODERS[PUBLISHED[name].kind], **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_contract(name, tmp_path, monkeypatch, capsys):
    """Without files, what to get and where to put it; with them, a task in the order of files."""
    monkeypatch.setenv("SOFTRSA_DATA", str(tmp_path))
    card = datasets.card(name)
    with pytest.raises(FileMissingError) as caught:
        load_task(name)
    for part in (card.source, card.licence, card.access):
        assert part in str(caught.value)
    for file in card.placed:
        assert f"{tmp_path / name / file.path} ({file.what})" in str(caught.value)
    out = tmp_path / "out"
    assert main(["predict", "--data", name, "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"softrsa: error: {' '.join(str(caught.value).split())}\n"
    assert not out.exists()

    folder = written(name, tmp_path)
    task = loaded(name, None)
    assert (task.name, task.title) == (name, card.title)
    assert task.features.dtype == task.labels.dtype == np.float32
    parts = 4 if name == "houses" else 1
    assert task.features.shape == (N, parts * WIDTHS[PUBLISHED[name].kind])
    expected = (LABELS - 1) / 227 if name == "rsna" else np.linspace(0, 1, N)
    np.testing.assert_allclose(task.labels, expected, atol=1e-6)
    changing = task.features[:, task.features.std(0) > 0]
    assert (np.diff(changing[:, 0]) > 0).all()  # made to grow with the label
    again = loaded(name, folder)
    np.testing.assert_array_equal(again.features, task.features)
    train, test = split_samples(task, 0.25, 0)
    assert (len(train), len(test)) == (9, 3)


def test_all_names_are_tasks_with_cards():
    assert set(PUBLISHED) < set(TASKS)
    assert set(PUBLISHED) == {n for n in datasets.available() if datasets.card(n).published}
    with pytest.raises(DataError, match=r"'diabetes' has no folder of its own"):
        load_task("diabetes", folder="here")


def test_splits_are_those_of_the_papers(tmp_path):
    adresso = loaded("adresso", written("adresso", tmp_path))
    assert split_samples(adresso, 0.2, 4)[1].tolist() == [9, 10, 11]
    stratified = {"rsna", "medsegbench", "coughvid", "nosemic"}
    for name in set(PUBLISHED) - {"adresso"}:
        task = loaded(name, written(name, tmp_path))
        assert (task.strata is not None) == (name in stratified)
        assert task.test is None
        assert task.groups is None


def test_a_published_task_runs(tmp_path):
    task = loaded("adresso", written("adresso", tmp_path))
    result = run_experiment(task, heads="nca", splits=2, settings={"max_epochs": 1})
    assert result.rows[["n_train", "n_test"]].values.tolist() == [[9, 3]] * 2


@pytest.mark.parametrize(("name", "drawn"), [("udacity", 15_000), ("pitchfork", 1500)])
def test_rows_are_drawn_by_seed(name, drawn, tmp_path, monkeypatch):
    n = drawn + 500
    folder = tmp_path / name
    folder.mkdir()
    values = np.random.default_rng(0).uniform(0, 10, n).round(3)
    if name == "pitchfork":
        table = pd.DataFrame({"review": values.astype(str), "rating": values})
        table.to_csv(folder / "reviews.csv", index=False)
        read = lambda texts: [[float(text)] for text in texts]  # noqa: E731
    else:
        gray(folder / "center" / "0.png", 7)
        table = pd.DataFrame({"filename": "center/0.png", "angle": values})
        table.to_csv(folder / "interpolated.csv", index=False)
        monkeypatch.setattr(
            "softrsa.prediction.task_files.read_images", lambda paths: iter(range(len(paths)))
        )
        read = lambda numbers: [[number] for number in numbers]  # noqa: E731
    task = load_task(name, folder=folder, encode=read, seed=1)
    assert len(task.labels) == drawn
    scaled = (values - values.min()) / (values.max() - values.min())
    rows = np.sort(np.random.default_rng(1).permutation(n)[:drawn])
    np.testing.assert_allclose(task.labels, scaled[rows], atol=1e-6)
    if name == "pitchfork":
        np.testing.assert_allclose(task.features[:, 0], values[rows], atol=1e-5)
    assert not np.array_equal(
        task.labels, load_task(name, folder=folder, encode=read, seed=2).labels
    )


def test_default_features(tmp_path):
    """Images, recordings and texts need no encoder; equal inputs have equal features."""
    houses = written("houses", tmp_path)
    for i in range(3, N + 1):  # the first two houses are enough
        for path in houses.glob(f"{i}_*.jpg"):
            path.unlink()
    rows = (houses / "HousesInfo.txt").read_text().splitlines()[:2]
    (houses / "HousesInfo.txt").write_text("\n".join(rows))
    task = load_task("houses", folder=houses)
    assert task.features.shape == (2, 4 * 1280)
    kitchen = Image.open(houses / "2_kitchen.jpg")
    np.testing.assert_allclose(task.features[1, -1280:], image_features([kitchen])[0], atol=1e-5)

    assert load_task("nosemic", folder=written("nosemic", tmp_path)).features.shape == (N, 128)
    assert load_task("books", folder=written("books", tmp_path)).features.shape == (N, N - 1)


def test_sound_features_are_levels_of_bands():
    time = np.arange(32_000) / 32_000
    tones = [np.sin(2 * np.pi * f * time) for f in (200, 1000, 5000)]
    features = sound_features([(32_000, tone) for tone in tones])
    means, sds = features[:, :64], features[:, 64:]
    assert (np.diff(means.argmax(1)) > 5).all()
    # a tone ten times weaker has a hundredth of the power
    weaker = sound_features([(32_000, tones[1] / 10)])[0, :64]
    peak = means[1].argmax()
    assert means[1, peak] - weaker[peak] == pytest.approx(2, abs=1e-3)
    # one that stops halfway varies, one shorter than a window is heard
    halved = sound_features([(32_000, tones[1] * (time < 0.5))])[0, 64:]
    assert halved[peak] > 10 * sds[1, peak]
    assert np.isfinite(sound_features([(16_000, np.ones(5))])).all()


def test_samples_of_wav_are_scaled_and_channels_averaged(tmp_path):
    waves = {
        "a": np.array([[0, 16384], [16384, 16384]], np.int16),
        "b": np.array([128, 192], np.uint8),
        "c": np.array([0.25, 0.5], np.float32),
        "d": np.array([2**30, 2**30], np.int32),
    }
    names = [f"audio/{name}.wav" for name in waves]
    pd.DataFrame({"file": names, "label": range(4)}).to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "audio").mkdir()
    for name, wave in waves.items():
        wavfile.write(tmp_path / "audio" / f"{name}.wav", 10, wave)
    task = load_task("nosemic", folder=tmp_path, encode=lambda sounds: [wave for _, wave in sounds])
    assert task.features.tolist() == [[0.25, 0.5], [0, 0.5], [0.25, 0.5], [0.5, 0.5]]


def test_inputs_are_encoded_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 4)
    read, held = [], []

    def inputs():
        for i in range(10):
            read.append(i)
            yield i

    def encode(chunk):
        held.append((len(chunk), len(read)))
        return [[i] for i in chunk]

    features = encode_in_chunks(inputs(), encode, total=10)
    assert features.ravel().tolist() == list(range(10))
    assert held == [(4, 4), (4, 8), (2, 10)]


def test_progress_over_images_is_shown_when_asked(tmp_path, capsys):
    folder = written("rsna", tmp_path)
    loaded("rsna", folder)
    assert capsys.readouterr().err == ""
    loaded("rsna", folder, progress=True)
    assert "12/12" in capsys.readouterr().err


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "spoil", "error", "found"),
    [
        ("rsna", lambda f: (f / "boneage-training-dataset/73.png").unlink(), FileMissingError,
         r"names 12 files, of which 1 are missing: '.*/73\.png'\. Place them there"),
        ("rsna", lambda f: (f / "boneage-training-dataset/73.png").write_text("no"),
         FileFormatError, r"73\.png cannot be read as an image"),
        ("rsna", lambda f: replace(f / "boneage-training-dataset.csv", "12.0", "x"), DataError,
         r"training-dataset\.csv: `boneage` must be a number in every row, got 'x' in row 3\."),
        ("rsna", lambda f: replace(f / "boneage-training-dataset.csv", "12.0", "300"), DataError,
         r"must be from 1\.0 to 228\.0, got 10\.0 to 300\.0"),
        ("rsna", lambda f: replace(f / "boneage-training-dataset.csv", "boneage", "age"),
         FileFormatError, r"must have the columns id, boneage, found id, age, male"),
        ("medsegbench", lambda f: np.savez(f / "busi_4.npz", train_images=np.ones(3)),
         FileFormatError, r"busi_4\.npz is no file of MedSegBench: .*train_label"),
        ("medsegbench", lambda f: (f / "busi_4.npz").write_text("no"), FileFormatError,
         r"busi_4\.npz is no file of MedSegBench"),
        ("adresso", lambda f: replace(f / "transcripts.csv", "adrso002", "S002"), DataError,
         r"must start with adrso \(training\) or adrsd \(test\), got 'S002'"),
        ("adresso", lambda f: replace(f / "transcripts.csv", "a a b", " "), DataError,
         r"`text` must be a text in every row, got ' ' in row 3"),
        ("adresso", lambda f: (f / "transcripts.csv").write_text("id,text,mmse\nadrso1,a,3\n"),
         DataError, r"must hold training \(adrso\.\.\.\) and test samples"),
        ("coughvid", lambda f: (f / "u3.wav").rename(f / "u3.webm"), FileMissingError,
         r"'.*u3\.wav'\. Convert .*: ffmpeg -i .*u3\.webm -ac 1 -ar 16000 .*u3\.wav"),
        ("coughvid", lambda f: (f / "u3.wav").write_bytes(b"OggS" * 20), FileFormatError,
         r"u3\.wav cannot be read as wav: .* ffmpeg -i .*u3\.wav"),
        ("coughvid", lambda f: wavfile.write(f / "u3.wav", 10, np.ones(0)), DataError,
         r"u3\.wav holds no sound"),
        ("coughvid", lambda f: (f / "metadata_compiled.csv").write_text("uuid,age\nu1,\n"),
         DataError, r"has no row with a label"),
        ("udacity", lambda f: (f / "interpolated.csv").write_text(
            "frame_id,filename,angle\nleft_camera,a.png,1\n"), DataError,
         r"no row whose frame_id is center_camera"),
        ("houses", lambda f: replace(f / "HousesInfo.txt", "4 2.5 3000", "4 3000"),
         FileFormatError, r"five numbers in every row .* in row 1\."),
        ("houses", lambda f: (f / "HousesInfo.txt").write_text(""), FileFormatError,
         r"in row one: it is empty"),
        ("books", lambda f: (f / "books.csv").write_text("text,label\na,1\nb,1\n"), DataError,
         r"All labels of task 'books' are 1\.0"),
        ("books", lambda f: (f / "books.csv").write_text(""), FileFormatError, r"is no CSV table"),
        ("books", lambda f: (f / "books.csv").write_text("text,label\n"), FileFormatError,
         r"books\.csv has no rows"),
        ("austin", lambda f: replace(f / "austinHousingData.csv", "1982", ""), DataError,
         r"`yearBuilt` must be a number in every row, got nan in row 3"),
    ],
)  # fmt: skip
def test_what_is_bad_is_named(name, spoil, error, found, tmp_path):
    folder = written(name, tmp_path)
    spoil(folder)
    with pytest.raises(error, match=found):
        loaded(name, folder)


def test_an_encoder_must_give_a_row_per_input(tmp_path):
    folder = written("books", tmp_path)
    with pytest.raises(ShapeError, match=r"features \(n, p\) of n inputs, got shape \(3,\) of 12"):
        load_task("books", folder=folder, encode=lambda _: [1, 2, 3])
