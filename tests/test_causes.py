"""Substitution and ablation in transformers in which the partner of every feature is known."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import saematch as sm
from language_models import WIDTH, documents, write_idle_block, write_language_model, written_by
from saematch.activations.selection import TokenSelection
from saematch.evaluation import LanguageModel, Texts, evaluate
from saematch.evaluation.ablation import CONTROLS, Effects, _controls
from saematch.evaluation.curves import Curve, Pairing, first_known
from saematch.evaluation.loss import LossSums
from saematch.evaluation.rankings import RankedPairs, halves, nearest_sources, ranked_pairs
from saematch.evaluation.substitution import measure_substitution

NATS = 1e-4  # float32 sums over a few hundred terms around 1, in another order
SHARE = 1e-3  # of a loss of a tenth of a nat or more
FEATURES = 2 * WIDTH
IDLE = 2  # the block that adds nothing
TEXTS = documents(7, words=30)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return SAEs around a block that adds nothing, the true partner of every feature, the model, and texts.

    Both SAEs are exact. They have two features, with opposite signs, for each direction of a basis. In the second SAE,
    they are in another order, and their activations are twice to three times as large. The texts are the model's own.
    """
    folder = write_idle_block(write_language_model(tmp_path_factory.mktemp("idle")), IDLE)
    r = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=r).double())[0]
    both, order = torch.cat([basis, -basis]), torch.randperm(FEATURES, generator=r)
    scale = (2 + torch.rand(FEATURES, 1, generator=r)).double()
    bias = torch.randn(WIDTH, generator=r).double()
    a, b = exact(both, both, bias), exact((both * scale)[order], (both / scale)[order], bias)
    return {1: a, IDLE: b}, torch.argsort(order).numpy(), folder, written_by(folder)


def exact(encoder, decoder, bias):
    return sm.SAE(encoder.T, -encoder @ bias, decoder, bias, "relu")


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    saes, partners, folder, texts = world
    chain = sm.match_layers(saes, fold="decoder_norm")
    assert np.array_equal(chain[1, IDLE].perm.numpy(), partners)
    model = LanguageModel(str(folder), Texts(texts, "mark"), batch=2)
    return chain, evaluate(chain, tmp_path_factory.mktemp("out"), activations=model, outliers=None)


def test_partners_recover_all_of_the_loss_and_random_features_do_not(found):
    curve = found[1].tables["substitution"]
    matched = curve.where(method="matched", replaced_by="partner")
    assert [row["pairs"] for row in matched] == [2, 3, 8, 16, 32]
    for row in matched + curve.where(method="matched", replaced_by="nearest") + curve.where(method="nearest_source"):
        assert row["loss"] == pytest.approx(row["clean_loss"], abs=NATS)
        assert row["active"] == row["pairs"]
    # The first few features hardly matter to this model.
    for row in matched[2:]:
        assert row["loss_without"] - row["clean_loss"] > 1000 * NATS
        assert row["value"] == pytest.approx(1, abs=1e-3)
    for row in curve.where(replaced_by="random")[2:]:
        assert row["low"] < row["value"] < row["high"]
        assert row["loss"] - row["clean_loss"] > 100 * NATS


