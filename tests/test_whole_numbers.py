"""Whole numbers of Python, numpy and torch mean the same wherever they are given; all other values are refused."""

import json

import numpy as np
import pytest
import torch

import saematch as sm
from saematch.evaluation import StoredActivations, evaluate
from saematch.numeric.numbers import checked_count, checked_number, real_number, whole_number
from saematch.runs.plan import plan_pairs, share_of
from saes import made_up, write_model

pytestmark = pytest.mark.through_passes

KINDS = [
    int,
    np.int64,
    np.uint8,
    np.int16,
    np.array,
    torch.tensor,
    lambda value: torch.tensor(value, dtype=torch.uint8),
    lambda value: np.array(value, ">i4"),
]
NONE = [
    True,
    np.True_,
    np.array(True),
    torch.tensor(True),
    3.0,
    np.float32(3),
    np.array(3.0),
    torch.tensor(3.0),
    "3",
    None,
    np.array([3]),
    torch.tensor([3]),
    [3],
    np.ma.masked,
    np.ma.array(3, mask=True),
    torch.tensor(3, device="meta"),
    3j,
    np.datetime64(3, "s"),
    np.timedelta64(3, "s"),
    b"3",
]


def can_be_a_key(kind):
    return not isinstance(kind(1), np.ndarray)  # which has no hash


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sm.load_layers(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def chain(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    sm.match_layers(model, folder)
    return sm.Chain.load(folder)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("given", NONE, ids=repr)
def test_what_is_not_a_whole_number(given, model, chain):
    assert whole_number(given) is None
    refused = [
        lambda: chain.path(given, 0),
        lambda: chain.path(3, given),
        lambda: chain.compose(3, given),
        lambda: chain.label(3, given),
        lambda: chain.labels(given),
        lambda: chain.sae(given),
        lambda: chain.hashes(given),
        lambda: chain.layers_from(given),
        lambda: plan_pairs(model, None, [(3, given)]),
        lambda: share_of([(3, 4)], 1, given),
        lambda: made_up(activation="topk", k=given),
        lambda: checked_count(given, 0, "no count"),
        lambda: sm.match_layers(model, "x", shard=(given, 3)),
        lambda: sm.Matching(torch.tensor([0]), torch.zeros(1), target_features=given),
    ]
    for ask in refused:
        with pytest.raises(sm.MatchError):
            ask()
    assert given not in model
    assert (3, given) not in chain


def test_layers_and_features_of_a_chain(kind, chain):
    three, seven, four = kind(3), kind(7), kind(4)
    path = chain.path(three, seven)
    assert path == chain.path(3, 7)
    assert json.dumps([step._asdict() for step in path])  # Python's own numbers
    assert chain[three, four].cost == chain[(3, 4)].cost
    assert chain[np.array([3, 4])].cost == chain[torch.tensor([3, 4])].cost == chain[[3, 4]].cost
    assert (three, four) in chain
    assert (four, three) not in chain
    assert chain.compose(three, kind(11)).perm.tolist() == chain.compose(3, 11).perm.tolist()
    assert chain.layers_from(four) == [4, 5, 11]
    assert chain.sae(three).F == 12
    assert chain.hashes(three) == chain.hashes(3)
    assert (chain.labels(three), chain.label(three, seven)) == ({}, None)
    assert chain.pair_record((three, four))["source"] == 3
    with pytest.raises(sm.MatchError, match="feature 12 is not in layer 3, whose features are 0 to 11"):
        chain.path(3, 12)


def test_layers_of_a_source(kind, model):
    three = kind(3)
    assert three in model
    assert kind(9) not in model
    assert model[three].F == 12
    with pytest.raises(KeyError, match=r"no layer .*9.*; the layers are 3, 4"):
        _ = model[kind(9)]
    assert model.get(kind(9)) is None
    paths = [model.handles[layer].shown for layer in (3, 4)]
    if can_be_a_key(kind):
        assert list(sm.load_layers({kind(8): paths[0], kind(9): paths[1]})) == [8, 9]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if can_be_a_key(kind)], indirect=True)
def test_mappings_whose_keys_are_whole_numbers(kind, tmp_path):
    saes = {kind(layer): made_up(seed=layer) for layer in (1, 2)}
    chain = sm.match_layers(saes, tmp_path / "run", against={kind(1): made_up(seed=3), kind(2): made_up(seed=4)})
    assert list(chain) == [(1, 1), (2, 2)]
    assert sm.Chain.load(tmp_path / "run", saes, saes).layers == [1, 2]
    matching = sm.match(made_up(seed=1), made_up(seed=2))
    own = sm.Chain({(kind(1), kind(2)): matching}, saes, failures={(kind(2), kind(3)): "gone"})
    assert own.path(1, 0)[1].layer == 2
    with pytest.raises(sm.MatchError, match="layers 2 and 3 have no matching: gone"):
        _ = own[2, 3]


