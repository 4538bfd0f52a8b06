"""Layers of cross-layer transcoders and heads of crosscoders, which are read one at a time as if each was an SAE."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import saematch as sm
from saematch.dictionaries import compare_heads
from saematch.sources.files.checks import Piece
from saematch.sources.files.tensors import read_tensors
from saematch.sources.search import search
from saes import (
    LAYER,
    assert_own_pass,
    circuit_tracer_clt,
    crosscoder,
    drawn,
    gemma_scope_2,
    gemma_scope_2_clt,
    gemma_scope_2_crosscoder,
    llamascopium_clt,
    llamascopium_crosscoder,
    made_up,
    saelens,
)

READS = {
    circuit_tracer_clt: ("blocks.5.hook_resid_mid", None),
    gemma_scope_2_clt: ("model.layers.5.pre_feedforward_layernorm.output", "layer_norm"),
}
WRITES = {
    circuit_tracer_clt: "blocks.{}.hook_mlp_out",
    gemma_scope_2_clt: "model.layers.{}.post_feedforward_layernorm.output",
}
of_both = pytest.mark.parametrize("made", [circuit_tracer_clt, gemma_scope_2_clt])


def source_of(folder, made, own):
    """Return the address of layer 5, next to which there is the file of another layer's bias."""
    if made is circuit_tracer_clt:
        return f"{folder}/W_enc_5.safetensors{own.options}"
    return f"{folder}{own.options}"


@of_both
@pytest.mark.parametrize("to", [None, 5, 6, 7])
@pytest.mark.parametrize(("F", "dtype"), [(16, torch.float32), (8, torch.bfloat16), (8, torch.float64)])
def test_a_layer_of_a_cross_layer_transcoder_is_read_with_its_decoder_to_one_layer(tmp_path, made, to, F, dtype):
    w = drawn(F, 8, dtype)
    own = made(tmp_path, w, to=to)
    (handle,) = search(source_of(tmp_path, made, own))[0]
    found = handle.read()
    assert_own_pass(found, own, w)
    assert handle.layer == LAYER
    assert found.reads == sm.Space(*READS[made])
    assert found.writes == sm.Space(WRITES[made].format(5 if to is None else to))
    note = f"layer 5 of a cross-layer transcoder: its decoder to layer {5 if to is None else to}"
    assert note in " ".join(found.notes)
    header = handle.describe()
    assert (header.sae.reads, header.sae.writes, header.sae.F, header.sae.d) == (found.reads, found.writes, F, 8)
    assert header.dtype == str(dtype).removeprefix("torch.")


@of_both
@pytest.mark.parametrize("to", ["4", "8", "x", "-1", "5.0", "99999", ""])
def test_a_layer_that_is_not_written_is_refused(tmp_path, made, to):
    own = made(tmp_path, drawn(16, 8))
    mark = "&" if "?" in own.options else "?"
    with pytest.raises(sm.MatchError, match=rf"\?to={to}: layer 5 writes the layers 5 to 7"):
        sm.load(f"{source_of(tmp_path, made, own)}{mark}to={to}")


