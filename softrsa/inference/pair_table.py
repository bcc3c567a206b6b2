"""RSMs of models and subjects, brought to the pairs that all of them have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from softrsa._checks import check_floating
from softrsa._groups import Groups, alone, as_groups
from softrsa._ranks import is_rounding, rounding_of, run_starts, tied
from softrsa.errors import DataError, ShapeError, StimulusError, unknown_name
from softrsa.io.matrices import ROUNDING
from softrsa.io.schema import ReadingWarning
from softrsa.measures import Embedding, Measure, get
from softrsa.pairs import expand
from softrsa.transforms.center import as_double

FEWEST_STIMULI = 4


@dataclass(frozen=True)
class Stack:
    """What a resampling computation needs of its input; see `stack_rsms`.

    ``values`` (n_models + n_subjects, n_pairs), float64, holds the entries at (``first``,
    ``second``): each pair of stimuli once if ``once``, else also its mirror image. Of a measure on
    kernels these are also the pairs of a stimulus with itself.
    """

    entry: Measure
    values: Tensor
    first: Tensor
    second: Tensor
    once: bool
    n_models: int
    n_stimuli: int
    n_missing: int
    models: tuple[str, ...]
    subjects: tuple[str, ...]
    model_dim: str = "model"
    whole: Tensor | None = None  # squares of all, NaN where pairs are missing, if any are
    stimuli_together: Groups | None = None
    subjects_together: Groups | None = None

    @property
    def embed(self) -> Embedding:
        """What the measure is the cosine of."""
        return embedding(self.entry)

    @property
    def of_models(self) -> Tensor:
        """Entries of the models, (n_models, n_pairs)."""
        return self.values[: self.n_models]

    @property
    def of_subjects(self) -> Tensor:
        """Entries of the subjects, (n_subjects, n_pairs)."""
        return self.values[self.n_models :]

    @property
    def n_subjects(self) -> int:
        """How many subjects there are."""
        return len(self.subjects)

    @property
    def stimulus_groups(self) -> Groups:
        """Which stimuli are drawn together."""
        return alone(self.n_stimuli) if self.stimuli_together is None else self.stimuli_together

    @property
    def subject_groups(self) -> Groups:
        """Which subjects are drawn, and left out, together."""
        return alone(self.n_subjects) if self.subjects_together is None else self.subjects_together

    @cached_property
    def together(self) -> Tensor:
        """Whether two subjects are of one group, (n_subjects, n_subjects)."""
        return self.subject_groups.together.to(self.values)

    @cached_property
    def places(self) -> list[tuple[Tensor, Tensor | None, Tensor]]:
        """Of each row its order, where groups of tied entries end, and each entry's group.

        The ends are None where no two entries are tied.
        """
        ascending, order = self.values.sort(dim=-1, stable=True)
        starts = run_starts(ascending)
        group = torch.empty_like(order).scatter_(-1, order, starts.cumsum(-1) - 1)
        ends = [None if one.all() else one.roll(-1).nonzero()[:, 0] for one in starts]
        return list(zip(order, ends, group, strict=True))

    def squares(self, values: Tensor) -> Tensor:
        """Put entries (k, n_pairs) back into squares (k, n, n), 0 where there is none."""
        square = values.new_zeros(len(values), self.n_stimuli, self.n_stimuli)
        square[:, self.first, self.second] = values
        if self.once:
            square[:, self.second, self.first] = values
        return square

    def counts_of_pairs(self, counts: Tensor) -> Tensor:
        """How often each pair occurs (r, n_pairs) where stimuli occur so often (r, n)."""
        return counts[:, self.first] * counts[:, self.second]


def find_measure(measure: str | Measure | Callable[[Tensor, Tensor], Tensor]) -> Measure:
    """Find the entry of a measure given by name, entry or function."""
    if isinstance(measure, Measure):
        return measure
    if isinstance(measure, str):
        return get(measure)
    return get(getattr(measure, "__name__", repr(measure)))


def embedding(entry: Measure) -> Embedding:
    """Give what a measure is the cosine of, where it says so."""
    if entry.embed is None:
        raise DataError(f"{entry.name!r} does not say what it is the cosine of (`Measure.embed`).")
    return entry.embed


def stack_rsms(
    models: Tensor | xr.DataArray,
    subjects_rsms: Tensor | xr.DataArray,
    measure: str | Measure | Callable[[Tensor, Tensor], Tensor],
    names: Sequence[str] | None = None,
) -> Stack:
    """Check models and subjects and bring them to common pairs, in the form the measure takes."""
    entry = find_measure(measure)
    model_dim = str(models.dims[0]) if isinstance(models, xr.DataArray) else "model"
    if entry.takes == "features":
        raise DataError(f"{entry.name!r} compares features, not RSMs; build RSMs for inference.")
    if isinstance(models, xr.DataArray) or isinstance(subjects_rsms, xr.DataArray):
        models, subjects_rsms, found, subjects = _unlabel(models, subjects_rsms, entry)
        names = names or found
    else:
        subjects = [f"subject {i + 1}" for i in range(len(as_stack(subjects_rsms)))]
    models, subjects_rsms = as_stack(models), as_stack(subjects_rsms)
    names = names or [f"model {i + 1}" for i in range(len(models))]
    _check_shapes(models, subjects_rsms)
    if len(names) != len(models) or len(set(names)) < len(names):
        raise DataError(
            f"`names` must hold one different name for each of {len(models)} models, "
            f"got {list(names)}."
        )
    squares = [_square(rsms, entry) for rsms in (models, subjects_rsms)]
    together = torch.cat(squares)
    if torch.isinf(together).any():
        raise DataError("RSMs must be finite, or NaN where a pair is missing; some are infinite.")
    once = bool(torch.equal(together.nan_to_num(), together.mT.nan_to_num()))
    n = together.shape[-1]
    apart = ~torch.eye(n, dtype=torch.bool, device=together.device)
    held = apart & ~together.isnan().any(0)
    held = held & held.mT  # a pair goes with its mirror image
    _check_enough(together, held, [*names, *subjects])
    n_missing = int((apart & ~held).sum()) // 2
    if entry.on_squares and entry.embed is None:
        _check_whole(together, entry, n_missing)
    used = held | ~apart if entry.takes == "kernels" else held
    first, second = (used.triu() if once else used).nonzero(as_tuple=True)
    values = torch.cat(
        [
            settled(square[:, first, second], given.dtype, entry)
            for square, given in zip(squares, (models, subjects_rsms), strict=True)
        ]
    )
    return Stack(
        entry=entry, values=values, first=first, second=second, once=once,
        n_models=len(models), n_stimuli=n, n_missing=n_missing,
        models=tuple(map(str, names)), subjects=tuple(map(str, subjects)),
        model_dim=model_dim, whole=together if n_missing else None,
    )  # fmt: skip


Rsms = Tensor | xr.DataArray
Labels = Sequence[object] | str | None  # of groups: one for each, or a coordinate that holds them


def with_groups(
    stack: Stack,
    models: Rsms,
    subjects_rsms: Rsms,
    *,
    stimuli: Labels = None,
    subjects: Labels = None,
) -> Stack:
    """Say which stimuli and which subjects of a stack belong together.

    Labels are in the order of the models' stimuli and of the subjects; a text is the name of a
    coordinate of labelled RSMs.
    """
    ordered, dim = subjects_rsms, "subject"
    if isinstance(models, xr.DataArray) and isinstance(subjects_rsms, xr.DataArray):
        ordered = subjects_rsms.sel(anchor=models["anchor"].values)
        dim = str(subjects_rsms.dims[0])
    stimuli = named_labels("stimulus_groups", stimuli, (models, ordered), "anchor")
    subjects = named_labels("subject_groups", subjects, (subjects_rsms,), dim)
    return replace(
        stack,
        stimuli_together=as_groups(stimuli, stack.n_stimuli, "stimulus_groups", "stimulus"),
        subjects_together=as_groups(subjects, stack.n_subjects, "subject_groups", "subject"),
    )


def named_labels(
    argument: str, labels: Labels, arrays: Sequence[Rsms], dim: str
) -> Sequence[object] | None:
    """Labels as they are; of a name, the coordinate along a dimension of the first with it."""
    if not isinstance(labels, str):
        return labels
    found = {
        str(key): coordinate.values
        for array in reversed(arrays)
        if isinstance(array, xr.DataArray)
        for key, coordinate in array.coords.items()
        if coordinate.dims == (dim,)
    }
    if labels not in found:
        raise unknown_name(f"coordinate along `{dim}`, for `{argument}`:", labels, found)
    return found[labels].tolist()


def settled(values: Tensor, dtype: torch.dtype, entry: Measure) -> Tensor:
    """Entries (k, n_pairs) without the rounding of the number type they come from.

    Those of an RSM that differ by nothing else become equal, and so do ties of rank measures.
    """
    if dtype == torch.float64:
        return values  # rounding is seen to where ranks and correlations are made
    if "monotone" in entry.invariances:
        return tied(values, dtype)
    low, high = torch.aminmax(values, dim=-1, keepdim=True)
    return torch.where(is_rounding(low, high, rounding_of(low, high, dtype)), low, values)


def stack_subjects(
    rsms: Tensor, measure: str | Measure | Callable[[Tensor, Tensor], Tensor]
) -> Stack:
    """Check subjects without models, (k, n, n) or (k, n_pairs), and bring them to common pairs."""
    rsms = as_stack(rsms)
    _check_stack("rsms", rsms)
    return stack_rsms(rsms[:1], rsms, measure, ["subject 1"])  # which also stands in for a model


def unlabeled(rsms: xr.DataArray, entry: Measure) -> Tensor:
    """Take the values of a checked stack of RDMs or RSMs."""
    from softrsa.io import check_rdms

    return _values(check_rdms(rsms, name="rsms"), entry)


def _values(rsms: xr.DataArray, entry: Measure) -> Tensor:
    """Take the values; where the measure compares kernels, minus dissimilarities, which are one."""
    values = torch.as_tensor(np.ascontiguousarray(rsms.values))
    return -values if entry.takes == "kernels" and rsms.attrs["kind"] == "rdm" else values


def as_stack(rsms: Tensor | np.ndarray) -> Tensor:
    """Make a tensor; of one square a stack of one, of half a matrix the whole.

    A square that is symmetric, or of which one half is empty, is never rows of condensed RSMs.
    """
    if isinstance(rsms, np.ndarray):
        rsms = torch.from_numpy(np.ascontiguousarray(rsms))
    if rsms.ndim not in (2, 3) or rsms.shape[-1] != rsms.shape[-2] or rsms.shape[-1] < 2:
        return rsms
    plain = rsms.detach().nan_to_num()
    upper, lower = plain.triu(1), plain.tril(-1)
    tolerance = ROUNDING * float(plain.abs().max())
    symmetric = torch.allclose(upper.mT, lower, rtol=0.0, atol=tolerance)
    above, below = ((half != 0).flatten(-2).any(-1) for half in (upper, lower))
    halved = above ^ below
    if bool(halved.any()):
        which = f" of {int(halved.sum())} RSMs" if rsms.ndim > 2 else ""
        message = f"One half{which} is empty (0 or NaN): the other is mirrored."
        warnings.warn(message, ReadingWarning, stacklevel=4)
        whole = torch.where(above[..., None, None], rsms.triu(1), rsms.tril(-1))
        whole = whole + whole.mT + torch.diag_embed(rsms.diagonal(dim1=-2, dim2=-1))
        rsms = torch.where(halved[..., None, None], whole, rsms)
    alone = rsms.ndim == 2 and (symmetric or bool(halved.all()))
    return rsms[None] if alone else rsms


def _check_stack(name: str, rsms: Tensor) -> None:
    check_floating(**{name: rsms})
    if rsms.ndim not in (2, 3) or (rsms.ndim == 3 and rsms.shape[-1] != rsms.shape[-2]):
        raise ShapeError(
            f"`{name}` must be square RSMs (k, n_stimuli, n_stimuli) or condensed ones "
            f"(k, n_pairs), got shape {tuple(rsms.shape)}; give a single one as `{name}[None]`."
        )
    if not len(rsms):
        raise ShapeError(f"`{name}` must hold at least one RSM, got shape {tuple(rsms.shape)}.")


def _check_shapes(models: Tensor, subjects: Tensor) -> None:
    _check_stack("models", models)
    _check_stack("subjects_rsms", subjects)
    counts = [_n_stimuli(rsms) for rsms in (models, subjects)]
    if counts[0] != counts[1]:
        raise ShapeError(
            f"`models` and `subjects_rsms` must cover the same stimuli, got {counts[0]} "
            f"({tuple(models.shape)}) and {counts[1]} ({tuple(subjects.shape)})."
        )
    if counts[0] < FEWEST_STIMULI:
        raise ShapeError(
            f"Inference needs at least {FEWEST_STIMULI} stimuli, got {counts[0]}: of 3, the pairs "
            "can be put in 6 orders only."
        )


def _n_stimuli(rsms: Tensor) -> int:
    return rsms.shape[-1] if rsms.ndim == 3 else expand(rsms[:1].detach()).shape[-1]


def _square(rsms: Tensor, entry: Measure) -> Tensor:
    """Squares (k, n, n) in float64 whose off-diagonal entries the measure compares."""
    rsms = rsms.detach()
    if rsms.ndim == 2 and entry.takes == "kernels":
        raise ShapeError(
            f"{entry.name!r} compares self-similarities too, which condensed RSMs "
            f"{tuple(rsms.shape)} do not hold: give square ones (k, n_stimuli, n_stimuli)."
        )
    rsms = as_double(rsms) if rsms.ndim == 3 else as_double(expand(rsms))
    if entry.takes in ("pairs", "dissimilarities"):
        return expand(entry.pairs_of(rsms))
    return rsms


def _check_enough(together: Tensor, held: Tensor, names: Sequence[str]) -> None:
    if int(held.triu().sum()) >= 3:
        return
    n = together.shape[-1]
    rows, columns = torch.triu_indices(n, n, 1)
    share = together.isnan()[:, rows, columns].double().mean(1)
    worst = int(share.argmax())
    raise DataError(
        f"A pair missing (NaN) in one RSM is left out of all, and of {n * (n - 1) // 2} pairs "
        f"fewer than 3 are left. {names[worst]!r} misses most ({share[worst]:.0%}); leave it out."
    )


def _check_whole(together: Tensor, entry: Measure, n_missing: int) -> None:
    """Refuse what a measure that needs all entries would take for a 0."""
    if n_missing:
        raise DataError(
            f"{n_missing} pairs are missing (NaN), and {entry.name!r} needs all of them: leave out "
            "the stimuli that lack pairs, or use a measure of pairs such as 'centered_pearson'."
        )
    if entry.takes == "kernels" and bool(together.isnan().any()):
        raise DataError(f"Self-similarities are missing (NaN), and {entry.name!r} needs them.")


def _unlabel(
    models: Tensor | xr.DataArray, subjects: Tensor | xr.DataArray, entry: Measure
) -> tuple[Tensor, Tensor, list[str], list[str]]:
    """Tensors with stimuli in one order, and the names of models and subjects."""
    from softrsa.io import check_rdms

    if not (isinstance(models, xr.DataArray) and isinstance(subjects, xr.DataArray)):
        raise StimulusError(
            "Models and subjects must both be labelled, or neither: without labels on both sides "
            "stimuli cannot be matched. Take `torch.as_tensor(array.values)` of both."
        )
    left = check_rdms(models, name="models")
    right = check_rdms(subjects, name="subjects' stack")
    left, right = (
        one if one.ndim > 2 else one.expand_dims(dim)
        for one, dim in ((left, "region"), (right, "subject"))
    )
    for array, name in ((left, "models"), (right, "subjects_rsms")):
        if array.ndim != 3:
            raise ShapeError(
                f"`{name}` must have one dimension before `anchor` and `neighbor`, "
                f"got {array.dims}."
            )
    if left.attrs["kind"] != right.attrs["kind"]:
        raise DataError(
            f"Models are of kind {left.attrs['kind']!r}, subjects of kind {right.attrs['kind']!r}; "
            "turn one into the other, e.g. 1 - correlation."
        )
    ids = left["anchor"].values
    strange = np.setxor1d(ids, right["anchor"].values)
    if strange.size:
        raise StimulusError(
            f"Models and subjects must hold the same stimuli; {strange.size} are on one side only, "
            f"such as {strange[:3].tolist()}. Select the common ones with `.sel`."
        )
    right = right.sel(anchor=ids, neighbor=ids)
    return (
        _values(left, entry),
        _values(right, entry),
        _leading_names(left),
        _leading_names(right),
    )


def _leading_names(array: xr.DataArray) -> list[str]:
    dim = str(array.dims[0])
    labels = array[dim].values if dim in array.coords else range(1, array.sizes[dim] + 1)
    return [str(label) if dim in array.coords else f"{dim} {label}" for label in labels]
