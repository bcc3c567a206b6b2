"""How sure held-out scores are: stimuli and subjects drawn anew, stimulus labels permuted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from itertools import combinations, permutations, product
from math import factorial, prod
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from softrsa._groups import Groups, alone, exchange, n_exchanges
from softrsa.alignment.settings import number_groups
from softrsa.errors import DataError, unknown_name
from softrsa.inference import resampling_variances
from softrsa.inference.bootstrap import draw_groups
from softrsa.inference.comparing import CORRECTIONS, adjusted
from softrsa.inference.matched import influences, permuted_scores
from softrsa.measures import Measure


class Scored(Protocol):
    """What is to be known of a run: names, its test stimuli, subjects, and those scored."""

    layer: str
    region: str
    fold: int
    brain: Any
    split: Any
    score: tuple[int, ...]


KINDS = ("both", "subjects", "stimuli", "pairs")
MOST_ORDERS = 40320  # of 8 stimuli, that are all scored
FEWEST_ORDERS = 20  # of groups, for a p of .05
SLOW = 200  # permutations of a measure that has no faster way than to score each


class Draws(NamedTuple):
    """What is drawn once for all layers, regions and transforms, so that they can be compared."""

    counts: Tensor  # (n_resamples, n_stimuli): how often each stimulus occurs
    # (n_resamples, n_stimuli): 1 or -1; the products of two of them are uncorrelated over pairs
    signs: Tensor
    # (n_resamples, n_groups): the order of keys permutes stimuli, or their groups, within a fold
    keys: Tensor
    seed: int
    groups: Groups  # of stimuli
    subject_groups: Mapping[str, Hashable]  # of the name of a subject; empty: each by itself
    orders: Tensor | None = None  # all other orders of all stimuli, where these are few

    def of_subjects(self, subjects: Sequence[str]) -> Tensor:
        """How often each subject occurs (n_resamples, n), the same for regions of as many."""
        rng = torch.Generator().manual_seed(self.seed)
        return draw_groups(len(self.counts), self.groups_of(subjects), rng).double()

    def groups_of(self, subjects: Sequence[str]) -> Groups:
        """Which subjects are drawn together."""
        if not self.subject_groups:
            return alone(len(subjects))
        return number_groups([self.subject_groups[name] for name in subjects])

    def fold_weights(self, test: Tensor) -> Tensor:
        """How often the groups of a fold occur on average (n_resamples,)."""
        own = self.groups.take(test)
        return (self.counts[:, test] / own.sizes[own.codes]).sum(1) / len(own)

    def orders_of(self, test: Tensor, measure: Measure) -> Tensor:
        """Orders (r, n) of test stimuli: all there are, or as many as were drawn."""
        if self.orders is not None:
            return self.orders
        groups = self.groups.take(test)
        own = torch.from_numpy(pd.unique(self.groups.codes[test].numpy()))
        orders = exchange(groups, self.keys[:, own])
        return orders if measure.embed is not None else orders[:SLOW]


def every_order(n_stimuli: int, measure: Measure) -> Tensor | None:
    """List all orders of stimuli but the one they have, where these can all be scored."""
    most = MOST_ORDERS if measure.embed is not None else MOST_ORDERS // 8
    if factorial(n_stimuli) > most:
        return None
    return torch.tensor(list(permutations(range(n_stimuli)))[1:])


class Resampled(NamedTuple):
    """Scores of a layer with a region: by subject, of resamples by kind, and permuted."""

    subjects: Tensor  # (t, s)
    resamples: Tensor  # (kinds, r, t)
    permuted: Tensor  # (r, t)


class OfRun(NamedTuple):
    """How the scores of one run vary."""

    influence: Tensor  # (t, n): the derivative of the score by how often a stimulus occurs
    sums: list[Tensor] | None  # see `add_up`


def resampled(
    runs: Sequence[Scored],
    sums: Sequence[list[Tensor]],
    names: Sequence[str],
    draws: Draws,
    family: Sequence[str],
) -> xr.Dataset:
    """Put the resampled scores of runs together, their transforms fixed.

    Parameters
    ----------
    runs : sequence of Run
        Of all layers, regions and folds.
    sums : sequence of list of Tensor
        What `resample_scores` gave for each.
    names : sequence of str
        Transforms.
    draws : Draws
        What was drawn.
    family : sequence of str
        Transforms that p is corrected over, those asked for.

    Returns
    -------
    Dataset
        `subject_score` (layer, region, transform, tested_subject), means over folds;
        `resampled_score` (kind, layer, region, transform, resample), means over folds and drawn
        subjects, where stimuli, subjects or both are drawn, or pairs of stimuli by themselves; and
        `p_chance`, `p_corrected` and `calibrated_score` (layer, region, transform; see
        `against_chance`). A fold in which an RSM is constant is left out. NaN
        for what cannot be resampled; p also where test stimuli of folds overlap, which permutations
        of each fold would take for independent, and where groups allow fewer than 20 orders.
    """
    groups: dict[tuple[str, str], list[list[Tensor]]] = {}
    for run, one in zip(runs, sums, strict=True):
        groups.setdefault((run.layer, run.region), []).append(one)
    people = {run.region: run.brain.subjects for run in runs}
    found = {
        key: finished(add_up(members), draws, people[key[1]]) for key, members in groups.items()
    }
    return labelled(found, names, runs, draws.groups, family)


def make_draws(
    n_resamples: int,
    groups: Groups,
    seed: int,
    subject_groups: Mapping[str, Hashable] | None = None,
) -> Draws:
    """Draw everything but subjects, the same wherever it is drawn; groups are drawn whole."""
    rng = torch.Generator().manual_seed(seed)
    n = len(groups)
    counts = draw_groups(n_resamples, groups, rng).double()
    signs = 2 * torch.randint(2, (n_resamples, n), generator=rng).double() - 1
    keys = torch.rand(n_resamples, n, generator=rng)
    return Draws(counts, signs[:, groups.codes], keys, seed, groups, subject_groups or {})


OneRun = TypeVar("OneRun", bound=Scored)


def by_group(runs: Sequence[OneRun]) -> dict[tuple[str, str], list[OneRun]]:
    """Put the runs of each layer with each region together."""
    groups: dict[tuple[str, str], list[OneRun]] = {}
    for run in runs:
        groups.setdefault((run.layer, run.region), []).append(run)
    return groups


def _disjoint(runs: Sequence[Scored]) -> bool:
    """Tell whether no stimulus is tested in two folds."""
    tests = {tuple(run.split.test.tolist()) for run in runs}
    tested = [stimulus for test in tests for stimulus in test]
    return len(tested) == len({*tested})


def n_orders(runs: Sequence[Scored], groups: Groups) -> int:
    """In how many orders the stimuli of all folds can be put, whole groups exchanged."""
    tests = {tuple(run.split.test.tolist()): run.split.test for run in runs}
    return prod(n_exchanges(groups.take(test)) for test in tests.values())


def count_steps(run: Scored, measure: Measure, draws: Draws | None) -> int:
    """How many scores `resample_scores` reports of, one after another: none of a cosine."""
    if draws is None or measure.embed is not None:
        return 0
    test = run.split.test
    return len(draws.groups.take(test)) + len(draws.orders_of(test, measure))


def resample_scores(
    run: Scored,
    measure: Measure,
    models: Sequence[Tensor],
    brains: Tensor,
    draws: Draws | None,
    *,
    on_step: Callable[[int], object],
) -> OfRun:
    """Resample the scores of one run by stimuli and by pairs, and permute its stimuli.

    Parameters
    ----------
    run : Run
        Which stimuli and subjects are scored.
    measure : Measure
        On RSMs. Without `Measure.embed`, stimuli are left out one at a time, pairs are not drawn
        (which widens intervals a little), and 200 permutations are scored.
    models : sequence of Tensor, shapes (1 or s, n, n)
        Transformed RSMs of the layer, one, or one for each scored subject.
    brains : Tensor, shape (t, s, n, n)
        Those of the scored subjects.
    draws : Draws or None
        What was drawn; None for no resamples.
    on_step : callable
        Hears of each score of the slow road; see `count_steps`.

    Returns
    -------
    OfRun
        Influences of stimuli (NaN where they take a computation of their own that nobody asked
        for), and sums (2, r, t, all subjects) of scores and numbers of them: as they are (r = 1),
        by stimuli, by pairs, by chance.
    """
    if measure.embed is not None:
        score, of_stimuli, of_pairs = _matched(
            partial(influences, measure), models, brains, at_once=False
        )
        mean = of_pairs.mean(1)
        influence = mean.sum(-1) + mean.sum(-2)
    elif draws is None:
        return OfRun(brains.new_full((len(brains), brains.shape[-1]), torch.nan), None)
    else:
        own = None if draws is None else draws.groups.take(run.split.test)
        of_each = partial(left_out_influences, measure, on_step=on_step, groups=own)
        score, of_stimuli = _matched(of_each, models, brains, at_once=True)
        of_pairs, influence = None, of_stimuli.mean(1)
    if draws is None:
        return OfRun(influence, None)
    test, at, n = run.split.test, run.score, len(draws.counts)
    grouped = not draws.groups.are_single
    scale = small_block(measure, len(draws.groups.take(test)), grouped=grouped)
    more = scale * (draws.counts[:, test] - 1).to(score)
    if grouped and of_pairs is not None:  # pairs within a group are drawn once, with it
        together = draws.groups.take(test).together.to(score)
        of_stimuli = of_stimuli - torch.einsum("tsij,ij->tsi", of_pairs, together)
    by_stimuli = score + torch.einsum("rn,tsn->rts", more, of_stimuli)
    by_pairs = score.expand(n, -1, -1)
    if of_pairs is not None:
        signs = draws.signs[:, test].to(score)
        drawn = [((signs @ one) * signs).sum(-1) for one in of_pairs.flatten(0, 1)]
        by_pairs = by_pairs + scale * torch.stack(drawn, 1).view(-1, *score.shape)
    orders = draws.orders_of(test, measure).to(brains.device)
    permute = partial(permuted_scores, measure, orders=orders)
    if of_pairs is None:
        permute = partial(scores_of_permuted, measure, orders=orders, on_step=on_step)
    (by_chance,) = _matched(
        lambda x, y: [permute(x, y).movedim(0, -1)], models, brains, at_once=of_pairs is None
    )
    by_chance = by_chance.movedim(-1, 0)
    n_subjects = len(run.brain.subjects)
    found = [counted(one, at, n_subjects) for one in (score[None], by_stimuli, by_pairs, by_chance)]
    if grouped:
        found[1] = weighed(found[1], found[0], draws.fold_weights(test))
    return OfRun(influence, found)


def _matched(
    function: Callable[[Tensor, Tensor], Sequence[Tensor]],
    models: Sequence[Tensor],
    brains: Tensor,
    *,
    at_once: bool,
) -> list[Tensor]:
    """Call a function of models (k, n, n) and subjects (k, s, n, n), which gives (k, s, ...)s.

    Where subjects have models of their own, these are the models, with one subject each. All
    ``at_once`` is one call, whose steps are heard once; otherwise those that share one are apart.
    """
    shared = torch.tensor([len(model) == 1 for model in models])
    if shared.all():
        return [*function(torch.cat([*models]), brains)]
    s = brains.shape[1]
    if at_once:
        models = [model.expand(s, -1, -1) for model in models]
        shared = torch.zeros_like(shared)
    own = torch.stack([model for model, one in zip(models, shared, strict=True) if not one])
    found = function(own.flatten(0, 1), brains[~shared].flatten(0, 1).unsqueeze(1))
    parts = [[one.view(len(own), s, *one.shape[2:]) for one in found]]
    if shared.any():
        singles = torch.cat([model for model, one in zip(models, shared, strict=True) if one])
        parts.append([*function(singles, brains[shared])])
    order = torch.cat([(~shared).nonzero(), shared.nonzero()]).flatten().argsort()
    return [torch.cat(one)[order.to(brains.device)] for one in zip(*parts, strict=True)]


def left_out_influences(
    measure: Measure,
    models: Tensor,
    brains: Tensor,
    on_step: Callable[[int], object],
    groups: Groups | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores (t, s), and the influence (t, s, n) of each stimulus from leaving it out.

    Groups are left out whole, and share what that changes; a single one changes nothing.
    """
    n = models.shape[-1]
    groups = alone(n) if groups is None else groups
    score = measure.between(models[:, None], brains)
    codes, sizes = groups.codes.to(models.device), groups.sizes.to(models.device)
    changes = []
    for group in range(len(groups)):
        kept = (codes != group).nonzero().flatten()
        x, y = (rsms.index_select(-2, kept).index_select(-1, kept) for rsms in (models, brains))
        alone_there = not len(kept)
        changes.append(score * 0 if alone_there else score - measure.between(x[:, None], y))
        on_step(1)
    each = torch.stack(changes, -1) * (n - sizes) / (n * sizes)
    return score, each[..., codes]