@pytest.mark.parametrize("function", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("norms", ["file", "folded"])
@pytest.mark.parametrize(("F", "to"), [(16, None), (16, 7), (8, 6)])
def test_a_layer_of_a_file_with_all_layers_is_read(tmp_path, function, by_norm, norms, F, to):
    w = drawn(F, 8)
    own = llamascopium_clt(tmp_path, w, function, to, by_norm, norms)
    (handle,) = search(f"{tmp_path}{own.options}")[0]
    found = handle.read()
    assert_own_pass(found, own, w)
    assert handle.layer == LAYER
    assert found.reads == sm.Space("blocks.5.hook_resid_mid")
    assert found.writes == sm.Space(f"blocks.{5 if to is None else to}.hook_mlp_out")
    for note in own.notes:
        assert note in " ".join(found.notes)
    # The address of the layer means the same, and so does that of the file.
    for source in (str(handle.checkpoint.address), f"{tmp_path}/sae_weights.safetensors{own.options}"):
        assert torch.equal(sm.load(source).W_enc, found.W_enc)
    assert handle.shown == f"{tmp_path}/sae_weights.safetensors?layer=5"


def test_all_layers_of_one_file_are_matched_by_what_they_write_to_one_layer(tmp_path):
    llamascopium_clt(tmp_path, drawn(16, 8), "jumprelu")
    layers = sm.load_layers(tmp_path)
    assert list(layers) == [4, 5, 6, 7]
    with pytest.raises(sm.MatchError, match=r"4 SAEs in it, name one of them: \S+sae_weights.safetensors\?layer=4, "):
        sm.load(tmp_path)
    found = sm.match_layers(sm.load_layers(f"{tmp_path}?to=7"), parts=["decoder"], fold="none")[4, 5]
    W_D = load_file(tmp_path / "sae_weights.safetensors")["W_D.3"].double() / (8**0.5 / 8.5)
    np.testing.assert_array_equal(found.perm, sm.assign(W_D[0].numpy(), W_D[1].numpy()).perm)
    with pytest.raises(sm.MatchError, match=r"there is no SAE of layer 8; there are 4, 5, 6, 7"):
        sm.load(f"{tmp_path}?layer=8")


@pytest.mark.parametrize("to", ["4", "8", "x", ""])
def test_a_layer_of_a_file_with_all_layers_writes_no_layer_before_it(tmp_path, to):
    llamascopium_clt(tmp_path, drawn(16, 8))
    with pytest.raises(sm.MatchError, match=rf"\?to={to}: layer 5 writes the layers 5, 6, 7"):
        sm.load(f"{tmp_path}?layer=5&to={to}")


def test_a_checkpoint_of_training_with_all_layers_is_read_as_its_refusal_says(tmp_path):
    """llamascopium writes its `.pt` files with the tensors in a dictionary of their own."""
    w = drawn(16, 8)
    own = llamascopium_clt(tmp_path, w, "jumprelu", to=6)
    (tmp_path / "sae_weights.safetensors").rename(tmp_path / "moved")
    tensors = load_file(tmp_path / "moved")
    torch.save({"sae": tensors, "version": "2.0.0"}, tmp_path / "sae_weights.pt")
    for source in (tmp_path, f"{tmp_path}/sae_weights.pt{own.options}"):
        with pytest.raises(sm.MatchError, match=r"are in a dictionary 'sae'; save that alone"):
            sm.load(source)
    torch.save(tensors, tmp_path / "sae_weights.pt")
    assert_own_pass(sm.load(f"{tmp_path}{own.options}"), own, w)


def test_the_layers_of_one_file_are_numbered_by_their_places_if_their_hooks_do_not_tell(tmp_path):
    w = drawn(16, 8)
    hooks = {f"hook_points_{side}": [f"{side} {name}" for name in "abcd"] for side in ("in", "out")}
    own = llamascopium_clt(tmp_path, w, norms="folded", hooks=hooks)
    assert list(sm.load_layers(tmp_path)) == [0, 1, 2, 3]
    assert_own_pass(sm.load(f"{tmp_path}?layer=1"), own, w)


def test_a_file_with_all_layers_in_the_folder_of_one_layer_is_refused(tmp_path):
    own = llamascopium_clt(tmp_path / "layer_5", drawn(16, 8))
    with pytest.raises(sm.MatchError, match="a cross-layer transcoder of 4 layers in one file; write"):
        sm.load(f"{tmp_path}{own.options}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "layertopk"}, "act_fn 'layertopk' is not supported; .* see one layer and one token at a time"),
        ({"sae_type": "sae"}, r"config\.json says sae_type 'sae'; its tensors are those of a clt"),
        ({"hook_points_in": ["blocks.5.mlp.hook_in"]}, "its W_E has 4 layers, .* does not name 4 hook_points_in"),
        ({"hook_points_out": []}, "a value is of another kind"),
        ({"d_model": 9}, "d_model is 9, and b_dec has the shape"),
    ],
)
def test_a_file_with_all_layers_whose_configuration_does_not_fit_is_refused(tmp_path, changes, message):
    llamascopium_clt(tmp_path, drawn(16, 8), **changes)
    with pytest.raises(sm.MatchError, match=message):
        sm.load(f"{tmp_path}?layer=5")


@pytest.mark.parametrize(
    ("name", "shape"), [("W_D.2", (2, 16, 8)), ("W_D.1", (16, 8)), ("b_E", (4, 8)), ("b_D.3", (9,)), ("W_D.3", None)]
)
def test_a_file_with_all_layers_whose_tensors_do_not_fit_is_refused(tmp_path, name, shape):
    llamascopium_clt(tmp_path, drawn(16, 8))
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors = {**tensors, name: torch.zeros(shape)} if shape else {k: v for k, v in tensors.items() if k != name}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    message = rf"{name} is \({', '.join(map(str, shape))},?\), expected" if shape else f"lacks {name}"
    for source in (tmp_path, f"{tmp_path}?layer=5"):
        with pytest.raises(sm.MatchError, match=message):
            sm.load(source)


