"""The value of every metric in a made-up model whose truth is known, and the inputs that an evaluation refuses."""

import json

import numpy as np
import pytest
import torch

import saematch as sm
from planted import COSINE, DOCUMENTS, LENGTH, PERSIST, SPLIT, VANISH, D, F, World
from saematch.activations import Codes
from saematch.activations.selection import TokenSelection
from saematch.evaluation import StoredActivations, Table, evaluate
from saematch.evaluation.held_out import FEWEST, mean_correlation, pair_sums
from saematch.evaluation.study import SCHEMAS
from saematch.evaluation.uncertainty import bootstrap_counts, interval, mean_ratio
from saematch.storage.folders import LocalFolder
from saes import made_up, write_model

CLOSE = 1e-5  # codes and hidden states are float32, of sums of a few dozen terms around 1


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    chain = sm.match_layers({0: world.a, 1: world.b}, folder / "run")
    source = StoredActivations(world.write_activations(folder / "activations"))
    chain = sm.Chain.load(folder / "run", inputs={0: world.a, 1: world.b})
    return evaluate(chain, folder / "out", activations=source), chain


def value(found, table, column, **where):
    (row,) = found[0].tables[table].where(**where)
    return row[column]


@pytest.fixture(scope="module")
def partner(world, found):
    """Return the matching. Persistent features have their true partner; the split feature has one of its halves."""
    perm = found[1][0, 1].perm.numpy()
    assert np.array_equal(perm[PERSIST], world.place[PERSIST])
    assert perm[SPLIT] in world.place[13:15]
    return perm


def test_squared_errors_are_those_of_the_planted_scales(world, found, partner):
    theta_a, theta_b = 0.5, world.b.threshold.numpy()[partner]
    both = ((sae.W_enc.numpy().T, sae.W_dec.numpy()) for sae in (world.a, world.b))
    (enc_a, dec_a), (enc_b, dec_b) = both
    rows = {
        "decoder": (dec_a * theta_a, dec_b[partner] * theta_b[:, None]),
        "encoder": (enc_a / theta_a, enc_b[partner] / theta_b[:, None]),
    }
    for part, (x, y) in rows.items():
        assert value(found, "mse", "mse", method="matched", part=part) == pytest.approx(((x - y) ** 2).mean(), 1e-12)
    # Of what persists, from the ratio alone: (theta_a - theta_b)^2 / D for the decoder.
    errors = np.sort((theta_a - theta_a * world.ratio[PERSIST]) ** 2 / D)
    assert value(found, "mse", "q0", method="matched", part="decoder") == pytest.approx(errors[0], 1e-12)
    assert value(found, "mse", "mse", method="matched", part="bias") == 0
    counted = sum(row["features"] for row in found[0].tables["mse_histogram"].where(method="matched"))
    assert counted == value(found, "mse", "matched", method="matched", part="all") == F


def test_cosines_and_what_persists_vanishes_and_is_born(found, partner):
    expected = [*np.ones(13), COSINE, 0, 0]
    assert value(found, "cosine", "mean", method="matched") == pytest.approx(np.mean(expected), abs=1e-12)
    for least, persistent in ((0.5, 14), (0.7, 14), (0.9, 13)):
        shares = [
            value(found, "persistence", column, method="matched", cosine=least)
            for column in ("persistent", "vanished", "born")
        ]
        assert shares == pytest.approx([persistent / F, 1 - persistent / F, 1 - persistent / F])
    assert value(found, "cosine", "q0", method="nearest_cosine") == pytest.approx(0, abs=1e-12)
    lives = {row["layers"]: row for row in found[0].tables["lifetimes"].where(cosine=0.9)}
    assert {age: row["features"] for age, row in lives.items()} == {2: 13, 1: 6}
    assert (lives[1]["from_the_first"], lives[1]["to_the_last"]) == (3, 3)
    assert (lives[2]["from_the_first"], lives[2]["to_the_last"]) == (13, 13)


