"""Every kernel, compared with its float64 reference in Triton's interpreter, and compiled for every chip."""

import contextlib
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import aot
import numpy as np
import pytest
import torch

from saematch import MatchError, kernels
from saematch.kernels import PRECISIONS, TileShape
from saematch.kernels import costs as costs_module
from saematch.kernels.candidates import launch as candidates_launch
from saematch.kernels.candidates.reference import candidates as candidates_reference
from saematch.kernels.exact_products.reference import exact_products as exact_products_reference
from saematch.kernels.pairs_below.launch import TooManyPairsError, pairs_below
from saematch.kernels.pairs_below.reference import pairs_below as pairs_below_reference
from saematch.kernels.pairwise_cost.reference import pairwise_cost as pairwise_cost_reference
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tile_minima.reference import tile_minima as tile_minima_reference
from saematch.kernels.tiles import STORED, STORED_LISTING

SMALL = TileShape(16, 32, 16)
THOUSANDS = {"capacity": 4_000, "most": 2**28, "tile": SMALL}
# (F_A, F_B, K): one, a whole tile, one past it, odd, and K on either side of a multiple of 16
SHAPES = [(1, 1, 1), (16, 32, 16), (17, 33, 17), (32, 64, 15), (35, 97, 70)]
EMPTY = [(0, 5, 3), (5, 0, 3), (0, 0, 0), (4, 6, 0)]


