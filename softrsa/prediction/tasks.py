"""Regression tasks of the experiments: features, labels in [0, 1], and how they may be split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from softrsa import datasets, io
from softrsa._checks import check_count
from softrsa.errors import DataError, ShapeError, unknown_name
from softrsa.prediction.encoding import Encoder, encode_in_chunks, features_of, text_features
from softrsa.prediction.task_files import DEFAULTS, PUBLISHED


@dataclass(frozen=True)
class RegressionTask:
    """Features and labels to predict from them.

    Attributes
    ----------
    name, title : str
        What it is called, in one word and one line.
    features : ndarray, shape (n, p)
        Float32, as they are; a regressor scales them.
    labels : ndarray, shape (n,) or (n, n_targets)
        Float32, from 0 to 1.
    groups : ndarray of int, shape (n,), or None
        Samples of a group belong together and are never split.
    strata : ndarray of int, shape (n,), or None
        Samples of a stratum, such as a bin of labels, are split in the same proportion.
    test : ndarray of bool, shape (n,), or None
        Samples to test on in every split, where those who published the data say so.

    Raises
    ------
    ShapeError
        If arrays do not have a row per sample.
    DataError
        If features or labels are not finite, more than one of ``groups``, ``strata`` and ``test``
        is given, or ``test`` does not leave samples on both sides.

    Examples
    --------
    >>> task = RegressionTask("toy", "A toy", np.zeros((3, 2)), np.array([0.0, 1.0, 0.5]))
    >>> task
    RegressionTask(name='toy', title='A toy')
    """

    name: str
    title: str
    features: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)
    strata: np.ndarray | None = field(default=None, repr=False)
    test: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.features.ndim != 2 or len(self.features) != len(self.labels):
            raise ShapeError(
                "A task needs features (n, p) and as many labels, got shapes "
                f"{self.features.shape} and {self.labels.shape}."
            )
        for name in ("features", "labels"):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"The {name} of task {self.name!r} must be finite.")
        splitting = {name: getattr(self, name) for name in ("groups", "strata", "test")}
        given = {name: value for name, value in splitting.items() if value is not None}
        if len(given) > 1:
            raise DataError(f"A task is split in one way; got {' and '.join(given)}.")
        for name, value in given.items():
            array = np.asarray(value)
            object.__setattr__(self, name, array)
            if array.shape != (len(self.labels),):
                raise ShapeError(
                    f"`{name}` must hold a value per sample: {len(self.labels)}, got shape "
                    f"{array.shape}."
                )
        if self.test is not None and (self.test.dtype != bool or len(np.unique(self.test)) != 2):
            raise DataError(
                "`test` must be true for some samples and false for others, got "
                f"{self.test.dtype} with the values {np.unique(self.test)[:5].tolist()}."
            )


def make_task(
    name: str,
    title: str,
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    strata: np.ndarray | None = None,
    test: np.ndarray | None = None,
) -> RegressionTask:
    """Make a task of your own data; labels are scaled to [0, 1], features left as they are.

    Parameters
    ----------
    name, title : str
        What to call it, in one word and one line.
    features : array, shape (n, p)
        Finite numbers.
    labels : array, shape (n,) or (n, n_targets)
        In any unit; each target is scaled by its least and largest value over all samples.
    groups, strata, test : array, shape (n,), optional
        How samples may be split, see `RegressionTask`; one of them at most. For labels in bins as
        strata, see `label_strata`.

    Returns
    -------
    RegressionTask
        Good for `run_experiment` and `search_settings`.

    Raises
    ------
    ShapeError, DataError
        As `RegressionTask`, or if all labels of a target are the same.

    Examples
    --------
    >>> make_task("toy", "A toy", np.zeros((3, 2)), np.array([2, 6, 4])).labels.tolist()
    [0.0, 1.0, 0.5]
    """
    labels = np.asarray(labels, dtype=np.float64)
    low, high = labels.min(0), labels.max(0)
    if (low == high).any():
        raise DataError(f"All labels of task {name!r} are {low}: there is nothing to predict.")
    scaled = ((labels - low) / (high - low)).astype(np.float32)
    features = np.asarray(features, dtype=np.float32)
    return RegressionTask(name, title, features, scaled, groups, strata, test)


def label_strata(labels: np.ndarray, bins: int = 10) -> np.ndarray:
    """Put labels (n,) in bins of about equally many samples, for a split stratified by label.

    Parameters
    ----------
    labels : array, shape (n,)
        In any unit. Samples of equal labels share a bin.
    bins : int
        How many at most.

    Returns
    -------
    ndarray of int, shape (n,)
        The bin of each sample, ascending with the label.

    Raises
    ------
    ShapeError
        If labels are not a vector of numbers.
    DataError
        If a label is not finite, or ``bins`` is not a whole number from 1.

    Examples
    --------
    >>> label_strata(np.array([3.0, 1.0, 2.0, 9.0]), bins=2).tolist()
    [1, 0, 0, 1]
    """
    check_count("bins", bins, 1)
    values = np.asarray(labels)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "fiub":
        raise ShapeError(
            f"`labels` must be numbers of shape (n,), at least one, got {values.dtype} of shape "
            f"{values.shape}."
        )
    if not np.isfinite(values).all():
        raise DataError(
            f"`labels` must be finite, got {int((~np.isfinite(values)).sum())} that are not, the "
            f"first at {int((~np.isfinite(values)).argmax())}. Leave those samples out."
        )
    edges = np.quantile(labels, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(np.unique(edges), labels, side="left")


def load_published(
    name: str,
    *,
    folder: str | Path | None = None,
    encode: Encoder | None = None,
    seed: int = 0,
    progress: bool = False,
) -> RegressionTask:
    """Load a task of the papers from the files on its card; as `load_task`, which documents it."""
    about, layout = datasets.card(name), PUBLISHED[name]
    samples = layout.read(datasets.find_placed(about, folder), seed)
    low, high = samples.limits
    if low == high:
        raise DataError(f"All labels of task {name!r} are {low}: there is nothing to predict.")
    scaled = (samples.labels - low) / (high - low)
    if scaled.min() < 0 or scaled.max() > 1:
        raise DataError(
            f"Labels of task {name!r} must be from {low} to {high}, got {samples.labels.min()} to "
            f"{samples.labels.max()}. Correct them or leave their rows out."
        )
    used = encode or DEFAULTS[layout.kind]
    if layout.kind in ("text", "table"):
        features = features_of(samples.inputs, used)
    else:
        total = samples.each * len(scaled)
        features = encode_in_chunks(
            samples.inputs, used, total=total, progress=progress, name=f"{layout.kind}s"
        )
    return RegressionTask(
        name,
        about.title,
        features.reshape(len(scaled), -1),
        scaled.astype(np.float32),
        strata=label_strata(scaled) if layout.stratified else None,
        test=samples.test,
    )


SENTENCE_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
V4_LAYER, V4_CHANNELS, V4_GRID = "_blocks.7", 80, 3  # maps, averaged over 3 x 3 places
PATCH, REACH, PIXELS, TILES = 11, 64, 4000, (5, 8)  # of the stereo pair, in pixels


def load_task(
    name: str,
    *,
    folder: str | Path | None = None,
    encode: Encoder | None = None,
    seed: int = 0,
    progress: bool = False,
) -> RegressionTask:
    """Load one of the tasks that `run_experiment` knows by name.

    ====================  ==================================================================
    `diabetes`            scikit-learn: 10 measurements to the progression after a year
    `motorcycle`          scikit-image's stereo pair: patches of both images to disparity;
                          tiles of the image are kept together
    `macaque-v4`          EfficientNet-Lite0 features of 1200 images to the mean rate of 89
                          neurons
    `macaque-v4-neurons`  the same to the rate of each neuron
    `emobank`             10 062 sentences to their valence; features are those of a sentence
                          encoder (all-MiniLM-L6-v2) if sentence-transformers is installed, else
                          `text_features`
    ====================  ==================================================================

    Those of the papers need files that you put in place; ``softrsa.datasets.card(name)`` says
    which, where to get them and on what terms, what is known of the papers' preprocessing and what
    is not, and the published results. Without the files, the error says it too.

    ====================  ==================================================================
    `rsna`                images of hands to the age of their bones; stratified by age
    `medsegbench`         medical images to the share of foreground; stratified by it
    `adresso`             transcripts to MMSE scores; a fixed test set
    `coughvid`            recordings of coughs to age; stratified by age
    `nosemic`             recordings of a microphone at the nose to a label; stratified by it
    `udacity`             15 000 frames of a driving car to the steering angle
    `pitchfork`           1500 reviews of albums to their scores
    `houses`              four photographs of a house each to its price
    `books`               texts to a label
    `austin`              columns of a table of houses to their prices
    ====================  ==================================================================

    Parameters
    ----------
    name : str
        A name of the tables.
    folder : str or Path, optional
        Where the files of a task of the papers lie; by default in the folder of its name where the
        environment variable ``SOFTRSA_DATA`` says (see `softrsa.datasets.find_placed`).
    encode : callable, optional
        Gives the features (n, p): of a list of texts, such as the `encode` of a
        sentence-transformers model; of a list of PIL images as they are in the files, or of
        recordings, pairs of samples per second and waveform in [-1, 1], up to 64 at a time; or of a
        table. By default, hashed words and pairs of words (`text_features`), EfficientNet-Lite0
        (`image_features`), levels of bands of pitch (`sound_features`), and the columns as they
        are. Features are fixed: the papers fine-tuned their networks with the head.
    seed : int
        Which pixels of the stereo pair, or which frames or reviews, are taken.
    progress : bool
        Show a progress bar over images or recordings.

    Returns
    -------
    RegressionTask
        Features, and labels scaled to [0, 1] over all samples; those of `rsna` from 1 to 228
        months.

    Raises
    ------
    UnknownNameError
        If there is no such task.
    FileMissingError
        If files are neither here nor can be downloaded; the message says which and what to do.
    FileFormatError, DataError
        If a file, or a row of a table, is not what it should be, or ``folder`` is given for a task
        that has none.
    ShapeError
        If ``encode`` does not give a row of features per input.

    Examples
    --------
    >>> load_task("diabetes").features.shape
    (442, 10)
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name](folder=folder, encode=encode, seed=seed, progress=progress)


