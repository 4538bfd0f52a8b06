"""Transcoders: what they read and write is named, and they are compared by the side whose basis all layers share."""

import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import yaml

import saematch as sm
from saematch.cli.main import main
from saematch.evaluation.codes import CodedPair
from saematch.sources.search import search
from saes import (
    LAYER,
    assert_own_pass,
    circuit_tracer,
    drawn,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    made_up,
    saelens,
    sparsify,
    write_npz,
)

SKIP = torch.ones(8, 8)
MLP_OUT = "blocks.5.hook_mlp_out"
HOOKS_2 = {
    "type": "transcoder",
    "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output",
}
AFFINE = {"extra": {"affine_skip_connection": SKIP}}
NORMED = ("model.layers.5.pre_feedforward_layernorm.output", "model.layers.5.post_feedforward_layernorm.output")
AFTER_LN2 = {"hook_name": "blocks.5.ln2.hook_normalized", "hook_name_out": MLP_OUT}


def lens(**options):
    return partial(saelens, subtracts=False, metadata=AFTER_LN2, **options)


# The function that writes a file, what it reads and writes, and why encoders cannot be compared with other layers'.
TRANSCODERS = [
    (partial(circuit_tracer), "blocks.5.hook_resid_mid", MLP_OUT, None),
    (partial(circuit_tracer, function="jumprelu", extra={"W_skip": SKIP}), "blocks.5.hook_resid_mid", MLP_OUT, None),
    (partial(circuit_tracer, function="topk", feature_input_hook="mlp.hook_in", feature_output_hook="mlp.hook_out"),
     "blocks.5.mlp.hook_in", "blocks.5.mlp.hook_out", "layer_norm"),
    (partial(circuit_tracer, feature_input_hook="blocks.{layer}.hook_resid_pre"), "blocks.5.hook_resid_pre", MLP_OUT,
     None),
    (partial(gemma_scope, repository="gemma-scope-2b-pt-transcoders"), AFTER_LN2["hook_name"], MLP_OUT, "layer_norm"),
    (partial(gemma_scope_2, site="transcoder", **HOOKS_2), *NORMED, "layer_norm"),
    (partial(gemma_scope_2, site="transcoder", config=False), *NORMED, "layer_norm"),
    (partial(gemma_scope_2, site="transcoder", **HOOKS_2, **AFFINE), *NORMED, "layer_norm"),
    (lens(kind="transcoder"), AFTER_LN2["hook_name"], MLP_OUT, "layer_norm"),
    (lens(kind="skip_transcoder", extra={"W_skip": SKIP}), AFTER_LN2["hook_name"], MLP_OUT, "layer_norm"),
    (lens(kind="jumprelu_transcoder"), AFTER_LN2["hook_name"], MLP_OUT, "layer_norm"),
    (lens(kind="jumprelu_skip_transcoder", extra={"W_skip": SKIP}), AFTER_LN2["hook_name"], MLP_OUT, "layer_norm"),
    (partial(sparsify, transcode=True, module="layers.5.mlp"), "layers.5.mlp.input", "layers.5.mlp.output",
     "layer_norm"),
    (partial(sparsify, transcode=True, module="layers.5"), "layers.5.input", "layers.5.output", None),
    (partial(sparsify, transcode=True, module="h.5.mlp", extra={"W_skip": SKIP}), "h.5.mlp.input", "h.5.mlp.output",
     "layer_norm"),
    (partial(llama_scope, hook_point_out=MLP_OUT), "blocks.5.hook_resid_post", MLP_OUT, None),
    (partial(llama_scope_r1, norms="config", hook_point_out=MLP_OUT), "blocks.5.hook_resid_post", MLP_OUT, None),
    (partial(llamascopium, norms="folded", hook_point_out=MLP_OUT), "blocks.5.hook_resid_post", MLP_OUT, None),
]  # fmt: skip
IDS = [f"{made.func.__name__}-{number}" for number, (made, *_) in enumerate(TRANSCODERS)]


