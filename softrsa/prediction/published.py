"""The ten tasks of the papers, from files that the user puts in place: see the data sets' cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from softrsa import datasets
from softrsa.errors import DataError
from softrsa.prediction._layouts import PUBLISHED
from softrsa.prediction.encoding import (
    Encoder,
    encode_in_chunks,
    features_of,
    image_features,
    sound_features,
    text_features,
)
from softrsa.prediction.regression_task import RegressionTask, label_strata

DEFAULTS: dict[str, Encoder] = {
    "image": image_features,
    "sound": sound_features,
    "text": text_features,
    "table": pd.DataFrame.to_numpy,
}


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