@pytest.mark.parametrize(
    "keys", [(1, torch.tensor(1)), (torch.tensor(1), torch.tensor(1)), (1.0, 2.0), (True, 2), ("1", 1), (None, 1)]
)
def test_mappings_whose_keys_are_not_layers_are_refused(keys):
    with pytest.raises(sm.MatchError, match="takes a mapping of layer numbers"):
        sm.match_layers({key: made_up() for key in keys})


PAIRS = [(3, 4), (4, 11)]


@pytest.mark.parametrize(
    "given",
    [
        np.array(PAIRS),
        np.array(PAIRS, np.uint8),
        np.array(PAIRS)[::-1],
        torch.tensor(PAIRS),
        [torch.tensor(pair) for pair in PAIRS],
        [[3, 4], np.array([4, 11])],
        (pair for pair in PAIRS),
        set(PAIRS),
        [(np.int8(3), torch.tensor(4)), (4, 11)],
        dict.fromkeys(PAIRS),
        np.ma.array(PAIRS),
        np.array(PAIRS, order="F"),
        torch.tensor(PAIRS).to_sparse(),
    ],
    ids=lambda given: type(given).__name__,
)
def test_pairs_in_any_kind_of_list(given):
    planned = plan_pairs([3, 4, 11], None, given)
    assert planned == PAIRS
    assert {type(layer) for pair in planned for layer in pair} == {int}


@pytest.mark.parametrize(
    "given",
    [
        np.array(PAIRS, float),
        torch.tensor(PAIRS).double(),
        np.array([3, 4]),
        torch.tensor(3),
        np.zeros((2, 3), int),
        np.ma.array(PAIRS, mask=[[0, 1], [0, 0]]),
        [(3, True)],
        [{3, 4}],
        ["34"],
        5,
        [3, 4],
        [(3,)],
        {3: 4},
        np.array(PAIRS, object)[:, :1],
        np.array("3-4"),
    ],
    ids=lambda given: f"{type(given).__name__} {given}"[:40],
)
def test_what_is_not_a_list_of_pairs_is_refused(given):
    with pytest.raises(sm.MatchError, match="are not a list of"):
        plan_pairs([3, 4, 11], None, given)


def test_counts_shards_and_limits(kind, model, tmp_path):
    one, two = kind(1), kind(2)
    parts = [sm.match_layers(model, tmp_path / "run", shard=shard) for shard in ((one, two), [two, two])]
    assert parts[1].complete
    assert sm.match_layers(model, tmp_path / "run", shard=np.array([1, 2])).complete
    assert sm.match(model[3], model[4], max_rounds=kind(7)).certified
    assert sm.match(model[3], model[4], time_limit=kind(100)).certified
    assert made_up(activation="topk", k=two).k == 2
    made_up(activation="topk", k=two).save(tmp_path / "saved")
    assert sm.load(tmp_path / "saved").k == 2
    matching = sm.Matching(torch.tensor([0]), torch.zeros(1, dtype=torch.float64), target_features=two)
    matching.save(tmp_path / "m.safetensors")
    assert sm.Matching.load(tmp_path / "m.safetensors").target_features == 2
    for layer in (3, 4):
        np.save(tmp_path / f"layer_{layer}.npy", np.zeros((4, 8), np.float32))
    assert StoredActivations(tmp_path, two).documents.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["judged", "distance", "outliers"])
def test_counts_of_an_evaluation(chain, tmp_path, name):
    with pytest.raises(sm.MatchError, match=name):
        evaluate(chain, tmp_path / "out", **{name: True})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [
        2,
        2.5,
        np.float32(2.5),
        np.float16(2.5),
        np.array(2.5),
        torch.tensor(2.5),
        torch.tensor(2.5).bfloat16(),
        np.longdouble(2.5),
        torch.tensor(2),
        np.array(2.5, ">f8"),
    ],
    ids=repr,
)
def test_real_numbers(given, model, tmp_path):
    assert real_number(given) == float(given)
    matching = sm.match(model[3], model[4], max_cost=given, weights={"encoder": given})
    assert matching.options["max_cost"] == matching.options["weights"]["encoder"] == float(given)
    matching.save(tmp_path / "m.safetensors")  # as JSON, too


@pytest.mark.parametrize(
    "given",
    [
        True,
        np.True_,
        "2",
        2j,
        np.array([2.5]),
        torch.tensor([2.5]),
        np.ma.masked,
        np.ma.array(2.5, mask=True),
        np.timedelta64(2),
        torch.tensor(2j),
        torch.tensor(2.5, device="meta"),
    ],
    ids=repr,
)
def test_what_is_not_a_real_number(given):
    assert real_number(given) is None
    with pytest.raises(sm.MatchError, match="no number"):
        checked_number(given, 0, 9, "no number")
