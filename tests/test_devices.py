"""Public functions on tensors keep to the device of their input, and seldom wait for it.

Without CUDA they are run on a pretend device: real values, so that branches on data go the way they
go, in tensors that say they live elsewhere. There, a tensor made on the wrong device, or a copy to
the host and back, is found as it would be with CUDA; and every wait for the device is counted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from softrsa import measures, transforms
from softrsa.alignment import AlignmentLoss
from softrsa.measures import available
from softrsa.pairs import condense, expand, off_diagonal
from softrsa.prediction import DiffKNNHead, LinearHead, NCAHead, SoftStepNCAHead
from softrsa.rsm import (
    SCALINGS,
    SIMILARITIES,
    condensed_similarity,
    crossnobis,
    crossnobis_unbalanced,
    poisson_cv,
    poisson_kl,
    scale_similarities,
    similarity_matrix,
)
from softrsa.synthesis.objective import make_objective
from softrsa.tiled import tiled_scores

PRETEND = "lazy"  # a device that autograd knows and nobody has
SOFT_RANK_WAITS = 4 + 3 * 10  # pools in rounds, of which 10 were the most, without torchsort


class Elsewhere(Tensor):
    """A tensor on the pretend device; its values are in ``inner``."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=PRETEND,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} of a pretend tensor outside of the mode")

    def tolist(self):  # torch has none for subclasses
        return self.cpu().tolist()


WAITS = {  # for the device: their result, or its size, is needed on the host
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2",
    "unique_dim", "unique_consecutive", "repeat_interleave", "_linalg_check_errors",
}  # fmt: skip
SAME_DEVICE = {"cat", "stack"}  # even of tensors without dimensions


class Device(TorchDispatchMode):
    """Work with pretend tensors: no mixing with those of the host, and waits are counted."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __enter__(self):
        self.before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # else `torch.tensor(1.0, device=...)` escapes
        return super().__enter__()

    def __exit__(self, *exception):
        torch._C._set_only_lift_cpu_tensors(self.before)
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        away = any(isinstance(t, Elsewhere) for t in tensors)
        target = away
        if kwargs.get("device") is not None:
            target = torch.device(kwargs["device"]).type == PRETEND
            kwargs["device"] = torch.device("cpu")
        if away:
            self._count(name, args, kwargs, target)
        if name not in {"copy_", "_to_copy"}:
            _check_one_device(name, args, tensors)
        wrappers = {id(t.inner): t for t in tensors if isinstance(t, Elsewhere)}
        args, kwargs = tree_map(
            lambda t: t.inner if isinstance(t, Elsewhere) else t, (args, kwargs)
        )
        with torch.utils._python_dispatch._disable_current_modes():
            result = func(*args, **kwargs)
        if away and torch.Tag.inplace_view in func.tags:  # the outside changes its shape, too
            reshaped = Elsewhere(result)
            with no_dispatch():
                wrappers[id(result)].data = reshaped

        def placed(value):
            if not isinstance(value, Tensor) or not target:
                return value
            return wrappers.get(id(value)) if id(value) in wrappers else Elsewhere(value)

        return tree_map(placed, result)

    def _count(self, name, args, kwargs, target):
        by_mask = name.startswith("index") and any(
            isinstance(t, Tensor) and t.dtype == torch.bool for t in tree_leaves(args[1:2])
        )
        to_host = name == "_to_copy" and not target
        from_device = name == "copy_" and isinstance(args[1], Elsewhere)
        to_host |= from_device and not isinstance(args[0], Elsewhere)
        waits = name in WAITS and kwargs.get("output_size") is None
        if waits or by_mask or to_host:
            self.waits.append(name)


def _check_one_device(name, args, tensors):
    if not any(isinstance(t, Elsewhere) for t in tensors):
        return
    strangers = [t for t in tensors if not isinstance(t, Elsewhere)]
    if name not in SAME_DEVICE:  # a number of the host goes along
        strangers = [t for t in strangers if t.ndim]
    if strangers:
        shapes = [tuple(t.shape) for t in strangers]
        raise AssertionError(f"{name} mixes devices: tensors {shapes} are on the host.")


# ---- the table of functions --------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One function with the inputs that ``make(n, batch, rng)`` gives it."""

    name: str
    function: Callable[..., Tensor]
    make: Callable[..., tuple[Tensor, ...]]
    module: Callable[[], nn.Module] | None = None  # called as the first argument
    waits: int = 0  # at most, forward, whatever the size
    differentiable: bool = True
    tolerance: dict = field(default_factory=lambda: {"rtol": 1e-9, "atol": 1e-11})

    def __str__(self):
        return self.name