def test_explained_variance_is_what_the_planted_codes_leave(world, found, partner):
    variance = ((world.y - world.y.mean(0)) ** 2).sum()

    def left(moved):
        """Return the explained variance of codes `(tokens, F)`, decoded by the second layer."""
        decoded = moved @ world.b.W_dec.numpy()
        return 1 - ((world.y - decoded) ** 2).sum() / variance

    moved = np.zeros_like(world.codes)
    moved[:, partner] = world.codes
    folded = np.zeros_like(world.codes)
    folded[:, partner] = world.codes * world.b.threshold.numpy()[partner] / 0.5
    carried = {"stand_in": "carried", "method": "matched", "gate": 1.0}
    assert value(found, "explained_variance", "value", **carried, folded=False) == pytest.approx(left(moved), abs=CLOSE)
    assert value(found, "explained_variance", "value", **carried, folded=True) == pytest.approx(left(folded), abs=CLOSE)
    assert left(folded) > left(moved)
    assert value(found, "explained_variance", "value", stand_in="sae_of_target") == pytest.approx(1, abs=CLOSE)
    dropped = 1 - ((world.y - world.x) ** 2).sum() / variance
    for same in ("dropped", "sae_of_source"):  # the SAE of the source leaves nothing out
        assert value(found, "explained_variance", "value", stand_in=same) == pytest.approx(dropped, abs=CLOSE)
    nothing = value(found, "explained_variance", "value", method="matched", gate=0.0, folded=True)
    assert nothing == pytest.approx(dropped, abs=CLOSE)
    for column, codes in (("source_l0", world.codes), ("target_l0", world.later)):
        assert value(found, "explained_variance", column, stand_in="dropped") == pytest.approx(
            (codes > 0).sum(1).mean()
        )


def test_correlations_on_the_other_half_are_numpys_and_rare_features_are_named(world, found, partner):
    halves = [np.repeat(np.arange(DOCUMENTS), LENGTH) % 2 == odd for odd in (0, 1)]
    frequent = [
        np.all([(codes[half] > 0).sum(axis=0) >= FEWEST for half in halves], axis=0)
        for codes in (world.codes, world.later)
    ]
    counted = np.nonzero(frequent[0] & frequent[1][partner])[0]
    assert 0 < len(counted) < F
    for column, half in zip(("first_half", "value"), halves, strict=True):
        correlations = [np.corrcoef(world.codes[half, i], world.later[half, partner[i]])[0, 1] for i in counted]
        assert value(found, "held_out", column, method="matched") == pytest.approx(np.mean(correlations), abs=CLOSE)
    assert value(found, "held_out", "features", method="matched") == len(counted)
    assert value(found, "held_out", "rare", method="matched") == F - len(counted)
    for method in ("correlation_of_half", "jaccard_of_half", "mixed_of_half"):
        assert value(found, "held_out", "value", method=method) > 0.9
        assert value(found, "held_out", "same_partner", method=method) > 0.8
    rare = {(row["layer"], row["feature"]) for row in found[0].tables["rare_features"].rows}
    assert rare == {(layer, i) for layer in (0, 1) for i in np.nonzero(~frequent[layer])[0]}


def test_codes_that_do_not_vary_have_no_correlation_on_the_other_half():
    constant = np.full((200, 1), 0.3)
    codes = Codes.of(np.hstack([constant, np.random.default_rng(0).random((200, 1))]))
    units = np.arange(200) // 10
    for pairs in ([0], [0, 1]):
        sums = pair_sums(codes, codes, np.array(pairs), np.array(pairs), units, 20)
        total = mean_correlation(*(values.sum(axis=0, keepdims=True) for values in sums))
        np.testing.assert_allclose(total, 1.0 if 1 in pairs else np.nan)


def test_a_gate_carries_the_cheap_pairs_alone(world, found, partner):
    costs = found[1][0, 1].pair_cost.numpy()
    kept = costs <= np.quantile(costs, 0.5)
    moved = np.zeros_like(world.codes)
    moved[:, partner[kept]] = world.codes[:, kept]
    decoded = moved @ world.b.W_dec.numpy() + world.codes[:, ~kept] @ world.a.W_dec.numpy()[~kept]
    expected = 1 - ((world.y - decoded) ** 2).sum() / ((world.y - world.y.mean(0)) ** 2).sum()
    got = value(found, "explained_variance", "value", method="matched", gate=0.5, folded=False)
    assert got == pytest.approx(expected, abs=CLOSE)


def test_matching_scores_are_those_of_the_planted_activity(world, found, partner):
    i, j = world.codes > 0, world.later[:, partner] > 0
    both = (i & j).sum(0)
    conditional, jaccard = both / i.sum(0), both / (i | j).sum(0)
    assert conditional[PERSIST] == pytest.approx(1)
    assert 0.3 < conditional[SPLIT] < 0.7  # it fires with one half at a time
    dots = (world.codes * world.later[:, partner]).sum(0)
    lengths = np.linalg.norm(world.codes, axis=0) * np.linalg.norm(world.later[:, partner], axis=0)
    fires = lengths > 0
    for score, expected, features in (
        ("conditional", conditional.mean(), F),
        ("jaccard", jaccard.mean(), F),
        ("cosine", (dots[fires] / lengths[fires]).mean(), fires.sum()),
    ):
        assert value(found, "matching_score", "value", method="matched", score=score) == pytest.approx(
            expected, abs=CLOSE
        )
        assert value(found, "matching_score", "features", method="matched", score=score) == features
    assert set(np.nonzero(~fires)[0]) < set(VANISH)


