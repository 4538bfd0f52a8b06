"""Matching by activations: similarities, their costs and certificates, codes and their files."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from decimal import Decimal, getcontext
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment

import saematch as sm
from language_models import WIDTH, documents, write_language_model
from saematch.activations import Codes, Similarities, encode_layers
from saematch.activations.codes import TOKENS_AT_ONCE
from saematch.activations.cofirings import STRETCH
from saematch.activations.layers import EncodedLayers
from saematch.activations.stored import StoredActivations
from saematch.cli.main import main
from saematch.cost import CodesCost
from saematch.cost.lines import lowest_lines
from saematch.errors import MatchError, NotEnoughMemory
from saematch.evaluation import LanguageModel, Texts
from saematch.matching.by_codes import CodesProblem
from saematch.matching.solver import Solver
from saematch.numeric.scratch import scratch_arrays
from saematch.options import ActivityMetric, Side, names

METRICS = names(ActivityMetric)


def made_codes(seed: int, tokens: int, features: int, rate: float = 0.05) -> np.ndarray:
    """Codes `(tokens, features)`: most features are rare, some are never active, always active, constant or equal."""
    r = np.random.default_rng(seed)
    active = r.random((tokens, features)) < np.minimum(rate * r.pareto(1.5, features), 1.0)
    codes = np.where(active, r.lognormal(size=(tokens, features)), 0.0).astype(np.float32)
    special = r.permutation(features)
    codes[:, special[: features // 8]] = 0
    if features > 8:
        codes[:, special[-1]] = 3
        codes[:, special[-2]] = 5 + 0.01 * r.standard_normal(tokens)
        codes[:, special[-3]] = codes[:, special[-4]]
    return codes


def shared_codes(seed: int, tokens: int, sources: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes of two sides, of which some features are noisy copies of each other."""
    f, g = made_codes(seed, tokens, sources), made_codes(seed + 1, tokens, targets)
    alike, r = min(sources, targets) // 2, np.random.default_rng(seed + 2)
    g[:, r.permutation(targets)[:alike]] = np.where(r.random((tokens, alike)) < 0.9, f[:, :alike], 0)
    return f, g