def scores_of_permuted(
    measure: Measure,
    models: Tensor,
    brains: Tensor,
    orders: Tensor,
    on_step: Callable[[int], object],
) -> Tensor:
    """Scores (r, t, s), each permuted model scored by the function."""
    given, found = measure.pairs_of(brains), []
    for order in orders:
        mixed = models.index_select(-2, order).index_select(-1, order)
        found.append(measure(measure.pairs_of(mixed[:, None]), given))
        on_step(1)
    return torch.stack(found)


def add_up(sums: Sequence[list[Tensor]]) -> list[Tensor]:
    """Add the sums and numbers of scores of several folds (see `resample_scores`)."""
    return [torch.stack(same).sum(0) for same in zip(*sums, strict=True)]


def finished(sums: Sequence[Tensor], draws: Draws, subjects: Sequence[str]) -> Resampled:
    """Turn the sums of all folds (see `add_up`) into means over folds."""
    score, stimuli, pairs, chance = (total / count for total, count in sums)
    several = len(draws.groups_of(subjects)) > 1
    kinds = _by_kind(score, stimuli, pairs, draws.of_subjects(subjects), several=several)
    return Resampled(score[0], kinds, chance.nanmean(-1))


def small_block(measure: Measure, n: int, *, grouped: bool) -> float:
    """By how much changes are too small in a block of n stimuli, whose own mean was taken off.

    Row offsets leave n (n - 3) / 2 pairs that are free to vary, of n (n - 1) / 2. Of n groups the
    mean comes back with the weights of folds, see `weighed`.
    """
    free = max(n - 3 if "column_offset" in measure.invariances else n - 1, 1)
    return ((n - 1 if grouped else n) / free) ** 0.5


