"""Every kernel, compared with its reference in Triton's interpreter, and compiled for every chip."""

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
import triton.runtime.interpreter
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from saematch import MatchError, kernels
from saematch.cost import DistanceCost
from saematch.kernels import Float32Products, Int8Products, TileShape
from saematch.kernels import arguments as arguments_module
from saematch.kernels.arguments import output
from saematch.kernels.candidates import launch as candidates_launch
from saematch.kernels.candidates.reference import candidates as candidates_reference
from saematch.kernels.exact_products.reference import exact_products as exact_products_reference
from saematch.kernels.int8_products.reference import int8_products as int8_products_reference
from saematch.kernels.pairs_below.launch import TooManyPairsError, pairs_below
from saematch.kernels.pairs_below.reference import pairs_below as pairs_below_reference
from saematch.kernels.pairwise_cost.launch import k_major
from saematch.kernels.pairwise_cost.reference import pairwise_cost as pairwise_cost_reference
from saematch.kernels.tile_minima.launch import tile_minima
from saematch.kernels.tile_minima.reference import tile_minima as tile_minima_reference
from saematch.kernels.tiles import LISTING, READING, TILES

SMALL = TileShape(16, 32, 16, GROUP=3)
THOUSANDS = {"capacity": 4_000, "most": 2**28, "tile": SMALL}
# (F_A, F_B, K): one, a whole tile, one past it, odd, and K on either side of a multiple of 16
SHAPES = [(1, 1, 1), (16, 32, 16), (17, 33, 17), (32, 64, 15), (35, 97, 70)]
EMPTY = [(0, 5, 3), (5, 0, 3), (0, 0, 0), (4, 6, 0)]
# 133,120 is the largest K whose sums int32 holds.
INT8_SHAPES = [
    (1, 1, 64),
    (17, 33, 192),
    (70, 140, 64),
    (5, 6, 4_672),
    (2, 3, 133_120),
    (2, 3, 133_184),
    (0, 3, 64),
    (3, 0, 64),
    (3, 4, 0),
]


