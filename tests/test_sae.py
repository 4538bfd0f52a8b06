from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saematch as sm
from saes import made_up
from tolerance import FOLD

pytestmark = pytest.mark.through_passes


def inputs(d=8, n=50):
    return torch.from_numpy(np.random.default_rng(9).standard_normal((n, d)) * 3)


@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
def test_encode_and_decode_follow_their_formulas(activation):
    sae, x = made_up(activation=activation), inputs()
    z = x.numpy() @ sae.W_enc.numpy() + sae.b_enc.numpy()
    if activation == "jumprelu":
        expected = z * (z > sae.threshold.numpy())
    elif activation == "relu":
        expected = np.maximum(z, 0)
    else:
        expected = np.maximum(z, 0) * (z >= np.sort(z, axis=1)[:, -3:][:, :1])
    f = sae.encode(x)
    np.testing.assert_allclose(f, expected, atol=1e-13)
    np.testing.assert_allclose(sae.decode(f), expected @ sae.W_dec.numpy() + sae.b_dec.numpy(), atol=1e-12)


@pytest.mark.parametrize("fold", ["threshold", "decoder_norm", "none", np.linspace(0.1, 5, 12)])
def test_fold_changes_no_reconstruction(fold):
    sae, x = made_up(), inputs()
    folded = sae.fold(fold)
    scale = folded.W_dec.norm(dim=1) / sae.W_dec.norm(dim=1)
    before, after = sae.decode(sae.encode(x)), folded.decode(folded.encode(x))
    assert (before - after).abs().max() <= FOLD * before.abs().max()
    np.testing.assert_allclose(folded.encode(x) * scale, sae.encode(x), rtol=1e-12, atol=1e-12)


def test_folds_by_name_do_what_they_say():
    sae = made_up()
    np.testing.assert_array_equal(sae.fold("threshold").threshold, np.ones(12))
    np.testing.assert_allclose(sae.fold("decoder_norm").W_dec.norm(dim=1), np.ones(12), rtol=1e-14)
    np.testing.assert_array_equal(sae.fold("none").W_enc, sae.W_enc)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=12, max_size=12))
def test_folding_cancels_any_rescaling_of_the_features(scales):
    s = torch.tensor(scales, dtype=torch.float64)
    sae = made_up()
    rescaled = made_up(
        W_enc=sae.W_enc * s, b_enc=sae.b_enc * s, W_dec=sae.W_dec / s[:, None], threshold=sae.threshold * s
    )
    for name in ("W_enc", "b_enc", "W_dec"):
        np.testing.assert_allclose(
            getattr(rescaled.fold("threshold"), name), getattr(sae.fold("threshold"), name), rtol=1e-13
        )


def test_match_is_blind_to_the_order_and_scale_of_features():
    a, planted = made_up(F=40, d=24), np.random.default_rng(3).permutation(40)
    s = torch.from_numpy(np.exp(np.random.default_rng(4).standard_normal(40)))
    back = torch.from_numpy(np.argsort(planted))
    moved = {"W_enc": (a.W_enc * s)[:, back], "b_enc": (a.b_enc * s)[back], "W_dec": (a.W_dec / s[:, None])[back]}
    b = made_up(F=40, d=24, **moved, threshold=(a.threshold * s)[back])
    m = sm.match(a, b)
    np.testing.assert_array_equal(m.perm, planted)
    assert m.certified
    in_thresholds = [sae.encode(inputs(24)) / sae.threshold for sae in (a, b)]
    np.testing.assert_allclose(m.carry(in_thresholds[0]), in_thresholds[1], atol=1e-10)


def test_scale_of_either_side():
    a, b = made_up(seed=1), made_up(seed=2)
    pair = (a.threshold, b.threshold)
    assert sm.match(a, b, fold=pair).cost == sm.match(a, b).cost
    assert sm.match(a, b, fold=("threshold", "none")).cost != sm.match(a, b).cost


def test_weights_of_parts_scale_the_cost():
    a, b = made_up(seed=1), made_up(seed=2)
    plain, double = sm.match(a, b, parts=["decoder"]), sm.match(a, b, parts=["decoder"], weights={"decoder": 2})
    assert double.cost == pytest.approx(2 * plain.cost, rel=1e-12)
    both = sm.match(a, b, parts=("decoder", "encoder"), weights={"encoder": 1e-12})
    np.testing.assert_array_equal(both.perm, plain.perm)


