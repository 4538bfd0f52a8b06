"""Arrays of every kind mean what they hold, or are refused by name: nothing is dropped or rounded without a word."""

import copy

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.masked import masked_tensor

import saematch as sm
from saematch.evaluation import StoredActivations
from saes import made_up

pytestmark = [
    pytest.mark.through_passes,
    # Warnings of torch and numpy about the kinds of arrays that are tried.
    *(
        pytest.mark.filterwarnings(f"ignore:{message}")
        for message in ("The PyTorch API of", "Sparse CSR", "torch.quantize_per", "the matrix subclass")
    ),
]
F, K = 6, 4
X = np.random.default_rng(0).integers(-8, 8, (F, K)) / 4.0  # float8 and float16 hold these
Y = X[[2, 0, 1, 4, 5, 3]] + 0.25
TRUE = sm.assign(X, Y).perm.tolist()


class Tagged(torch.Tensor):
    """A tensor of another class that holds no more than its values."""


class Labelled(np.ndarray):
    """An array of another class that holds no more than its values."""


def quantised(array):
    return torch.quantize_per_tensor(torch.tensor(array, dtype=torch.float32), 0.25, 0, torch.qint8)


def negated(array):
    """Return a tensor whose values have the other sign in memory."""
    tensor = torch.complex(torch.zeros(array.shape, dtype=torch.float64), -torch.tensor(array)).conj().imag
    assert tensor.is_neg()
    return tensor


def mapped(array, folder):
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


class Foreign:
    """An array of another library."""

    def __init__(self, array, error=None):
        self._array, self._error = array, error

    def __array__(self, dtype=None, copy=None):
        if self._error is not None:
            raise self._error
        return np.array(self._array, dtype=dtype)


class Masked(np.ndarray):
    """An array with a mask of its own, like those of astropy."""

    mask = None

    @classmethod
    def of(cls, array, mask):
        made = np.asarray(array).view(cls)
        made.mask = np.broadcast_to(mask, made.shape)
        return made


class Hiding(Foreign):
    """An array of another library that has a mask, and drops it where numpy asks for an array."""

    def __init__(self, array, mask):
        super().__init__(array)
        self.mask = np.asarray(mask)


class Opened:
    """A variable that is read when numpy asks for an array, and that then has a mask, like variables of netCDF."""

    def __init__(self, array, mask):
        self._array = np.ma.array(array, mask=mask)

    def __array__(self, dtype=None, copy=None):
        return self._array