def weighed(drawn: Tensor, score: Tensor, weights: Tensor) -> Tensor:
    """Let a fold count as often as its groups were drawn, in sums and numbers of scores.

    A fold may hold few groups or one, so that how folds differ says most of how groups do.
    """
    more = (weights - 1)[:, None, None]
    return torch.stack([drawn[0] + more * score[0], drawn[1] + more * score[1]])


def counted(found: Tensor, subjects: Sequence[int], n_subjects: int) -> Tensor:
    """Scores (r, t, s) of some subjects and how many are defined: (2, r, t, n_subjects)."""
    defined = found.isfinite()
    sums = torch.zeros(2, *found.shape[:2], n_subjects, dtype=torch.float64)
    sums[0][..., list(subjects)] = torch.where(defined, found, 0.0).double().cpu()
    sums[1][..., list(subjects)] = defined.double().cpu()
    return sums


def _by_kind(
    score: Tensor, stimuli: Tensor, pairs: Tensor, subject_counts: Tensor, *, several: bool
) -> Tensor:
    """Mean scores (kinds, r, t) of scores (1, t, s), and (r, t, s) by drawn stimuli and pairs."""

    def mean(given: Tensor) -> Tensor:
        counts = subject_counts[:, None] * given.isfinite()
        return (given.nan_to_num() * counts).sum(-1) / counts.sum(-1)

    if several:
        both, subjects = mean(stimuli), mean(score)
    else:
        both = subjects = torch.full_like(stimuli[..., 0], torch.nan)
    return torch.stack([both, subjects, stimuli.nanmean(-1), pairs.nanmean(-1)])