@pytest.mark.parametrize("F", [16, 8])
@pytest.mark.parametrize(("made", "reads", "writes", "barrier"), TRANSCODERS, ids=IDS)
def test_a_transcoder_is_read_and_what_it_reads_and_writes_is_named(tmp_path, made, reads, writes, barrier, F):
    w = drawn(F, 8)
    own = made(tmp_path / "saes", w)
    assert list(sm.load_layers(tmp_path / "saes")) == [LAYER]
    found = sm.load(tmp_path / "saes")
    assert_own_pass(found, own, w)
    assert (found.reads, found.writes) == (sm.Space(reads, barrier), sm.Space(writes))
    assert found.is_transcoder
    notes = " ".join(found.notes)
    assert f"decoder and b_dec write {writes}, and the encoder reads {reads}" in notes
    has_skip = {"W_skip", "affine_skip_connection"} & set(made.keywords.get("extra", ()))
    assert ("connection is left out" in notes) == bool(has_skip)
    assert ("only its decoder can be compared" in notes) == (barrier is not None)
    (about,) = search(tmp_path / "saes")[0]
    header = about.describe()
    assert (header.hook, header.sae.reads, header.sae.writes) == (
        None if made.func is gemma_scope else reads,
        found.reads,
        found.writes,
    )


def two_layers(folder, **hooks):
    """Write transcoders of layers 5 and 6, and return the folder."""
    for layer in (5, 6):
        circuit_tracer(folder / "one", drawn(16, 8, seed=layer), **hooks)
        (folder / "saes").mkdir(exist_ok=True)
        (folder / "one" / "layer_5.safetensors").rename(folder / "saes" / f"layer_{layer}.safetensors")
        shutil.copy(folder / "one" / "config.yaml", folder / "saes")
    return folder / "saes"


AFTER_NORM = {"feature_input_hook": "mlp.hook_in"}


@pytest.mark.parametrize("parts", [None, ["encoder"], ["bias"], ["encoder", "decoder"]])
def test_encoders_that_read_layer_norms_of_two_layers_are_not_compared(tmp_path, parts):
    a, b = sm.load_layers(two_layers(tmp_path, **AFTER_NORM)).values()
    message = (
        r"layer_5\.safetensors reads blocks\.5\.mlp\.hook_in, and .*layer_6\.safetensors reads blocks\.6\.mlp\.hook_in:"
        r" activations after a layer norm are no linear map of the residual stream, so their encoders and biases cannot"
        r' be compared; compare the decoders alone, with parts="decoder"; .* write \?allow=layer_norm after the path of'
    )
    for compare in (sm.match, partial(sm.certify, perm=np.arange(16))):
        with pytest.raises(sm.MatchError, match=message):
            compare(a, b, parts=parts, fold="decoder_norm")
    advice = 'with parts="decoder" and metric="cosine"; to compare them nevertheless, write ?allow=layer_norm after'
    if parts is None:
        with pytest.raises(sm.MatchError, match=f"saematch.match and .* the decoders alone, {re.escape(advice)}"):
            sm.consistency({"a": a, "b": b})
        assert sm.match(a, b, parts="decoder", metric="cosine").certified


def test_the_command_consistency_advises_no_option_that_it_lacks(tmp_path, capsys):
    source = two_layers(tmp_path, **AFTER_NORM)
    assert main(["consistency", f"{source}/layer_5.safetensors", f"{source}/layer_6.safetensors"]) == 2
    advice = 'the command match compare the decoders alone, with --parts "decoder" and --metric "cosine"; to compare'
    assert advice in capsys.readouterr().err