OTHER_MASKS = {"subclass": Masked.of, "hidden": Hiding, "read first": Opened}
USED = {
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f8"),
    "big-endian float32": lambda a: a.astype(">f4"),
    "fortran order": np.asfortranarray,
    "negative strides": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "every second": lambda a: np.repeat(np.repeat(a, 2, 0), 2, 1)[::2, ::2],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "subclass": lambda a: a.view(Labelled),
    "matrix": np.asmatrix,
    "nothing masked": np.ma.array,
    "an empty mask": lambda a: np.ma.array(a, mask=np.zeros(a.shape, bool)),
    "nothing masked by another library": lambda a: Masked.of(a, np.False_),
    "nothing masked by one that drops masks": lambda a: Hiding(a, np.zeros(a.shape, bool)),
    "nothing masked by one that is read first": lambda a: Opened(a, np.ma.nomask),
    "mkldnn": lambda a: torch.tensor(a, dtype=torch.float32).to_mkldnn(),
    "lists": np.ndarray.tolist,
    "list of arrays": list,
    "list of lists of scalars": lambda a: [list(row) for row in a],
    "list of tensors": lambda a: list(torch.tensor(a)),
    "list of bfloat16 tensors": lambda a: list(torch.tensor(a).bfloat16()),
    "list of tensors with gradients": lambda a: list(torch.tensor(a, requires_grad=True)),
    "lists of 0-d tensors": lambda a: [list(row) for row in torch.tensor(a)],
    "another library": Foreign,
    "tensor": torch.tensor,
    "bfloat16": lambda a: torch.tensor(a).bfloat16(),
    "half": lambda a: torch.tensor(a).half(),
    "float8_e4m3fn": lambda a: torch.tensor(a).to(torch.float8_e4m3fn),
    "float8_e5m2fnuz": lambda a: torch.tensor(a).to(torch.float8_e5m2fnuz),
    "gradients": lambda a: torch.tensor(a, requires_grad=True),
    "parameter": lambda a: torch.nn.Parameter(torch.tensor(a)),
    "tensor of a subclass": lambda a: torch.tensor(a).as_subclass(Tagged),
    "transposed": lambda a: torch.tensor(a.T.copy()).T,
    "quantised": quantised,
    "negated": negated,
    "inference": lambda a: torch.inference_mode()(lambda: torch.tensor(a) + 0)(),
}
MASK = np.arange(F * K).reshape(F, K) == 9
REFUSED = {
    "masked": (lambda a: np.ma.array(a, mask=MASK), "masks 1 of its values"),
    "list of masked rows": (lambda a: list(np.ma.array(a, mask=MASK)), "masks 1 of its values"),
    "masked in a list of lists": (lambda a: [[*a[0][:-1], np.ma.masked], *a.tolist()[1:]], "masks 1 of its values"),
    **{
        f"masked, {name}": (lambda a, made=made: made(a, MASK), "masks 1 of its values")
        for name, made in OTHER_MASKS.items()
    },
    **{
        f"rows masked, {name}": (
            lambda a, made=made: [made(*row) for row in zip(a, MASK, strict=True)],
            "masks 1 of its values",
        )
        for name, made in OTHER_MASKS.items()
    },
    "masked tensor": (lambda a: masked_tensor(torch.tensor(a), torch.tensor(~MASK)), "MaskedTensor"),
    "scipy csr": (scipy.sparse.csr_matrix, "a sparse csr_matrix; make it dense"),
    "scipy coo array": (scipy.sparse.coo_array, "a sparse coo_array; make it dense"),
    "torch coo": (lambda a: torch.tensor(a).to_sparse(), "sparse tensor"),
    "torch csr": (lambda a: torch.tensor(a).to_sparse_csr(), "sparse tensor"),
    "nested": (lambda a: torch.nested.nested_tensor(list(torch.tensor(a))), "nested"),
    "jagged": (lambda a: torch.nested.nested_tensor(list(torch.tensor(a)), layout=torch.jagged), "is a nested tensor"),
    "meta": (lambda a: torch.tensor(a, device="meta"), "on meta"),
    "uninitialised": (lambda _: torch.nn.UninitializedParameter(), "UninitializedParameter"),
    "complex": (lambda a: a.astype(complex), "holds complex128"),
    "complex tensor": (lambda a: torch.tensor(a).to(torch.complex64), "torch.complex64"),
    "bool": (lambda a: a > 0, "holds bool"),
    "bool tensor": (lambda a: torch.tensor(a > 0), "holds bool"),
    "object": (lambda a: a.astype(object), "holds object"),
    "text": (lambda a: a.astype(str), "holds <U"),
    "void": (lambda a: a.astype(np.float16).view("V2"), "holds |V2"),
    "structured": (lambda a: a.view([("", float)] * K), "holds "),
    "times": (lambda a: a.astype("timedelta64[s]"), "holds timedelta64"),
    "int64 that float64 rounds": (lambda a: a.astype(np.int64) + 2**60, "where float64 rounds them"),
    "uint64 that float64 rounds": (lambda a: np.full_like(a, 2**64 - 1, np.uint64), "where float64 rounds them"),
    "uint64 tensor": (lambda a: torch.full(a.shape, 2**60, dtype=torch.uint64), "where float64 rounds them"),
    "longdouble that float64 rounds": (lambda a: a + np.longdouble(1) / 3, "rounded by float64"),
    "longdouble beyond float64": (lambda a: np.full(a.shape, np.longdouble(10) ** 400), "rounded by float64"),
    "of int4": (lambda a: torch.zeros(a.shape, dtype=torch.uint8).view(torch.uint4), "which numpy lacks"),
    "of float4": (lambda a: torch.zeros(a.shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "which numpy lacks"),
    "another library that refuses": (lambda a: Foreign(a, RuntimeError("no device")), "no device"),
    "ragged": (lambda a: [a[0], a[1][:-1]], "not an array"),
    "generator": (lambda a: (row for row in a), "holds object"),
    "mapping": (lambda a: dict(enumerate(a)), "holds object"),
    "one axis": (lambda a: a.ravel().astype(np.int64) + 2**60, "has shape"),
    "nothing": (lambda _: 3.0, "has shape"),
}
if np.finfo(np.longdouble).nmant <= 52:  # where it is float64 by another name
    REFUSED = {name: each for name, each in REFUSED.items() if "longdouble" not in name}


@pytest.mark.parametrize("name", USED)
def test_rows_and_costs_that_are_used_as_they_are(name):
    x, y = USED[name](X), USED[name](Y)
    before = copy.deepcopy(x) if isinstance(x, np.ndarray) else None
    assert sm.assign(x, y).perm.tolist() == TRUE
    assert sm.assign(x, y).cost == sm.assign(X, Y).cost
    costs = sm.assign(cost=USED[name](np.abs(X)))
    assert costs.cost == sm.assign(cost=np.abs(X)).cost
    assert sm.certify(x, y, TRUE).certified
    if before is not None:
        assert np.array_equal(before, x)


@pytest.mark.parametrize("name", REFUSED)
def test_rows_and_costs_that_are_refused_by_name(name):
    make, words = REFUSED[name]
    for ask in (
        lambda: sm.assign(make(X), Y),
        lambda: sm.assign(X, make(Y)),
        lambda: sm.assign(cost=make(X)),
        lambda: sm.certify(make(X), Y, TRUE),
    ):
        with pytest.raises(sm.MatchError) as caught:
            ask()
        assert words in str(caught.value)


def test_an_array_on_disk(tmp_path):
    assert sm.assign(mapped(X, tmp_path), Y).perm.tolist() == TRUE


def test_a_scale_too_large_for_float64_forbids_no_pair():
    cost = np.array([[1, 10], [10, 1]], np.longdouble)
    assert sm.assign(cost=cost).cost == 2
    if np.finfo(np.longdouble).max > np.finfo(float).max:
        with pytest.raises(sm.MatchError, match="rounded by float64"):
            sm.assign(cost=cost * np.longdouble(10) ** 400)
    assert sm.assign(cost=np.where(cost > 5, np.longdouble(np.inf), cost)).cost == 2


PERMS = {
    "list": list,
    "array": np.array,
    "uint8": np.uint8,
    "uint64": np.uint64,
    "big-endian": lambda p: np.array(p, ">i4"),
    "negative strides": lambda p: np.array(p[::-1])[::-1],
    "tensor": torch.tensor,
    "tuple": tuple,
    "uint16 tensor": lambda p: torch.tensor(p, dtype=torch.uint16),
    "list of tensors": lambda p: list(torch.tensor(p)),
    "list of numpy's": lambda p: list(np.array(p)),
    "nothing masked": np.ma.array,
    "matching": lambda p: sm.assign(X, Y),
}
NO_PERMS = {
    "masked": lambda p: np.ma.array(p, mask=[0, 0, 1, 0, 0, 0]),
    "list with a masked one": lambda p: [*p[:-1], np.ma.array(p[-1], mask=True)],
    **{f"masked, {name}": lambda p, made=made: made(p, [0, 0, 1, 0, 0, 0]) for name, made in OTHER_MASKS.items()},
    "jagged": lambda p: torch.nested.nested_tensor([torch.tensor(p)], layout=torch.jagged),
    "masked tensor": lambda p: masked_tensor(torch.tensor(p).float(), torch.tensor(p) > 1),
    "sparse": lambda p: torch.tensor(p).to_sparse(),
    "scipy": lambda p: scipy.sparse.coo_array(np.array([p])),
    "float": lambda p: np.array(p, float),
    "bool": lambda p: [True] * F,
    "bool tensor": lambda p: torch.ones(F).bool(),
    "complex": lambda p: torch.tensor(p).to(torch.complex64),
    "object": lambda p: np.array(p, object),
    "quantised": lambda p: quantised(np.array(p)),
    "nested": lambda p: torch.nested.nested_tensor([torch.tensor(p)]),
    "meta": lambda p: torch.tensor(p, device="meta"),
    "text": lambda p: list(map(str, p)),
    "far outside": lambda p: np.array(p, np.uint64) - np.uint64(9),
    "generator": iter,
    "another": lambda p: Foreign(p, OSError()),
}


@pytest.mark.parametrize("name", PERMS)
def test_permutations_of_every_kind(name):
    assert sm.certify(X, Y, PERMS[name](TRUE)).status == "optimal"


@pytest.mark.parametrize("name", NO_PERMS)
def test_permutations_that_are_refused(name):
    with pytest.raises(sm.MatchError, match="perm"):
        sm.certify(X, Y, NO_PERMS[name](TRUE))


def test_features_whose_margins_are_asked_for():
    matching = sm.assign(X, Y)
    expected = matching.margins().exact([1, 3]).tolist()
    some = np.isin(np.arange(F), [1, 3])
    for features in (
        np.array([1, 3], np.uint8),
        torch.tensor([1, 3]),
        (torch.tensor(1), np.int64(3)),
        some,
        torch.tensor(some),
        some.tolist(),
        np.ma.array([1, 3]),
    ):
        assert matching.margins().exact(features).tolist() == expected
    for features in (
        np.ma.array([1, 3], mask=[0, 1]),
        *(made([1, 3], [0, 1]) for made in OTHER_MASKS.values()),
        [[[np.ma.array(1), np.ma.masked]]],
        torch.tensor([1, 3], device="meta"),
        torch.tensor([1, 3]).to_sparse(),
        [1.0, 3.0],
        masked_tensor(torch.tensor([1.0, 3]), torch.tensor([True, False])),
    ):
        with pytest.raises(sm.MatchError, match="features"):
            matching.margins().exact(features)


SAE = made_up()


def with_weights(change, **made):
    return sm.SAE(**{**vars(SAE), "W_dec": change(SAE.W_dec), **made})


@pytest.mark.parametrize(
    "change",
    [
        torch.nn.Parameter,
        lambda w: w.as_subclass(Tagged),
        lambda w: w.clone().requires_grad_(),
        lambda w: w.to_sparse(),
        lambda w: w.to_sparse_csr(),
        lambda w: w.T.contiguous().T,
        lambda w: negated(w.numpy()),
        lambda w: w.float(),
        lambda w: w.bfloat16(),
        lambda w: torch.quantize_per_tensor(w.float(), 0.01, 0, torch.qint32),
    ],
)
def test_saes_of_tensors_of_every_kind(change, tmp_path):
    sae = with_weights(change)
    plain = with_weights(lambda w: torch.tensor(sae.W_dec.detach().double().numpy()))
    assert sm.match(sae, SAE).cost == sm.match(plain, SAE).cost
    threshold = with_weights(change, threshold=torch.nn.Parameter(SAE.threshold))
    for fold in ("threshold", "decoder_norm", "none"):
        assert sm.match(threshold, SAE, fold=fold).certified
    sae.save(tmp_path)
    assert torch.equal(sm.load(tmp_path).W_dec.double(), plain.W_dec)
    chain = sm.match_layers({1: sae, 2: SAE}, tmp_path / "run")
    assert chain.complete


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: masked_tensor(w, w > 0), "MaskedTensor"),
        (lambda w: w.numpy(), "ndarray, expected a torch tensor"),
        (lambda w: np.ma.array(w.numpy()), "MaskedArray"),
        (lambda w: w.to(torch.complex64), "torch.complex64"),
        (lambda w: w.to(torch.float8_e5m2), "torch.float8_e5m2, which is for storage"),
        (lambda w: w > 0, "torch.bool"),
        (lambda w: torch.nested.nested_tensor(list(w)), "nested"),
        (lambda w: w.int(), "torch.int32"),
        (lambda w: torch.nn.UninitializedParameter(), "UninitializedParameter"),
    ],
)
def test_saes_of_other_tensors_are_refused(change, words):
    with pytest.raises(sm.MatchError) as caught:
        with_weights(change)
    assert f"W_dec is a {words}" in str(caught.value) or f"W_dec is {words}" in str(caught.value)