def labelled(
    found: dict[tuple[str, str], Resampled],
    names: Sequence[str],
    runs: Sequence[Scored],
    stimuli: Groups,
    family: Sequence[str],
) -> xr.Dataset:
    """Put what was found for layers with regions into one data set: see `resample`."""
    subjects = {run.region: run.brain.subjects for run in runs}
    permutable = _disjoint(runs) and (
        stimuli.are_single or n_orders(runs, stimuli) >= FEWEST_ORDERS
    )
    asked = [i for i, name in enumerate(names) if name in family]
    layers, regions = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    people = list(dict.fromkeys(name for each in subjects.values() for name in each))
    n = next(iter(found.values())).resamples.shape[1]
    shape = (len(layers), len(regions), len(names))
    by_subject = np.full((*shape, len(people)), np.nan)
    resamples = np.full((len(KINDS), *shape, n), np.nan)
    of_chance = np.full((3, *shape), np.nan)
    for (layer, region), one in found.items():
        at = layers.index(layer), regions.index(region)
        by_subject[(*at, slice(None), [people.index(name) for name in subjects[region]])] = (
            one.subjects.numpy().T
        )
        resamples[:, at[0], at[1]] = one.resamples.mT.numpy()
        if permutable:
            of_region = [other for (_, name), other in found.items() if name == region]
            of_chance[(slice(None), *at)] = against_chance(one, of_region, asked)
    dims = ("layer", "region", "transform")
    return xr.Dataset(
        {
            "subject_score": ((*dims, "tested_subject"), by_subject),
            "resampled_score": (("kind", *dims, "resample"), resamples),
            **{name: (dims, values) for name, values in zip(CHANCE, of_chance, strict=True)},
        },
        {
            "layer": layers, "region": regions, "transform": list(names),
            "tested_subject": people, "kind": list(KINDS),
        },
    )  # fmt: skip


