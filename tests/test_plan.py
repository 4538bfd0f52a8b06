from itertools import pairwise

import pytest

import saematch as sm
from saematch.runs.plan import plan_pairs, share_of
from saematch.sources import Names

LAYERS = [11, 3, 5, 4]


@pytest.mark.parametrize(
    ("targets", "pairs", "planned"),
    [
        (None, None, [(3, 4), (4, 5), (5, 11)]),
        (None, "adjacent", [(3, 4), (4, 5), (5, 11)]),
        (None, "all", [(3, 4), (3, 5), (3, 11), (4, 11), (4, 5), (5, 11)]),
        (None, "3-11, 3-4", [(3, 4), (3, 11)]),
        (None, [(5, 11), (3, 4), (5, 11)], [(3, 4), (5, 11)]),
        ([4, 5, 6], None, [(4, 4), (5, 5)]),
        ([4, 5, 6], "same", [(4, 4), (5, 5)]),
        ([1, 2], "all", [(3, 1), (3, 2), (4, 2), (4, 1), (5, 1), (5, 2), (11, 2), (11, 1)]),
        ([1, 2], "11-1", [(11, 1)]),
    ],
)
def test_which_pairs_are_matched(targets, pairs, planned):
    assert plan_pairs(LAYERS, targets, pairs) == planned


@pytest.mark.parametrize("pairs", [[("a", "c-d")], "a-c-d", [(0, 2)]])
def test_pairs_are_named_by_the_names_of_their_saes(pairs):
    assert plan_pairs(range(3), pairs=pairs, names=Names(("a", "b", "c-d"))) == [(0, 2)]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("a-x", "'a-x', which does not name two SAEs as A-B; there are a, b, a-b, b-c, c"),
        ("0-1", "'0-1', which does not name two SAEs"),
        ("a-b-c", "'a-b-c', which names two SAEs in more than one way"),
        ("b-a", "pair b-a: give the earlier SAE first; the matching back is the inverse of a-b"),
        ([("a", "x")], "are not a list of .source, target.; there are a, b"),
        ([(0, 5)], "pair a-5: there is no step 5; there are a, b"),
    ],
)
def test_pairs_of_other_names_are_refused(pairs, message):
    with pytest.raises(sm.MatchError, match=message):
        plan_pairs(range(5), pairs=pairs, names=Names(("a", "b", "a-b", "b-c", "c"), "step"))


def test_neighbours_in_a_plan_of_all_pairs_share_a_layer():
    planned = plan_pairs(range(9), None, "all")
    assert sorted(planned) == [(a, b) for a in range(9) for b in range(a + 1, 9)]
    assert all(set(one) & set(other) for one, other in pairwise(planned))


@pytest.mark.parametrize(
    ("layers", "targets", "pairs", "message"),
    [
        ([], None, None, "0 layer to match; at least two"),
        ([1], None, None, "1 layer to match; at least two"),
        ([1, 2], [3], None, "no layer in common: 1, 2 and 3"),
        ([1, 2], None, "same", "needs two sets of SAEs"),
        ([1, 2], [1], "adjacent", "is for one set of SAEs"),
        ([1, 2], None, "1-7", "pair 1-7: there is no layer 7; there are 1, 2"),
        ([1, 2], None, "2-1", "the earlier layer first"),
        ([1, 2], None, "1-1", "the earlier layer first"),
        ([1, 2], None, "some", 'give "adjacent"'),
        ([1, 2], None, [1, 2], "are not a list of"),
        ([1, 2], None, 7, "are not a list of"),
    ],
)
def test_plans_that_make_no_sense_are_refused(layers, targets, pairs, message):
    with pytest.raises(sm.MatchError, match=message):
        plan_pairs(layers, targets, pairs)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 40])
def test_shards_are_the_plan_in_order_and_of_even_size(of):
    planned = plan_pairs(range(26))
    shares = [share_of(planned, number, of) for number in range(1, of + 1)]
    assert [pair for share in shares for pair in share] == planned
    assert {len(share) for share in shares} <= {25 // of, 25 // of + 1}


@pytest.mark.parametrize(("number", "of"), [(0, 2), (3, 2), (1, 0), (1.0, 2), (True, 2)])
def test_shards_that_do_not_exist_are_refused(number, of):
    with pytest.raises(sm.MatchError, match="give i/n"):
        share_of([(1, 2)], number, of)