def all_costs(metric: str, f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """1 - similarity of all pairs, from the definitions, in float64."""
    f, g = f.astype(np.float64), g.astype(np.float64)
    if metric == "jaccard":
        a, b = (f != 0).astype(float), (g != 0).astype(float)
        both, either = a.T @ b, a.sum(axis=0)[:, None] + b.sum(axis=0) - a.T @ b
        return 1 - np.where(either > 0, both / np.maximum(either, 1), 0)
    centre = metric == "correlation"

    def unit(codes: np.ndarray) -> np.ndarray:
        varies = np.ptp(codes, axis=0) > 0 if centre else (codes != 0).any(axis=0)
        codes = np.where(varies, codes - codes.mean(axis=0) if centre else codes, 0)
        return codes / np.where(varies, np.linalg.norm(codes, axis=0), 1)

    return 1 - unit(f).T @ unit(g)


def least_cost(costs: np.ndarray, max_cost: float | None) -> float:
    """The optimum by SciPy, with `max_cost / 2` for each unmatched feature."""
    sources, targets = costs.shape
    if max_cost is not None:
        larger = np.zeros((sources + targets, sources + targets))
        larger[:sources, :targets] = costs
        larger[:sources, targets:] = larger[sources:, :targets] = max_cost / 2
        costs = larger
    return float(costs[linear_sum_assignment(costs)].sum())


SHAPES = [(200, 40, 40), (300, 24, 61), (250, 70, 33), (1, 9, 9), (2, 1, 7), (30, 2, 1)]


@pytest.mark.parametrize("through_passes", [pytest.param(True, marks=pytest.mark.through_passes), False])
@pytest.mark.parametrize("max_cost", [None, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_optimum_is_scipys_on_all_costs(metric, shape, max_cost, through_passes):
    for seed in range(3):
        f, g = shared_codes(seed, *shape)
        costs = all_costs(metric, f, g)
        m = sm.assign(Codes.of(f), Codes.of(g), metric=metric, max_cost=max_cost)
        assert m.certified
        assert m.objective == pytest.approx(least_cost(costs, max_cost), abs=1e-9)
        rows = (m.perm >= 0).numpy()
        np.testing.assert_allclose(m.pair_cost[rows], costs[rows, m.perm[rows]], atol=1e-9)
        assert m.lower_bound <= least_cost(costs, max_cost) + 1e-12


@pytest.mark.parametrize("metric", METRICS)
def test_every_similarity_is_the_definition_for_every_kind_of_feature(metric):
    f, g = shared_codes(7, 400, 50, 60)
    for number in (np.float32, np.float64):
        x, y = f.astype(number), g.astype(number)
        block = CodesCost(Similarities.of(metric, Codes.of(x), Codes.of(y))).block(np.arange(50), np.arange(60))
        np.testing.assert_allclose(1 + block, all_costs(metric, x, y), atol=1e-12)


def exact_costs(metric: str, f: np.ndarray, g: np.ndarray) -> list[list[Decimal]]:
    """1 - similarity of all pairs in 60 digits."""
    getcontext().prec = 60
    tokens = len(f)

    def numbers(codes: np.ndarray) -> list[list[Decimal]]:
        if metric == "jaccard":
            codes = (codes != 0).astype(np.float64)
        columns = [[Decimal(float(value)) for value in column] for column in codes.T]
        if metric != "correlation":
            return columns
        return [[value - sum(column) / tokens for value in column] for column in columns]

    def similarity(x: list[Decimal], y: list[Decimal]) -> Decimal:
        both, of_x, of_y = (sum(a * b for a, b in zip(u, v, strict=True)) for u, v in ((x, y), (x, x), (y, y)))
        if metric == "jaccard":
            return both / (of_x + of_y - both) if of_x + of_y else Decimal(0)
        tiny = Decimal(10) ** -50  # what the mean of equal numbers leaves in 60 digits
        return both / (of_x * of_y).sqrt() if min(of_x, of_y) > tiny else Decimal(0)

    return [[1 - similarity(x, y) for y in numbers(g)] for x in numbers(f)]


@pytest.mark.parametrize("metric", METRICS)
def test_no_error_exceeds_its_bound_and_no_claim_is_wrong_in_exact_arithmetic(metric):
    for seed in range(25):
        r = np.random.default_rng(seed)
        tokens, sources, targets = (int(r.integers(low, high)) for low, high in ((1, 40), (1, 9), (1, 9)))
        f, g = shared_codes(seed, tokens, sources, targets)
        scale = 10.0 ** r.integers(-3, 3, sources)
        if seed % 3 == 0:  # far from 0 compared with what differs, of both signs, and of all sizes
            f = (f * scale + (f != 0) * 1e4 * r.integers(-1, 2, sources)).astype(np.float32)
        exact = exact_costs(metric, f, g)
        similarities = Similarities.of(metric, Codes.of(f), Codes.of(g))
        rows, columns = (index.ravel() for index in np.indices((sources, targets)))
        cost = CodesCost(similarities)
        for values, bound in (
            (1 + cost.exact(rows, columns), cost.exact_error(rows, columns, np.zeros(targets)) + 2.0**-52),
            (
                cost.pair_cost(rows, columns),
                similarities.row_error[rows] + similarities.column_error[columns] + 2.0**-50,
            ),
            cost.less(rows, columns, *cost.no_duals),
        ):
            for i, j, value, most in zip(rows, columns, values, bound, strict=True):
                assert abs(Decimal(float(value)) - exact[i][j]) <= Decimal(float(most))
        m = sm.assign(Codes.of(f), Codes.of(g), metric=metric)
        best = linear_sum_assignment(np.array(exact, dtype=np.float64))
        optimum = sum((exact[i][j] for i, j in zip(*best, strict=True)), Decimal(0))
        own = sum((exact[i][j] for i, j in enumerate(m.perm.tolist()) if j >= 0), Decimal(0))
        assert Decimal(m.lower_bound) <= optimum
        assert own - optimum <= Decimal(m.proof_gap) + Decimal("1e-25")


@pytest.mark.parametrize("metric", ["correlation", "activation_cosine"])
def test_codes_that_cancel_to_0_are_not_claimed_to_be_exact(metric):
    """The true similarities are about 1e-17 of either sign, and their computed values are 0."""
    f = np.array([[14, 6 + 2.0**-50, 2, 2, 6, 6, 6, 6]]).T
    g = np.array([[1, 0, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]], dtype=np.float64).T
    if metric == "activation_cosine":
        f, g = np.array([[1, 1e-17, -1]]).T, np.array([[1, 1, 1], [1, -1, 1]], dtype=np.float64).T
    (costs,) = exact_costs(metric, f, g)
    m = sm.assign(Codes.of(f), Codes.of(g), metric=metric)
    assert m.cost == 1
    own = costs[int(m.perm[0])]
    assert min(costs) < max(costs)
    assert own - min(costs) <= Decimal(m.proof_gap)
    assert Decimal(m.lower_bound) <= min(costs)


@pytest.mark.parametrize("through_passes", [pytest.param(True, marks=pytest.mark.through_passes), False])
@pytest.mark.parametrize("max_cost", [None, 0])
@pytest.mark.parametrize("metric", METRICS)
def test_an_sae_matched_with_itself_costs_nothing_and_that_is_proved(metric, max_cost, through_passes):
    codes = np.abs(made_codes(3, 500, 50)) + np.zeros((1, 1), dtype=np.float32)
    codes[:, 7] = codes[:, 3]
    codes = codes[:, (codes != 0).any(axis=0) & (np.ptp(codes, axis=0) > 0)]
    m = sm.assign(Codes.of(codes), Codes.of(codes[:, ::-1].copy()), metric=metric, max_cost=max_cost)
    assert (m.status, m.objective, m.proof_gap) == ("optimal", 0, 0)
    assert max_cost == 0 or m.matched == codes.shape[1]


@pytest.mark.parametrize("metric", METRICS)
def test_ties_by_the_thousand_are_proved(metric):
    """Features that are active once, on few tokens, have the same similarity with many others."""
    r = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        codes = np.zeros((50, 1000), dtype=np.float32)
        codes[r.integers(0, 50, 900), np.arange(900)] = 1
        sides.append(codes)
    m = sm.assign(Codes.of(sides[0]), Codes.of(sides[1]), metric=metric)
    assert m.certified
    assert m.cost == pytest.approx(least_cost(all_costs(metric, *sides), None), abs=1e-8)


def test_the_same_answer_bit_for_bit_for_any_number_of_threads():
    f, g = (Codes.of(codes) for codes in shared_codes(1, 20_000, 120, 150))
    assert f.times_active.max() > 2 * STRETCH  # so that sums are made in several stretches
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            m = sm.assign(f, g, metric="correlation")
            answers.append((m.perm.tolist(), m.pair_cost.tolist(), m.prices.tolist(), m.gap))
    finally:
        torch.set_num_threads(before)
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_answer_bit_for_bit_from_memory_and_from_a_file(metric):
    f, g = (Codes.of(codes) for codes in shared_codes(6, 2_000, 90, 70))
    answers = []
    for most in (None, 0):
        similarities = Similarities.of(metric, f, g, most)
        assert isinstance(similarities.entries.values.base, memoryview) == (most == 0)
        m = Solver().run(CodesProblem(similarities))
        assert m.certified
        answers.append((m.perm.tolist(), m.pair_cost.tolist(), m.prices.tolist(), m.gap, m.random_cost))
    assert answers[0] == answers[1]


def test_a_temporary_file_needs_no_function_that_macos_lacks(monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    columns, values = scratch_arrays(1000, [np.int32, np.float64], most=0)
    columns[:], values[:] = 3, 0.5
    assert (columns.sum(), values.sum(), columns.dtype) == (3000, 500, np.int32)


def test_no_room_for_a_temporary_file_is_said_before_it_is_used():
    with pytest.raises(NotEnoughMemory, match="no room for a temporary file of this size"):
        scratch_arrays(2**55, [np.int32], most=0)


def test_margins_and_grades_are_those_of_the_costs_as_a_matrix():
    f, g = shared_codes(4, 300, 30, 35)
    x, y, costs = Codes.of(f), Codes.of(g), all_costs("correlation", f, g)
    m, given = sm.assign(x, y, metric="correlation"), sm.assign(cost=costs)
    features = torch.arange(30)
    torch.testing.assert_close(m.margins().exact(features), given.margins().exact(features), atol=1e-9, rtol=0)
    worse = sm.certify(x, y, m.perm.roll(1), metric="correlation")
    assert worse.status == "suboptimal"
    assert worse.gap == pytest.approx(sm.certify(cost=costs, perm=m.perm.roll(1)).gap, abs=1e-9)
    for method in ("greedy", "nearest", "mutual_nearest"):
        baseline = sm.assign(x, y, metric="correlation", method=method)
        assert baseline.perm.tolist() == sm.assign(cost=costs, method=method).perm.tolist()


@pytest.mark.parametrize("metric", ["correlation", "activation_cosine"])
def test_a_matching_that_costs_the_same_but_for_rounding_is_not_called_suboptimal(metric):
    codes = Codes.of(np.arange(7)[:, None] * [1.0, 3.0, 0.1])  # all pairs have a similarity of 1
    assert sm.certify(codes, codes, np.array([1, 0, 2]), metric=metric).status == "unproved"


def test_codes_hidden_states_and_files_give_one_answer(tmp_path):
    a, b = sm.load("sample?layer=8"), sm.load("sample?layer=9")
    states = 9 * torch.randn(1500, a.d, generator=torch.Generator().manual_seed(0))
    by_states = sm.match(a, b, metric="correlation", activations=(states, states))
    assert by_states.certified
    assert by_states.cosine is not None
    codes = Codes.encode(a, states), Codes.encode(b, states.numpy())
    np.save(tmp_path / "states.npy", states.numpy())
    codes[1].save(tmp_path / "codes.safetensors")
    for given in (codes, (tmp_path / "states.npy", tmp_path / "codes.safetensors")):
        m = sm.match(a, b, metric="correlation", activations=given)
        assert torch.equal(m.perm, by_states.perm)
        assert torch.equal(m.pair_cost, by_states.pair_cost)
    assert sm.certify(a, b, by_states, metric="correlation", activations=codes).certified
    by_states.save(tmp_path / "m.safetensors")
    loaded = sm.Matching.load(tmp_path / "m.safetensors")
    assert (loaded.lower_bound, loaded.cost_error) == (by_states.lower_bound, by_states.cost_error)
    assert loaded.cost_error > 0


def made_up_pair(seed: int, sources: int, targets: int) -> tuple[sm.SAE, sm.SAE]:
    """Two SAEs in float64, of which some features have no decoder."""
    r = np.random.default_rng(seed)

    def made(features: int) -> sm.SAE:
        decoder = r.standard_normal((features, 5)) * (r.random((features, 1)) > 0.1)
        arrays = r.standard_normal((5, features)), np.zeros(features), decoder, np.zeros(5)
        return sm.SAE(*map(torch.from_numpy, arrays))

    return made(sources), made(targets)


def cosines(a: sm.SAE, b: sm.SAE) -> np.ndarray:
    """The mean of the cosines of encoders and of decoders."""

    def unit(rows: torch.Tensor) -> np.ndarray:
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.numpy() / np.where(norms > 0, norms, 1)

    return (unit(a.W_enc.T) @ unit(b.W_enc.T).T + unit(a.W_dec) @ unit(b.W_dec).T) / 2


@pytest.mark.parametrize("through_passes", [pytest.param(True, marks=pytest.mark.through_passes), False])
@pytest.mark.parametrize("max_cost", [None, 0.4])
@pytest.mark.parametrize("metric", METRICS)
def test_weights_and_activations_together_are_scipys_optimum(metric, max_cost, through_passes):
    for seed, (tokens, sources, targets) in enumerate(SHAPES):
        f, g = shared_codes(seed, tokens, sources, targets)
        a, b = made_up_pair(seed, sources, targets)
        for share in (0.1, 0.6):
            given = {"metric": metric, "activations": (Codes.of(f), Codes.of(g)), "weights_share": share}
            m = sm.match(a, b, **given, max_cost=max_cost)
            halved = 2 if metric == "correlation" else 1
            costs = share * (1 - cosines(a, b)) / 2 + (1 - share) * all_costs(metric, f, g) / halved
            assert m.certified
            assert m.objective == pytest.approx(least_cost(costs, max_cost), abs=1e-9)
            rows = (m.perm >= 0).numpy()
            np.testing.assert_allclose(m.pair_cost[rows], costs[rows, m.perm[rows]], atol=1e-9)
            margins = sm.assign(cost=costs, max_cost=max_cost).margins().exact(rows)
            torch.testing.assert_close(m.margins().exact(rows), margins, atol=1e-8, rtol=0)
            assert sm.certify(a, b, m, **given, max_cost=max_cost).certified


def test_no_claim_about_weights_and_activations_is_wrong_in_exact_arithmetic():
    getcontext().prec = 60
    for seed in range(20):
        r = np.random.default_rng(seed)
        tokens, sources, targets = (int(r.integers(low, high)) for low, high in ((1, 30), (1, 8), (1, 8)))
        f, g = shared_codes(seed, tokens, sources, targets)
        a, b = made_up_pair(seed, sources, targets)
        parts = [[rows.T.tolist(), other.T.tolist()] for rows, other in ((a.W_enc, b.W_enc), (a.W_dec.T, b.W_dec.T))]

        def cosine(x: list[float], y: list[float]) -> Decimal:
            u, v = ([Decimal(value) for value in one] for one in (x, y))
            both, of_u, of_v = (sum(p * q for p, q in zip(s, t, strict=True)) for s, t in ((u, v), (u, u), (v, v)))
            return both / (of_u * of_v).sqrt() if of_u and of_v else Decimal(0)

        by_codes = exact_costs("correlation", f, g)
        exact = [
            [
                Decimal("0.25") * (1 - sum(cosine(x[i], y[j]) for x, y in parts) / 2) + by_codes[i][j] / 4
                for j in range(targets)
            ]
            for i in range(sources)
        ]
        m = sm.match(a, b, metric="correlation", activations=(Codes.of(f), Codes.of(g)), weights_share=0.5)
        best = linear_sum_assignment(np.array(exact, dtype=np.float64))
        optimum = sum((exact[i][j] for i, j in zip(*best, strict=True)), Decimal(0))
        own = sum((exact[i][j] for i, j in enumerate(m.perm.tolist()) if j >= 0), Decimal(0))
        assert Decimal(m.lower_bound) <= optimum
        assert own - optimum <= Decimal(m.proof_gap) + Decimal("1e-25")


def states_of(layers, tokens: int = 1200) -> dict[int, np.ndarray]:
    """Made-up hidden states on which features of the sample are active, with an attention sink in front."""
    states = {}
    for layer in layers:
        states[layer] = 9 * np.random.default_rng(0).standard_normal((tokens, 576), dtype=np.float32)
        states[layer][0] *= 1000
    return states


@pytest.fixture(scope="module")
def folder_of_states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    for layer, states in states_of((8, 9, 10)).items():
        np.save(folder / f"layer_{layer}.npy", states)
    np.save(folder / "documents.npy", np.arange(1200) // 100)
    return folder


def test_a_run_by_activations_is_the_same_from_hidden_states_and_from_codes_and_resumes(folder_of_states, tmp_path):
    layers = sm.load_layers("sample?layer=8-10")
    chain = sm.match_layers(layers, tmp_path / "run", metric="correlation", activations=folder_of_states)
    assert chain.certified
    written = list(encode_layers(layers, StoredActivations(folder_of_states), tmp_path / "codes"))
    assert [(one.tokens, one.left_out, one.is_new) for one in written] == [(1199, 1, True)] * 3
    again = list(encode_layers(layers, StoredActivations(folder_of_states), tmp_path / "codes"))
    assert [one.is_new for one in again] == [False] * 3
    by_codes = sm.match_layers(layers, metric="correlation", activations=tmp_path / "codes")
    given = {"metric": "correlation", "activations": tmp_path / "codes", "weights_share": 0.5, "parts": ["decoder"]}
    mixed = sm.match_layers(layers, tmp_path / "mixed", **given)
    assert mixed.certified
    bounds = sm.Chain.load(tmp_path / "mixed")[8, 9].margins().bound
    torch.testing.assert_close(bounds, mixed[8, 9].margins().bound, atol=1e-9, rtol=0)
    states = states_of((8, 9))
    alone = sm.match(layers[8], layers[9], metric="correlation", activations=(states[8][1:], states[9][1:]))
    for pair in chain:
        assert torch.equal(chain[pair].pair_cost, by_codes[pair].pair_cost)
    assert torch.equal(chain[8, 9].perm, alone.perm)
    # The same call resumes; margins of a loaded run open the activations again.
    resumed = sm.match_layers(layers, tmp_path / "run", metric="correlation", activations=folder_of_states)
    assert resumed.complete
    loaded = sm.Chain.load(tmp_path / "run")
    torch.testing.assert_close(loaded[8, 9].margins().bound, chain[8, 9].margins().bound, atol=1e-9, rtol=0)
    assert loaded.path(8, 384)[1].cosine is not None


def test_a_language_model_gives_the_codes_of_its_hidden_states_in_batches_of_any_size(tmp_path):
    write_language_model(tmp_path / "model")
    wide = [np.random.default_rng(n).standard_normal((2, 40, WIDTH)) for n in range(2)]
    layers = {
        n + 1: sm.SAE(*map(torch.from_numpy, (encoder.T, np.zeros(40), decoder, np.zeros(WIDTH))))
        for n, (encoder, decoder) in enumerate(wide)
    }
    texts = Texts(documents(60, 40), "made up")
    answers = []
    for batch in (1, 7):
        model = LanguageModel(str(tmp_path / "model"), texts, batch=batch)
        folder = tmp_path / f"codes-{batch}"
        assert sum(one.tokens for one in encode_layers(layers, model, folder)) > 2 * TOKENS_AT_ONCE
        answers.append([Codes.load(folder / f"layer_{layer}.safetensors") for layer in layers])
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one.documents, other.documents)
        dense = (
            sparse.csr_array((c.values, c.features, c.starts), shape=(len(c), c.F)).toarray() for c in (one, other)
        )
        np.testing.assert_allclose(*dense, atol=1e-4)  # of a model in float32, run in other batches
    by_codes = sm.match_layers(layers, metric="correlation", activations=tmp_path / "codes-1")
    by_model = sm.match_layers(layers, metric="correlation", activations=LanguageModel(str(tmp_path / "model"), texts))
    assert torch.equal(by_codes[1, 2].perm, by_model[1, 2].perm)


class Batches(StoredActivations):
    """Stored activations that come in batches of another size."""

    size = 77

    def batches(self, layers):
        for together in super().batches(layers):
            for start in range(0, len(together[0]), self.size):
                yield [states[start : start + self.size] for states in together]


def test_codes_do_not_depend_on_the_batches_that_hidden_states_come_in(folder_of_states):
    sae, codes = sm.load("sample?layer=8"), []
    for source in (StoredActivations(folder_of_states), Batches(folder_of_states)):
        codes.append(EncodedLayers.of(source, [8]).codes(sae, 8, Side.SOURCE))
    for name in ("starts", "features", "values", "documents"):
        np.testing.assert_array_equal(*(getattr(one, name) for one in codes))


def test_a_run_does_not_resume_with_other_activations(folder_of_states, tmp_path):
    layers = sm.load_layers("sample?layer=8-9")
    sm.match_layers(layers, tmp_path / "run", metric="jaccard", activations=folder_of_states)
    moved = tmp_path / "moved"
    shutil.copytree(folder_of_states, moved)
    np.save(moved / "layer_8.npy", np.load(moved / "layer_8.npy") * 2)
    with pytest.raises(MatchError, match="holds another run: activations was"):
        sm.match_layers(layers, tmp_path / "run", metric="jaccard", activations=moved)
    list(encode_layers(layers, StoredActivations(folder_of_states), tmp_path / "codes"))
    for other in (StoredActivations(moved), StoredActivations(folder_of_states, 50)):  # documents are written too
        with pytest.raises(MatchError, match="from another SAE or other activations"):
            list(encode_layers(layers, other, tmp_path / "codes"))


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_run_by_activations_in_other_workers_gives_the_same_answers(folder_of_states, executor):
    layers = sm.load_layers("sample?layer=8-9")
    expected = sm.match_layers(layers, metric="correlation", activations=folder_of_states)
    kinds = {"threads": ThreadPoolExecutor, "processes": partial(ProcessPoolExecutor, mp_context=get_context("spawn"))}
    with kinds[executor](1) as pool:
        chain = sm.match_layers(layers, metric="correlation", activations=folder_of_states, executor=pool)
    assert torch.equal(chain[8, 9].pair_cost, expected[8, 9].pair_cost)


def test_two_sets_are_matched_by_their_own_codes(folder_of_states, tmp_path):
    a, b = sm.load_layers("sample?layer=8"), sm.load_layers("sample?layer=8")
    for name, layers in (("a", a), ("b", b)):
        list(encode_layers(layers, StoredActivations(folder_of_states), tmp_path / name))
    folders = [tmp_path / "a", tmp_path / "b"]
    chain = sm.match_layers(a, against=b, metric="correlation", activations=folders)
    never = chain[8, 8].stats["never_active"][0]
    assert chain[8, 8].cost == pytest.approx(never, abs=1e-6)
    named = {"one": a[8], "two": b[8]}
    with pytest.raises(MatchError, match="found by layer numbers"):
        sm.match_layers(named, metric="correlation", activations=folder_of_states)
    with pytest.raises(MatchError, match="give two folders of codes"):
        sm.match_layers(a, against=b, metric="correlation", activations=tmp_path / "a")


def test_the_command_encodes_matches_and_shows(folder_of_states, tmp_path, capsys):
    source, codes, run = "sample?layer=8-9", str(tmp_path / "codes"), str(tmp_path / "run")
    assert main(["encode", source, "--activations", str(folder_of_states), "-o", codes]) == 0
    assert "layer_8.safetensors" in capsys.readouterr().out
    assert main(["encode", source, "--activations", str(folder_of_states), "-o", codes, "--json"]) == 0
    assert [layer["is_new"] for layer in json.loads(capsys.readouterr().out)["layers"]] == [False, False]
    layers = ["layers", source, "--metric", "jaccard", "--activations", codes]
    assert main([*layers, "--dry-run"]) == 0
    assert main([*layers, "-o", run]) == 0
    assert main(["show", run]) == 0
    assert "matched by the jaccard of codes" in capsys.readouterr().out
    assert main(["path", run, "--layer", "8", "--feature", "384", "--margins"]) == 0
    assert main(["report", run, "-o", str(tmp_path / "page.html")]) == 0
    assert main(["export", run, "-o", str(tmp_path / "table.csv"), "--margins"]) == 0
    files = [f"{codes}/layer_{layer}.safetensors" for layer in (8, 9)]
    sides = [f"sample?layer={layer}" for layer in (8, 9)]
    matching = str(tmp_path / "m.safetensors")
    pair = [*sides, "--metric", "jaccard", "--activations", *files]
    assert main(["match", *pair, "-o", matching]) == 0
    assert main(["verify", *sides, matching, "--metric", "jaccard", "--activations", *files]) == 0
    capsys.readouterr()
    assert main(["layers", source, "--metric", "jaccard", "-o", str(tmp_path / "other")]) == 2
    assert "needs --activations: a folder of hidden states, or of codes" in capsys.readouterr().err


def test_activations_find_partners_where_weights_mislead():
    """In the second layer the space is rotated, so that no weight says which feature is which."""
    r = torch.Generator().manual_seed(1)
    d, F, tokens = 24, 96, 4000
    directions = torch.nn.functional.normalize(torch.randn(F, d, generator=r), dim=1)
    turned = directions @ torch.linalg.qr(torch.randn(d, d, generator=r))[0]
    order = torch.randperm(F, generator=r)
    active = (torch.rand(tokens, F, generator=r) < 0.02) * torch.rand(tokens, F, generator=r).add(0.5)
    a, b = (sm.SAE(rows.T, torch.full((F,), -0.3), rows, torch.zeros(d)) for rows in (directions, turned[order]))
    states = active @ directions, active @ turned
    truth = torch.argsort(order)
    by_activations = sm.match(a, b, metric="correlation", activations=states)
    by_weights = sm.match(a, b, metric="cosine")
    assert float((by_activations.perm == truth).double().mean()) > 0.95
    assert float((by_weights.perm == truth).double().mean()) < 0.1


def test_codes_of_dense_sparse_and_integer_arrays_are_the_same():
    dense = np.array([[0, 2, 0], [1, 0, -3], [0, 0, 0]])
    codes = [Codes.of(given) for given in (dense, torch.tensor(dense), sparse.coo_array(dense), dense.tolist())]
    for one in codes:
        assert one.starts.tolist() == [0, 1, 3, 3]
        assert one.features.tolist() == [1, 0, 2]
        assert one.values.tolist() == [2.0, 1.0, -3.0]
    kept = codes[0].select(np.array([False, True, True]))
    assert (len(kept), kept.values.tolist()) == (2, [1.0, -3.0])


def test_two_files_for_one_layer_are_refused(tmp_path):
    for name in ("layer_8.npy", "layer_08.npy"):
        np.save(tmp_path / name, np.zeros((4, 2)))
    with pytest.raises(MatchError, match=r"several files for one layer: .*layer_08.npy, .*layer_8.npy"):
        StoredActivations(tmp_path, 2)


def test_lists_of_lines_are_those_of_all_lines_at_every_point():
    for seed in range(30):
        r = np.random.default_rng(seed)
        count, lines, k = (int(r.integers(1, most)) for most in (200, 300, 20))
        points = np.sort(r.choice([0.0, 1.0, 1.5], count) if seed % 3 == 0 else r.standard_normal(count))
        slopes = np.zeros(lines) if seed % 5 == 0 else r.standard_normal(lines)
        constants = np.where(r.random(lines) < 0.1, np.inf, np.round(r.standard_normal(lines), seed % 4))
        values, partners = np.full((count, k), np.inf), np.full((count, k), -1, dtype=np.int32)
        lowest_lines(points, slopes, constants, values, partners)
        expected = np.sort(points[:, None] * slopes + constants, axis=1)
        expected = np.pad(expected, ((0, 0), (0, k)), constant_values=np.inf)[:, :k]
        np.testing.assert_array_equal(values, expected)
        listed = np.nonzero(partners >= 0)
        at = partners[listed]
        np.testing.assert_array_equal(values[listed], points[listed[0]] * slopes[at] + constants[at])
        assert (np.isinf(values) == (partners < 0)).all()


def test_what_cannot_be_compared_is_refused_with_what_to_do(folder_of_states, tmp_path):
    a, b = sm.load("sample?layer=8"), sm.load("sample?layer=9")
    x = Codes.of(np.eye(3, dtype=np.float32))
    states = np.ones((4, a.d), dtype=np.float32)

    def refused(words: str, call):
        with pytest.raises(MatchError, match=words):
            call()

    refused("needs activations=", lambda: sm.match(a, b, metric="correlation"))
    refused("needs activations=", lambda: sm.match(a, b, metric="jaccard", activations=states))
    refused("metric is 'cosine'; by activations", lambda: sm.match(a, b, metric="cosine", activations=(states, states)))
    refused(
        "fold is about the scale", lambda: sm.match(a, b, metric="jaccard", activations=(states, states), fold="none")
    )
    refused("has 4 tokens and", lambda: sm.match(a, b, metric="jaccard", activations=(states, states[:3])))
    refused("expected \\(tokens, 576\\)", lambda: sm.match(a, b, metric="jaccard", activations=(states[:, 1:], states)))
    refused("is of 3 features", lambda: sm.match(a, b, metric="jaccard", activations=(x, states)))
    share = {"metric": "jaccard", "activations": (states, states)}
    refused("from 1e-06 to 1 - 1e-06", lambda: sm.match(a, b, **share, weights_share=1))
    refused("give the weights a share", lambda: sm.match(a, b, **share, parts=["decoder"]))
    refused("a bias is one number", lambda: sm.match(a, b, **share, weights_share=0.5, parts=["bias"]))
    refused("weights_share is for a metric of activations", lambda: sm.match(a, b, weights_share=0.5))
    bad = states.copy()
    bad[2, 5] = np.nan
    refused("first at token 2, column 5", lambda: sm.match(a, b, metric="jaccard", activations=(bad, states)))
    refused("compares codes, not weights or rows", lambda: sm.assign(states, states, metric="correlation"))
    refused("one side is Codes", lambda: sm.assign(x, states, metric="correlation"))
    refused("say how codes are compared", lambda: sm.assign(x, x))
    refused(
        "has no tokens", lambda: sm.assign(x.select(np.zeros(3, bool)), x.select(np.zeros(3, bool)), metric="jaccard")
    )
    refused("NaN or infinite", lambda: Codes.of(np.array([[np.nan]])))
    refused("between 1e-100 and 1e\\+100", lambda: Codes.of(np.array([[1e200]])))
    refused("must ascend", lambda: Codes(np.array([0, 2]), np.array([1, 0], np.int32), np.ones(2), 3))
    refused("numbered from 0 to 2", lambda: Codes(np.array([0, 1]), np.array([3], np.int32), np.ones(1), 3))
    refused("does not divide", lambda: Codes(np.array([0, 5]), np.array([1], np.int32), np.ones(1), 3))
    wrapped = np.array([0, 2**63 - 1, -2, 1])  # whose differences wrap around
    refused("does not divide", lambda: Codes(wrapped, np.array([1], np.int32), np.ones(1), 3))
    for many in (-1, 2**70):
        refused(
            "their number is from 0", lambda many=many: Codes(np.array([0]), np.zeros(0, np.int32), np.ones(0), many)
        )
    refused("is a folder; name a file in it", lambda: sm.match(a, b, metric="jaccard", activations=(tmp_path, states)))
    for outliers in (-1, np.nan, 0):
        source = StoredActivations(folder_of_states)
        refused(
            "give medians of the norm above 0",
            lambda source=source, outliers=outliers: list(encode_layers({8: a}, source, tmp_path, outliers=outliers)),
        )
    x.save(tmp_path / "codes.safetensors")
    refused("is there already", lambda: x.save(tmp_path / "codes.safetensors"))
    sm.assign([[1.0]], [[1.0]]).save(tmp_path / "m.safetensors")
    refused("not a file of codes", lambda: Codes.load(tmp_path / "m.safetensors"))
    refused("no such file", lambda: Codes.load(tmp_path / "none.safetensors"))