@pytest.mark.parametrize(("layer", "to"), [(7, None), (7, 22), (13, None), (13, 17), (22, 22)])
@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("F", [16, 8])
def test_a_layer_of_a_crosscoder_of_gemma_scope_2_is_read(tmp_path, layer, to, config, F):
    w = drawn(F, 8)
    own = gemma_scope_2_crosscoder(tmp_path, w, layer, to, config)
    (handle,) = search(f"{tmp_path}{own.options}")[0]
    found = handle.read()
    assert_own_pass(found, own, w)
    assert handle.layer == layer
    assert found.reads == sm.Space(f"model.layers.{layer}.output")
    assert found.writes == sm.Space(f"model.layers.{layer if to is None else to}.output")
    note = f"layer {layer} of a weakly causal crosscoder: its decoder to layer {layer if to is None else to}, and the "
    assert note in " ".join(found.notes)
    assert (handle.describe().sae.F, handle.describe().layer) == (F, layer)


def test_the_layers_of_a_crosscoder_of_gemma_scope_2_are_in_its_configuration_or_its_folder(tmp_path):
    w = drawn(16, 8)
    for layer in (7, 17):
        gemma_scope_2_crosscoder(tmp_path / "a", w, layer, home="mine")
        gemma_scope_2_crosscoder(tmp_path / "b", w, layer, config=False, home="crosscoder/layer_7_17_width_65k")
    assert list(sm.load_layers(tmp_path / "a")) == [7, 17]
    with pytest.raises(sm.MatchError, match=r"its w_dec has 4 layers, and neither config\.json nor the name of its"):
        sm.load(tmp_path / "b/crosscoder/layer_7_17_width_65k/params_layer_0.safetensors")
    with pytest.raises(sm.MatchError, match=r"\?to=9: layer 17 writes the layers 17, 22"):
        sm.load(f"{tmp_path}/a?layer=17&to=9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hf_hook_point_in": 5}, "not as gemma_scope_2 writes it"),
        ({"hf_hook_point_out": ["x"]}, "not as gemma_scope_2 writes it"),
        ({"type": ["crosscoder"]}, "a cross-layer transcoder or a crosscoder: a feature reads or writes several"),
        ({"type": "sae"}, "a cross-layer transcoder or a crosscoder: a feature reads or writes several"),
        ({"hf_hook_point_in": "model.layers.{7,7,13,17}.output"}, "its w_dec has 4 layers, and neither config"),
        ({"hf_hook_point_in": "model.layers.{22,17,13,7}.output"}, "its w_dec has 4 layers, and neither config"),
        ({"hf_hook_point_in": "model.layers.{7,13,17}.output"}, "its w_dec has 4 layers, and neither config"),
    ],
)
def test_a_crosscoder_of_gemma_scope_2_whose_configuration_does_not_fit_is_refused(tmp_path, changes, message):
    gemma_scope_2_crosscoder(tmp_path, drawn(16, 8))
    (file,) = tmp_path.rglob("config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(sm.MatchError, match=message):
        sm.load(tmp_path)


def test_an_affine_connection_of_a_cross_layer_transcoder_is_left_out(tmp_path):
    w = drawn(16, 8)
    own = gemma_scope_2_clt(tmp_path, w, to=6, affine=True)
    found = sm.load(f"{tmp_path}{own.options}")
    assert_own_pass(found, own, w)
    assert "its affine connection is left out" in found.notes


def test_all_files_of_a_layer_are_hashed_and_watched(tmp_path):
    own = circuit_tracer_clt(tmp_path, drawn(16, 8), to=7)
    (handle,) = search(source_of(tmp_path, circuit_tracer_clt, own))[0]
    names = {"W_enc_5.safetensors", "W_dec_5.safetensors", "W_enc_7.safetensors", "config.yaml"}
    assert set(handle.sha256()) == set(handle.stamps()) == names


@pytest.mark.parametrize(
    ("lost", "message"),
    [("W_dec_5", r"W_dec_5\.safetensors is not next to it"), ("W_enc_7", r"W_enc_7\.safetensors is not next to it")],
)
def test_a_file_of_a_layer_that_is_missing_is_named(tmp_path, lost, message):
    own = circuit_tracer_clt(tmp_path, drawn(16, 8), to=7)
    (tmp_path / f"{lost}.safetensors").unlink()
    with pytest.raises(sm.MatchError, match=message):
        sm.load(source_of(tmp_path, circuit_tracer_clt, own))


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("W_dec_5", {"W_dec_5": torch.zeros(16, 8)}, r"does not hold a W_dec_5 \(features, layers, d\)"),
        ("W_dec_5", {"W_dec_4": torch.zeros(16, 3, 8)}, r"does not hold a W_dec_5 \(features, layers, d\)"),
        ("W_dec_5", {"W_dec_5": torch.zeros(12, 3, 8)}, r"W_dec is \(12, 8\), expected \(16, 8\)"),
        ("W_enc_7", {"b_dec_6": torch.zeros(8)}, "does not hold b_dec_7"),
        ("W_enc_7", {"b_dec_7": torch.zeros(9)}, "reads activations of width 8 and writes activations of width 9"),
    ],
)
def test_files_of_a_layer_that_do_not_fit_each_other_are_refused(tmp_path, name, tensors, message):
    own = circuit_tracer_clt(tmp_path, drawn(16, 8), to=7)
    save_file(tensors, tmp_path / f"{name}.safetensors")
    for look in (sm.load, lambda source: search(source)[0][0].describe()):
        with pytest.raises(sm.MatchError, match=message):
            look(source_of(tmp_path, circuit_tracer_clt, own))