def test_baselines_are_compared_and_each_seed_is_a_row(found):
    methods = {"matched", "unfolded", "encoder_only", "decoder_only", "greedy", "cosine", "nearest_cosine", "identity"}
    assert {row["method"] for row in found[0].tables["mse"].rows} == methods | {"random"}
    assert {row["seed"] for row in found[0].tables["mse"].where(method="random")} == set(range(5))
    best = value(found, "mse", "mse", method="matched", part="all")
    assert all(
        row["mse"] >= best * (1 - 1e-12)
        for row in found[0].tables["mse"].where(part="all")
        if row["method"] != "nearest_cosine"
    )


def test_an_interval_knows_documents(tmp_path):
    repeated = World(repeat=True)
    chain = sm.match_layers({0: repeated.a, 1: repeated.b})
    source = StoredActivations(repeated.write_activations(tmp_path / "activations"))
    same = evaluate(chain, tmp_path / "out", activations=source).tables
    for row in same["explained_variance"].rows + same["matching_score"].rows:  # every document says the same
        assert row["low"] == pytest.approx(row["high"], abs=1e-9) == pytest.approx(row["value"], abs=1e-9)
        assert (row["documents"], row["tokens"], row["left_out"]) == (DOCUMENTS, DOCUMENTS * LENGTH, 0)
    # The mean of n draws of 0 or 1: its interval is that of a binomial share, 1.96 sqrt(p (1 - p) / n) to each side.
    ones = np.repeat([0.0, 1.0], 100)
    found = interval(mean_ratio, ones, np.ones(200), counts=bootstrap_counts(200))
    assert found.value == 0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(0.25 / 200), rel=0.1)


def test_an_interval_lies_around_its_value_even_where_features_fire_in_few_documents():
    r = np.random.default_rng(0)
    below = r.integers(1, 20, (30, 500)) * (r.random((30, 500)) < 0.05)  # each in one or two documents of thirty
    above = below * r.random((30, 500))
    found = interval(lambda x, y: mean_ratio(np.sqrt(x), np.sqrt(y)), above, below, counts=bootstrap_counts(30))
    assert found.low < found.value < found.high


def test_far_layers_composed_and_exact(world, tmp_path):
    order = torch.randperm(F, generator=torch.Generator().manual_seed(1))
    third = sm.SAE(
        world.b.W_enc[:, order],
        world.b.b_enc[order],
        world.b.W_dec[order],
        world.b.b_dec,
        "jumprelu",
        world.b.threshold[order],
    )
    chain = sm.match_layers({0: world.a, 1: world.b, 2: third})
    (row,) = evaluate(chain, tmp_path / "out").tables["distances"].rows
    assert (row["source"], row["target"], row["distance"]) == (0, 2, 2)
    exact = sm.match(world.a, third).perm
    assert row["agreement"] == float((chain.compose(0, 2).perm == exact).double().mean())
    assert row["agreement"] >= 13 / F  # what persists; the two that vanish cost the same with any remaining feature
    assert row["composed_cost"] == pytest.approx(row["exact_cost"], 1e-12)
    assert row["exact_cosine"] == pytest.approx((13 + COSINE) / F)
    assert "distances" not in evaluate(chain, tmp_path / "near", distance=1).tables


def test_it_resumes_where_it_was_stopped_and_writes_what_it_returns(world, tmp_path, monkeypatch):
    chain = sm.match_layers({0: world.a, 1: world.b})
    first = evaluate(chain, tmp_path / "out")
    monkeypatch.setattr("saematch.evaluation.weights.measure_pair", lambda *_: pytest.fail("measured again"))
    again = evaluate(chain, tmp_path / "out")
    assert {name: table.rows for name, table in again.tables.items()} == {
        name: table.rows for name, table in first.tables.items()
    }
    for name, table in first.tables.items():
        read = Table.read(LocalFolder(tmp_path / "out"), table.schema)
        assert read.rows == table.rows, name
        assert (tmp_path / "out" / f"{name}.parquet").is_file()
    about = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert set(about["tables"]) == set(first.tables)
    monkeypatch.undo()
    other = sm.match_layers({0: world.a, 1: made_up(F, D, seed=5)})
    with pytest.raises(sm.MatchError, match=r"runs/unfolded: the SAE of layer 1 \(in memory\) has changed"):
        evaluate(other, tmp_path / "out")


def test_every_column_is_defined():
    for schema in SCHEMAS:
        assert schema.about
        assert all(schema.columns.values()), schema.name


def test_attention_sinks_are_left_out_and_counted(world, tmp_path):
    folder = world.write_activations(tmp_path / "activations")
    states = np.load(folder / "layer_0.npy")
    states[7] = 1000.0
    np.save(folder / "layer_0.npy", states)
    source = StoredActivations(folder)
    assert TokenSelection.of(source, (0, 1)).size == {"tokens": 299, "left_out": 1, "documents": DOCUMENTS}
    assert TokenSelection.of(source, (0, 1), outliers=None).size["left_out"] == 0