CHANCE = ("p_chance", "p_corrected", "calibrated_score")


def against_chance(
    one: Resampled, of_region: Sequence[Resampled], asked: Sequence[int]
) -> np.ndarray:
    """Compare scores (t,) with those of permuted stimuli: what `CHANCE` names (3, t).

    Corrected are p by the best of all layers of the region and transforms that were ``asked`` for,
    which hold the error of the whole region: stimuli are permuted alike in all of them. The best is
    that of calibrated scores, so that a layer that scores high by chance, having many units, hides
    no other.
    """
    observed, permuted = one.subjects.nanmean(-1), one.permuted
    own, of_own = calibrated(observed, permuted), calibrated(permuted, permuted)
    asked = list(asked)
    family = [calibrated(other.permuted, other.permuted)[:, asked] for other in of_region]
    best = torch.cat(family, 1).nan_to_num(-torch.inf).amax(1, keepdim=True)
    best = best.maximum(of_own)  # a baseline nobody asked for is of the family too
    shares = _tail_share(observed, permuted), _tail_share(own, best)
    return np.stack([*shares, own.double().numpy()])


def calibrated(scores: Tensor, permuted: Tensor) -> Tensor:
    """Scores (..., t) less the mean of permuted ones (r, t), over their standard deviation.

    NaN where permuted scores are all the same, up to rounding.
    """
    mean, spread = permuted.mean(0), permuted.std(0)
    constant = spread <= 1e-12 * mean.abs()
    return (scores - mean) / spread.masked_fill(constant, torch.nan)


def _tail_share(observed: Tensor, permuted: Tensor) -> np.ndarray:
    """Share of permutations (r, t) that reach the score (t,), itself among them."""
    reached = observed - 1e-12 * observed.abs()  # a tie stays one whatever the order of sums
    share = (1 + (permuted >= reached).sum(0)).double() / (1 + len(permuted))
    defined = observed.isfinite() & permuted.isfinite().all(0)
    return torch.where(defined, share, torch.nan).numpy()


Over = Literal["auto", "both", "subjects", "stimuli"]
OVER = ("auto", "both", "subjects", "stimuli")
COMPARED = ("transform", "layer")


def intervals(data: xr.Dataset, *, over: Over = "auto", level: float = 0.95) -> xr.Dataset:
    """Give intervals of mean scores: `low`, `high` (layer, region, transform)."""
    if not 0 < level < 1:
        raise DataError(f"`level` must be between 0 and 1, got {level!r}, e.g. 0.95.")
    score = data["score"].mean("fold")
    reach = xr.full_like(score, np.nan)
    for layer, region in product(data["layer"].values, data["region"].values):
        at = {"layer": layer, "region": region}
        spread = _spread(data.sel(at), over, "transform")
        errors = [spread.error(one) for one in np.eye(data.sizes["transform"])]
        reach.loc[at] = np.array(errors) * _quantile(level, spread.df)
    return xr.Dataset({"low": score - reach, "high": score + reach})


