"""Features of images, recordings and texts where the user gives no network of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from softrsa.errors import ShapeError

Encoder = Callable[[Any], Any]
Sound = tuple[int, np.ndarray]  # samples per second, and the waveform in [-1, 1]

CHUNK = 64  # inputs read and encoded at a time
RATE, WINDOW, HOP, FFT = 16_000, 400, 160, 1024  # samples: 25 ms every 10 ms
BANDS, LOWEST, HIGHEST = 64, 50.0, 8000.0  # Hz
HASHED, DIRECTIONS = 2**16, 300  # columns of counts, and of what is kept of them
FLOOR = 1e-10  # of power, where silence would have no logarithm: -100 dB of full scale


def encode_in_chunks(
    inputs: Iterable[Any], encode: Encoder, *, total: int, progress: bool = False, name: str = ""
) -> np.ndarray:
    """Encode inputs, which may be read on the way, a few at a time: (total, p), float32."""
    encoded = []
    with tqdm(total=total, desc=name, disable=not progress) as bar:
        for chunk in _chunks(inputs):
            encoded.append(features_of(chunk, encode))
            bar.update(len(chunk))
    return np.concatenate(encoded)


def features_of(inputs: Any, encode: Encoder) -> np.ndarray:
    """Encode inputs at once, and check that there is a row of features for each."""
    features = np.asarray(encode(inputs), dtype=np.float32)
    if features.ndim != 2 or len(features) != len(inputs):
        raise ShapeError(
            f"`encode` must give features (n, p) of n inputs, got shape {features.shape} of "
            f"{len(inputs)}."
        )
    return features


def image_features(images: Sequence[Any]) -> np.ndarray:
    """Encode images with EfficientNet-Lite0, trained on ImageNet, of the extra `demo`.

    Parameters
    ----------
    images : sequence of PIL.Image
        Of any size and mode.

    Returns
    -------
    ndarray, shape (n, 1280), float32
        Last feature maps, averaged over places; images are resized to 224 x 224 pixels.

    Raises
    ------
    FileMissingError
        If the packages with the network are not installed.

    Examples
    --------
    >>> from PIL import Image
    >>> image_features([Image.new("L", (30, 20))]).shape
    (1, 1280)
    """
    import torch

    from softrsa.activations import extract_activations

    model = _efficientnet()
    batch = torch.stack([model.preprocess(image) for image in images])
    found = extract_activations(model.module, batch, {"head": model.layers["head"]}, progress=False)
    return found.values


@cache
def _efficientnet() -> Any:
    from softrsa.activations import load_model

    return load_model("efficientnet-lite0")


def sound_features(sounds: Sequence[Sound]) -> np.ndarray:
    """Summarize recordings by the level of 64 bands of pitch and how much it varies.

    Power of windows of 25 ms, every 10 ms, is added up in triangular bands that are equally wide on
    the mel scale from 50 Hz to 8 kHz; of its logarithm, mean and standard deviation over time are
    taken.

    Parameters
    ----------
    sounds : sequence of (int, ndarray)
        Samples per second, and the waveform in [-1, 1]; resampled to 16 kHz.

    Returns
    -------
    ndarray, shape (n, 128), float32
        Means of the bands, low to high, then standard deviations; in units of log10 of power.

    Examples
    --------
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    >>> features = sound_features([(16_000, tone)])
    >>> features.shape, int(features[0, :64].argmax())
    ((1, 128), 21)
    """
    from scipy.signal import resample_poly, spectrogram

    rows = []
    for rate, wave in sounds:
        common = math.gcd(rate, RATE)
        resampled = resample_poly(wave, RATE // common, rate // common) if rate != RATE else wave
        padded = np.pad(resampled, (0, max(0, WINDOW - len(resampled))))
        power = spectrogram(
            padded, RATE, nperseg=WINDOW, noverlap=WINDOW - HOP, nfft=FFT, scaling="spectrum"
        )[2]
        levels = np.log10(_bands() @ power + FLOOR)
        rows.append(np.concatenate([levels.mean(1), levels.std(1)]))
    return np.asarray(rows, dtype=np.float32)


@cache
def _bands() -> np.ndarray:
    """Weights (bands, frequencies) of triangles with edges at equal steps of 2595 lg(1 + f/700)."""
    low, high = (np.log1p(f / 700) for f in (LOWEST, HIGHEST))
    edges = 700 * np.expm1(np.linspace(low, high, BANDS + 2))
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.linspace(0, RATE / 2, FFT // 2 + 1)
    rising = (frequencies - left) / (middle - left)
    falling = (right - frequencies) / (right - middle)
    return np.clip(np.minimum(rising, falling), 0, None)


def text_features(texts: Sequence[str]) -> np.ndarray:
    """Hash words and pairs of words, weigh rare ones more, and keep the main directions.

    Counts are hashed to 65 536 columns, so there is no vocabulary to learn; they are weighted by
    term frequency and inverse document frequency and projected on their first singular vectors
    (latent semantic analysis). Weights and directions are those of all texts given, without labels.

    Parameters
    ----------
    texts : sequence of str
        At least two, in any language that puts spaces between words.

    Returns
    -------
    ndarray, shape (n, min(300, n - 1)), float32
        By falling variance.

    References
    ----------
    Deerwester et al. (1990), "Indexing by latent semantic analysis".

    Examples
    --------
    >>> first, second, third = text_features(["A fine day", "a FINE day", "rain"]).round(3)
    >>> bool((first == second).all()), bool((first == third).all())
    (True, False)
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.utils import extmath

    plain: dict[str, Any] = {"alternate_sign": False, "norm": None}  # counts
    hashing = HashingVectorizer(n_features=HASHED, ngram_range=(1, 2), **plain)
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(hashing.transform(texts))
    kept = min(DIRECTIONS, len(texts) - 1)
    decompose: Any = extmath.randomized_svd  # whose stubs know strings only
    left, values, _ = decompose(weighted, kept, n_iter=3, random_state=0)
    return (left * values).astype(np.float32)


def _chunks(inputs: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(inputs)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
