"""The loss of real transformers with replaced hidden states, compared with models that are changed by hand."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

import saematch as sm
from language_models import BLOCKS, KINDS, WIDTH, documents, write_language_model
from saematch.activations.selection import TokenSelection
from saematch.evaluation import LanguageModel, Texts, evaluate
from saematch.evaluation.hooks import hook_block, hooks_of
from saes import made_up, write_npz, write_saelens

NATS = 1e-4  # float32 sums over a few hundred terms around 1, in another order


def exact_sae(seed=0):
    """Return an SAE without error: it has two features, with opposite signs, for each direction of a basis."""
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)).double())[0]
    both = torch.cat([basis, -basis])
    return sm.SAE(both.T, torch.zeros(2 * WIDTH).double(), both, torch.zeros(WIDTH).double(), "relu")


def mean_loss(model, folder, texts, drop=None):
    """Return the next-token loss without the first prediction, document by document, with a block left out if given."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if drop is not None:
        forward = model.base_model.layers[drop].forward
        model.base_model.layers[drop].forward = lambda hidden_states, *_, **__: hidden_states
    losses = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
            logits = model(ids, use_cache=False).logits[0]
            losses.append(nn.functional.cross_entropy(logits[1:-1], ids[0, 2:], reduction="none"))
    if drop is not None:
        model.base_model.layers[drop].forward = forward
    return torch.cat(losses)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("llama"))


def test_added_loss_is_that_of_a_model_without_the_block(llama, tmp_path):
    texts = documents()
    same = exact_sae()
    chain = sm.match_layers({1: same, 2: same}, fold="decoder_norm")
    model = LanguageModel(str(llama), Texts(texts, "mark"), batch=2)
    selection = TokenSelection.of(model, (1, 2), outliers=None)
    table = evaluate(chain, tmp_path / "out", activations=model, outliers=None).tables["delta_loss"]
    # By hand: block 2 passes its input on. The first token is left alone by ours, so it must be by this one.
    by_hand = AutoModelForCausalLM.from_pretrained(llama).eval()
    clean = mean_loss(by_hand, llama, texts)
    (dropped,) = table.where(stand_in="dropped")
    assert dropped["clean_loss"] == pytest.approx(float(clean.mean()), abs=NATS)
    assert dropped["tokens"] == len(clean)
    skipped = _loss_with_block_skipped_after_the_first(by_hand, llama, texts, 2)
    assert dropped["loss"] == pytest.approx(float(skipped.mean()), abs=NATS)
    assert dropped["value"] == pytest.approx(float((skipped - clean).mean()), abs=NATS)
    assert abs(dropped["value"]) > 100 * NATS
    assert dropped["low"] < dropped["value"] < dropped["high"]
    # Both SAEs are exact, and the same: nothing is added, and what is carried is what is dropped.
    for stand_in, expected in (("sae_of_target", 0.0), ("sae_of_source", dropped["value"])):
        assert table.where(stand_in=stand_in)[0]["value"] == pytest.approx(expected, abs=NATS)
    (carried,) = table.where(method="matched", gate=1.0)
    assert carried["value"] == pytest.approx(dropped["value"], abs=NATS)
    assert selection.size["tokens"] == sum(len(text.split()) for text in texts)


def _loss_with_block_skipped_after_the_first(model, folder, texts, block):
    """Return the loss if a block returns its input, except for the first token of the context."""
    real = model.base_model.layers[block].forward

    def forward(hidden_states, *arguments, **named):
        out = real(hidden_states, *arguments, **named).clone()
        out[:, 1:] = hidden_states[:, 1:]
        return out

    model.base_model.layers[block].forward = forward
    losses = mean_loss(model, folder, texts)
    model.base_model.layers[block].forward = real
    return losses


@pytest.mark.parametrize("kind", list(KINDS))
def test_any_kind_of_causal_model(kind, tmp_path):
    """Replacing hidden states by themselves changes no kind of model. The hidden states are those of transformers."""
    folder = write_language_model(tmp_path, kind)
    texts = documents(3)
    model = LanguageModel(str(folder), Texts(texts, "mark"), context=12, batch=2)
    found = [torch.cat(layers) for layers in zip(*model.batches([0, 2]), strict=True)]
    tokenizer, real = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(texts[0], add_special_tokens=False)["input_ids"][:11]
    with torch.no_grad():
        states = real(torch.tensor([[0, *ids]]), output_hidden_states=True, use_cache=False).hidden_states
    for layer, x in zip((0, 2), found, strict=True):
        torch.testing.assert_close(x[:11], states[layer + 1][0, 1:], atol=NATS, rtol=NATS)
    sae = exact_sae()
    chain = sm.match_layers({0: sae, 2: sae}, fold="decoder_norm")
    table = evaluate(chain, tmp_path / "out", activations=model, outliers=None).tables["delta_loss"]
    assert table.where(stand_in="sae_of_target")[0]["value"] == pytest.approx(0, abs=NATS)