def test_unfolded_unit_decoders_are_matched_by_cosine():
    from contracts import cheapest

    a, b = made_up(seed=1).fold("decoder_norm"), made_up(seed=2).fold("decoder_norm")
    columns, _ = cheapest(-(a.W_dec @ b.W_dec.T).numpy())
    np.testing.assert_array_equal(sm.match(a, b, parts="decoder", fold="none").perm, columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_enc": torch.zeros(12, 8)}, r"W_enc is \(12, 8\), expected \(8, 12\).*looks transposed: W_enc.T fits"),
        ({"W_dec": torch.zeros(12, 9)}, r"W_dec is \(12, 9\), expected \(12, 8\)"),
        ({"b_enc": torch.zeros(12, 1)}, "b_enc and b_dec must be vectors"),
        ({"threshold": None}, "a threshold comes with"),
        ({"activation": "relu"}, "a threshold comes with"),
        ({"activation": "gelu"}, "'gelu' is not known; known: \"jumprelu\""),
        ({"activation": "topk", "threshold": None}, "needs k between 1 and 12, got None"),
        ({"b_dec": np.zeros(8)}, "b_dec is a ndarray, expected a torch tensor"),
        ({"b_dec": torch.zeros(8, dtype=torch.int32)}, "b_dec is torch.int32, expected a floating-point"),
    ],
)
def test_shapes_and_activations_are_checked(changes, message):
    sae = made_up()
    with pytest.raises(sm.MatchError, match=message):
        replace(sae, **changes)


@pytest.mark.parametrize(
    ("fold", "changes", "message"),
    [
        ("threshold", {"threshold": torch.tensor([1.0, -2.0] * 6)}, r"is not .* for 6 of 12 .* feature 1 \(-2\)"),
        ("threshold", {"threshold": torch.tensor([1.0, 0.0] * 6)}, r"choose fold=\"decoder_norm\", fold=\"none\" or"),
        ("threshold", {"threshold": None, "activation": "relu"}, "this SAE is relu; choose fold"),
        ("decoder_norm", {"W_dec": torch.zeros(12, 8)}, "decoder norm is not .* for 12 of 12"),
        (None, {}, "fold None is neither one of"),
        ("sqrt", {}, "fold 'sqrt' is not known: choose one of"),
        (np.ones(5), {}, r"scale has shape \(5,\), expected \(12,\)"),
        (-np.ones(12), {}, "the scale is not finite and positive for 12 of 12"),
    ],
)
def test_folds_that_are_impossible_say_what_to_choose(fold, changes, message):
    with pytest.raises(sm.MatchError, match=message):
        made_up(**changes).fold(fold)


def test_nan_is_named_with_count_and_place():
    W_dec = torch.zeros(12, 8)
    W_dec[3, 5] = W_dec[4, 0] = torch.nan
    with pytest.raises(sm.MatchError, match=r"W_dec holds 2 values that are NaN .* first at index \(3, 5\)"):
        sm.match(made_up(W_dec=W_dec), made_up())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_infinities_are_found_and_large_numbers_are_not_taken_for_them(dtype):
    W_enc = torch.full((8, 12), torch.finfo(dtype).max, dtype=dtype)
    assert made_up(W_enc=W_enc).check_finite().F == 12  # though their sum overflows
    W_enc[2, 1], W_enc[3, 0] = torch.inf, -torch.inf
    for tensor in (W_enc, W_enc.clone().T.contiguous().T):
        with pytest.raises(sm.MatchError, match=r"W_enc holds 2 values that are .* first at index \(2, 1\)"):
            made_up(W_enc=tensor).check_finite()


def test_what_is_saved_may_share_memory_and_a_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sae = made_up()
    together = torch.cat([sae.b_enc, sae.threshold[:1]])
    shared = made_up(b_enc=together[:-1], threshold=together[1:].abs())
    for format in ("saelens", "gemma_scope"):
        shared.save(f"~/{format}/layer_1", format=format)
        again = sm.load(tmp_path / format)
        assert torch.equal(again.b_enc, shared.b_enc)
        assert torch.equal(again.threshold, shared.threshold)


@pytest.mark.parametrize(("path", "options"), [("a\0b", {}), ("x" * 300, {}), ("a", {"hook": b"x"})])
def test_where_nothing_can_be_saved_is_said(tmp_path, path, options):
    with pytest.raises(sm.MatchError, match=r"names no file|cannot be made|hook is b'x'; give the name of a place"):
        made_up().save(tmp_path / path, **options)