@pytest.fixture(autouse=True)
def poisoned_tensors(monkeypatch):
    """Fill the tensors of `torch.empty` with NaN, or with an index that is out of range everywhere."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -(2**30))

    monkeypatch.setattr(torch, "empty", poisoned)


def integers(*size, seed=0, most=4):
    return torch.from_numpy(np.random.default_rng([seed, *size]).integers(-most, most + 1, size)).float()


def reals(*size, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *size]).standard_normal(size)).float()


def problem(A, B, K):
    """Return a problem of small whole numbers, which are exact in every precision and have many ties."""
    x, y = integers(A, K, seed=1, most=2), integers(B, K, seed=2, most=2)
    return x, y, integers(A, seed=3), integers(B, seed=4)


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one.double(), other.double())


def forms(x, y, precision="ieee"):
    """Return equal costs as products, stored, stored transposed, and as a part of a larger tensor."""
    return [kernels.products(x, y, precision), *map(kernels.stored, matrices(x @ y.T))]


def matrices(M):
    """Return equal matrices: contiguous, transposed in memory, and as a part of a larger tensor."""
    larger = torch.full((M.shape[0] + 3, 2 * M.shape[1] + 1), torch.nan)
    larger[2 : 2 + M.shape[0], 1::2] = M
    return [M, M.T.contiguous().T, larger[2 : 2 + M.shape[0], 1::2]]


def same_minima(matrix, M, rows, u, v, tile=SMALL):
    """Assert equal minima of the launcher and the reference, for the matrix in memory and for its values."""
    found = tile_minima(matrix, rows.int(), u, v, tile)
    expected = tile_minima_reference(M, rows, u, v, tile.BLOCK_M, tile.BLOCK_N)
    same(itertools.chain(*found), itertools.chain(*expected))


@pytest.mark.parametrize("shape", SHAPES + EMPTY)
def test_whole_numbers_bit_for_bit(shape):
    x, y, u, v = problem(*shape)
    A, B, _ = shape
    M, every = x @ y.T, torch.arange(A)
    row_limit, column_limit = integers(A, seed=5) - 4, integers(B, seed=6) - 4
    for costs in forms(x, y):
        same([kernels.pairwise_cost(costs, None, u, v, tile=SMALL)], [pairwise_cost_reference(M, every, u, v)])
        for k in (1, 3):
            found = kernels.candidates(costs, u, v, k, column_limit, tile=SMALL)
            same(itertools.chain(*found), itertools.chain(*candidates_reference(M, every, u, v, k, column_limit)))
    for matrix in matrices(M) if M.numel() else []:
        same_minima(matrix, M, every, u, v)
        found = pairs_below(matrix, every.int(), u, v, row_limit, column_limit, **THOUSANDS)
        same(found, pairs_below_reference(M, every, u, v, row_limit, column_limit))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_whole_numbers_in_every_precision_and_the_default_tile(precision):
    x, y, u, v = problem(35, 97, 70)
    M, every = x @ y.T, torch.arange(35)
    costs = kernels.products(x.T.contiguous().T, y[:, torch.arange(70)], precision)
    same([kernels.pairwise_cost(costs)], [M])
    limit = torch.full((97,), -20.0)
    same(
        itertools.chain(*kernels.candidates(costs, u, v, 5, limit)),
        itertools.chain(*candidates_reference(M, every, u, v, 5, limit)),
    )
    same_minima(M, M, every, u, v, STORED)
    limits = torch.full((35,), -20.0), limit
    found = pairs_below(M, every.int(), u, v, *limits, capacity=4_000, most=2**28, tile=STORED_LISTING)
    same(found, pairs_below_reference(M, every, u, v, *limits))


def test_some_rows_in_any_order():
    x, y, u, v = problem(40, 50, 20)
    M, rows = x @ y.T, torch.tensor([7, 3, 39, 3, 0])
    limit = torch.full((50,), torch.inf)
    for costs in forms(x, y):
        same([kernels.pairwise_cost(costs, rows, tile=SMALL)], [M[rows]])
        same(
            itertools.chain(*kernels.candidates(costs, u[rows], v, 2, rows=rows, tile=SMALL)),
            itertools.chain(*candidates_reference(M, rows, u[rows], v, 2, limit)),
        )
    for matrix in matrices(M):
        same_minima(matrix, M, rows, u[rows], v)


def test_lines_that_are_kept_out():
    x, y, u, v = problem(20, 40, 9)
    u[3], v[[0, 39]] = torch.inf, torch.inf
    M, every = x @ y.T, torch.arange(20)
    limits = torch.full((20,), torch.inf), torch.full((40,), -5.0)
    for matrix in matrices(M):
        same_minima(matrix, M, every, u, v)
        found = pairs_below(matrix, every.int(), u, v, *limits, **THOUSANDS)
        same(found, pairs_below_reference(M, every, u, v, *limits))
    unlimited = torch.full((40,), torch.inf)
    for costs in forms(x, y):
        found = kernels.candidates(costs, u, v, 3, tile=SMALL)
        same(itertools.chain(*found), itertools.chain(*candidates_reference(M, every, u, v, 3, unlimited)))
    rows, _ = kernels.candidates(kernels.stored(M), u, unlimited, 3, tile=SMALL)
    assert (rows.indices == -1).all()
    assert rows.values.isinf().all()


def test_row_blocks_change_nothing():
    x, y, u, v = problem(100, 70, 12)
    costs = kernels.products(x, y)
    whole = kernels.candidates(costs, u, v, 5)
    for each, block in ((costs, 4 * 70 * 13), (kernels.stored(x @ y.T), 4 * 70 * 3)):
        pieces = kernels.candidates(each, u, v, 5, block_bytes=block, tile=SMALL)
        same(itertools.chain(*whole), itertools.chain(*pieces))


@pytest.mark.parametrize("k", [1, 20, 64])
@pytest.mark.parametrize("kind", ["real", "constant", "few values"])
def test_candidates_with_ties_by_the_thousand(k, kind, monkeypatch):
    monkeypatch.setattr(candidates_launch, "SORTED", 2000)
    monkeypatch.setattr(candidates_launch, "CROWDED", 1)
    M = {"real": reals(90, 130), "constant": torch.ones(90, 130), "few values": integers(90, 130, most=1)}[kind]
    u, v = torch.zeros(90), torch.zeros(130)
    found = kernels.candidates(kernels.stored(M), u, v, k, tile=SMALL)
    expected = candidates_reference(M, torch.arange(90), u, v, k, torch.full((130,), torch.inf))
    same(itertools.chain(*found), itertools.chain(*expected))


def test_a_list_that_is_too_short_is_made_again():
    M, every = reals(40, 50), torch.arange(40)
    nothing = torch.zeros(40), torch.zeros(50)
    limits = torch.full((40,), 1.0), torch.full((50,), -torch.inf)
    found = pairs_below(M, every.int(), *nothing, *limits, capacity=1, most=2**28, tile=SMALL)
    same(found, pairs_below_reference(M, every, *nothing, *limits))
    with pytest.raises(TooManyPairsError, match=r"1,\d\d\d pairs are below their limits, and 7 were allowed"):
        pairs_below(M, every.int(), *nothing, *limits, capacity=1, most=7, tile=SMALL)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_are_as_good_as_torch_makes_them_and_within_their_bound(precision):
    """The error is at most twice that of torch for the same operands. The bound holds, and is not too large."""
    x, y = reals(48, 200, seed=1), reals(40, 200, seed=2)
    truth = x.double() @ y.double().T
    costs = kernels.products(x, y, precision)
    error = (kernels.pairwise_cost(costs, tile=SMALL) - truth).abs()
    torchs = (costs.left.float() @ costs.right.float().T - truth).abs()
    assert error.max() <= 2 * torchs.max()
    assert (error <= PRECISIONS[precision].error(200) * x.norm(dim=1)[:, None] * y.norm(dim=1)).all()


def test_more_parts_have_a_smaller_bound_and_too_many_columns_none():
    for width in (1, 100, 4_609, 2**14 + 1):
        bounds = {name: chosen.error(width) for name, chosen in PRECISIONS.items()}
        assert bounds["bf16x6"] <= bounds["bf16x3"] <= bounds["bf16"]
        assert bounds["tf32x3"] <= bounds["tf32"]
        assert bounds["ieee"] == min(bounds.values())
    assert {chosen.error(2**24) for chosen in PRECISIONS.values()} == {np.inf}


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "ieee"])
def test_the_bound_of_the_sum_covers_the_size_of_the_parts(precision):
    """The entries round up, so that their parts are as large as possible and have both signs."""
    chosen = PRECISIONS[precision]
    unit = 2.0**-chosen.bits
    x = torch.full((1, 64), 1 + unit * (1 + 2.0**-9))
    costs = kernels.products(x, x, precision)
    products = costs.left.double().abs() * costs.right.double().abs()
    others = sum(unit ** sum(pair) for pair in chosen.pairs if sum(pair))
    size = float(products.sum()) / float((x.double() ** 2).sum())
    assert size <= (1 + others) * (1 + unit) ** 2
    assert size >= 1 + unit  # it says something: parts are larger than their sum


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_finite_does_not_become_a_number(precision):
    x = torch.tensor([0x7FFFFFFF, -1, 0x7F800000], dtype=torch.int32).view(torch.float32)[:, None]
    operand = kernels.split(x, PRECISIONS[precision], 0)
    assert not operand.isfinite().all(dim=1).any()


def test_offsets_into_memory_are_as_wide_as_memory(tmp_path):
    """The rows are 4 GiB apart, in a sparse file, so that their offsets do not fit into 32 bits."""
    apart = 2**30
    cells = torch.from_numpy(np.memmap(tmp_path / "sparse", np.float32, "w+", shape=(3 * apart + 64,)))
    view = cells.as_strided((4, 64), (apart, 1))
    x = integers(4, 64)
    view.copy_(x)
    expected, zeros = x @ x.T, torch.zeros(64)
    made = kernels.pairwise_cost(kernels.Costs(view, view, PRECISIONS["ieee"]), tile=SMALL)
    same([made], [expected])
    for matrix in (view, view.T):
        rows, columns = (torch.zeros(length) for length in matrix.shape)
        whole = x if matrix is view else x.T
        every = torch.arange(len(whole))
        same_minima(matrix, whole, every, rows, columns)
        limits = torch.full_like(rows, 2.0), torch.full_like(columns, -3.0)
        found = pairs_below(matrix, every.int(), rows, columns, *limits, **THOUSANDS)
        same(found, pairs_below_reference(whole, every, rows, columns, *limits))
    view.zero_()
    kernels.pairwise_cost(kernels.stored(x), None, torch.zeros(4), zeros, out=view, tile=SMALL)
    same([view], [x])


def test_kernels_start_on_the_device_of_their_tensors(monkeypatch):
    entered = []

    class Guard:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            entered.append(self.device)

        def __exit__(self, *error):
            entered.append("left")

    class Kernel:
        def __getitem__(self, grid):
            return lambda **arguments: entered.append((grid, arguments))

    monkeypatch.setattr(torch.cuda, "device", Guard)
    costs_module.launch(Kernel(), (3,), torch.device("cuda:1"), M=1)
    assert entered == [torch.device("cuda:1"), ((3,), {"M": 1}), "left"]
    for path in (ROOT / "kernels").glob("*/launch.py"):
        assert not re.search(r"_kernel\[", path.read_text()), path


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "ieee"])
def test_the_bound_of_a_split_holds_for_bad_rows_and_is_within_reach(precision):
    """Each row repeats one entry, so that nothing cancels. The entries cover [1, 2)."""
    chosen = PRECISIONS[precision]
    unit = 2.0**-chosen.bits
    x = torch.linspace(1, 2, 4001)[:-1, None].expand(-1, 16).contiguous()
    costs = kernels.products(x, x, precision)
    truth = (x.double() ** 2).sum(dim=1)
    error = float((((costs.left.double() * costs.right.double()).sum(dim=1) - truth) / truth).abs().max())
    split = (chosen.parts + 1) * unit**chosen.parts * (1 + 4 * unit)
    assert error <= split
    assert error >= split / 16


@pytest.mark.parametrize("precision", PRECISIONS)
def test_parts_are_exact_in_their_arithmetic_and_add_up(precision):
    chosen = PRECISIONS[precision]
    x = reals(5, 33) * torch.logspace(-20, 20, 33)
    costs = kernels.products(x, x, precision)
    for side, operand in enumerate((costs.left, costs.right)):
        assert operand.dtype == chosen.dtype
        assert operand.shape[1] % 64 == 0
        parts = {pair[side]: operand[:, 33 * n : 33 * (n + 1)] for n, pair in enumerate(chosen.pairs)}
        total = sum(parts[part].double() for part in range(chosen.parts))
        assert ((total - x.double()).abs() <= 2.0 ** (-chosen.bits * chosen.parts) * x.double().abs()).all()
        mantissa = np.frexp(operand.double().numpy())[0] * 2**chosen.bits
        assert (mantissa == np.round(mantissa)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [20, 16, 1])
def test_exact_products(dtype, width):
    x, y = reals(30, width, seed=1).to(dtype), reals(25, width, seed=2).to(dtype).T.contiguous().T
    rows, columns = torch.tensor([0, 29, 7, 7, 3]), torch.tensor([24, 0, 7, 8, 3])
    a, b = reals(width, seed=5).double(), reals(width, seed=6).double()
    found = kernels.exact_products(x, y, rows, columns, a, b, block_k=16)
    expected = exact_products_reference(x, y, rows, columns, a, b)
    size = (x[rows] - a).norm(dim=1) * (y[columns] - b).norm(dim=1)
    # Either sum is off by gamma(K + 2).
    assert ((found - expected).abs() <= 2 * (width + 2) * 2.0**-53 * size).all()


def test_exact_products_of_none():
    none = torch.zeros(0, dtype=torch.int64)
    for width in (4, 0):
        centre = torch.zeros(width, dtype=torch.float64)
        x = reals(3, width)
        assert kernels.exact_products(x, x, none, none, centre, centre).shape == (0,)
    no_columns = torch.zeros(0, dtype=torch.float64)
    one = torch.zeros(1, dtype=torch.int64)
    assert kernels.exact_products(x, x, one, one, no_columns, no_columns).tolist() == [0.0]


def _set_default_dtype(stack):
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


def _set_matmul_precision(stack):
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("medium")


def _allow_tf32(stack):
    stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", torch.backends.cuda.matmul.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = True


def _autocast(stack):
    stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))


def _inference_mode(stack):
    stack.enter_context(torch.inference_mode())


SETTINGS = [_set_default_dtype, _set_matmul_precision, _allow_tf32, _autocast, _inference_mode]


@pytest.mark.parametrize("change", SETTINGS)
def test_a_hosts_settings_change_no_bit(change):
    x, y, u, v = reals(20, 30), reals(25, 30, seed=9), reals(20, seed=3), reals(25, seed=4)
    stored, centre = reals(20, 25, seed=5), reals(30, seed=6).double()

    def everything():
        costs = kernels.products(x, y, "tf32x3")
        pairs = torch.arange(20)
        return [
            kernels.pairwise_cost(costs),
            *itertools.chain(*kernels.candidates(costs, u, v, 3)),
            *itertools.chain(*kernels.candidates(kernels.stored(stored), u, v, 3)),
            kernels.exact_products(x, y, pairs, pairs, centre, centre),
        ]

    before = everything()
    with contextlib.ExitStack() as stack:
        change(stack)
        after = everything()
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


X, Y, ROW, COLUMN, CENTRE = reals(4, 3), reals(5, 3), torch.zeros(4), torch.zeros(5), torch.zeros(3).double()
FIRST, FIFTH = torch.tensor([0]), torch.tensor([5])
NEGATED = torch.complex(reals(4, 4), reals(4, 4)).conj().imag  # its sign is not in memory
BAD = {
    "x is torch.float64": lambda: kernels.products(X.double(), Y),
    "x is a torch.float32 tensor": lambda: kernels.products(X[0], Y),
    "matrix is a list": lambda: kernels.stored([[1.0]]),
    "K = 3 and y has K = 2": lambda: kernels.products(X, Y[:, :2]),
    "y lies on meta and the costs on cpu": lambda: kernels.products(X, Y.to("meta")),
    "precision 'fp8' is not known": lambda: kernels.products(X, Y, "fp8"),
    "sides up to 2,147,482,624": lambda: kernels.stored(torch.zeros(1).expand(1, 2**31)),
    "k is 65": lambda: kernels.candidates(kernels.products(X, Y), ROW, COLUMN, 65),
    "row_offset is a torch.float32 tensor": lambda: kernels.candidates(kernels.products(X, Y), COLUMN, COLUMN, 1),
    "column_offset is a torch.float64": lambda: kernels.candidates(kernels.products(X, Y), ROW, COLUMN.double(), 1),
    "rows reach from 0 to 4": lambda: kernels.pairwise_cost(kernels.products(X, Y), torch.arange(5)),
    "expected a vector of indices": lambda: kernels.pairwise_cost(kernels.products(X, Y), torch.ones(2)),
    "out is torch.float64": lambda: kernels.pairwise_cost(kernels.products(X, Y), out=torch.zeros(4, 5).double()),
    "k is 2.5": lambda: kernels.candidates(kernels.products(X, Y), ROW, COLUMN, 2.5),
    "out is a list": lambda: kernels.pairwise_cost(kernels.products(X, Y), out=[1]),
    "rows apart": lambda: kernels.pairwise_cost(kernels.products(X, Y), out=torch.zeros(1, 5).expand(4, 5)),
    "x is a list": lambda: kernels.exact_products([[1.0]], Y, FIRST, FIRST, CENTRE, CENTRE),
    "rows is a NoneType": lambda: kernels.exact_products(X, Y, None, FIRST, CENTRE, CENTRE),
    "columns reach from 5 to 5": lambda: kernels.exact_products(X, Y, FIRST, FIFTH, CENTRE, CENTRE),
    "rows is a torch.int32": lambda: kernels.exact_products(X, Y, FIRST.int(), FIRST, CENTRE, CENTRE),
    "a is a torch.float32": lambda: kernels.exact_products(X, Y, FIRST, FIRST, CENTRE.float(), CENTRE),
    "b is a torch.float64": lambda: kernels.exact_products(X, Y, FIRST, FIRST, CENTRE, CENTRE[:2]),
    "matrix is a view that torch negates": lambda: kernels.stored(NEGATED),
    "row_constant is a view that torch negates": lambda: kernels.pairwise_cost(
        kernels.products(X, Y), row_constant=NEGATED[0]
    ),
    "one launch takes": lambda: pairs_below(
        torch.zeros(1).expand(2**22, 2**22),
        torch.zeros(1).int().expand(2**22),
        *[torch.zeros(1).expand(2**22)] * 4,
        capacity=1,
        most=1,
        tile=SMALL,
    ),
    "rows of different width have no product": lambda: kernels.exact_products(
        X, Y[:, :2], FIRST, FIRST, CENTRE, CENTRE
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_at_the_door(message):
    with pytest.raises(MatchError, match=message):
        BAD[message]()


ROOT = Path(__file__).parent.parent


def without_the_interpreter(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, env=environment, **options
    )


def test_without_a_gpu_and_without_the_interpreter_kernels_say_so():
    code = "import torch; from saematch import kernels; kernels.stored(torch.zeros(2, 2))"
    done = without_the_interpreter("-c", code)
    assert "Triton kernels need a CUDA GPU" in done.stderr


@pytest.fixture(scope="module")
def compiled():
    done = without_the_interpreter(str(ROOT / "bench" / "aot.py"), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_launched_by_default_is_what_is_compiled_and_reported(monkeypatch):
    launched = set()

    def recorded(kernel, grid, device, **given):
        operation = kernel.fn.__name__.removesuffix("_kernel")
        if operation == "pairwise_cost":
            operand = "ieee" if given["PRECISION"] == "ieee" else str(given["left_ptr"].dtype).removeprefix("torch.")
        else:
            operand = "stored"
        tile = {name: given[name] for name in TileShape._fields if name in given}
        launched.add((operation, operand, tuple(tile.items())))
        costs_module.launch(kernel, grid, device, **given)

    for folder in ("pairs_below", "pairwise_cost", "tile_minima"):
        monkeypatch.setattr(importlib.import_module(f"saematch.kernels.{folder}.launch"), "launch", recorded)
    x, y = reals(70, 5), reals(65, 5)
    u, v = torch.zeros(70), torch.zeros(65)
    for costs in (kernels.stored(reals(70, 65)), *(kernels.products(x, y, name) for name in ("ieee", "tf32", "bf16"))):
        kernels.candidates(costs, u, v, 3)
        kernels.pairwise_cost(costs)
    compiled = {(each.operation, each.operand) for each in aot.variants() if not each.operation.startswith("exact")}
    assert {(operation, operand) for operation, operand, _ in launched} == compiled
    for operation, operand, tile in launched:  # of the chip that the interpreter takes itself for
        shape = aot.tile_of(aot.Variant(operation, operand, "sm_90"))
        assert dict(tile) == {name: value for name, value in shape._asdict().items() if name in dict(tile)}, operation
        assert ("BLOCK_K" in dict(tile)) == (operation == "pairwise_cost")


def test_every_kernel_compiles_for_every_chip_without_spills_and_within_its_limits(compiled):
    assert {row["chip"] for row in compiled} == {"sm_80", "sm_90", "sm_100"}
    assert len({row["operation"] for row in compiled}) == 4
    for row in compiled:
        assert row["spilled"] == "0", row
        assert int(row["shared"]) <= {"sm_80": 163, "sm_90": 227, "sm_100": 227}[row["chip"]] * 1024, row


def test_tensor_cores_are_used_where_the_precision_calls_for_them_and_nowhere_else(compiled):
    for row in compiled:
        wanted = row["operand"] in ("bfloat16", "float32") and not row["operation"].startswith("exact")
        assert (int(row["tensor-core"]) > 0) == wanted, row