def _load_own(name: str, *, folder: str | Path | None, **options: Any) -> RegressionTask:
    if folder is not None:
        raise DataError(f"Task {name!r} has no folder of its own; leave out `folder`.")
    title, load = OWN[name]
    features, labels, groups = load(**options)
    return make_task(name, title, features, labels, groups)


Loaded = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _diabetes(**_: Any) -> Loaded:
    from sklearn.datasets import load_diabetes

    features, labels = load_diabetes(return_X_y=True)
    return np.asarray(features), np.asarray(labels), None


def _emobank(*, encode: Encoder | None, **_: Any) -> Loaded:
    table = datasets.load("emobank").table
    if table is None:
        raise DataError("The data set 'emobank' holds no table.")
    sentences = table["text"].tolist()
    return np.asarray((encode or _encode)(sentences)), table["V"].to_numpy(), None


def _encode(sentences: list[str]) -> np.ndarray:
    """Embed sentences with a pretrained encoder if sentence-transformers is there, else count."""
    try:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]
    except ImportError:
        return text_features(sentences)
    return np.asarray(SentenceTransformer(SENTENCE_ENCODER).encode(sentences))


def _v4_population(*, progress: bool, **_: Any) -> Loaded:
    features, rates = _v4(progress)
    return features, rates.mean(1), None