def compare(
    data: xr.Dataset, by: str, *, over: Over, correction: str | None, level: float
) -> pd.DataFrame:
    """Compare all pairs of transforms or layers; see `AlignmentResult.compare`."""
    if by not in COMPARED:
        raise unknown_name("thing to compare", by, COMPARED)
    if correction not in CORRECTIONS:
        raise unknown_name("correction", correction, CORRECTIONS)
    if "resampled_score" not in data:
        raise DataError("Comparing needs resamples; call `align` with n_resamples=1000.")
    others = [dim for dim in ("layer", "region", "transform") if dim != by]
    shown = data.sel(transform=data.attrs["transforms"].split(","))
    tables = [
        _pairs(shown.sel({others[0]: one, others[1]: other}), by, over, level).assign(
            **{others[0]: one, others[1]: other}
        )
        for one in shown[others[0]].values
        for other in shown[others[1]].values
    ]
    table = pd.concat(tables, ignore_index=True)
    table["p_corrected"] = adjusted(table["p"].to_numpy(), correction)
    return table[
        [*others, by, "other", "difference", "low", "high", "p", "p_corrected", "effect_size"]
    ]


def _pairs(data: xr.Dataset, by: str, over: Over, level: float) -> pd.DataFrame:
    """Differences of all pairs along one dimension."""
    from scipy.stats import t

    names, means = data[by].values, data["score"].mean("fold").values
    by_subject = data["subject_score"].transpose(by, "tested_subject").values
    spread = _spread(data, over, by)
    unit = np.eye(len(names))
    rows = []
    for i, j in combinations(range(len(names)), 2):
        difference = means[i] - means[j]
        error = spread.error(unit[i] - unit[j])
        reach = error * _quantile(level, spread.df)
        rows.append(
            {
                by: names[i], "other": names[j], "difference": difference,
                "low": difference - reach, "high": difference + reach,
                "p": 2 * t.sf(abs(difference) / error, spread.df),
                "effect_size": _effect_size(by_subject[i] - by_subject[j]),
            }
        )  # fmt: skip
    return pd.DataFrame(
        rows, columns=[by, "other", "difference", "low", "high", "p", "effect_size"]
    )


_ROUNDING = 1e-14  # of the variance of differences between equal scores


def _effect_size(differences: np.ndarray) -> float:
    """Cohen's dz over the subjects there are; NaN for one, or equal differences."""
    known = differences[np.isfinite(differences)]
    if len(known) < 2 or np.ptp(known) < np.sqrt(_ROUNDING):
        return np.nan
    return float(known.mean() / known.std(ddof=1))


def _quantile(level: float, df: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, df))


class _Spread(NamedTuple):
    """Covariances (k, k) of scores: as drawn, and of pairs of stimuli by themselves; df of t."""

    drawn: np.ndarray
    of_pairs: np.ndarray
    df: int

    def error(self, contrast: np.ndarray) -> float:
        """Give the standard error of a sum of scores so weighted; NaN where there is none.

        What a pair has of its own counts twice where stimuli are drawn, once for either stimulus.
        """
        drawn, own = (float(contrast @ each @ contrast) for each in (self.drawn, self.of_pairs))
        variance = max(drawn - own, own)
        return np.sqrt(variance) if variance > _ROUNDING else np.nan


def _spread(data: xr.Dataset, over: Over, by: str) -> _Spread:
    """How much scores along ``by`` vary when drawn anew; NaN where they were not resampled."""
    if over not in OVER:
        raise unknown_name("what to generalize over", over, OVER)
    k = data.sizes[by]
    undefined = _Spread(np.full((k, k), np.nan), np.zeros((k, k)), 1)
    # of groups, where these were drawn
    n_subjects = int(data["n_subject_groups" if "n_subject_groups" in data else "n_subjects"])
    n_stimuli = int(data.attrs.get("n_groups_tested", data.attrs["n_tested"]))
    if over == "auto":
        over = "both" if n_subjects > 1 else "stimuli"
    if "resampled_score" not in data or (over != "stimuli" and n_subjects < 2):
        return undefined
    scores = data["resampled_score"].transpose("kind", "resample", by)
    drawn = scores.sel(kind=["both", "subjects", "stimuli"] if over == "both" else [over]).values
    found = resampling_variances(
        drawn, np.full((*drawn.shape[:2], 2), np.nan),
        n_subjects=None if over == "stimuli" else n_subjects,
        n_stimuli=None if over == "subjects" else n_stimuli,
    )  # fmt: skip
    own = found.models
    covariances = (own[:, None] + own - found.differences) / 2
    of_pairs = np.zeros((k, k))
    if over != "subjects":
        of_pairs = np.atleast_2d(np.cov(scores.sel(kind="pairs").values.T))
    sizes = {"both": min(n_subjects, n_stimuli), "subjects": n_subjects, "stimuli": n_stimuli}
    return _Spread(covariances, of_pairs, sizes[over] - 1)