def normal(rng, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


def uniform(rng, *shape):
    return torch.rand(*shape, dtype=torch.float64, generator=rng)


def _responses(n, batch, rng):
    return (normal(rng, batch, n, 6),)


def _two_responses(n, batch, rng):
    return normal(rng, batch, n, 6), normal(rng, batch, n + 1, 6)


def _features(n, batch, rng):
    return normal(rng, batch, n, 5), normal(rng, batch, n, 4)


def _square(n, batch, rng):
    s = uniform(rng, batch, n, n)
    return ((s + s.mT) / 2,)


def _rdm(n, batch, rng):
    (s,) = _square(n, batch, rng)
    return (s * (1 - torch.eye(n, dtype=s.dtype)),)


def _two_squares(n, batch, rng):
    return _square(n, batch, rng) + _square(n, batch, rng)


def _two_vectors(n, batch, rng):
    return tuple(condense(m) for m in _two_squares(n, batch, rng))


def _vector(n, batch, rng):
    return _two_vectors(n, batch, rng)[:1]


def _folds(n, batch, rng):
    return (normal(rng, batch, 3, n, 5),)


def _queries(n, batch, rng):
    return normal(rng, n, 5), normal(rng, 2 * n, 5), uniform(rng, 2 * n)


def _precision():
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return root @ root.mT + torch.eye(6, dtype=torch.float64)


def _steps(rng):
    return torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)


def _stepping(n, batch, rng):
    parameters = [0.2, 0.8, 0.5]
    rows = [torch.full((batch, n, 1), value, dtype=torch.float64) for value in parameters]
    return *_square(n, batch, rng), *rows


def _similarity(name):
    def with_precision(x, precision):
        return similarity_matrix(x, similarity=name, precision=precision)

    # distances of nearly equal rows are computed anew: which pairs they are, the host must know
    waits = {"l2": 2, "sqeuclidean": 2, "mahalanobis": 2, "rbf": 3}.get(name, 0)
    if name == "mahalanobis":
        return [
            Call(
                f"similarity_matrix {name}", with_precision,
                lambda n, b, rng: (*_responses(n, b, rng), _precision()), waits=waits,
            )
        ]  # fmt: skip
    calls = {
        "similarity_matrix": (partial(similarity_matrix, similarity=name), _responses),
        "similarity_matrix of two": (partial(similarity_matrix, similarity=name), _two_responses),
        "condensed_similarity": (partial(condensed_similarity, similarity=name), _responses),
    }
    return [Call(f"{key} {name}", *value, waits=waits) for key, value in calls.items()]


# ranks and ties are runs of places, whose number the host must know; so are medians
WAITS_OF_MEASURES = {
    "kendall_tau_a": 3, "kendall_tau_b": 3, "rbf_cka": 6, "rho_a": 2, "spearman": 2,
    "soft_spearman": 2 * SOFT_RANK_WAITS,
    "soft_matching": 1, "soft_matching_distance": 1, "permutation_matching": 1,  # solved on the CPU
}  # fmt: skip


def _measure(entry):
    make = {"features": _features, "matrices": _two_squares, "kernels": _two_squares}.get(
        entry.takes, _two_vectors
    )
    return Call(
        entry.name, entry.function, make, waits=WAITS_OF_MEASURES.get(entry.name, 0),
        differentiable=entry.differentiable, tolerance={"rtol": 1e-6, "atol": 1e-9},
    )  # fmt: skip