def _v4_neurons(*, progress: bool, **_: Any) -> Loaded:
    return *_v4(progress), None


def _v4(progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Features of a block, averaged over a coarse grid of places, and rates; features are kept."""
    data = datasets.load("macaque-v4", progress=progress)
    rates = data.regions["V4"]
    kept = io.cache_folder() / "features" / f"macaque-v4{V4_LAYER}-{V4_GRID}x{V4_GRID}.nc"
    if kept.is_file():
        features = io.load(kept)
    else:
        features = _v4_features(data.images or {}, progress)
        kept.parent.mkdir(parents=True, exist_ok=True)
        io.save(features, kept)
    return features.sel(stimulus=rates["stimulus"].values).values, rates.values


def _v4_features(images: dict, progress: bool) -> xr.DataArray:
    import torch

    from softrsa.activations import extract_activations, load_model

    model = load_model("efficientnet-lite0")
    found = extract_activations(
        model.module, images, {V4_LAYER: V4_LAYER}, preprocess=model.preprocess, progress=progress
    )
    side = math.isqrt(found.sizes["unit"] // V4_CHANNELS)
    maps = torch.from_numpy(found.values).view(-1, V4_CHANNELS, side, side)
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, V4_GRID).flatten(1)
    return xr.DataArray(
        pooled.numpy(), dims=("stimulus", "unit"), coords={"stimulus": found["stimulus"].values}
    )


def _motorcycle(*, seed: int, **_: Any) -> Loaded:
    """Gray patches around a pixel of the left image and along its row in the right one."""
    from skimage.color import rgb2gray
    from skimage.data import stereo_motorcycle
    from skimage.transform import downscale_local_mean

    left, right, disparity = stereo_motorcycle()
    left, right = rgb2gray(left), rgb2gray(right)
    half = PATCH // 2
    rows, columns = np.nonzero(np.isfinite(disparity))
    inside = (
        (rows >= half) & (rows < len(left) - half)
        & (columns >= half + REACH) & (columns < left.shape[1] - half)
    )  # fmt: skip
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(inside))[:PIXELS]
    rows, columns = rows[chosen], columns[chosen]

    def patches(image: np.ndarray, before: int) -> np.ndarray:
        cut = [
            image[r - half : r + half + 1, c - half - before : c + half + 1]
            for r, c in zip(rows, columns, strict=True)
        ]
        return np.stack([downscale_local_mean(patch, (2, 2)).ravel() for patch in cut])

    features = np.concatenate([patches(left, 0), patches(right, REACH)], axis=1)
    tiles = (rows * TILES[0] // left.shape[0]) * TILES[1] + columns * TILES[1] // left.shape[1]
    return features, disparity[rows, columns], tiles


OWN: dict[str, tuple[str, Callable[..., Loaded]]] = {
    "diabetes": ("Diabetes progression after a year", _diabetes),
    "motorcycle": ("Disparity of a stereo pair", _motorcycle),
    "macaque-v4": ("Mean rate of 89 neurons of macaque V4", _v4_population),
    "macaque-v4-neurons": ("Rates of 89 neurons of macaque V4", _v4_neurons),
    "emobank": ("Valence of sentences (EmoBank)", _emobank),
}
TASKS: dict[str, Callable[..., RegressionTask]] = {
    **{name: partial(_load_own, name) for name in OWN},
    **{name: partial(load_published, name) for name in PUBLISHED},
}
