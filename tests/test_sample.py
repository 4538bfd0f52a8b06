"""The packaged SAEs, which are real, compared with SciPy in float64, and under every setting that must not matter."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

import saematch as sm
from contracts import assert_proved_optimal, cheapest, costs_of_all_pairs, smallest_swap
from saematch.cost import DistanceCost
from saematch.matching import problem
from saematch.sae.features import feature_rows


@pytest.fixture(scope="module")
def rows(sample):
    return {layer: feature_rows(sample[layer]) for layer in sample}


@pytest.fixture(scope="module")
def answers(rows):
    return {pair: sm.assign(rows[pair[0]], rows[pair[1]]) for pair in pairwise(rows)}


@pytest.mark.parametrize("layer", [8, 9, 10, 11, 12])
def test_cost_is_scipys_optimum(rows, answers, layer):
    assert_proved_optimal(answers[layer, layer + 1], rows[layer], rows[layer + 1])


def test_the_optimal_permutation_with_its_cheapest_swap_is_rejected(rows):
    costs = costs_of_all_pairs(rows[8], rows[9])
    optimal, _ = cheapest(costs)
    assert sm.certify(rows[8], rows[9], optimal, strict=True).certified
    swapped, excess = smallest_swap(costs, optimal)
    graded = sm.certify(rows[8], rows[9], swapped)
    assert not graded.certified
    assert graded.gap == pytest.approx(excess, rel=1e-6)


@pytest.mark.parametrize("fold", ["threshold", "decoder_norm", "none"])
@pytest.mark.parametrize("parts", [["encoder"], ["bias"], ["decoder"], ["encoder", "decoder"]])
def test_every_comparison_is_solved_and_proved(sample, parts, fold):
    for a, b in pairwise(sample):
        matching = sm.match(sample[a], sample[b], parts=parts, fold=fold)
        assert matching.certified
        if a == 10:
            x, y = (feature_rows(sample[layer], parts, fold=fold) for layer in (a, b))
            assert matching.cost == pytest.approx(cheapest(costs_of_all_pairs(x, y))[1], rel=1e-9)


@pytest.mark.parametrize("tile", [(1024, 1024), (100, 333), (1, 1024), (1024, 1)])
def test_block_size_changes_nothing(rows, answers, tile, monkeypatch):
    monkeypatch.setattr(problem, "DistanceCost", partial(DistanceCost, tile=tile))
    assert_same(sm.assign(rows[8], rows[9]), answers[8, 9])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_thread_count_changes_nothing(rows, answers, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same(sm.assign(rows[8], rows[9]), answers[8, 9])
    finally:
        torch.set_num_threads(before)


def _default_dtype(stack):
    torch.set_default_dtype(torch.float16)
    stack.append(lambda: torch.set_default_dtype(torch.float32))


def _default_device(stack):
    torch.set_default_device("meta")
    stack.append(lambda: torch.set_default_device(None))


def _medium_precision(stack):
    torch.set_float32_matmul_precision("medium")
    stack.append(lambda: torch.set_float32_matmul_precision("highest"))


def _flush_denormals(stack):
    torch.set_flush_denormal(True)
    stack.append(lambda: torch.set_flush_denormal(False))


def _deterministic(stack):
    torch.use_deterministic_algorithms(True)
    stack.append(lambda: torch.use_deterministic_algorithms(False))


def _autocast(stack):
    context = torch.autocast("cpu", dtype=torch.bfloat16)
    context.__enter__()
    stack.append(lambda: context.__exit__(None, None, None))


def _inference(stack):
    context = torch.inference_mode()
    context.__enter__()
    stack.append(lambda: context.__exit__(None, None, None))


@pytest.mark.parametrize(
    "change",
    [_default_dtype, _default_device, _medium_precision, _flush_denormals, _deterministic, _autocast, _inference],
)
def test_settings_of_the_host_program_change_nothing(sample, answers, change):
    stack = []
    change(stack)
    try:
        chain = sm.match_layers(dict(list(sample.items())[:3]))
        direct = chain.compose(8, 10)
        back = chain.compose(9, 8)
    finally:
        for undo in stack:
            undo()
    for pair, matching in chain.items():
        assert_same(matching, answers[pair])
    assert back.perm[chain[8, 9].perm].tolist() == list(range(1024))
    assert direct.perm.tolist() == answers[9, 10].perm[answers[8, 9].perm].tolist()


def assert_same(matching, expected):
    assert matching.certified
    assert torch.equal(matching.perm, expected.perm)
    assert torch.equal(matching.pair_cost, expected.pair_cost)
    assert matching.cost == expected.cost


def test_settings_are_left_as_they_were(rows):
    before = (torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.is_grad_enabled())
    random_state = torch.get_rng_state()
    sm.assign(rows[8][:100], rows[9][:100])
    assert (torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert torch.equal(torch.get_rng_state(), random_state)


def test_matching_helps_more_than_chance(sample, answers):
    """This tests the data, not the solver: matched decoders are similar, and labels overlap."""
    matching = answers[8, 9]
    assert matching.cost < 0.6 * matching.random_cost
    a, b = (torch.nn.functional.normalize(sample[layer].W_dec.double(), dim=1) for layer in (8, 9))
    cosine = (a * b[matching.perm]).sum(1)
    assert 0.35 < cosine.mean() < 0.55


def test_real_partial_problems_against_lapx(rows):
    import lap

    costs = costs_of_all_pairs(rows[8], rows[9])
    for quantile in (0.001, 0.01, 0.1):
        max_cost = float(np.quantile(costs, quantile))
        matching = sm.assign(rows[8], rows[9], max_cost=max_cost)
        _, partners, _ = lap.lapjv(costs, cost_limit=max_cost)
        np.testing.assert_array_equal(matching.perm, partners)
        assert matching.certified
        # SciPy needs a matrix of doubled size, which is solved soon for a part of the features only.
        first, second = rows[8][:400], rows[9][:400]
        assert_proved_optimal(sm.assign(first, second, max_cost=max_cost), first, second, max_cost)


@pytest.mark.parametrize("direction", [1, -1])
def test_real_rectangular_problems(real_data, sample, direction):
    small, large = sample[10], sm.load_layers(real_data / "smollm2-135m-res")[10]
    x, y = (feature_rows(sae) for sae in (small, large)[::direction])
    matching = sm.assign(x, y)
    assert (len(matching.perm), matching.target_features) == (len(x), len(y))
    assert_proved_optimal(matching, x, y)


@pytest.mark.parametrize("layer", [8, 12])
def test_real_saes_of_2048_features(real_data, layer):
    layers = sm.load_layers(real_data / "smollm2-135m-res")
    x, y = feature_rows(layers[layer]), feature_rows(layers[layer + 1])
    matching = sm.assign(x, y)
    columns, optimum = cheapest(costs_of_all_pairs(x, y))
    assert matching.certified
    assert math.isclose(matching.cost, optimum, rel_tol=1e-9)
    np.testing.assert_array_equal(matching.perm, columns)