def test_scales_of_every_kind():
    scale = np.arange(1, SAE.F + 1) / 4
    expected = SAE.fold(torch.tensor(scale)).W_dec
    for given in (
        scale,
        scale[::-1].copy()[::-1],
        scale.tolist(),
        scale.astype(">f4"),
        np.ma.array(scale),
        negated(scale),
        torch.tensor(scale).bfloat16(),
        tuple(scale),
        torch.tensor(scale).to_sparse(),
    ):
        assert torch.equal(SAE.fold(given).W_dec, expected)
    learnt = torch.tensor(scale, requires_grad=True)
    SAE.fold(learnt).W_dec.sum().backward()
    assert learnt.grad is not None
    assert sm.match(SAE, SAE, fold=learnt).certified
    masked = np.ma.array(scale, mask=scale > 2)
    for given in (
        masked,
        torch.tensor(scale).to(torch.complex64),
        scale > 2,
        scale.astype(object),
        {1: 2.0},
        3.0,
        scipy.sparse.coo_array([scale]),
        masked_tensor(torch.tensor(scale), torch.tensor(scale > 2)),
        [*scale[1:], np.ma.masked],
        *(made(scale, scale > 2) for made in OTHER_MASKS.values()),
        torch.tensor(scale, device="meta"),
        torch.nested.nested_tensor([torch.tensor(scale)], layout=torch.jagged),
    ):
        with pytest.raises(sm.MatchError, match=r"scale|fold"):
            SAE.fold(given)
    pair = sm.match(SAE, SAE, fold=(scale.astype(np.float32), scale))
    assert pair.cost == sm.match(SAE, SAE, fold=scale).cost