def test_layers_without_the_names_of_their_hooks_have_to_be_allowed(tmp_path):
    w = drawn(16, 8)
    own = circuit_tracer_clt(tmp_path, w, config=False)
    with pytest.raises(sm.MatchError, match=r"it reads one place and writes another place.* write \?allow=transcoder"):
        sm.load(tmp_path)
    assert_own_pass(sm.load(f"{tmp_path}?allow=transcoder"), own, w)


def test_neighbouring_layers_of_a_cross_layer_transcoder_are_matched_by_what_they_write_to_one_layer(tmp_path):
    """Both layers write layer 7, by decoders of their own."""
    tensors = {}
    for layer in (5, 6):
        w = drawn(16, 8, seed=layer)
        tensors[layer] = torch.stack([w.dec * (to - 3) for to in range(layer, 8)], dim=1).float()
        encoder = {"W_enc": w.enc.T, "b_enc": w.b_enc, "b_dec": w.b_dec}
        save_file(
            {f"{name}_{layer}": tensor.float().contiguous() for name, tensor in encoder.items()},
            tmp_path / f"W_enc_{layer}.safetensors",
        )
        save_file({f"W_dec_{layer}": tensors[layer]}, tmp_path / f"W_dec_{layer}.safetensors")
    save_file({"b_dec_7": torch.zeros(8)}, tmp_path / "W_enc_7.safetensors")
    (tmp_path / "config.yaml").write_text("feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n")
    layers = sm.load_layers(f"{tmp_path}?layer=5,6&to=7")
    found = sm.match_layers(layers, parts=["decoder"], fold="none")[5, 6]
    expected = sm.assign(tensors[5][:, 2].numpy(), tensors[6][:, 1].numpy())
    np.testing.assert_array_equal(found.perm, expected.perm)


@pytest.mark.parametrize("asked", ["0", "1", "base", "chat"])
@pytest.mark.parametrize(("kind", "norm"), [("replication", None), ("learning", None), ("learning", 1)])
@pytest.mark.parametrize("F", [16, 8])
def test_a_head_of_a_crosscoder_is_read(tmp_path, asked, kind, norm, F):
    w, head = drawn(F, 8), {"base": 0, "chat": 1}.get(asked, asked)
    own = crosscoder(tmp_path, w, kind, head=int(head), norm=norm)
    found = sm.load(f"{tmp_path}?head={asked}")
    assert_own_pass(found, own, w)
    assert f"head {head} of a crosscoder of 2: its codes are those where other heads read 0" in found.notes
    assert (found.reads, found.writes) == (sm.Space("blocks.5.hook_resid_pre"),) * 2