def _tied(measure):
    def make(n, batch, rng):
        return tuple((4 * v).round() for v in _two_vectors(n, batch, rng))

    return Call(f"{measure.__name__} with ties", measure, make, waits=3, differentiable=False)


def _with_options():
    noise, loose = _precision(), {"rtol": 1e-6, "atol": 1e-9}
    folds = torch.tensor([0, 1, 2] * 7)

    def folded(function, x, y):
        return function(x, y, folds=folds[: x.shape[-2]], average=None)

    return [
        Call(
            "whitened_cosine with noise",
            lambda x, y, sigma: measures.whitened_cosine(x, y, noise_covariance=sigma),
            lambda n, b, rng: (*(normal(rng, b, 15) for _ in "xy"), noise), waits=3,
        ),
        Call("minibatch_cka", partial(measures.minibatch_cka, batch_size=4), _features),
        Call("svcca of 2", partial(measures.svcca, n_components=2), _features, tolerance=loose),
        Call("procrustes scaled", partial(measures.procrustes_distance, scaling=True), _features),
        *(
            Call(f"{f.__name__} of folds", partial(folded, f), _features, tolerance=loose)
            for f in (measures.linear_predictivity, measures.ridge_predictivity)
        ),
        Call(
            "crossnobis with a precision per fold", crossnobis,
            lambda n, b, rng: (normal(rng, b, 3, n, 6), noise.repeat(3, 1, 1)), waits=3,
            tolerance=loose,
        ),
    ]  # fmt: skip


def _head(name, make_head, waits=0):
    return [
        Call(name, lambda head, *given: head(*given), _queries, module=make_head, waits=waits),
        Call(
            f"{name}, predict", lambda head, *given: head.predict(*given), _queries,
            module=make_head, waits=waits, differentiable=False,
        ),
    ]  # fmt: skip


def _loss(measure, **options):
    def compute(loss, x, y):
        return loss(x[0], y[0])

    return Call(
        f"AlignmentLoss {measure} {' '.join(options)}", compute, _features,
        module=lambda: AlignmentLoss(measure=measure, **{k: v() for k, v in options.items()}),
        waits=3,
    )  # fmt: skip


def _objective(measure):
    def score(x, y):
        return make_objective(measure, x[0], similarity="correlation").scores(y)

    return Call(f"objective {measure}", score, _features)


def _softstep(gate, **options):
    def step(module, s, *anchors):
        return module(s, *anchors, **options)

    def make(n, batch, rng):
        anchors = (normal(rng, batch, n, 5),) if "Embedding" in gate.__name__ else ()
        return *_square(n, batch, rng), *anchors

    def module():
        sized = transforms.EmbeddingGate(5) if "Embedding" in gate.__name__ else gate()
        return transforms.SoftStep(sized)

    return Call(f"SoftStep {gate.__name__} {options}", step, make, module=module)