def test_activations_and_codes_of_every_kind():
    x = torch.tensor(np.random.default_rng(1).integers(-8, 8, (5, SAE.d)) / 4.0)
    f = SAE.encode(x)
    matching = sm.match(SAE, made_up(seed=1))
    for change in (
        torch.nn.Parameter,
        lambda t: t.to_sparse(),
        lambda t: t.to_sparse_csr(),
        lambda t: t.float(),
        lambda t: negated(t.numpy()),
        lambda t: t.as_subclass(Tagged),
    ):
        assert torch.equal(SAE.encode(change(x)), f)
        assert torch.equal(SAE.decode(change(f.float().double())), SAE.decode(f.float()))
        assert torch.equal(matching.carry(change(f.float().double())), matching.carry(f.float().double()))
    assert torch.equal(SAE.encode(x.to(torch.float8_e5m2).double()), SAE.encode(x.to(torch.float8_e5m2)))
    for change in (
        lambda t: masked_tensor(t, t > 0),
        lambda t: t.to("meta"),
        torch.Tensor.numpy,
        lambda t: torch.nested.nested_tensor(list(t)),
        lambda t: t.to(torch.complex64),
        lambda t: np.ma.array(t.numpy(), mask=t.numpy() > 0),
    ):
        for ask, values in ((SAE.encode, x), (SAE.decode, f), (matching.carry, f)):
            given = change(values)
            with pytest.raises(sm.MatchError, match=r"activations|codes"):
                ask(given)