@pytest.mark.parametrize("function", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("norms", ["file", "folded"])
@pytest.mark.parametrize(("F", "head"), [(16, 0), (16, 1), (8, 2)])
def test_a_head_of_a_crosscoder_of_llamascopium_is_read(tmp_path, function, norms, F, head):
    w = drawn(F, 8)
    own = llamascopium_crosscoder(tmp_path, w, function, head, norms)
    (handle,) = search(f"{tmp_path}{own.options}")[0]
    found = handle.read()
    assert_own_pass(found, own, w)
    assert (found.reads, found.writes) == (sm.Space(f"blocks.{4 + head}.hook_resid_post"),) * 2
    assert f"head {head} of a crosscoder of 3: its codes are those where other heads read 0" in found.notes
    dtypes = [{name: each.dtype for name, each in sae.tensors().items()} for sae in (handle.describe().sae, found)]
    assert dtypes[0] == dtypes[1]


def test_both_heads_of_a_crosscoder_add_up_to_its_codes(tmp_path):
    """Before the ReLU, the crosscoder adds up what its heads encode, and its bias once."""
    w = drawn(16, 8)
    crosscoder(tmp_path, w)
    stored = torch.load(next(tmp_path.rglob("*.pt")))
    heads = [sm.load(f"{tmp_path}?head={head}").to(torch.float64) for head in (0, 1)]
    x = torch.randn(64, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.einsum("nhd,hdf->nf", x, stored["W_enc"].double()) + stored["b_enc"]
    parts = [x[:, n] @ head.W_enc + head.b_enc for n, head in enumerate(heads)]
    torch.testing.assert_close(sum(parts) - heads[0].b_enc, whole, rtol=0, atol=1e-11)


@pytest.mark.parametrize("heads", [2, 3])
@pytest.mark.parametrize("asked", [None, "2", "3", "-1", "chat", "it", "1.0", "9" * 5000, "²"])
def test_a_head_that_is_not_there_has_to_be_another(tmp_path, heads, asked):
    crosscoder(tmp_path, drawn(16, 8), heads=heads)
    if (heads, asked) in ((2, "chat"), (3, "2")):
        assert sm.load(f"{tmp_path}?head={asked}").F == 16
        return
    named = r" \(base and chat\)" if heads == 2 else "$"
    message = r"write \?head=… after its path, a number" if asked is None else "its heads are"
    with pytest.raises(sm.MatchError, match=rf"{message}.* {heads - 1}{named}"):
        sm.load(tmp_path if asked is None else f"{tmp_path}?head={asked}")


def test_heads_are_matched(tmp_path):
    crosscoder(tmp_path, drawn(16, 8))
    base, chat = (sm.load(f"{tmp_path}?head={head}") for head in ("base", "chat"))
    found = sm.match(base, chat, metric="absolute_cosine", parts="decoder")
    assert found.certified
    np.testing.assert_array_equal(found.perm, np.arange(16))  # the rows of a head are those of the other, scaled


def test_the_norms_and_cosines_of_heads_are_those_of_their_decoder_rows(tmp_path):
    w = drawn(16, 8)
    crosscoder(tmp_path, w, heads=3)
    stored = torch.load(next(tmp_path.rglob("*.pt")))["W_dec"].double().numpy()
    heads = {name: sm.load(f"{tmp_path}?head={number}") for number, name in enumerate(("a", "b", "c"))}
    found = compare_heads(heads)
    np.testing.assert_allclose(found.norms, np.linalg.norm(stored, axis=2), rtol=1e-14)
    np.testing.assert_allclose(found.shares, np.broadcast_to([2 / 7, 1 / 7, 4 / 7], (16, 3)), rtol=1e-14)
    assert found.cosines is None
    np.testing.assert_allclose(compare_heads({name: heads[name] for name in "ab"}).cosines, -np.ones(16), rtol=1e-14)
    assert list(found.to_pandas()) == ["norm_a", "norm_b", "norm_c", "share_a", "share_b", "share_c"]


def test_the_norms_of_a_layer_to_others_are_compared(tmp_path):
    own = [circuit_tracer_clt(tmp_path, drawn(16, 8), to=to) for to in (5, 6, 7)]
    found = compare_heads(
        {str(n): sm.load(source_of(tmp_path, circuit_tracer_clt, each)) for n, each in enumerate(own)}
    )
    np.testing.assert_allclose(found.shares, np.broadcast_to([2 / 9, 3 / 9, 4 / 9], (16, 3)), rtol=1e-14)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"a": made_up()}, "at least two of them"),
        ([made_up(), made_up()], "a mapping of names to SAEs"),
        ({"a": made_up(), "b": "b"}, "a mapping of names to SAEs"),
        ({"a": made_up(), "b": made_up(F=13)}, "one number of features and one width"),
        ({"a": made_up(), "b": made_up(d=9)}, "one number of features and one width"),
        (
            {"a": made_up(), "b": made_up(writes=sm.Space("blocks.5.mlp.hook_post", "neurons"))},
            "their decoders cannot be compared",
        ),
    ],
)
def test_heads_that_are_not_of_one_crosscoder_are_refused(heads, message):
    with pytest.raises(sm.MatchError, match=message):
        compare_heads(heads)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_normalization_id": torch.tensor(3)}, "code_normalization_id 3 is not supported"),
        ({"threshold": torch.zeros(3)}, r"threshold has the shape \(3,\); expected \(\) or \(2,\)"),
        ({"encoder.bias": torch.zeros(9)}, r"W_enc is \(8, 16\), expected \(8, 9\)"),
        ({"decoder.bias": torch.zeros(3, 8)}, r"different numbers of heads: encoder.weight \(2, 8, 16\), .* \(3, 8\)"),
        ({"running_mean": torch.zeros(9)}, "holds running_mean, which this format does not know"),
    ],
)
@pytest.mark.parametrize("file", ["ae.pt", "model.safetensors"])
def test_a_crosscoder_whose_tensors_do_not_fit_is_refused(tmp_path, changes, message, file):
    crosscoder(tmp_path, drawn(16, 8), "learning", norm=1, file=file, **changes)
    with pytest.raises(sm.MatchError, match=message):
        sm.load(f"{tmp_path}?head=1")