GEODESIC = {"keep": "p_shortest", "amount": 0.5}
CALLS = [
    Call("condense", condense, _square),
    Call("expand", expand, _vector),
    Call("off_diagonal", off_diagonal, _square),
    *(call for name in SIMILARITIES for call in _similarity(name)),
    *(
        Call(
            f"scale_similarities {how}", partial(scale_similarities, how=how), _square,
            waits=3 if how == "rank" else 1, differentiable=how != "rank",
        )
        for how in SCALINGS
    ),
    Call("crossnobis", crossnobis, _folds, waits=1),
    Call(
        "crossnobis with precision", crossnobis,
        lambda n, b, rng: (normal(rng, b, 3, n, 6), _precision()), waits=1,
    ),
    Call("crossnobis_unbalanced", crossnobis_unbalanced, _folds, waits=1),
    Call("poisson_kl", poisson_kl, lambda n, b, rng: (1 + uniform(rng, b, n, 5),), waits=2),
    Call("poisson_cv", poisson_cv, lambda n, b, rng: (1 + uniform(rng, b, 3, n, 5),), waits=3),
    Call("double_center", transforms.double_center, _square),
    Call("soft_step", transforms.soft_step, _stepping),
    Call("log_soft_step_s2", lambda s, _, *more: transforms.log_soft_step_s2(s, *more), _stepping),
    Call("soft_k_step", lambda s: transforms.soft_k_step(8 * s, 2), _square),
    Call(
        "soft_k_step, k per anchor", lambda s, k: transforms.soft_k_step(8 * s, 4 * k),
        lambda n, b, rng: (*_square(n, b, rng), uniform(rng, n, 1)),
    ),
    Call("soft_rank", partial(transforms.soft_rank, strength=0.3), _vector, waits=SOFT_RANK_WAITS),
    Call("soft_rank torch", partial(transforms.soft_rank, strength=0.3, backend="torch"), _vector,
         waits=60),
    *(
        Call(
            f"geo_topological {preset}",
            lambda d, preset=preset: transforms.geo_topological(d, 0.2, 0.8, preset=preset),
            _rdm, waits=int(preset == "trsa"), differentiable=preset != "trsa",
        )
        for preset in ("trsa", "quantile", "value")
    ),
    Call(
        "geo_topological_grid",
        lambda d: torch.cat([*transforms.geo_topological_grid(d, [0.0, 0.2], [0.5, 0.9])]),
        _rdm, waits=1, differentiable=False,
    ),
    Call("geodesic", partial(transforms.geodesic, **GEODESIC), _rdm, waits=3, differentiable=False),
    *(_softstep(gate) for gate in (
        transforms.GlobalGate, transforms.EmbeddingGate, transforms.ProfileGate)),
    _softstep(transforms.ProfileGate, log=True),
    *(_measure(entry) for entry in available().values()),
    *(_tied(measure) for measure in (
        measures.kendall_tau_a, measures.kendall_tau_b, measures.spearman)),
    *_with_options(),
    Call("row_offset_share", measures.row_offset_share, _two_squares),
    *_head("LinearHead", lambda: LinearHead(5)),
    *_head("NCAHead", NCAHead),
    *_head("SoftStepNCAHead", lambda: SoftStepNCAHead(5), 1),
    *_head("SoftStepNCAHead s2", lambda: SoftStepNCAHead(5, family="s2"), 1),
    *_head("DiffKNNHead", lambda: DiffKNNHead(5), SOFT_RANK_WAITS),
    _loss("centered_pearson"),
    _loss("linear_cka"),
    Call("tiled_scores", lambda x, y: tiled_scores(x[0], y[0]), _features, waits=3),
    _loss("centered_pearson", model_transform=lambda: transforms.SoftStep(transforms.GlobalGate())),
    *(_objective(measure) for measure in ("nbs", "linear_cka", "centered_pearson")),
]  # fmt: skip
every_call = pytest.mark.parametrize("call", CALLS, ids=str)
both_types = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def inputs_of(call, n=9, batch=2, dtype=torch.float64):
    """Make the same inputs and module each time."""
    given = call.make(n, batch, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = [] if call.module is None else [call.module().to(dtype)]
    return module, [x.to(dtype) for x in given]


def value_and_gradients(call, module, given):
    """Value, and the gradient of its weighted sum for every input."""
    if not call.differentiable:
        return call.function(*module, *given), []
    given = [x.requires_grad_() for x in given]
    value = call.function(*module, *given)
    places = torch.arange(1.0, value.numel() + 1, dtype=value.dtype, device=value.device)
    total = (value * places.cos().view(value.shape)).nan_to_num(0, neginf=0).sum()
    return value.detach(), torch.autograd.grad(total, given, allow_unused=True)


def place(call, **options):
    """Make the inputs and the module, and take them to the pretend device."""
    module, given = inputs_of(call, **options)
    return [m.to(PRETEND) for m in module], [x.to(PRETEND) for x in given]


def pretended(call, **options):
    """Value and gradients on the pretend device, on the host again."""
    with Device():
        value, gradients = value_and_gradients(call, *place(call, **options))
    for tensor in (value, *gradients):
        assert tensor is None or isinstance(tensor, Elsewhere), "a result is on the host"
    return value.inner, [None if g is None else g.inner for g in gradients]


def waits_of(call, **options):
    with Device() as device:
        module, given = place(call, **options)
        device.waits.clear()
        call.function(*module, *given)
        return device.waits


@pytest.fixture(autouse=True)
def autocast_of_pretend_devices(monkeypatch):
    """Let it be off, where torch says that the device knows none."""
    known = torch.is_autocast_enabled
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda kind=None: kind != PRETEND and known(kind)
    )