@pytest.mark.parametrize(
    "ask",
    [
        lambda sae: sae.encode(torch.zeros(1, sae.d)),
        lambda sae: sae.decode(torch.zeros(1, sae.F)),
        sm.SAE.check_finite,
        *(lambda sae, fold=fold: sae.fold(fold) for fold in ("decoder_norm", "none", np.ones(SAE.F))),
        lambda sae: sm.match(sae, SAE),
        lambda sae: sm.match(SAE, sae),
        lambda sae: sm.certify(sae, SAE, range(SAE.F)),
        lambda sae: sae.save("never"),
        lambda sae: sae.save("never", "gemma_scope"),
        lambda sae: with_weights(lambda w: w.to("meta")).check_finite(),
    ],
)
def test_an_sae_without_values_is_refused_by_name(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sm.MatchError, match=r"W_(enc|dec) is a torch.float64 tensor on meta"):
        ask(SAE.to("meta"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "f8", "g"])
def test_activations_on_disk(tmp_path, dtype):
    x = np.asfortranarray(np.arange(32).reshape(4, 8), dtype=dtype)
    np.save(tmp_path / "layer_1.npy", x)
    (found,) = next(StoredActivations(tmp_path, 2).batches([1]))
    assert found.tolist() == x.tolist()


@pytest.mark.parametrize("dtype", ["i4", "c8", "?", "V2", "U1", "f4,f4"])
def test_activations_on_disk_that_are_refused(tmp_path, dtype):
    np.save(tmp_path / "layer_1.npy", np.zeros((4, 8), dtype))
    with pytest.raises(sm.MatchError, match="expected \\(tokens, d\\) of floating-point numbers"):
        StoredActivations(tmp_path, 2)