def test_the_area_is_the_mean_of_the_curve_over_the_logarithm(found):
    curve, areas = (found[1].tables[name] for name in ("substitution", "substitution_area"))
    (own,) = areas.where(method="matched", replaced_by="partner")
    assert (own["fewest"], own["most"], own["difference"]) == (16, 32, 0)  # fewer features hardly matter to this model
    for row in areas.rows:
        points = [curve.where(method=row["method"], replaced_by=row["replaced_by"], pairs=size)[0] for size in (16, 32)]
        assert row["value"] == pytest.approx((points[0]["value"] + points[1]["value"]) / 2)
        assert row["difference"] == pytest.approx(row["value"] - own["value"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_a_share_of_a_loss_that_may_be_zero_has_no_value():
    """From the second point on, the loss rises for certain, by more and more; at the third, it may fall."""
    r, sizes = np.random.default_rng(0), [1, 2, 4, 8, 16, 32]
    lost = np.array([0, 5, 0, 5, 6, 7]) + r.normal(size=(20, 6))
    saved = lost * [0.5, 0.9, 0.5, 0.8, 0.7, 0.4]
    sums = LossSums(np.full(20, 2.0), np.full(20, 3.0), np.empty((0, 20)))
    pairing = Pairing("matched", "partner", np.arange(32), np.arange(32))
    curve = Curve(pairing, 3 + lost - saved, 3 + lost, sums)
    points = list(curve.points(sizes, np.ones(32, bool)))
    assert [point["value"] for point in points] == pytest.approx([np.nan, 0.9, np.nan, 0.8, 0.7, 0.4], nan_ok=True)
    for point, (saved_here, lost_here) in zip(points, zip(saved.T, lost.T, strict=True), strict=True):
        assert point["loss_without"] - point["loss"] == pytest.approx(saved_here.sum() / 40)
        assert point["loss_without"] - point["clean_loss"] == pytest.approx(lost_here.sum() / 40)
    assert first_known([curve]) == 3
    area = curve.area(sizes, 3, curve)
    assert (area["fewest"], area["most"], area["difference"]) == (8, 32, 0)
    assert area["value"] == pytest.approx((0.8 / 2 + 0.7 + 0.4 / 2) / 2)
    assert np.isnan(curve.area(sizes, len(sizes), curve)["value"])


def test_a_pair_of_features_is_not_taken_for_two_targets(world):
    """Target 3 computed from source 5, and targets 3 and 5 left out, are two passes."""
    saes, _, folder, texts = world
    model = LanguageModel(str(folder), Texts(texts, "mark"))
    fitted, measured = halves(model, TokenSelection.of(model, (1, IDLE), outliers=None))
    sources, targets = np.array([5, 0]), np.array([3, 5])
    rankings = [RankedPairs(name, sources, targets) for name in ("matched", "other")]
    found = measure_substitution(fitted, measured, (1, IDLE), saes[1], saes[IDLE], rankings, 2)["substitution"]
    b, kept = saes[IDLE], torch.from_numpy(targets)
    expected = loss_by_hand(folder, texts[1::2], lambda x: x - b.encode(x)[:, :, kept] @ b.W_dec[kept])
    for row in found:
        if (row["method"], row["pairs"]) == ("matched", 2):
            assert row["loss_without"] == pytest.approx(expected, abs=NATS / 10)


def loss_by_hand(folder, texts, change):
    """Return the mean loss if the hidden states after block `IDLE` are changed, except for the first token."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    real = model.model.layers[IDLE].forward

    def forward(hidden_states, *arguments, **named):
        out = real(hidden_states, *arguments, **named).clone()
        out[:, 1:] = change(out[:, 1:].double()).to(out)
        return out

    model.model.layers[IDLE].forward = forward
    losses = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
            logits = model(ids, use_cache=False).logits[0]
            losses.append(nn.functional.cross_entropy(logits[1:-1], ids[0, 2:], reduction="none"))
    return float(torch.cat(losses).mean())


def test_losses_are_those_of_hidden_states_that_are_changed_by_hand(world, found):
    """Every second document is measured; the others fit the slopes."""
    saes, _, folder, texts = world
    a, b, chain, measured = saes[1], saes[IDLE], found[0], texts[1::2]
    curve = found[1].tables["substitution"]
    ranked = ranked_pairs({"matched": chain[1, IDLE]})[0]
    targets = torch.from_numpy(ranked.targets)
    for row in curve.where(method="matched", replaced_by="partner"):
        kept = targets[: row["pairs"]]

        def without(states, kept=kept):
            return states - b.encode(states)[:, :, kept] @ b.W_dec[kept]

        assert row["loss_without"] == pytest.approx(loss_by_hand(folder, measured, without), abs=NATS)
        assert row["clean_loss"] == pytest.approx(loss_by_hand(folder, measured, lambda states: states), abs=NATS)
    # A method that errs: the slopes are those of the other documents.
    perm = chain[1, IDLE].perm.numpy()
    (random,) = curve.where(replaced_by="random", pairs=FEATURES)
    steps = np.random.default_rng([0, 1, IDLE]).integers(0, FEATURES - 1, FEATURES)
    sources = torch.from_numpy((ranked.sources + 1 + steps) % FEATURES)
    assert not (perm[sources.numpy()] == ranked.targets).any()
    model = LanguageModel(str(folder), Texts(texts[::2], "others"))
    f, g = (torch.cat(states).double() for states in zip(*model.batches([1, IDLE]), strict=True))
    f, g = a.encode(f)[:, sources], b.encode(g)[:, targets]
    slopes = (f * g).sum(0) / (f * f).sum(0)

    def replaced(states):  # the hidden states of both layers are equal
        change = a.encode(states)[:, :, sources] * slopes - b.encode(states)[:, :, targets]
        return states + change @ b.W_dec[targets]

    assert random["loss"] == pytest.approx(loss_by_hand(folder, measured, replaced), abs=NATS)


def test_an_ablation_silences_the_partner_and_nothing_else(world, found):
    tables = found[1].tables
    for row in tables["ablated_features"].rows:
        assert row["partner"] == row["strongest"] == world[1][row["feature"]]
        assert row["partner_cosine"] == pytest.approx(1)
        assert row["partner_change"] == row["strongest_change"] == pytest.approx(-1, abs=SHARE)
        assert row["tokens"] > 0
    assert len(tables["ablated_features"].rows) == FEATURES
    value = {(row["method"], row["seed"], row["effect"]): row["value"] for row in tables["ablation"].rows}
    assert [value["matched", 0, effect] for effect in ("falls", "strongest")] == [1, 1]
    assert value["matched", 0, "change"] == pytest.approx(-1, abs=SHARE)
    for control in CONTROLS:
        assert [value[control, 0, effect] for effect in ("falls", "strongest")] == [0, 0]
        assert value[control, 0, "change"] == pytest.approx(0, abs=SHARE)
    for seed in range(5):
        drawn = np.random.default_rng([seed, 1, IDLE]).permutation(FEATURES)
        assert value["random", seed, "falls"] == value["random", seed, "strongest"] == np.mean(drawn == world[1])


def test_targets_to_compare_with_are_about_as_often_active_as_the_partner():
    r = np.random.default_rng(3)
    active, fires = r.poisson(3, 200).astype(float), r.poisson(1, (50, 200)).astype(float)
    partners = r.integers(0, 200, 50)
    effects = Effects(np.arange(50), np.full(50, 9.0), fires, 2 * fires, fires)
    for name, drawn in _controls(r, effects, partners, active):
        times = fires if name == "as_often_together" else np.tile(active, (50, 1))
        distance = np.abs(times - times[np.arange(50), partners][:, None])
        distance[np.arange(50), partners] = np.inf
        assert np.all(distance[np.arange(50), drawn] <= np.sort(distance, axis=1)[:, 9])
        assert len(set(drawn)) > 25


def test_hidden_states_after_an_ablation_are_those_of_a_model_that_is_changed_by_hand(tmp_path):
    folder = write_language_model(tmp_path)
    model = LanguageModel(str(folder), Texts(TEXTS, "mark"), batch=3)
    selected = np.random.default_rng(0).random(len(model.documents)) < 0.7
    batch = next(model.states((0, 2), selected))
    tokens = torch.arange(3, len(batch.x), 11)
    after = batch.after(tokens, -batch.x[tokens])
    real, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    block, expected = real.model.layers[0].forward, torch.zeros_like(after)
    for context in range(3):
        ids = torch.tensor([[0, *tokenizer(TEXTS[context], add_special_tokens=False)["input_ids"]]])
        of_context = batch.positions[tokens, 0] == context
        places = batch.positions[tokens[of_context], 1]

        def forward(hidden_states, *arguments, places=places, **named):
            out = block(hidden_states, *arguments, **named).clone()
            out[0, places] = -out[0, places]
            return out

        real.model.layers[0].forward = forward
        with torch.no_grad():
            states = real(ids, output_hidden_states=True, use_cache=False).hidden_states
        expected[of_context] = states[3][0, places]
    torch.testing.assert_close(after, expected, atol=NATS, rtol=NATS)
    assert (after - batch.y[tokens]).abs().max() > 0.1


def test_a_run_by_activations_is_compared_with_one_by_weights(world, tmp_path):
    saes, partners, folder, texts = world
    model = LanguageModel(str(folder), Texts(texts, "mark"))
    chain = sm.match_layers(saes, metric="correlation", activations=model)
    assert np.array_equal(chain[1, IDLE].perm.numpy(), partners)
    tables = evaluate(chain, tmp_path / "out", activations=model, outliers=None).tables
    own = {row["method"] for row in tables["substitution"].where(replaced_by="partner")}
    assert own == {
        "matched", "weights", "greedy", "cosine", "nearest_source", "correlation_of_half", "mixed_of_half",
    }  # fmt: skip
    for method in ("matched", "weights", "correlation_of_half", "mixed_of_half"):
        (last,) = tables["substitution"].where(method=method, replaced_by="partner", pairs=FEATURES)
        assert last["loss"] == pytest.approx(last["clean_loss"], abs=NATS)
        (falls,) = tables["ablation"].where(method=method, effect="strongest")
        assert falls["value"] == 1


def test_documents_that_are_equal_leave_no_uncertainty(world, tmp_path):
    saes, _, folder, texts = world
    model = LanguageModel(str(folder), Texts(texts[:1] * 6, "same"), batch=2)
    chain = sm.match_layers(saes, fold="decoder_norm")
    tables = evaluate(chain, tmp_path / "out", activations=model, outliers=None).tables
    for row in tables["substitution"].rows + tables["substitution_area"].rows:
        assert row["documents"] == 3
        assert row["low"] == pytest.approx(row["value"], abs=SHARE) == pytest.approx(row["high"], abs=SHARE)


def test_the_nearest_source_of_a_target_has_the_largest_cosine():
    r = torch.Generator().manual_seed(1)
    a, b = (exact(rows, rows, rows[0]) for rows in torch.randn(2, FEATURES, WIDTH, generator=r).double())
    nearest = nearest_sources(a, b)
    unit = [nn.functional.normalize(sae.W_dec) for sae in (b, a)]
    cosines = (unit[0] @ unit[1].T).numpy()
    assert np.array_equal(nearest.sources, cosines[nearest.targets].argmax(1))
    assert np.all(np.diff(cosines[nearest.targets, nearest.sources]) <= 1e-6)
    assert np.array_equal(np.sort(nearest.targets), np.arange(FEATURES))


def test_it_resumes_after_the_substitution_with_equal_tables(world, found, tmp_path, monkeypatch):
    saes, _, folder, texts = world
    model = LanguageModel(str(folder), Texts(texts, "mark"), batch=2)
    chain = sm.match_layers(saes, fold="decoder_norm")

    def stop(event):
        if event.name.startswith("ablation"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(chain, tmp_path / "out", activations=model, outliers=None, progress=stop)
    measure = "saematch.evaluation.substitution.measure_substitution"
    monkeypatch.setattr(measure, lambda *_: pytest.fail("measured again"))
    again = evaluate(chain, tmp_path / "out", activations=model, outliers=None).tables
    for name, table in found[1].tables.items():
        assert again[name].rows == table.rows, name
    monkeypatch.undo()
    fewer = evaluate(chain, tmp_path / "out", activations=model, outliers=None, causal_pairs=20).tables["substitution"]
    assert {row["pairs"] for row in fewer.rows} == {1, 2, 5, 10, 20}


class Stopped(LanguageModel):
    """A language model that is stopped when it begins a batch of losses after some others."""

    batches_left = 0

    def losses(self, *given):
        for batch in super().losses(*given):
            self.batches_left -= 1
            if self.batches_left < 0:
                raise KeyboardInterrupt
            yield batch


def test_losses_resume_in_the_midst_of_a_measurement_with_equal_tables(world, found, tmp_path):
    """The loss of stand-ins has 4 batches of 2 documents, and substitution 2 batches: 6 in all."""
    saes, _, folder, texts = world
    model = Stopped(str(folder), Texts(texts, "mark"), batch=2)
    chain, unfinished = sm.match_layers(saes, fold="decoder_norm"), []
    for left in (3, 2):  # after 3 of the first 4 batches, and then after the first of the other 2
        model.batches_left = left
        with pytest.raises(KeyboardInterrupt):
            evaluate(chain, tmp_path, activations=model, outliers=None)
        unfinished += [path.name for path in (tmp_path / "parts").glob("*.unfinished.json")]
    assert unfinished == ["loss-1-2.unfinished.json", "substitution-1-2.unfinished.json"]
    model.batches_left = 1
    again = evaluate(chain, tmp_path, activations=model, outliers=None).tables
    assert not list((tmp_path / "parts").glob("*.unfinished.json"))
    for name, table in found[1].tables.items():
        assert again[name].rows == table.rows, name


def test_features_that_are_never_active_say_nothing(world, tmp_path):
    saes, _, folder, texts = world
    dead = {layer: sm.SAE(sae.W_enc, sae.b_enc - 1e6, sae.W_dec, sae.b_dec, "relu") for layer, sae in saes.items()}
    model = LanguageModel(str(folder), Texts(texts[:4], "four"))
    found = evaluate(sm.match_layers(dead, fold="decoder_norm"), tmp_path, activations=model, outliers=None)
    for row in found.tables["substitution"].rows:
        assert (row["active"], row["value"]) == (0, None)
        assert row["loss"] == row["loss_without"] == pytest.approx(row["clean_loss"], abs=NATS)
    assert {row["value"] for row in found.tables["substitution_area"].rows} == {None}
    assert found.tables["ablation"].rows == found.tables["ablated_features"].rows == []


def test_what_is_left_out_has_a_reason(world, tmp_path):
    saes, _, folder, texts = world
    chain = sm.match_layers(saes, fold="decoder_norm")
    model = LanguageModel(str(folder), Texts(texts[:3], "three"))
    found = evaluate(chain, tmp_path / "few", activations=model, outliers=None)
    assert found.not_measured["substitution, ablation"] == "the texts have fewer than 4 documents"
    model = LanguageModel(str(folder), Texts(texts[:4], "four"))
    found = evaluate(chain, tmp_path / "none", activations=model, outliers=None, causal_pairs=0)
    assert found.not_measured["substitution, ablation"] == "no pairs are to be replaced (causal_pairs=)"
    assert "substitution" not in found.tables
    # Both SAEs read the same block.
    hooks = {1: "resid_post", IDLE: "resid_pre"}
    model = LanguageModel(str(folder), Texts(texts[:4], "four"), hooks=hooks)
    found = evaluate(chain, tmp_path / "same", activations=model, outliers=None)
    assert found.not_measured["ablation, layers 1 and 2"] == "the first SAE does not read an earlier block"
    assert found.tables["substitution"].rows
    with pytest.raises(sm.MatchError, match="causal_pairs is -1; give the most pairs of features to replace, or 0"):
        evaluate(chain, tmp_path / "bad", causal_pairs=-1)


def test_halves_of_the_documents_have_their_own_tokens(world):
    model = LanguageModel(str(world[2]), Texts(TEXTS, "mark"), context=16)
    selection = TokenSelection.of(model, (1, IDLE), outliers=None)
    is_kept = np.arange(7) % 2 == 0
    part = model.part(is_kept)
    whole = torch.cat([x for (x,) in model.batches([1])])
    kept = torch.cat([x for (x,) in part.batches([1])])
    torch.testing.assert_close(kept, whole[torch.from_numpy(is_kept[selection.source.documents])], atol=NATS, rtol=NATS)
    assert np.array_equal(np.unique(part.documents), np.arange(4))
