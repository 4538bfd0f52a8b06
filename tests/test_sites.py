"""The sites that SAEs read in a model: those in the basis of the residual stream are read, all others are refused."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch

import saematch as sm
from saematch.cli.main import main
from saematch.sources.formats.basis import basis_of
from saes import (
    dictionary_learning,
    drawn,
    gemma_scope,
    gemma_scope_2,
    jump,
    llama_scope,
    made_up,
    openai,
    saelens,
    sparsify,
    write_file,
    write_npz,
)

GEMMA, LLAMA = "google/gemma-2-2b", "meta-llama/Llama-3.1-8B"
SITES = {
    "residual": """
        blocks.5.hook_resid_pre  blocks.5.hook_resid_mid  blocks.5.hook_resid_post  hook_embed  model.layers.5
        model.layers.5.input  model.layers.5.output  transformer.h.5  gpt_neox.layers.5  resid_post_layer_5
        blocks.5.hook_mlp_in  blocks.5.hook_attn_in  blocks.5.hook_out  model.layers.5.input_layernorm.input
        model.layers.5.post_attention_layernorm.input  model.layers[5].output[0]  transformer.h[5].output
        model.layers[5].input[0][0]  model.layers[5].inputs[0][0]  visual.transformer.resblocks.5  resid_post_mlp
        backbone.layers.5  model.embed_tokens
    """,
    "write": """
        blocks.5.hook_attn_out  blocks.5.attn.hook_out  model.layers.5.self_attn  model.layers.5.self_attn.output
        model.layers.5.self_attn.o_proj.output  transformer.h.5.attn.c_proj.output  gpt_neox.layers.5.attention
        gpt_neox.layers.5.attention.dense.output  attn_out_layer_5  blocks.5.hook_mlp_out  model.layers.5.mlp
        model.layers.5.mlp.output  model.layers.5.mlp.down_proj.output  gpt_neox.layers.5.mlp.dense_4h_to_h.output
        model.layers.5.post_feedforward_layernorm  model.layers.5.post_feedforward_layernorm.output
        model.layers.5.post_mlp_layernorm.output  blocks.5.ln1_post  blocks.5.ln2_post  blocks.5.attn.o.hook_out
        blocks.5.mlp.out.hook_out  transformer.h.5.mlp.fc_out.output  layers.5.feed_forward.w2.output
        layers.5.attention.wo.output  transformer.blocks.5.ffn.down_proj.output
        encoder.block.5.layer.0.SelfAttention.o.output  encoder.block.5.layer.1.DenseReluDense.wo.output
        transformer.layer.5.ffn.lin2.output  transformer.layer.5.attention.out_lin.output  layers.5.linear2.output
        model.layers.5.block_sparse_moe  model.layers.5.block_sparse_moe.experts.0.w2.output
        bert.encoder.layer.5.output.dense.output  transformer.h[5].mlp.output[0]  model.layers[5].self_attn.output[0]
        gpt_neox.layers[5].attention.dense.output  resid_delta_attn  resid_delta_mlp  mlp_out_layer_5
        blocks.5.attn.proj.output  model.layers.5.linear_attn  backbone.layers.5.mixer
        model.layers.5.post_feedforward_layernorm.input
    """,
    "layer_norm": """
        blocks.5.ln1.hook_normalized  blocks.5.ln2.hook_normalized  ln_final.hook_normalized  transformer.h.5.ln_1
        transformer.ln_f  model.layers.5.input_layernorm  model.layers.5.input_layernorm.output  model.norm
        model.layers.5.pre_feedforward_layernorm.output  model.layers.5.post_attention_layernorm
        gpt_neox.layers.5.post_attention_layernorm.output  gpt_neox.final_layer_norm  blocks.5.mlp.hook_in
        model.layers.5.mlp.input  model.layers.5.self_attn.input  model.layers.5.mlp.up_proj.input
        model.layers.5.self_attn.q_proj.input  layers.5.ffn_norm  blocks.5.ln1_post.hook_normalized
        transformer.blocks.5.norm_1  transformer.blocks.5.norm_2  encoder.layers.5.norm_1  encoder.layers.5.norm2.output
        transformer.blocks.5.norm_attn_norm.norm_1  backbone.norm_f  layers.5.attention_norm  layers.5.norm_mlp
        blocks.5.mlp.in.hook_in  blocks.5.attn.q.hook_in  layers.5.feed_forward.w1.input  layers.5.attention.wq.input
        transformer.h.5.mlp.fc_in.input  model.layers[5].mlp.input  model.layers[5].input_layernorm.output
        backbone.layers.5.mixer.input
    """,
    "attention": """
        blocks.5.attn.hook_z  hook_z  blocks.5.attn.hook_q  blocks.5.attn.hook_result  model.layers.5.self_attn.q_proj
        model.layers.5.self_attn.o_proj  model.layers.5.self_attn.o_proj.input  transformer.h.5.attn.c_proj
        transformer.h.5.attn.c_proj.input  gpt_neox.layers.5.attention.dense.input  model.layers.5.self_attn.q_norm
        gpt_neox.layers.5.attention.query_key_value  o_proj_layer_5
        blocks.5.attn.o.hook_in  transformer.blocks.5.attn.Wqkv  layers.5.attention.wo  layers.5.attention.wv.output
        bert.encoder.layer.5.attention.self  encoder.block.5.layer.0.SelfAttention.q
        model.layers[5].self_attn.o_proj.input[0][0]  blocks.5.attn.proj.input
    """,
    "neurons": """
        blocks.5.mlp.hook_pre  blocks.5.mlp.hook_post  model.layers.5.mlp.act_fn  model.layers.5.mlp.gate_proj
        model.layers.5.mlp.down_proj  model.layers.5.mlp.down_proj.input  transformer.h.5.mlp.c_fc
        transformer.h.5.mlp.c_proj  gpt_neox.layers.5.mlp.act
        bert.encoder.layer.5.intermediate  bert.encoder.layer.5.intermediate.dense.output  layers.5.activation_fn
        bert.encoder.layer.5.intermediate.intermediate_act_fn  blocks.5.mlp.in.hook_out  blocks.5.mlp.gate.hook_out
        blocks.5.mlp.out.hook_in  transformer.h.5.mlp.fc_in.output  layers.5.feed_forward.w1  layers.5.feed_forward.w3
        transformer.layer.5.ffn.lin1  encoder.block.5.layer.1.DenseReluDense.wi_0  layers.5.linear1.output
        model.layers.5.block_sparse_moe.experts.0.w1  model.layers[5].mlp.down_proj.input
    """,
    "unknown": "backbone.layers.5.mixer.in_proj  model.layers.5.conv  blocks.5.somewhere.output",
}


@pytest.mark.parametrize(("basis", "hook"), [(basis, hook) for basis, hooks in SITES.items() for hook in hooks.split()])
def test_the_name_of_a_hook_says_its_basis(basis, hook):
    assert basis_of(hook) == basis


@pytest.mark.parametrize("hook", [*SITES["residual"].split(), *SITES["write"].split()])
def test_a_hook_in_the_basis_of_the_residual_stream_is_read_without_a_note(tmp_path, hook):
    saelens(tmp_path / "layer_5", drawn(16, 8), metadata={"hook_name": hook})
    assert "is not known" not in " ".join(sm.load(tmp_path).notes)


@pytest.mark.parametrize("hook", SITES["unknown"].split())
def test_a_hook_that_is_not_known_is_worth_a_note(tmp_path, hook):
    saelens(tmp_path / "layer_5", drawn(16, 8), metadata={"hook_name": hook})
    assert f"it reads {hook}, a place that is not known" in " ".join(sm.load(tmp_path).notes)


@pytest.mark.parametrize("reason", ["layer_norm", "attention", "neurons"])
def test_a_hook_in_another_basis_is_refused_by_its_name(tmp_path, reason):
    for number, hook in enumerate(SITES[reason].split()):
        saelens(tmp_path / str(number), drawn(16, 8), metadata={"hook_name": hook})
        with pytest.raises(sm.MatchError, match=rf"\({re.escape(hook)}\).* write \?allow={reason} after its path$"):
            sm.load(tmp_path / str(number))


@pytest.mark.parametrize("out", ["blocks.5.hook_mlp_out", None])
def test_the_note_of_a_transcoder_says_what_it_reads_and_writes(tmp_path, out):
    named = {} if out is None else {"hook_name_out": out}
    saelens(
        tmp_path / "layer_5", drawn(16, 8), "transcoder", **named, metadata={"hook_name": "blocks.5.hook_resid_mid"}
    )
    expected = f"decoder and b_dec write {out or 'another place'}, and the encoder reads blocks.5.hook_resid_mid"
    assert expected in " ".join(sm.load(f"{tmp_path}?allow=transcoder").notes)


@pytest.mark.parametrize(
    ("model", "after"),
    [
        (GEMMA, True),
        ("google/gemma-3-270m", True),
        ("gemma2-9b", True),
        ("allenai/OLMo-2-1124-7B", True),
        ("google/gemma-3n-E2B-it", True),
        ("google/gemma-2b", False),
        ("google/gemma-7b-it", False),
        ("allenai/OLMo-7B", False),
        (LLAMA, False),
        ("EleutherAI/pythia-70m", False),
        (None, False),
        (7, False),
    ],
)
def test_a_norm_that_is_named_after_attention_follows_it_in_some_models_only(model, after):
    found = {basis_of(f"model.layers.5.post_attention_layernorm{side}", model) for side in ("", ".output")}
    assert found == {"write" if after else "layer_norm"}


READ = [
    *(
        partial(gemma_scope_2, hf_hook_point_in=f"model.layers.5.post_{sublayer}_layernorm.output")
        for sublayer in ("attention", "feedforward")
    ),
    partial(gemma_scope_2, site="mlp_out", config=False),
    partial(gemma_scope_2, site="resid_post", config=False),
    partial(gemma_scope_2, hf_hook_point_out="model.layers.5.output"),
    partial(gemma_scope, repository="gemma-scope-2b-pt-mlp"),
    partial(llama_scope, hook_point_in="blocks.5.hook_attn_out", hook_point_out="blocks.5.hook_attn_out"),
    partial(saelens, metadata={"hook_name": "model.layers.5.post_attention_layernorm", "model_name": GEMMA}),
    partial(saelens, old=True, hook_point="blocks.5.hook_attn_out"),
    partial(dictionary_learning, submodule_name="attn_out_layer_5"),
    partial(dictionary_learning, submodule_name="model.layers.5.post_attention_layernorm", lm_name=GEMMA),
    partial(sparsify, module="layers.5.self_attn"),
    partial(sparsify, module="h.5.mlp/seed1"),
    partial(openai, location="resid_post_attn"),
    partial(openai, location="resid_delta_attn"),
]


@pytest.mark.parametrize("made", READ, ids=[f"{made.func.__name__}-{number}" for number, made in enumerate(READ)])
def test_what_a_sublayer_adds_is_read_by_default(tmp_path, made):
    made(tmp_path / "saes", drawn(16, 8))
    layers = sm.load_layers(tmp_path / "saes")
    assert list(layers) == [5]
    assert not any("basis" in note or "layer-normed" in note for note in layers[5].notes)
    assert layers[5].F == 16


REFUSED = {
    "neurons": [partial(openai, location="mlp_post_act"), partial(sparsify, module="layers.5.mlp.act_fn")],
    "attention": [partial(gemma_scope_2, site="attn_out", config=False)],
    "layer_norm": [partial(sparsify, module="h.5.ln_1"),
                   partial(saelens, metadata={"hook_name": "layers.5.post_attention_layernorm", "model_name": LLAMA})],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "made"), [(reason, made) for reason, all_of in REFUSED.items() for made in all_of])
def test_what_is_in_another_basis_is_refused(tmp_path, reason, made):
    made(tmp_path / "saes", drawn(16, 8))
    with pytest.raises(sm.MatchError, match=rf"write \?allow={reason} after its path$"):
        sm.load(tmp_path / "saes")


@pytest.mark.parametrize("name", ["clt", "crosscoder"])
def test_what_reads_or_writes_several_layers_is_refused_without_a_configuration_too(tmp_path, name):
    gemma_scope_2(tmp_path / "saes", drawn(16, 8), site=name, config=False)
    with pytest.raises(sm.MatchError, match=f"a {name}: a feature reads or writes several layers"):
        sm.load(f"{tmp_path}/saes?allow=transcoder,layer_norm")


def test_embeddings_are_scaled_as_gemma_scales_them(tmp_path):
    w = drawn(12, 16)
    write_file(
        tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_44/params.npz",
        w,
        {**w.plain, "threshold": w.limit},
    )
    found = sm.load(tmp_path)
    embeddings = 2 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = jump(embeddings @ w.enc + w.b_enc, w.limit)
    assert 0.05 < (codes != 0).double().mean() < 0.95
    x = math.sqrt(16) * embeddings  # exact
    np.testing.assert_array_equal(found.encode(x) != 0, codes != 0)
    torch.testing.assert_close(found.encode(x), codes, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.decode(codes), math.sqrt(16) * w.decoded(codes), rtol=0, atol=1e-11)
    assert "embeddings as they are stored" in " ".join(found.notes)
    for shortened in ("embedding", "embedding/width_4k/l0_6", "embedding/width_4k/canonical", "embedding/4k"):
        home = tmp_path / "shortened" / shortened.replace("/", "-") / "gemma-scope-2b-pt-res"
        write_file(home / shortened / "params.npz", w, {**w.plain, "threshold": w.limit})
        assert torch.equal(sm.load(home).W_enc, found.W_enc)
    write_npz(tmp_path / "embedding" / "gemma-scope-2b-pt-res" / "layer_5", made_up())
    assert torch.equal(sm.load(tmp_path / "embedding").W_enc, made_up().W_enc.float())


@pytest.mark.parametrize("above", ["tc", "att", "sparse-attention", "x_attn", "my-transcoders", "hook_z", "clt"])
def test_no_folder_above_the_source_says_what_is_read(tmp_path, above, monkeypatch, capsys):
    at = tmp_path / above / "gemma-scope-2b-pt-res"
    write_npz(at / "layer_5" / "width_16k" / "average_l0_71", made_up())
    write_npz(tmp_path / above / "mine" / "layer_5", made_up())
    monkeypatch.chdir(at)
    for source in (at, at / "layer_5", ".", tmp_path / above / "mine", tmp_path / above / "mine" / "layer_5"):
        assert not any("folder is called" in note for note in sm.load(source).notes)
        assert main(["info", str(source)]) == 0
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["tc", "sparse-attention", "mlp_post_act"])
def test_the_folder_of_a_source_is_worth_a_note_and_one_below_a_refusal(tmp_path, name, capsys):
    write_npz(tmp_path / name / "layer_5", made_up())
    assert f"its folder is called '{name}', and its files do not say" in " ".join(sm.load(tmp_path / name).notes)
    assert main(["info", str(tmp_path / name)]) == 0
    assert f"its folder is called '{name}'" in capsys.readouterr().out
    with pytest.raises(sm.MatchError, match=r"write \?allow="):
        sm.load(tmp_path)


def test_the_folder_of_a_source_hides_nothing_below_it(tmp_path):
    write_npz(tmp_path / "att" / "my-transcoders" / "layer_5", made_up())
    with pytest.raises(sm.MatchError, match=r"write \?allow=transcoder"):
        sm.load(tmp_path / "att")


@pytest.mark.parametrize("between", ["mine", "work/saes", "x-res"])
def test_a_published_name_further_above_does_not_count(tmp_path, between):
    at = write_npz(tmp_path / "gemma-scope-2b-pt-att" / between / "layer_5", made_up())
    assert sm.load(at.parent).notes[:-1] == sm.load(at).notes[:-1] == ()
    with pytest.raises(sm.MatchError, match=r"it reads attention \(gemma-scope-2b-pt-att\)"):
        sm.load(tmp_path)  # below the source


def test_the_innermost_published_name_counts(tmp_path):
    write_npz(tmp_path / "gemma-scope-2b-pt-att" / "google--gemma-scope-2b-pt-res" / "layer_5", made_up())
    assert sm.load(tmp_path).notes[:-1] == ()
    write_npz(tmp_path / "gemma-scope-2b-pt-res" / "models--google--gemma-scope-9b-pt-att" / "layer_6", made_up())
    with pytest.raises(sm.MatchError, match=r"it reads attention \(models--google--gemma-scope-9b-pt-att\)"):
        sm.load(tmp_path / "gemma-scope-2b-pt-res")