@pytest.mark.parametrize(
    ("made", "option", "of"),
    [
        (saelens, "head=0", "crosscoders"),
        (saelens, "to=6", "cross-layer transcoders"),
        (circuit_tracer_clt, "head=0", "crosscoders"),
        (crosscoder, "to=6", "cross-layer transcoders"),
    ],
)
def test_an_option_of_another_kind_of_file_is_refused(tmp_path, made, option, of):
    made(tmp_path, drawn(16, 8))
    with pytest.raises(sm.MatchError, match=rf"\?{option[:-2]}= is for {of}, and this file is of the format"):
        sm.load(f"{tmp_path}?head=0&{option}" if made is crosscoder else f"{tmp_path}?{option}")


def test_a_layer_of_gemma_scope_2_that_is_no_cross_layer_transcoder_writes_no_other_layer(tmp_path):
    gemma_scope_2(tmp_path, drawn(16, 8))
    with pytest.raises(sm.MatchError, match=r"\?to= is for cross-layer transcoders"):
        sm.load(f"{tmp_path}?to=6")


@pytest.mark.parametrize("made", [partial(circuit_tracer_clt, to=7), crosscoder])
def test_headers_of_views_read_little(tmp_path, made, monkeypatch):
    own = made(tmp_path, drawn(512, 64))
    monkeypatch.setattr("saematch.sources.checkpoint.read_tensors", lambda *_: pytest.fail("weights were read"))
    source = f"{tmp_path}/W_enc_5.safetensors{own.options}" if made is not crosscoder else f"{tmp_path}{own.options}"
    (handle,) = search(source)[0]
    assert all(tensor.is_meta for tensor in handle.describe().sae.tensors().values())
    assert handle.describe().bytes < 3 * 512 * 64 * 4  # of one encoder and one decoder


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz"])
@pytest.mark.parametrize("at", [(), (1,), (None, 2), (None, None, 3), (1, None, 0), (1, 2, 3)])
@pytest.mark.parametrize("block", [64, 2**24])
def test_a_piece_of_a_tensor_has_the_values_of_the_tensor(tmp_path, suffix, at, block, monkeypatch):
    monkeypatch.setattr("saematch.sources.files.safetensors._BLOCK_BYTES", block)
    tensor = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0)).to(torch.float16)
    file = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        save_file({"x": tensor}, file)
    elif suffix == ".pt":
        torch.save({"x": tensor}, file)
    else:
        np.savez(file, x=tensor.numpy())
    found = read_tensors(file, pieces={"piece": Piece("x", at), "whole": Piece("x")})
    expected = tensor.float()[tuple(slice(None) if place is None else place for place in at)]
    assert torch.equal(found["piece"], expected)
    assert torch.equal(found["whole"], tensor.float())
    assert found["piece"].dtype == torch.float32