@pytest.fixture(autouse=True)
def poisoned_tensors(monkeypatch):
    """Fill the tensors of `torch.empty` with NaN, or with an index that is out of range everywhere."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else -(2**30))

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def in_any_order(monkeypatch):
    """Run the programs of every launch in a random order, as a GPU may."""
    builder, random, order = triton.runtime.interpreter.interpreter_builder, np.random.default_rng(0), []
    set_size, set_place = builder.set_grid_dim, builder.set_grid_idx

    def shuffle(*size):
        assert size[1:] == (1, 1)
        order[:] = random.permutation(size[0]).tolist()
        set_size(*size)

    monkeypatch.setattr(builder, "set_grid_dim", shuffle)
    monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: set_place(order[x], y, z))
    return order


def integers(*size, seed=0, most=4):
    return torch.from_numpy(np.random.default_rng([seed, *size]).integers(-most, most + 1, size)).float()


def reals(*size, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *size]).standard_normal(size)).float()


def problem(A, B, K):
    """Return a problem of small whole numbers, which float32 sums hold exactly and which have many ties."""
    x, y = integers(A, K, seed=1, most=2), integers(B, K, seed=2, most=2)
    return x, y, integers(A, seed=3), integers(B, seed=4)


def int8_problem(A, B, K, kind="random"):
    """Return int8 rows with scales whose products all round."""
    left, right = (integers(n, K, seed=n, most=127).to(torch.int8) for n in (A, B))
    if kind == "extreme":
        left, right = torch.full_like(left, 127), torch.full_like(right, -127)
        right[1:] *= -1
    return left, right, reals(A, seed=8).abs() / 3, reals(B, seed=9).abs() / 3


def in_memory(M):
    """Return M as kernels write it: with room at the end of its rows."""
    block, _ = output(None, tuple(M.shape), M.device)
    return block.copy_(M)


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one.double(), other.double())


def same_lists(found, expected):
    same(itertools.chain(*found), itertools.chain(*expected))


def same_readings(M, u, v, row_limit, column_limit, minima=SMALL, listing=SMALL):
    """Assert that both kernels that read a block agree with their references."""
    found = tile_minima(in_memory(M), u, v, minima)
    same_lists(found, tile_minima_reference(M, u, v, minima.BLOCK_M, minima.BLOCK_N))
    found = pairs_below(in_memory(M), u, v, row_limit, column_limit, **(THOUSANDS | {"tile": listing}))
    same(found, pairs_below_reference(M, u, v, row_limit, column_limit))


@pytest.mark.parametrize("shape", SHAPES + EMPTY)
def test_whole_numbers_bit_for_bit(shape):
    x, y, u, v = problem(*shape)
    A, B, _ = shape
    M = x @ y.T
    row_limit, column_limit = integers(A, seed=5) - 4, integers(B, seed=6) - 4
    found = kernels.pairwise_cost(x, y, row_constant=u, column_constant=v, tile=SMALL)
    same([found], [pairwise_cost_reference(x, y, u, v)])
    for k in (1, 3):
        found = kernels.candidates(Float32Products(x, y), u, v, k, column_limit, tile=SMALL)
        same_lists(found, candidates_reference(M, u, v, k, column_limit))
    if M.numel():
        same_readings(M, u, v, row_limit, column_limit)


@pytest.mark.parametrize("kind", ["random", "extreme"])
@pytest.mark.parametrize("shape", INT8_SHAPES)
def test_int8_products_bit_for_bit(shape, kind):
    given = int8_problem(*shape, kind)
    same([kernels.int8_products(*given, tile=TileShape(16, 32, 64))], [int8_products_reference(*given)])


def test_the_order_of_the_roundings_is_the_documented_one():
    left, right, s, t = int8_problem(17, 33, 4_672)
    sums = left.numpy().astype(np.int64) @ right.numpy().astype(np.int64).T
    assert np.abs(sums).max() > 2**19
    expected = sums.astype(np.float32) * t.numpy() * s.numpy()[:, None]
    assert kernels.int8_products(left, right, s, t).numpy().tobytes() == expected.tobytes()
    assert (sums.astype(np.float32) * s.numpy()[:, None] * t.numpy() != expected).any()


@pytest.mark.parametrize(("chip", "operand"), TILES)
def test_every_tile_of_the_table(chip, operand):
    tile = TILES[chip, operand]
    if operand == "int8":
        given = int8_problem(150, 131, 192)
        same([kernels.int8_products(*given, tile=tile)], [int8_products_reference(*given)])
    else:
        x, y, u, v = problem(150, 131, 37)
        found = kernels.pairwise_cost(x, y, row_constant=u, column_constant=v, tile=tile)
        same([found], [pairwise_cost_reference(x, y, u, v)])


def test_the_default_tiles_of_both_readings():
    x, y, u, v = problem(135, 297, 20)
    limits = torch.full((135,), -20.0), torch.full((297,), -20.0)
    same_readings(x @ y.T, u, v, *limits, minima=READING, listing=LISTING)
    found = kernels.candidates(Float32Products(x, y), u, v, 2, limits[1])
    same_lists(found, candidates_reference(x @ y.T, u, v, 2, limits[1]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_some_rows_and_columns_in_any_order(dtype):
    x, y, u, v = problem(40, 50, 20)
    rows, columns = torch.tensor([7, 3, 39, 3, 0], dtype=dtype), torch.tensor([49, 0, 7, 7], dtype=dtype)
    int8 = int8_problem(40, 50, 128)
    u, v, limit = u[rows], v[columns], torch.full((4,), 3.0)
    for products in (Float32Products(x, y), Int8Products(*int8)):
        whole = products.block()
        for some in ((rows, None), (None, columns), (rows, columns), (rows[:0], columns)):
            M = whole if some[0] is None else whole[some[0]]
            M = M if some[1] is None else M[:, some[1]]
            same([products.block(*some)], [M])
        found = kernels.candidates(products, u, v, 2, limit, rows, columns, tile=SMALL)
        same_lists(found, candidates_reference(M := whole[rows][:, columns], u, v, 2, limit))
        assert M.shape == (5, 4)
    found = kernels.pairwise_cost(x, y, rows, columns, u, v, tile=SMALL)
    same([found], [(x @ y.T)[rows][:, columns] + u[:, None] + v])
    same([kernels.int8_products(*int8, rows, columns)], [int8_products_reference(*int8)[rows][:, columns]])


@pytest.mark.parametrize("width", [48, 33])
def test_a_callers_buffer_is_written_where_it_is_and_nowhere_else(width):
    larger = torch.full((23, 60), 7.0)
    part = larger[2:20, 5 : 5 + width]
    x, y, _, _ = problem(18, width, 9)
    int8 = int8_problem(18, width, 64)
    for write, expected in (
        (lambda: kernels.pairwise_cost(x, y, out=part, tile=SMALL), x @ y.T),
        (lambda: kernels.int8_products(*int8, out=part), int8_products_reference(*int8)),
        (lambda: Float32Products(x, y).block(out=part), x @ y.T),
        (lambda: Int8Products(*int8).block(out=part), int8_products_reference(*int8)),
    ):
        larger.fill_(7.0)
        assert write() is part
        same([part], [expected])
        assert (larger == 7.0).sum() == larger.numel() - part.numel() + (expected == 7.0).sum()


def test_operands_are_copied_only_if_their_layout_asks_for_it():
    x = reals(32, 20)
    major = x.T.contiguous().T
    assert k_major(major).data_ptr() == major.data_ptr()
    products = Float32Products(major, x)
    assert products.x.data_ptr() == major.data_ptr()
    # Kept once, they are not copied again: neither for all rows nor for rows that begin at a multiple of 16.
    assert k_major(products.y).data_ptr() == products.y.data_ptr()
    assert products.part(slice(16, 30)).x.data_ptr() == major[16:].data_ptr()
    for given in (
        x,
        major[3:19],
        major[:17],
        x[:, ::2],
        x[:1],
        x[:, :1],
        x[:, :1].T.contiguous().T,
        x[0].expand(5, 20),
        torch.arange(81.0).as_strided((17, 3), (1, 32)),  # memory ends with the last row
    ):
        copied = k_major(given)
        same([copied], [given])
        assert (copied.stride(0), copied.stride(1) % 16, copied.data_ptr() % 16) == (1, 0, 0)
        # Whole loads of 16 numbers stay inside.
        copied.as_strided((-(-len(given) // 16) * 16, given.shape[1]), copied.stride())
    left, right, s, t = int8_problem(20, 30, 64)
    expected = int8_products_reference(left, right, s, t)
    same([kernels.int8_products(left.T.contiguous().T, right.repeat(1, 2)[:, 64:], s, t.repeat(2)[30:])], [expected])


def test_lines_that_are_kept_out():
    x, y, u, v = problem(20, 40, 9)
    u[3], v[[0, 39]] = torch.inf, torch.inf
    M, unlimited = x @ y.T, torch.full((40,), torch.inf)
    same_readings(M, u, v, torch.full((20,), torch.inf), torch.full((40,), -5.0))
    found = kernels.candidates(Float32Products(x, y), u, v, 3, tile=SMALL)
    same_lists(found, candidates_reference(M, u, v, 3, unlimited))
    rows, _ = kernels.candidates(Float32Products(x, y), u, unlimited, 3, tile=SMALL)
    assert (rows.indices == -1).all()
    assert rows.values.isinf().all()


def test_row_blocks_change_nothing():
    x, y, u, v = problem(100, 70, 12)
    some = torch.arange(99, -1, -1), torch.arange(0, 70, 2)
    for products in (Float32Products(x, y), Int8Products(*int8_problem(100, 70, 64))):
        whole = kernels.candidates(products, u, v, 5)
        for rows in (1, 37):
            pieces = kernels.candidates(products, u, v, 5, block_bytes=4 * 80 * rows, tile=SMALL)
            same_lists(whole, pieces)
        whole = kernels.candidates(products, u, v[::2], 5, rows=some[0], columns=some[1])
        pieces = kernels.candidates(products, u, v[::2], 5, None, *some, block_bytes=4 * 48 * 20, tile=SMALL)
        same_lists(whole, pieces)


@pytest.mark.parametrize("k", [1, 20, 256])
@pytest.mark.parametrize("kind", ["real", "constant", "few values"])
def test_candidates_with_ties_by_the_thousand(k, kind, monkeypatch):
    monkeypatch.setattr(candidates_launch, "SORTED", 2000)
    monkeypatch.setattr(candidates_launch, "CROWDED", 1)
    x = {"real": reals(45, 1), "constant": torch.ones(45, 1), "few values": integers(45, 1, most=1)}[kind]
    y = reals(260, 1) if kind == "real" else torch.ones(260, 1)
    u, v = torch.zeros(45), torch.zeros(260)
    found = kernels.candidates(Float32Products(x, y), u, v, k, tile=SMALL)
    same_lists(found, candidates_reference(x @ y.T, u, v, k, torch.full((260,), torch.inf)))


def test_a_list_that_is_too_short_is_made_again():
    M = reals(40, 50)
    nothing = torch.zeros(40), torch.zeros(50)
    limits = torch.full((40,), 1.0), torch.full((50,), -torch.inf)
    found = pairs_below(in_memory(M), *nothing, *limits, capacity=1, most=2**28, tile=SMALL)
    same(found, pairs_below_reference(M, *nothing, *limits))
    with pytest.raises(TooManyPairsError, match=r"1,\d\d\d pairs are below their limits, and 7 were allowed"):
        pairs_below(in_memory(M), *nothing, *limits, capacity=1, most=7, tile=SMALL)


@pytest.mark.parametrize("trial", range(3))
def test_programs_in_any_order_over_poisoned_memory_compute_the_same(trial, in_any_order):
    A, B, K = np.random.default_rng(trial).integers(33, 120, 3).tolist()
    x, y, u, v = problem(A, B, K)
    limits = torch.full((A,), -3.0), torch.full((B,), -3.0)
    same([kernels.pairwise_cost(x, y, tile=SMALL)], [x @ y.T])
    int8 = int8_problem(A, B, 128)
    same([kernels.int8_products(*int8, tile=TileShape(16, 32, 64))], [int8_products_reference(*int8)])
    assert in_any_order != sorted(in_any_order)
    same_readings(x @ y.T, u, v, *limits)
    assert in_any_order != sorted(in_any_order)
    found = kernels.candidates(Float32Products(x, y), u, v, 3, limits[1], tile=SMALL)
    same_lists(found, candidates_reference(x @ y.T, u, v, 3, limits[1]))
    pairs, centre = torch.arange(33), torch.zeros(K).double()
    same([kernels.exact_products(x, y, pairs, pairs, centre, centre)], [(x[:33] * y[:33]).sum(1)])
    assert in_any_order != sorted(in_any_order)


def test_float32_products_are_as_good_as_torch_makes_them_and_within_their_bound():
    """The error is at most twice that of torch. The bound is gamma(K + 8) in units of 2^-24."""
    x, y = reals(48, 200, seed=1), reals(40, 200, seed=2)
    truth = x.double() @ y.double().T
    error = (kernels.pairwise_cost(x, y, tile=SMALL) - truth).abs()
    assert error.max() <= 2 * (x @ y.T - truth).abs().max()
    terms = 208 * 2.0**-24
    assert (error <= terms / (1 - terms) * x.norm(dim=1)[:, None] * y.norm(dim=1)).all()


def sparse(tmp_path, dtype, length):
    return torch.from_numpy(np.memmap(tmp_path / "sparse", dtype, "w+", shape=(length,)))


def test_offsets_into_memory_are_as_wide_as_memory(tmp_path):
    """The lines are 4 GiB apart, in a sparse file, so that their offsets do not fit into 32 bits."""
    apart = 2**30
    cells = sparse(tmp_path, np.float32, 3 * apart + 64)
    view = cells.as_strided((4, 64), (apart, 1))
    x = integers(4, 64)
    view.copy_(x)
    # The operands: K-major rows of four numbers.
    for block_k in (2, 16):
        same([kernels.pairwise_cost(view.T, view.T, tile=TileShape(16, 32, block_k))], [x.T @ x])
    assert k_major(view.T).data_ptr() == view.data_ptr()
    # A block that is read, and one that is written.
    limits = torch.full((4,), 2.0), torch.full((64,), -3.0)
    zeros = torch.zeros(4), torch.zeros(64)
    same_lists(tile_minima(view, *zeros, SMALL), tile_minima_reference(x, *zeros, 16, 32))
    same(pairs_below(view, *zeros, *limits, **THOUSANDS), pairs_below_reference(x, *zeros, *limits))
    view.zero_()
    kernels.pairwise_cost(x, torch.eye(64), out=view, tile=SMALL)
    same([view], [x])
    rows = sparse(tmp_path, np.int8, 3 * apart + 64).as_strided((4, 64), (apart, 1))
    rows.copy_(x)
    expected = int8_products_reference(x.to(torch.int8), x.to(torch.int8), *2 * [torch.ones(4)])
    same([kernels.int8_products(rows, rows, torch.ones(4), torch.ones(4))], [expected])


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
    arguments_module.launch(Kernel(), (3,), torch.device("cuda:1"), M=1)
    assert entered == [torch.device("cuda:1"), ((3,), {"M": 1}), "left"]
    for path in (ROOT / "kernels").glob("*/launch.py"):
        assert not re.search(r"_kernel\[", path.read_text()), path


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
    int8, centre = int8_problem(20, 25, 64), reals(30, seed=6).double()

    def everything():
        pairs = torch.arange(20)
        return [
            kernels.pairwise_cost(x, y),
            kernels.int8_products(*int8),
            *itertools.chain(*kernels.candidates(Float32Products(x, y), u, v, 3)),
            *itertools.chain(*kernels.candidates(Int8Products(*int8), u, v, 3)),
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
BYTES = torch.zeros(4, 64, dtype=torch.int8)
NEGATED = torch.complex(reals(4, 4), reals(4, 4)).conj().imag  # its sign is not in memory
BAD = {
    "x is torch.float64": lambda: kernels.pairwise_cost(X.double(), Y),
    "x is a torch.float32 tensor": lambda: Float32Products(X[0], Y),
    "y is a list": lambda: Float32Products(X, [[1.0]]),
    "K = 3 and y has K = 2": lambda: kernels.pairwise_cost(X, Y[:, :2]),
    "y lies on meta and the others on cpu": lambda: kernels.pairwise_cost(X, Y.to("meta")),
    "sides up to 2,147,482,624": lambda: kernels.pairwise_cost(torch.zeros(1).expand(2**31, 1), Y),
    "k is 257": lambda: kernels.candidates(Float32Products(X, Y), ROW, COLUMN, 257),
    "k is 2.5": lambda: kernels.candidates(Float32Products(X, Y), ROW, COLUMN, 2.5),
    "row_offset is a torch.float32 tensor": lambda: kernels.candidates(Float32Products(X, Y), COLUMN, COLUMN, 1),
    "column_offset is a torch.float64": lambda: kernels.candidates(Float32Products(X, Y), ROW, COLUMN.double(), 1),
    "column_limit is a torch.float32 tensor": lambda: kernels.candidates(
        Float32Products(X, Y), ROW, COLUMN[:1], 1, COLUMN, columns=FIRST
    ),
    "rows reach from 0 to 4": lambda: kernels.pairwise_cost(X, Y, torch.arange(5)),
    "columns reach from 5 to 5": lambda: kernels.candidates(Float32Products(X, Y), ROW, COLUMN, 1, columns=FIFTH),
    "expected a vector of indices": lambda: kernels.pairwise_cost(X, Y, torch.ones(2)),
    "out is torch.float64": lambda: kernels.pairwise_cost(X, Y, out=torch.zeros(4, 5).double()),
    "out is a list": lambda: kernels.pairwise_cost(X, Y, out=[1]),
    "rows apart": lambda: kernels.pairwise_cost(X, Y, out=torch.zeros(1, 5).expand(4, 5)),
    "x is a view that torch negates": lambda: kernels.pairwise_cost(NEGATED, NEGATED),
    "row_constant is a view that torch negates": lambda: kernels.pairwise_cost(X, Y, row_constant=NEGATED[0]),
    "left is torch.float32": lambda: kernels.int8_products(X, BYTES, ROW, ROW),
    "left has K = 63; expected a multiple of 64": lambda: Int8Products(BYTES[:, 1:], BYTES[:, 1:], ROW, ROW).block(),
    "right_scale is a torch.float32 tensor": lambda: kernels.int8_products(BYTES, BYTES, ROW, COLUMN),
    "rows reach from 5 to 5": lambda: kernels.int8_products(BYTES, BYTES, ROW, ROW, FIFTH),
    "x is a list": lambda: kernels.exact_products([[1.0]], Y, FIRST, FIRST, CENTRE, CENTRE),
    "rows is a NoneType": lambda: kernels.exact_products(X, Y, None, FIRST, CENTRE, CENTRE),
    "columns reach from 5 to 5; there are 5": lambda: kernels.exact_products(X, Y, FIRST, FIFTH, CENTRE, CENTRE),
    "rows is a torch.int32": lambda: kernels.exact_products(X, Y, FIRST.int(), FIRST, CENTRE, CENTRE),
    "a is a torch.float32": lambda: kernels.exact_products(X, Y, FIRST, FIRST, CENTRE.float(), CENTRE),
    "b is a torch.float64": lambda: kernels.exact_products(X, Y, FIRST, FIRST, CENTRE, CENTRE[:2]),
    "one launch takes": lambda: pairs_below(
        torch.zeros(1).expand(2**22, 2**22), *[torch.zeros(1).expand(2**22)] * 4, capacity=1, most=1, tile=SMALL
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
    code = "import torch; from saematch import kernels; kernels.pairwise_cost(torch.zeros(2, 2), torch.zeros(2, 2))"
    done = without_the_interpreter("-c", code)
    assert "Triton kernels need a CUDA GPU" in done.stderr


@pytest.fixture
def launched(monkeypatch):
    """Run kernels and record each launch: its kernel, how the compiler specialises its arguments, and its options."""
    launches, backend = [], make_backend(GPUTarget("cuda", 90, 32))

    def recorded(kernel, grid, device, **given):
        compiled = JITFunction(kernel.fn, **kernel.kwargs)
        bind = create_function_from_signature(compiled.signature, compiled.params, backend)
        _, specialisation, options = bind(**given)
        operation = kernel.fn.__name__.removesuffix("_kernel")
        launches.append((operation, tuple(specialisation), tuple(options.items()), given))
        arguments_module.launch(kernel, grid, device, **given)

    for operation in aot.KERNELS:
        monkeypatch.setattr(importlib.import_module(f"saematch.kernels.{operation}.launch"), "launch", recorded)
    return launches


@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_a_run_compiles_each_kernel_once(launched, precision, monkeypatch):
    """Rounds look at rows and columns of any number, whose blocks end anywhere, and compute any number of pairs."""
    monkeypatch.setattr("saematch.cost.gpu.ROW_BLOCK_BYTES", 4 * 48 * 96)
    x, y = np.random.default_rng(0).standard_normal((2, 130, 33))
    cost = DistanceCost(x, y[:91], torch.device("cpu"), precision=precision, backend="triton")
    prices, potentials = cost.by_cost()
    for rows, columns in ((130, 91), (130, 64), (67, 91), (128, 80), (1, 1)):
        some = np.arange(130 - rows, 130), np.arange(columns)
        cost.scan(some[0], prices, np.zeros(91), potentials, 3, np.inf, some[1])
        cost.exact(some[1], some[1])
    specialisations = {}
    for operation, specialisation, options, _ in launched:
        specialisations.setdefault(operation, set()).add((specialisation, options))
    products = {"int8": "int8_products", "float32": "pairwise_cost"}[precision]
    assert specialisations.keys() == {products, "tile_minima", "pairs_below", "exact_products"}
    for operation, found in specialisations.items():
        assert len(found) == 1, (operation, found)
        # What is specialised is aligned, as the report assumes: loads and stores take 16 bytes.
        if operation != "exact_products":
            assert {mark for kind, mark in next(iter(found))[0] if kind != "constexpr"} <= {"D", None}


def test_what_is_launched_by_default_is_what_is_compiled_and_reported(launched):
    x, y = reals(70, 5), reals(65, 5)
    for products in (Float32Products(x, y), Int8Products(*int8_problem(70, 65, 64))):
        kernels.candidates(products, torch.zeros(70), torch.zeros(65), 3)
    found = set()
    for operation, _, _, given in launched:
        operand = "int8" if operation == "int8_products" else "float32"
        found.add((operation, operand))
        constants = aot.constants_of(aot.Variant(operation, operand, "sm_90"))  # the interpreter takes itself for it
        assert constants == {name: given[name] for name in constants}
        assert set(given) - set(constants) == {name for name in given if name.endswith("_ptr")} | {
            name for name in given if name in ("M", "N", "K", "capacity") or name.startswith("stride")
        }
    assert found == {variant[:2] for variant in aot.variants() if variant.operation != "exact_products"}


@pytest.fixture(scope="module")
def compiled():
    done = without_the_interpreter(str(ROOT / "bench" / "aot.py"), "--json")
    assert done.returncode == 0, done.stderr
    rows = [
        {name: int(cell) if cell.isdigit() else cell for name, cell in row.items()} for row in json.loads(done.stdout)
    ]
    assert {row["chip"] for row in rows} == {"sm_80", "sm_90", "sm_100"}
    assert {row["operation"] for row in rows} == aot.KERNELS.keys()
    return rows


def of(rows, operation):
    return [row for row in rows if row["operation"] == operation]


def test_every_kernel_compiles_for_every_chip_without_spills_and_within_its_limits(compiled):
    for row in compiled:
        assert row["spilled"] == 0, row
        assert row["blocks"] >= 1, row


def test_int8_products_are_made_by_the_tensor_cores_of_every_chip(compiled):
    for row in of(compiled, "int8_products"):
        tile = TILES[row["chip"], "int8"]
        assert row["products"] * 3 < row["loop"] or row["chip"] == "sm_80", row
        # The instructions of the loop make the whole tile: of each warp, of each group of four warps, or of all.
        one, makers = {
            "sm_80": (16 * 8 * 32, tile.num_warps),
            "sm_90": (64 * 128 * 32, tile.num_warps // 4),
            "sm_100": (128 * 128 * 32, 1),
        }[row["chip"]]
        assert row["products"] * one * makers == tile.BLOCK_M * tile.BLOCK_N * tile.BLOCK_K, row
        # The scales are multiplied one after the other, with a rounding each.
        assert row["fused"] == 0, row
        # Triton waits for every integer product of sm_90: a second block must have something to do.
        assert row["blocks"] >= (1 if row["chip"] == "sm_80" else 2), row


def test_float32_products_multiply_most_of_the_time_and_without_bank_conflicts(compiled):
    for row in of(compiled, "pairwise_cost"):
        assert row["products"] >= 0.8 * row["loop"], row
        assert row["conflicts"] == "none", row


def test_memory_is_read_and_written_in_16_bytes(compiled):
    for row in compiled:
        if row["operation"] != "exact_products":
            tile = aot.tile_of(aot.Variant(row["operation"], row["operand"], row["chip"]))
            whole = 16 * 32 * tile.num_warps  # bytes that one instruction moves
            assert row["wide"] * whole == 4 * tile.BLOCK_M * tile.BLOCK_N, row
            size = {"int8_products": 1, "pairwise_cost": 4}.get(row["operation"], 0)
            assert row["copies"] * whole == size * tile.BLOCK_K * (tile.BLOCK_M + tile.BLOCK_N), row