def tolerance_of(call, dtype):
    return call.tolerance if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}


@both_types
@every_call
def test_values_and_gradients_keep_to_the_device(call, dtype):
    value, gradients = pretended(call, dtype=dtype)
    expected, expected_gradients = value_and_gradients(call, *inputs_of(call, dtype=dtype))
    tolerance = tolerance_of(call, dtype)
    torch.testing.assert_close(value, expected, equal_nan=True, **tolerance)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(found, wanted, **tolerance)


@every_call
def test_waits_for_the_device_do_not_grow(call):
    for sizes in ({"n": 8, "batch": 1}, {"n": 20, "batch": 1}, {"n": 8, "batch": 5}):
        waits = waits_of(call, **sizes)
        assert len(waits) <= call.waits, f"{sizes}: {waits}"


@pytest.mark.parametrize("batch", [1, 4])
def test_the_median_of_many_distances_is_not_waited_for(batch, monkeypatch):
    monkeypatch.setattr("softrsa.rsm.similarity.PART_BYTES", 256)  # so that all are many
    call = next(call for call in CALLS if call.name == "similarity_matrix rbf")
    _, given = inputs_of(call, n=20, batch=batch)
    with Device() as device:
        found = call.function(given[0].to(PRETEND))
        assert len(device.waits) <= call.waits
    monkeypatch.undo()
    torch.testing.assert_close(found.inner, call.function(*given), rtol=0, atol=1e-15)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@both_types
@every_call
def test_cuda_gives_what_the_host_gives(call, dtype):
    module, given = inputs_of(call, dtype=dtype)
    expected, expected_gradients = value_and_gradients(call, module, given)
    there = [x.detach().cuda() for x in given]
    value, gradients = value_and_gradients(call, [m.cuda() for m in module], there)
    tolerance = tolerance_of(call, dtype)
    assert value.is_cuda
    torch.testing.assert_close(value.cpu(), expected, equal_nan=True, **tolerance)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        if wanted is not None:
            torch.testing.assert_close(found.cpu(), wanted, **tolerance)


def test_the_pretend_device_finds_what_cuda_would():
    with Device() as device:
        x = torch.randn(3).to(PRETEND)
        assert isinstance(torch.zeros(3, device=x.device) + x, Elsewhere)
        assert isinstance(torch.tensor([1.0, 2.0], device=x.device), Elsewhere)
        assert isinstance(x * torch.tensor(2.0), Elsewhere)  # a number goes along
        assert (x @ torch.ones(3, 1, device=x.device)).shape == (1,)  # squeezed in place
        assert (x[:1] @ torch.ones(1, 2, device=x.device)).shape == (2,)
        with pytest.raises(AssertionError, match="mul mixes devices"):
            x * torch.ones(3)
        with pytest.raises(AssertionError, match="stack mixes devices"):
            torch.stack([x.sum(), torch.tensor(0.0)])
        with pytest.raises(RuntimeError, match="numpy"):
            x.numpy()
        assert not device.waits
        bool((x > 9).any()), x.tolist(), x[x > 0]
        assert device.waits == ["_local_scalar_dense", "_to_copy", "index"]
