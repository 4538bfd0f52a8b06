"""Small causal language models of several kinds, with random weights, and a tokenizer for them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(60)]
WIDTH, BLOCKS = 16, 4
_COMMON = {"vocab_size": len(WORDS) + 1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_LLAMA = {
    "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, **_COMMON,
}  # fmt: skip
KINDS = {
    "llama": _LLAMA,
    "gemma2": _LLAMA,
    "mistral": _LLAMA,
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.5},
    "gpt2": {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 2, "n_positions": 64, **_COMMON},
}


def write_language_model(folder, kind="llama"):
    """Write a model and its tokenizer as `transformers` saves them."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **KINDS[kind])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # large enough for every block to matter
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, "<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    return folder


def documents(count=5, words=20, seed=0):
    """Return texts of random words, each longer than the one before."""
    r = torch.Generator().manual_seed(seed)
    return [" ".join(WORDS[int(w)] for w in torch.randint(0, 60, (words + 3 * n,), generator=r)) for n in range(count)]


def write_idle_block(folder, block):
    """Change a Llama in a folder so that a block adds nothing to its input."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for projection in (model.model.layers[block].self_attn.o_proj, model.model.layers[block].mlp.down_proj):
            projection.weight.zero_()
    model.save_pretrained(folder)
    return folder


def written_by(folder, count=7, words=60, seed=0):
    """Return texts that a model has written, so that it predicts them better than a model that is disturbed."""
    model, r = AutoModelForCausalLM.from_pretrained(folder).eval(), torch.Generator().manual_seed(seed)
    ids = torch.zeros(count, 1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(words):
            logits = model(ids, use_cache=False).logits[:, -1, 1:]  # without BOS
            ids = torch.cat([ids, 1 + torch.multinomial(logits.softmax(1), 1, generator=r)], 1)
    return [" ".join(WORDS[word - 1] for word in text[1:]) for text in ids.tolist()]
