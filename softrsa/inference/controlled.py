"""Models and subjects given a control: what it explains of their RSMs is removed first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa.errors import DataError, ShapeError, StimulusError
from softrsa.inference.pair_table import Stack, as_stack, find_measure, stack_rsms
from softrsa.measures import Measure
from softrsa.measures.partial import (
    check_left,
    check_partial,
    of_residuals,
    residual_pairs,
    residual_squares,
)

Rsms = Tensor | xr.DataArray


def stack_given(
    models: Rsms,
    subjects_rsms: Rsms,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    names: Sequence[str] | None,
    control: Rsms | None,
) -> tuple[Stack, dict[str, object]]:
    """Bring models and subjects to common pairs, less what a control explains, if there is one.

    Also the attributes that say so.
    """
    if control is None:
        return stack_rsms(models, subjects_rsms, measure, names), {}
    entry = find_measure(measure)
    check_partial(entry)
    together, held = _with_control(models, control)
    n_models = len(together) - len(held)
    if names is None:
        names = _own_names(models, n_models)
    if len(names) != n_models:
        raise DataError(
            f"`names` must hold one different name for each of {n_models} models, got "
            f"{list(names)}."
        )
    stack = stack_rsms(together, subjects_rsms, entry, [*names, *held])
    model_dim = str(models.dims[0]) if isinstance(models, xr.DataArray) else "model"
    model_dim = "model" if model_dim == "anchor" else model_dim
    found = replace(_residuals(stack, n_models), model_dim=model_dim)
    return found, {"measure": entry.name, "control": ", ".join(held)}


def _residuals(stack: Stack, n_models: int) -> Stack:
    """Take from models and subjects what the rows after the models explain."""
    entry, k = stack.entry, stack.n_models
    check_left(stack.n_stimuli * (stack.n_stimuli - 1) // 2 - stack.n_missing, k - n_models)
    held = stack.squares(torch.ones_like(stack.values[:1]))[0] > 0 if stack.n_missing else None
    if entry.on_squares:
        squares = stack.squares(stack.values)
        squares = residual_squares(squares, squares[n_models:k], entry, held)
        rest = squares[:, stack.first, stack.second]
    else:
        rest = residual_pairs(stack.values, stack.values[n_models:k], entry)
    rest = torch.cat([rest[:n_models], rest[k:]])
    whole = None if held is None else stack.squares(rest).masked_fill(~held, torch.nan)
    return replace(
        stack, entry=of_residuals(entry), values=rest,
        n_models=n_models, models=stack.models[:n_models], whole=whole,
    )  # fmt: skip


def _with_control(models: Rsms, control: Rsms) -> tuple[Rsms, list[str]]:
    """Put the RSMs of a control after the models, and name them."""
    if isinstance(models, xr.DataArray) != isinstance(control, xr.DataArray):
        raise StimulusError(
            "Models and `control` must both be labelled, or neither: without labels on both sides "
            "stimuli cannot be matched. Take `torch.as_tensor(array.values)` of both."
        )
    if isinstance(models, xr.DataArray) and isinstance(control, xr.DataArray):
        return _labelled(models, control)
    given, held = _plain(models), _plain(control)
    check_floating(models=given, control=held)
    if given.shape[1:] != held.shape[1:]:
        raise ShapeError(
            "`control` must cover the stimuli of the models in the same form, got shape "
            f"{tuple(held.shape)} with models {tuple(given.shape)}."
        )
    return torch.cat([given, held]), _control_names(range(1, len(held) + 1))


def _plain(one: Rsms) -> Tensor:
    """Make a stack of tensors; of one condensed RSM a stack of one."""
    tensor = one if isinstance(one, Tensor) else torch.as_tensor(np.asarray(one))
    return as_stack(tensor[None] if tensor.ndim == 1 else tensor)


def _labelled(models: xr.DataArray, control: xr.DataArray) -> tuple[xr.DataArray, list[str]]:
    from softrsa.io import check_rdms

    arrays = [check_rdms(models, name="models"), check_rdms(control, name="control")]
    given, held = (one if one.ndim > 2 else one.expand_dims("layer") for one in arrays)
    if held.ndim != 3 or given.ndim != 3:
        raise ShapeError(
            "Models and `control` must have one dimension before `anchor` and `neighbor`, got "
            f"{given.dims} and {held.dims}."
        )
    if held.attrs["kind"] != given.attrs["kind"]:
        raise DataError(
            f"Models are of kind {given.attrs['kind']!r}, the control of kind "
            f"{held.attrs['kind']!r}; turn one into the other, e.g. 1 - correlation."
        )
    ids = given["anchor"].values
    strange = np.setxor1d(ids, held["anchor"].values)
    if strange.size:
        raise StimulusError(
            f"Models and `control` must hold the same stimuli; {strange.size} are on one side "
            f"only, such as {strange[:3].tolist()}. Select the common ones with `.sel`."
        )
    values = [given.values, held.sel(anchor=ids, neighbor=ids).values]
    together = xr.DataArray(
        np.concatenate(values), dims=("layer", "anchor", "neighbor"),
        coords={"anchor": ids, "neighbor": ids}, attrs={"kind": given.attrs["kind"]},
    )  # fmt: skip
    dim = held.dims[0]
    labels = held[dim].values if dim in held.coords else range(1, held.sizes[dim] + 1)
    return together, _control_names(labels)


def _control_names(labels: Sequence[object] | np.ndarray) -> list[str]:
    """Names of controls, which no model has."""
    return ["control"] if len(labels) == 1 else [f"control {label}" for label in labels]


def _own_names(models: Rsms, n_models: int) -> list[str]:
    """Names of models where none are given: their labels, or their numbers."""
    if not isinstance(models, xr.DataArray) or models.ndim < 3:
        return [f"model {i + 1}" for i in range(n_models)]
    dim = str(models.dims[0])
    if dim in models.coords:
        return [str(label) for label in models[dim].values]
    return [f"{dim} {i + 1}" for i in range(n_models)]