def refuse(world, folder, match, length=None, chain=None):
    chain = chain or sm.match_layers({0: world.a, 1: world.b})
    with pytest.raises(sm.MatchError, match=match):
        evaluate(chain, folder / "out", activations=StoredActivations(folder / "activations", length), distance=1)


@pytest.mark.parametrize(
    ("match", "spoil"),
    [
        ("activations of layer 1 have width 7", lambda x: {"layer_1": x["layer_1"][:, :7]}),
        ("must have the same tokens, but layer 0 has 300, layer 1 has 299", lambda x: {"layer_1": x["layer_1"][1:]}),
        ("no activations of layer 1; the folder has layers 0", lambda x: {"layer_1": None}),
        ("no activations there", lambda x: {"layer_0": None, "layer_1": None}),
        ("do not belong to the same tokens in the same order", lambda x: {"layer_1": x["layer_1"][::-1].copy()}),
        (
            "layer 1 are NaN or infinite, first at token 3, column 5",
            lambda x: {"layer_1": np.where(np.arange(300 * D).reshape(300, D) == 3 * D + 5, np.nan, x["layer_1"])},
        ),
        ("1 document with tokens; uncertainty needs at least two", lambda x: {"documents": np.zeros(300, int)}),
        ("299 entries for 300 tokens", lambda x: {"documents": np.zeros(299, int)}),
        ("which tokens belong to one document", lambda x: {"documents": None}),
        ("expected .tokens,. of integers", lambda x: {"documents": np.zeros(300)}),
        ("expected .tokens, d. of floating-point", lambda x: {"layer_1": np.zeros(300)}),
        ("layer_1.npy: not an array that can be read", lambda x: {"layer_1": np.array([{}] * 300, dtype=object)}),
    ],
)
def test_activations_that_do_not_fit_are_refused(world, tmp_path, match, spoil):
    folder = world.write_activations(tmp_path / "activations")
    content = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    for name, array in spoil(content).items():
        (folder / f"{name}.npy").unlink()
        if array is not None:
            np.save(folder / f"{name}.npy", array, allow_pickle=True)
    refuse(world, tmp_path, match)


def test_documents_of_one_length(world, tmp_path):
    folder = world.write_activations(tmp_path / "activations")
    assert StoredActivations(folder, LENGTH).documents[-1] == DOCUMENTS - 1
    with pytest.raises(sm.MatchError, match="not a whole number of documents of 7"):
        StoredActivations(folder, 7)
    with pytest.raises(sm.MatchError, match="no such folder"):
        StoredActivations(tmp_path / "nowhere")


def test_runs_that_cannot_be_evaluated_are_refused(world, tmp_path):
    pair = {0: world.a, 1: world.b}
    with pytest.raises(sm.MatchError, match="a run of two sets"):
        evaluate(sm.match_layers(pair, against=pair), tmp_path / "out")
    with pytest.raises(sm.MatchError, match="was made of matchings"):
        evaluate(sm.Chain(dict(sm.match_layers(pair))), tmp_path / "out")
    model = write_model(tmp_path / "model", (0, 1))
    sm.match_layers(sm.load_layers(model), tmp_path / "run")
    (model / "layer_01").rename(tmp_path / "gone")
    with pytest.raises(sm.MatchError, match="the SAEs of layers 1 are no longer where the run found them"):
        evaluate(sm.Chain.load(tmp_path / "run"), tmp_path / "out")


def test_other_widths_and_sources_without_a_partner(world, tmp_path):
    wide = made_up(F + 5, D, seed=3)
    chain = sm.match_layers({0: world.a, 1: wide, 2: world.b}, max_cost=30.0)
    found = evaluate(chain, tmp_path / "out").tables
    for row in found["mse"].where(method="matched", part="all"):
        assert row["matched"] == int((chain[row["source"], row["target"]].perm >= 0).sum())
    (far,) = found["distances"].rows
    exact = sm.match(world.a, world.b, max_cost=30.0)
    for name, matching in (("composed", chain.compose(0, 2)), ("exact", exact)):
        kept = matching.perm >= 0
        assert far[f"{name}_matched"] == int(kept.sum())
        assert far[f"{name}_cost"] == pytest.approx(float(matching.pair_cost.sum()) + 30.0 * (F - int(kept.sum())))
    assert far["composed_matched"] < far["exact_matched"]
    assert far["composed_cost"] > far["exact_cost"]
    relu = {layer: made_up(F, D, "relu", seed=layer) for layer in (0, 1)}
    chain = sm.match_layers(relu, fold="none")
    assert evaluate(chain, tmp_path / "relu").fold == "decoder_norm"