def test_a_run_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    layers = sm.load_layers(two_layers(tmp_path, **AFTER_NORM))
    monkeypatch.setattr("saematch.sources.checkpoint.read_tensors", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(sm.MatchError, match="their encoders and biases cannot be compared"):
        sm.match_layers(layers, fold="decoder_norm")


def test_decoders_that_write_the_residual_stream_are_compared(tmp_path):
    layers = sm.load_layers(two_layers(tmp_path, **AFTER_NORM))
    found = sm.match_layers(layers, parts=["decoder"], fold="none")[5, 6]
    expected = sm.assign(layers[5].W_dec.numpy(), layers[6].W_dec.numpy())
    np.testing.assert_array_equal(found.perm, expected.perm)
    assert found.certified


def test_what_is_allowed_is_compared_in_all_parts(tmp_path):
    source = two_layers(tmp_path, **AFTER_NORM)
    a, b = sm.load_layers(f"{source}?allow=layer_norm").values()
    assert (a.reads, a.writes) == (sm.Space("blocks.5.mlp.hook_in"), sm.Space(MLP_OUT))
    assert sm.match(a, b, fold="decoder_norm").certified
    assert "its input is layer-normed: read as if it were not" in a.notes


def test_encoders_of_one_place_are_compared(tmp_path):
    for seed in (0, 1):
        circuit_tracer(tmp_path / str(seed), drawn(16, 8, seed=seed), **AFTER_NORM)
    a, b = (sm.load(tmp_path / str(seed)) for seed in (0, 1))
    assert sm.match(a, b, fold="decoder_norm").certified
    assert sm.consistency({"a": a, "b": b}, nulls=0).pairs[0].certified


def test_transcoders_of_the_residual_stream_are_compared_in_all_parts(tmp_path):
    a, b = sm.load_layers(two_layers(tmp_path)).values()
    assert sm.match(a, b, fold="decoder_norm").certified


def test_a_transcoder_is_compared_with_an_sae_by_its_decoder(tmp_path):
    circuit_tracer(tmp_path, drawn(16, 8), **AFTER_NORM)
    transcoder, sae = sm.load(tmp_path), made_up(16, 8, "relu")
    assert sm.match(transcoder, sae, parts="decoder", fold="decoder_norm").certified
    with pytest.raises(sm.MatchError, match="SAE reads None: activations after a layer norm"):
        sm.match(transcoder, sae, fold="decoder_norm")


def test_a_transcoder_that_writes_neurons_is_compared_by_its_encoder(tmp_path):
    a, b = sm.load_layers(two_layers(tmp_path, feature_output_hook="mlp.hook_post")).values()
    assert (a.reads, a.writes) == (sm.Space("blocks.5.hook_resid_mid"), sm.Space("blocks.5.mlp.hook_post", "neurons"))
    assert sm.match(a, b, parts=["encoder", "bias"], fold="none").certified
    message = 'every layer has neurons of its own, so their decoders cannot be compared; .* parts="encoder"'
    with pytest.raises(sm.MatchError, match=message):
        sm.match(a, b, fold="none")


def test_a_transcoder_of_two_other_bases_is_refused(tmp_path):
    circuit_tracer(tmp_path, drawn(16, 8), feature_input_hook="attn.hook_z", feature_output_hook="mlp.hook_post")
    with pytest.raises(
        sm.MatchError, match=r"it reads attention \(blocks.5.attn.hook_z\).* write \?allow=attention af"
    ):
        sm.load(tmp_path)
    with pytest.raises(sm.MatchError, match=r"it writes the neurons of an MLP .* write \?allow=attention,neurons afte"):
        sm.load(f"{tmp_path}?allow=attention")
    assert sm.load(f"{tmp_path}?allow=attention,neurons").writes == sm.Space("blocks.5.mlp.hook_post")


def test_a_place_of_an_unknown_name_is_noted(tmp_path):
    circuit_tracer(tmp_path, drawn(16, 8), feature_output_hook="hook_somewhere")
    assert "it writes blocks.5.hook_somewhere, a place that is not known" in " ".join(sm.load(tmp_path).notes)


def test_a_transcoder_of_two_widths_is_refused(tmp_path):
    w = drawn(16, 8)
    w.plain |= {"W_dec": torch.zeros(16, 12), "b_dec": torch.zeros(12)}
    saelens(tmp_path, w, "transcoder", subtracts=False, metadata=AFTER_LN2)
    with pytest.raises(
        sm.MatchError, match="reads activations of width 8 and writes activations of width 12; only tra"
    ):
        sm.load(tmp_path)


@pytest.mark.parametrize("function", ["relu", "jumprelu"])
def test_a_transcoder_that_is_saved_remains_one(tmp_path, function):
    circuit_tracer(tmp_path / "a", drawn(16, 8), function, **AFTER_NORM)
    sae = sm.load(tmp_path / "a")
    sae.save(tmp_path / "b" / "layer_5")
    found = sm.load(tmp_path / "b")
    assert (found.reads, found.writes) == (sae.reads, sae.writes)
    assert all(torch.equal(tensor, sae.tensors()[name]) for name, tensor in found.tensors().items())


@pytest.mark.parametrize(
    ("function", "format"), [("relu", "gemma_scope"), ("topk", "gemma_scope"), ("topk", "saelens")]
)
def test_a_format_that_cannot_hold_a_transcoder_is_refused(tmp_path, function, format):
    circuit_tracer(tmp_path / "a", drawn(16, 8), function)
    with pytest.raises(sm.MatchError, match=r"a transcoder, and .* has no .*transcoders|Gemma Scope has no TopK"):
        sm.load(tmp_path / "a").save(tmp_path / "b", format)
    assert not (tmp_path / "b").exists()


def test_no_transcoder_is_evaluated_as_if_it_reconstructed_what_it_reads(tmp_path):
    circuit_tracer(tmp_path, drawn(16, 8))
    with pytest.raises(sm.MatchError, match="a transcoder, which does not reconstruct what it reads"):
        CodedPair(made_up(16, 8, "relu"), sm.load(tmp_path), torch.device("cpu"))


def test_spaces_of_another_type_are_refused():
    with pytest.raises(sm.MatchError, match=r"reads is a str, expected a saematch\.Space"):
        made_up(reads="blocks.5.hook_resid_post")


# A list of lists of the same lists: 40 lines of YAML, and 2^40 entries as a text.
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
BOMB += "".join(f"{name}: *a39\n" for name in ("model_kind", "model_name", "activation", "k", "feature_input_hook"))


class TestCircuitTracer:
    """`config.yaml` tells square files from those of SAELens, and names the hooks of all layers."""

    def test_the_configuration_says_whether_square_matrices_are_transposed(self, tmp_path):
        w = drawn(8, 8)
        own = circuit_tracer(tmp_path / "a" / "layer_5", w)
        assert_own_pass(sm.load(tmp_path / "a"), own, w)
        (tmp_path / "a" / "layer_5" / "config.yaml").unlink()
        with pytest.raises(sm.MatchError, match=r"several formats; .*write \?family=… .*circuit_tracer"):
            sm.load(tmp_path / "a" / "layer_5" / "layer_5.safetensors")

    def test_a_file_of_saelens_that_is_turned_is_not_taken_for_one(self, tmp_path):
        w = drawn(16, 8)
        w.plain["W_enc"] = w.enc.T
        saelens(tmp_path, w)
        with pytest.raises(sm.MatchError, match=r"W_enc is \(16, 8\), expected \(8, 16\) .* looks transposed"):
            sm.load(tmp_path)

    def test_a_configuration_may_list_the_transcoders_of_all_layers(self, tmp_path):
        """Those of other suites are listed so, in files of their own formats."""
        hooks = {"model_kind": "transcoder_set", "feature_input_hook": "ln2.hook_normalized"}
        layers = [f"gemma-scope-2b-pt-transcoders/layer_{n}/width_16k/average_l0_7{n}" for n in (0, 1)]
        for number, folder in enumerate(layers):
            write_npz(tmp_path / folder, made_up(seed=number))
        listed = [f"{folder}/params.npz" for folder in layers]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**hooks, "transcoders": listed}))
        found = sm.load_layers(tmp_path / "config.yaml")
        assert {layer: sae.reads.place for layer, sae in found.items()} == {
            layer: f"blocks.{layer}.ln2.hook_normalized" for layer in (0, 1)
        }

    @pytest.mark.parametrize("name", ["wandb-config.yaml", "wanb-config.yaml"])
    def test_without_hooks_it_has_to_be_allowed(self, tmp_path, name):
        w = drawn(16, 8)
        own = circuit_tracer(tmp_path, w)
        (tmp_path / "config.yaml").unlink()
        (tmp_path / name).write_text(yaml.safe_dump({"d_model": {"value": 8}, "d_feature": {"value": 16}}))
        with pytest.raises(
            sm.MatchError, match=r"it reads one place and writes another place.* write \?allow=transcod"
        ):
            sm.load(tmp_path)
        assert_own_pass(sm.load(f"{tmp_path}?allow=transcoder"), own, w)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"model_kind": "cross_layer_transcoder"},
                "model_kind 'cross_layer_transcoder'; this file is of a transco",
            ),
            ({"activation": "gelu"}, "activation 'gelu' is not supported"),
            ({"activation": "topk"}, r"a TopK SAE without its k; write \?k="),
            ({"extra": {"log_thresholds": torch.zeros(16)}}, "holds log_thresholds, which this format does not know"),
        ],
    )
    def test_what_its_configuration_cannot_mean_is_refused(self, tmp_path, changes, message):
        circuit_tracer(tmp_path, drawn(16, 8), **changes)
        with pytest.raises(sm.MatchError, match=message):
            sm.load(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("- a\n- b\n", "expected a YAML mapping, got list"),
            ("a: [", r"config\.yaml: cannot be read"),
            ("# " + "x" * 2**18, "bytes of YAML, more than the"),
            (BOMB, "it reads one place and writes another place"),
            ("model_kind: !!python/object/apply:os.system [exit]", "it reads one place and writes another place"),
            ("model_kind: !!python/name:os.system x", "says model_kind 'x'"),
        ],
    )
    def test_a_configuration_is_read_as_texts_alone(self, tmp_path, text, message):
        circuit_tracer(tmp_path, drawn(16, 8))
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(sm.MatchError, match=message):
            sm.load(tmp_path)