def test_documents_are_cut_into_contexts_without_their_first_token(llama):
    texts = ["w1 w2 w3 w4 w5 w6 w7 w8 w9 w10", "w1", "w5 w6 w7"]
    model = LanguageModel(str(llama), Texts(texts, "mark"), context=5)
    # Four words a context behind BOS; "w9 w10" is one of three tokens; "w1" alone predicts nothing, and is left out.
    assert np.bincount(model.documents).tolist() == [10, 3]
    short = LanguageModel(str(llama), Texts(documents(9), "mark"), tokens=30)
    assert short.documents.max() == 1  # two documents reach thirty tokens


def test_hooks_are_found_in_the_saes_own_files(tmp_path):
    for layer, hook in ((1, "blocks.1.hook_resid_pre"), (2, "blocks.2.hook_resid_post")):
        config = {"architecture": "jumprelu", "hook_name": hook, "apply_b_dec_to_input": False}
        write_saelens(tmp_path / f"layer_{layer}", made_up(), config)
    write_npz(tmp_path / "layer_3", made_up())
    hooks = hooks_of(sm.load_layers(tmp_path))
    assert hooks == {1: "blocks.1.hook_resid_pre", 2: "blocks.2.hook_resid_post", 3: None}
    assert [hook_block(hooks[layer], layer) for layer in (1, 2, 3)] == [0, 2, 3]
    for whole in ("model.layers.7", "model.layers.7.output", "gpt_neox.layers.7", "resid_post_layer_7"):
        assert hook_block(whole, 7) == 7
    for other in ("blocks.2.attn.hook_z", "blocks.2.hook_mlp_out", "model.layers.2.mlp.output"):
        with pytest.raises(sm.MatchError, match="is not on the residual stream"):
            hook_block(other, 2)


def test_what_does_not_fit_is_refused(llama, tmp_path):
    texts = Texts(documents(), "mark")
    with pytest.raises(sm.MatchError, match="no causal language model can be loaded"):
        LanguageModel(str(tmp_path), texts)
    with pytest.raises(sm.MatchError, match="no document of 3 tokens"):
        LanguageModel(str(llama), Texts(["w1"], "mark"))
    with pytest.raises(sm.MatchError, match="give at least 3 tokens"):
        LanguageModel(str(llama), texts, context=2)
    model = LanguageModel(str(llama), texts)
    wide = {layer: made_up(12, WIDTH + 1, seed=layer) for layer in (0, 1)}
    with pytest.raises(sm.MatchError, match=f"hidden states have width {WIDTH}, SAE reads {WIDTH + 1}"):
        evaluate(sm.match_layers(wide), tmp_path / "out", activations=model)
    deep = {layer: made_up(12, WIDTH, seed=layer) for layer in (2, BLOCKS)}
    with pytest.raises(sm.MatchError, match=f"has {BLOCKS} blocks, and none of them belongs to layer {BLOCKS}"):
        evaluate(sm.match_layers(deep), tmp_path / "out", activations=model)
    with pytest.raises(sm.MatchError, match="1 document with tokens"):
        TokenSelection.of(LanguageModel(str(llama), Texts(documents(1), "mark")), (0, 1))


def test_texts_are_read_from_lines_of_json_or_paragraphs(tmp_path):
    lines, plain = tmp_path / "texts.jsonl", tmp_path / "texts.txt"
    lines.write_text("\n".join(json.dumps({"text": text}) for text in ("one two", "", "three")))
    plain.write_text("one\ntwo\n\n \nthree\n")
    assert Texts.read(lines).documents == ["one two", "three"]
    assert Texts.read(plain).documents == ["one\ntwo", "three\n"]
    for content in ('{"words": 1}', "[1]", "no json", '{"text": 5}'):
        lines.write_text(content)
        with pytest.raises(sm.MatchError, match=r"no texts can be read|a text is not a string"):
            Texts.read(lines)
    with pytest.raises(sm.MatchError, match="no texts can be read"):
        Texts.read(tmp_path / "none.txt")
