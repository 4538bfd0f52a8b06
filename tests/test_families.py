"""The file of every family, compared with the family's own formula; both are in `saes.py`."""

import io
import json
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

import saematch as sm
from hostile_files import full_disk
from saematch.sources.address import ALLOWABLE
from saematch.sources.files.tensors import SUFFIXES
from saematch.sources.formats.families import FAMILIES
from saematch.sources.locations import LocalLocation
from saematch.sources.search import search
from saes import (
    BY_NORM,
    FOLDED,
    GATED,
    LAYER,
    LIMIT_BY_NORM,
    SCALED,
    UNSET,
    VARIANTS,
    K,
    assert_own_pass,
    circuit_tracer,
    dictionary_learning,
    drawn,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    llamascopium_clt,
    made_up,
    nanda,
    openai,
    qwen_scope,
    saelens,
    sparsify,
    write_npz,
)

# Where F = d, a matrix that should be turned, and is not, still fits.
SIZES = [(16, 8, torch.float32), (8, 8, torch.bfloat16), (6, 8, torch.float16)]

each_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread: on a busy machine, threads wait for each other longer than such small products take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def only(source):
    """Return the one SAE of a source without reading its weights."""
    layers = sm.load_layers(source)
    assert list(layers) == [LAYER]
    return layers.handles[LAYER]


def written(folder, name, w):
    own = VARIANTS[name](folder / "saes", w)
    return own, f"{folder / 'saes'}{own.options}"


def test_every_family_is_here():
    assert {name.split()[0] for name in VARIANTS} == {each.name for each in FAMILIES}


@pytest.mark.parametrize(
    ("name", "F", "d", "dtype"),
    [
        (name, *size)
        for name in VARIANTS
        for size in SIZES
        if (name.split()[0], size[2]) != ("gemma_scope", torch.bfloat16)
    ]
    + [("gemma_scope", 8, 8, torch.float64)],
)  # numpy has no bfloat16
def test_codes_and_reconstructions_are_the_familys_own(tmp_path, name, F, d, dtype):
    w = drawn(F, d, dtype)
    own, source = written(tmp_path, name, w)
    found, stored = sm.load(source), only(source)
    assert (stored.family.name, stored.describe().dtype) == (name.split()[0], str(dtype).removeprefix("torch."))
    assert (found.F, found.d, found.activation) == (F, d, own.activation)
    assert_own_pass(found, own, w)


@each_variant
def test_every_feature_sets_in_where_it_does_in_the_family(tmp_path, name):
    """A threshold that is rounded to float32 would differ by 1e-7.

    The input at which a feature becomes active is located to 2^-28 of the distance between two inputs.
    """
    w = drawn(8, 8)
    own, source = written(tmp_path, name, w)
    found = sm.load(source).to(torch.float64)
    x = 2 * torch.randn(64, w.d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    on = own.codes(x) != 0
    features = (on.any(dim=0) & ~on.all(dim=0)).nonzero()[:, 0]
    assert len(features) > w.F / 2
    low, high = (x[which.double().argmax(dim=0)] for which in (~on[:, features], on[:, features]))
    each = torch.arange(len(features)), features
    for _ in range(28):
        middle = (low + high) / 2
        fires = (own.codes(middle)[each] != 0)[:, None]
        low, high = torch.where(fires, low, middle), torch.where(fires, middle, high)
    assert (found.encode(low)[each] == 0).all()
    assert (found.encode(high)[each] != 0).all()


@pytest.mark.parametrize("name", [name for name in VARIANTS if "r1 norms=folded" not in name])
def test_notes_say_what_was_changed_and_nothing_else(tmp_path, name):
    own, source = written(tmp_path, name, drawn(16, 8))
    notes = sm.load(source).notes
    said = {each for each in (FOLDED, SCALED, GATED, BY_NORM, LIMIT_BY_NORM, UNSET) if each in " ".join(notes)}
    assert said == set(own.notes)
    assert ("read with scale=0.375" in notes) == ("scale" in own.options)
    assert ("decoder rows are not unit" in notes[-1]) == (not own.unit_rows)


def test_headers_of_no_family_import_torchs_compiler(tmp_path):
    """The compiler takes two seconds and 150 MB. Headers state the precision of the weights without it."""
    sources = [written(tmp_path / str(number), name, drawn(16, 8))[1] for number, name in enumerate(VARIANTS)]
    code = """
import json, sys
import saematch as sm
from saematch.sources.search import search
for name, source in json.loads(sys.argv[1]).items():
    sae = search(source)[0][0].describe().sae
    assert "torch._dynamo" not in sys.modules, name
    read = sm.load(source)
    dtypes = [{which: tensor.dtype for which, tensor in each.tensors().items()} for each in (sae, read)]
    assert dtypes[0] == dtypes[1], (name, dtypes)
"""
    arguments = json.dumps(dict(zip(VARIANTS, sources, strict=True)))
    done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@each_variant
def test_headers_say_what_reading_says(tmp_path, name, monkeypatch):
    w = drawn(8, 8, torch.float64)
    own, source = written(tmp_path, name, w)
    read = sm.load(source)
    assert_own_pass(read, own, w)
    monkeypatch.setattr("saematch.sources.checkpoint.read_tensors", lambda *_: pytest.fail("weights were read"))
    about = only(source).describe()
    sae = about.sae
    assert about.dtype == "float64"
    assert all(tensor.is_meta for tensor in sae.tensors().values())
    shapes = [{name: tensor.shape for name, tensor in each.tensors().items()} for each in (sae, read)]
    assert shapes[0] == shapes[1]
    assert (sae.F, sae.d, sae.activation, sae.k) == (read.F, read.d, read.activation, read.k)
    assert {note for note in read.notes if "not unit: norms" not in note} == set(sae.notes)


class Counted(io.FileIO):
    """A file that counts the bytes that are read."""

    taken = 0

    def read(self, size=-1):
        got = super().read(size)
        Counted.taken += len(got)
        return got

    def readinto(self, buffer):
        got = super().readinto(buffer)
        Counted.taken += got
        return got


@pytest.mark.parametrize("made", [gemma_scope, gemma_scope_2, goodfire])
def test_a_description_reads_little_of_the_file(tmp_path, made, monkeypatch):
    made(tmp_path / "saes", drawn(512, 512))
    monkeypatch.setattr(LocalLocation, "open", lambda place, name: Counted(place.root / name))
    monkeypatch.setattr(Counted, "taken", 0)
    about = only(tmp_path / "saes").describe()
    assert about.bytes > 2**21
    assert 0 < Counted.taken < 2**17


@pytest.mark.parametrize(
    "name",
    {
        (name.split()[0], made.keywords.get("kind")): name
        for name, made in VARIANTS.items()
        if "clt" not in name  # whose files find each other by their names
    }.values(),
)
def test_a_file_is_known_by_its_tensors_under_any_name(tmp_path, name):
    VARIANTS[name](tmp_path / "layer_5", drawn(16, 8))
    (file,) = (path for path in (tmp_path / "layer_5").rglob("*") if path.suffix in SUFFIXES)
    for path in file.parent.iterdir():  # a configuration may be called after its file
        path.rename(path.with_name(path.name.replace(file.stem, "renamed")))
    assert only(tmp_path / "layer_5").family.name == name.split()[0]


def attention(made, **where):
    return partial(made, **where), "attention", "reads attention", "attention: every layer has a basis of its own"


def transcoder(made, note="a transcoder: decoder and b_dec write", **where):
    return partial(made, **where), "transcoder", "a transcoder: it reads .* and writes", note


def unknown_scale(made, **where):
    return partial(made, **where), "unknown_scale", r"weights are for .*\?scale=… says it", ""


def elsewhere(made, allow, hook, message, note):
    return partial(made, metadata={"hook_name": hook}), allow, message, note


def by_token(made, allow, note="", **where):
    return partial(made, **where), allow, "not a linear map of the raw activations", note


SKIP = torch.zeros(8, 8)
NORMALISED = ("layer_norm", "constant_norm_rescale", "covariance_whitening")
REFUSED = [
    *(by_token(saelens, way, normalize_activations=way) for way in NORMALISED),
    *(by_token(llamascopium, way, norms="nowhere", norm_activation=way) for way in ("token-wise", "batch-wise")),
    by_token(openai, "layer_norm", "only directions can be compared", activation="TopK"),
    unknown_scale(saelens, normalize_activations="expected_average_only_in"),
    unknown_scale(saelens, kind="gated", normalize_activations=True),
    unknown_scale(llama_scope, scale=1),
    unknown_scale(llama_scope_r1, norms="nowhere"),
    unknown_scale(llamascopium, norms="nowhere", function="jumprelu"),
    attention(saelens, metadata={"hook_name": "blocks.5.attn.hook_z"}),
    attention(saelens, reshape_activations="hook_z", metadata={}),
    attention(saelens, metadata={"hook_name": "model.layers.5.self_attn.o_proj"}),
    attention(gemma_scope, repository="gemma-scope-2b-pt-att"),
    attention(gemma_scope_2, hf_hook_point_in="model.layers.5.self_attn.o_proj.input"),
    attention(gemma_scope_2, site="attn_out", config=False),
    attention(llama_scope, hook_point_in="blocks.5.attn.hook_z", hook_point_out="blocks.5.attn.hook_z"),
    attention(dictionary_learning, submodule_name="o_proj_layer_5"),
    attention(sparsify, module="h.5.attn.c_attn"),
    attention(nanda, hook="blocks.5.attn.hook_z"),
    transcoder(gemma_scope, repository="my-transcoders"),
    transcoder(gemma_scope_2, type="transcoder"),
    transcoder(gemma_scope_2, type="transcoder", hf_hook_point_out="model.layers.5.output"),
    transcoder(gemma_scope_2, extra={"affine_skip_connection": SKIP}),
    transcoder(sparsify, module="mine", transcode=True),
    transcoder(saelens, kind="transcoder"),
    transcoder(saelens, "skip connection is left out", kind="skip_transcoder", extra={"W_skip": SKIP}),
    transcoder(saelens, kind="jumprelu_transcoder", subtracts=False),
    transcoder(circuit_tracer, feature_output_hook=None),
    transcoder(circuit_tracer, feature_input_hook=None),
    elsewhere(saelens, "neurons", "blocks.5.mlp.hook_post", "neurons of an MLP", "every layer has its own"),
    elsewhere(saelens, "neurons", "model.layers.5.mlp.act_fn", "neurons of an MLP", "every layer has its own"),
    elsewhere(saelens, "layer_norm", "blocks.5.ln2.hook_normalized", "input is layer-normed", "as if it were not"),
    elsewhere(saelens, "layer_norm", "transformer.h.5.ln_1", "input is layer-normed", "as if it were not"),
    elsewhere(saelens, "layer_norm", "model.layers.5.input_layernorm", "input is layer-normed", "as if it were not"),
    elsewhere(saelens, "layer_norm", "model.layers.5.post_attention_layernorm", "its files name no such model", "not"),
    (partial(sparsify, signed=True), "signed", "keeps their sign", "signed: read as if it were not"),
    (partial(saelens, kind="abstopk"), "signed", "keeps their sign", "signed: read as if it were not"),
]


def names(refused):
    return [f"{made.func.__name__}-{allow}-{number}" for number, (made, allow, *_) in enumerate(refused)]


@pytest.mark.parametrize(("made", "allow", "message", "note"), REFUSED, ids=names(REFUSED))
def test_what_cannot_be_compared_is_read_where_that_is_allowed(tmp_path, made, allow, message, note):
    w = drawn(16, 8)
    own = made(tmp_path / "saes", w)
    other = ",".join(each for each in ALLOWABLE if each != allow)
    for look in (sm.load, lambda source: search(source)[0][0].describe()):
        for options, advice in (("", allow), (f"?allow={other}", f"{other},{allow}")):
            with pytest.raises(sm.MatchError, match=rf"{message}.*write \?allow={advice} after its path$"):
                look(f"{tmp_path}/saes{options}")
    found = sm.load(f"{tmp_path}/saes?allow={allow}")
    assert_own_pass(found, own, w)
    assert note in " ".join(found.notes)
    assert f"read with allow={allow}" in found.notes


@pytest.mark.parametrize("name", ["gemma-scope-2b-pt-att", "gemma-scope-9b-pt-att"])
def test_the_verdict_is_the_same_however_a_file_is_named(tmp_path, name, monkeypatch):
    file = tmp_path / name / "layer_5" / "width_16k" / "average_l0_71" / "params.npz"
    write_npz(file.parent, made_up())
    monkeypatch.chdir(file.parent)
    for source in (tmp_path, tmp_path / name, file.parents[2], file, "params.npz", ".", [file]):
        with pytest.raises(sm.MatchError, match="so its weights cannot be compared"):
            sm.load(source)


@pytest.mark.parametrize("name", ["attention_study", "my-transcoder-project", "att/../other"])
def test_folders_that_are_about_attention_hold_any_saes(tmp_path, name):
    assert sm.load(write_npz(tmp_path / name / "layer_5", made_up())).F == 12


def test_no_code_is_below_zero_whatever_threshold_is_stored(tmp_path):
    write_npz(tmp_path, made_up(threshold=torch.full((12,), -1.0)))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert sm.load(tmp_path).encode(x).min() >= 0


def test_two_refusals_have_to_be_allowed_both(tmp_path):
    hooks = {"hook_point_in": "blocks.5.attn.hook_z", "hook_point_out": "blocks.5.mlp.hook_post"}
    llama_scope(tmp_path / "saes", drawn(16, 8), **hooks)
    source, advice = f"{tmp_path}/saes", []
    for _ in range(2):  # each message says all that has to be allowed so far
        with pytest.raises(sm.MatchError, match=r"write \?allow=") as refused:
            sm.load(source)
        advice = re.search(r"write (\S+) after its path", str(refused.value))
        source = f"{tmp_path}/saes{advice[1]}"
    assert source.endswith("?allow=attention,neurons")
    assert sm.load(source).F == 16


NEVER = [
    (gemma_scope_2, {"extra": {"w_dec": torch.zeros(16, 3, 8)}}, "a cross-layer transcoder"),
    (gemma_scope_2, {"extra": {"w_enc": torch.zeros(3, 8, 16), "b_enc": torch.zeros(3, 16),
                               "w_dec": torch.zeros(3, 16, 3, 8), "b_dec": torch.zeros(3, 8)}}, "r a crosscoder: a f"),
    (gemma_scope_2, {"type": "clt", "hf_hook_point_out": "model.layers.5.mlp.output"}, "a clt: a feature reads or"),
    (gemma_scope_2, {"type": "crosscoder"}, "a crosscoder: a feature reads or writes several layers"),
    (gemma_scope_2, {"architecture": "topk"}, "Gemma Scope 2 has jump_relu only"),
    (llamascopium, {"sae_type": "crosscoder"}, "a crosscoder does not have one encoder row and one decoder row"),
    (llamascopium, {"sae_type": "clt"}, "a clt does not have one encoder row and one decoder row"),
    (llamascopium, {"use_glu_encoder": True}, "an encoder with a GLU does not have one"),
    (llamascopium, {"act_fn": "batchtopk"}, "act_fn 'batchtopk' is not supported"),
    (llama_scope, {"act_fn": "topk"}, "Llama Scope has JumpReLU SAEs only"),
    (llama_scope, {"jump_relu_threshold": None}, "has no jump_relu_threshold"),
    (saelens, {"kind": "temporal"}, r"a temporal SAE .*: its codes are of what attention .*saematch\.assign"),
    (saelens, {"kind": "matching_pursuit"}, r"matching pursuit: its codes come from a search .*saematch\.assign"),
    (saelens, {"kind": "panacea"}, "architecture 'panacea' is not supported; supported are"),
    (nanda, {"act_size": 9}, "its configuration says act_size = 9, its bias 8"),
    (nanda, {"dict_size": [16]}, r"its configuration says dict_size = \[16\], its bias 16"),
    (nanda, {"hook": None}, "its configuration has no act_name"),
    (saelens, {"activation_fn": "tanh-relu"}, "architecture 'standard' with 'tanh-relu' is not supported"),
    (saelens, {"extra": {"scaling_factor": torch.full((16,), 2.0)}}, "scaling_factor is not 1"),
    (saelens, {"extra": {"finetuning_scaling_factor": torch.full((16,), 2.0)}}, "finetuning_scaling_factor is not 1"),
    (saelens, {"extra": {"scaling_factor": torch.ones(16), "finetuning_scaling_factor": torch.ones(16)}},
     "holds finetuning_scaling_factor, which this format does not know"),
    (gemma_scope, {"extra": {"scaling_factor": torch.full((16,), 2.0)}}, "scaling_factor is not 1"),
    (sparsify, {"activation": "groupmax"}, r"groupmax: in each of k groups .*saematch\.assign"),
    (sparsify, {"activation": "gelu"}, "activation 'gelu' is not supported"),
    (sparsify, {"num_latents": 32}, "says F = 32, d = 8; its biases have 16 and 8"),
    (sparsify, {"d_in": 16}, "says F = 16, d = 16; its biases have 16 and 8"),
    (dictionary_learning, {"dict_class": "CrossCoder"}, "dict_class 'CrossCoder' is not supported"),
    (dictionary_learning, {"kind": "BatchTopKSAE", "config": False}, "TopK or BatchTopK[?] Put its config.json"),
    (openai, {"activation": "Sigmoid"}, "activation 'Sigmoid' is not supported"),
    (openai, {"activation": "TopK", "postact_fn": "Identity"}, "TopK with 'Identity' is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "changes", "message"), NEVER, ids=[message for *_, message in NEVER])
def test_what_no_canonical_form_holds_is_refused_whatever_is_allowed(tmp_path, made, changes, message):
    made(tmp_path / "saes", drawn(16, 8), **changes)
    with pytest.raises(sm.MatchError, match=message):
        sm.load(f"{tmp_path}/saes?allow={','.join(ALLOWABLE)}")


@pytest.mark.parametrize("made", [gemma_scope, saelens])
def test_factors_that_are_all_one_change_nothing(tmp_path, made):
    w = drawn(16, 8)
    own = made(tmp_path / "saes", w, extra={"scaling_factor": torch.ones(16)})
    assert_own_pass(sm.load(tmp_path / "saes"), own, w)


WITHOUT_K = [
    (qwen_scope, {"repository": "SAE-Res-Qwen3-8B-Base"}), (saelens, {"kind": "topk", "k": None}),
    (saelens, {"kind": "topk", "old": True, "activation_fn_kwargs": {}}), (sparsify, {"k": None}),
    (dictionary_learning, {"kind": "AutoEncoderTopK", "k": None, "drop": ("k",)}),
    (llamascopium, {"function": "topk", "top_k": None}), (openai, {"activation": "TopK", "k": None}),
]  # fmt: skip


@pytest.mark.parametrize(("made", "changes"), WITHOUT_K)
def test_a_missing_k_has_to_be_said(tmp_path, made, changes):
    w = drawn(16, 8)
    own, source = made(tmp_path / "saes", w, **changes), f"{tmp_path}/saes?allow=layer_norm"
    with pytest.raises(sm.MatchError, match=r"TopK SAE without its k; write \?k=… after its path"):
        sm.load(source)
    assert_own_pass(sm.load(f"{source}&k={K}"), own, w)
    for k in (0, 17):
        with pytest.raises(sm.MatchError, match=f"needs k between 1 and 16, got {k}"):
            sm.load(f"{source}&k={k}")


def test_k_is_that_of_the_address_then_of_the_configuration_then_of_the_file(tmp_path):
    dictionary_learning(tmp_path / "a", drawn(16, 8), "AutoEncoderTopK", k=5)
    dictionary_learning(tmp_path / "b", drawn(16, 8), "AutoEncoderTopK", k=None)
    assert [sm.load(tmp_path / "a").k, sm.load(tmp_path / "b").k, sm.load(f"{tmp_path / 'a'}?k=2").k] == [5, K, 2]


NEEDING = {
    **{made.__name__: made for made in (saelens, sparsify, llama_scope, llama_scope_r1, llamascopium)},
    "circuit_tracer": partial(circuit_tracer, function="jumprelu"),
    "nanda": nanda,
    "llamascopium_clt": llamascopium_clt,
}


def test_every_family_that_needs_a_configuration_is_here():
    assert [*NEEDING] == [each.name for each in FAMILIES if each.needs_config]


@pytest.mark.parametrize("made", NEEDING.values(), ids=NEEDING)
def test_weights_without_the_configuration_they_need_are_refused(tmp_path, made):
    made(tmp_path / "saes", drawn(16, 8))
    (config,) = (path for path in (tmp_path / "saes").rglob("*.*") if path.suffix in (".json", ".yaml"))
    config.unlink()
    with pytest.raises(
        sm.MatchError, match=rf"{config.name} is not there, which says how these weights are to be"
    ) as refused:
        sm.load(tmp_path / "saes")
    assert "put it there" in str(refused.value)
    assert ".save(folder)" in str(refused.value)
    assert ("?family=dictionary_learning" in str(refused.value)) == (made is llama_scope)


def test_weights_of_no_family_are_refused_with_the_families(tmp_path):
    torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "model.pt")
    every = re.escape("; ".join(each.title for each in FAMILIES))
    for source in (tmp_path, tmp_path / "model.pt"):
        with pytest.raises(sm.MatchError, match=f"no SAE in a known format; known are {every}$"):
            sm.load(source)


def test_the_family_may_be_said(tmp_path):
    """Nothing in a file with square matrices and SAELens' names says whether the matrices are transposed."""
    w = drawn(8, 8)
    saelens(tmp_path / "saes", w, subtracts=False)
    as_qwen = sm.load(f"{tmp_path}/saes?family=qwen_scope&k=3")
    np.testing.assert_array_equal(as_qwen.W_enc, w.enc.T)
    np.testing.assert_array_equal(as_qwen.W_dec, w.dec.T)
    np.testing.assert_array_equal(sm.load(tmp_path / "saes").W_enc, w.enc)
    assert {"read with family=qwen_scope", "read with k=3"} < set(as_qwen.notes)


PLAIN = {
    "plain": lambda w: w.plain,
    "of other names": lambda w: {"enc": w.enc, "dec": w.dec, "bias": w.b_enc, "pre": w.b_dec},
    "half transposed": lambda w: {**w.plain, "W_enc": w.enc.T},
    "with a step": lambda w: {**w.plain, "step": torch.tensor(3)},
}


@pytest.mark.parametrize(("F", "d"), [(16, 8), (8, 8), (6, 8)])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_plain_file_is_of_no_family(tmp_path, name, F, d, suffix):
    """Such a file states neither the activation nor the input of the encoder, and a guess might be wrong silently."""
    possible = name in ("plain", "half transposed") and d == F  # as Qwen-Scope's, which is turned
    ask = r"if .*, write \?family=… after its path: qwen_scope; else " * possible
    torch.save(PLAIN[name](drawn(F, d)), tmp_path / f"layer_5{suffix}")
    for source in (tmp_path, tmp_path / f"layer_5{suffix}", f"{tmp_path}/layer_5{suffix}?k=3", f"{tmp_path}/layer_*"):
        with pytest.raises(sm.MatchError, match=rf"are those of no known format; {ask}save it with its activation"):
            sm.load(source)


OTHERS = {
    "a temporal SAE": ("latest_ckpt.safetensors", ["D", "E", "b", "attn_layers.0.c_proj.weight"]),
    "a Lorsa of llamascopium": ("sae_weights.safetensors", ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V", "b_D", "mask"]),
    "a MOLT of llamascopium": ("sae_weights.safetensors", ["W_E", "b_E", "U_matrices.4", "V_matrices.4", "b_D"]),
    "a dictionary of overcomplete": ("sae.pt", ["dictionary._weights", "dictionary.multiplier", "encoder.weight"]),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_dictionary_of_another_kind_is_refused_by_what_it_is(tmp_path, what):
    name, tensors = OTHERS[what]
    save = save_file if name.endswith(".safetensors") else torch.save
    save({tensor: torch.zeros(8, 8) for tensor in tensors}, tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(sm.MatchError, match=rf"{name}: {what}.*saematch\.(assign|SAE)\("):
            sm.load(source)


@pytest.mark.parametrize("bias", ["decoder.bias", "bias"])
def test_two_linear_layers_in_safetensors_are_read_as_their_refusal_says(tmp_path, bias):
    w = drawn(16, 8)
    save_file(
        {"encoder.weight": w.enc.T.contiguous(), "decoder.weight": w.dec.T.contiguous(), "encoder.bias": w.b_enc}
        | {bias: w.b_dec},
        tmp_path / "layer_5.safetensors",
    )
    with pytest.raises(sm.MatchError, match=r"write \?family=dictionary_learning after its path") as refused:
        sm.load(tmp_path)
    option = re.search(r"write (\S+) after", str(refused.value))[1]
    own = dictionary_learning(tmp_path / "own", w, "AutoEncoder" if bias == "bias" else "AutoEncoderNew")
    assert_own_pass(sm.load(f"{tmp_path}/layer_5.safetensors{option}"), own, w)


def test_linear_layers_with_the_biases_of_openai_are_of_no_family_in_safetensors(tmp_path):
    """There, no activation is stored next to them."""
    w = drawn(16, 8)
    turned = {name: tensor.contiguous() for name, tensor in w.turned.items()}
    save_file({**turned, "pre_bias": w.b_dec, "latent_bias": w.b_enc}, tmp_path / "mine.safetensors")
    with pytest.raises(sm.MatchError, match=r"are those of no known format; save it with its activation"):
        sm.load(tmp_path)


@pytest.mark.parametrize("name", ["layer5.sae.pt", "my-sae-l0_3/layer5.sae.pt", "8.pt", "ae.pt", "x-SAE-l19.pth"])
@pytest.mark.parametrize("F", [8, 16])
def test_no_name_makes_a_plain_file_one_of_a_family(tmp_path, name, F):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    torch.save(drawn(F, 8).plain, file)
    for source in (file, tmp_path):
        with pytest.raises(sm.MatchError, match=r"are those of no known format.*saematch.SAE\(W_enc.*save") as refused:
            sm.load(source)
        assert ("?family=… after its path: qwen_scope;" in str(refused.value)) == (F == 8)
        assert "write ?k" not in str(refused.value)


def test_the_state_of_an_optimizer_is_not_taken_for_an_sae(tmp_path):
    state = {"ema": {"loss": torch.ones(3)}, "step": torch.tensor(3), "state": {0: {"exp_avg": torch.ones(3)}}}
    torch.save(state, tmp_path / "trainer_state.pt")
    for source in (tmp_path, tmp_path / "trainer_state.pt"):
        with pytest.raises(sm.MatchError, match="no SAE in a known format; known are Gemma"):
            sm.load(source)


def test_the_advice_for_a_plain_file_works(tmp_path):
    w = drawn(16, 8)
    torch.save(w.plain, tmp_path / "sae.pt")
    sm.SAE(w.enc, w.b_enc, w.dec, w.b_dec, "topk", k=3).save(tmp_path / "saved")
    assert torch.equal(sm.load(tmp_path / "saved").W_enc, w.enc)
    for named in ("sae.pt?family=qwen_scope&k=3", "layer5.sae.pt?k=3"):
        torch.save(w.plain, tmp_path / "layer5.sae.pt")  # the name adds what its format makes of it
        message = r"W_enc is \(8, 16\), one column for each feature; in Qwen-Scope .* a row"
        with pytest.raises(sm.MatchError, match=message):
            sm.load(f"{tmp_path}/{named}")


def test_square_qwen_scope_is_read_where_its_family_is_said(tmp_path):
    w = drawn(8, 8)
    own = qwen_scope(tmp_path, w)
    for name in ("layer5.sae.pt", "renamed.pt"):
        (file,) = tmp_path.rglob("*.pt")
        file.rename(file.with_name(name))
        with pytest.raises(sm.MatchError, match="are those of no known format"):
            sm.load(tmp_path)
        assert_own_pass(sm.load(f"{tmp_path}?family=qwen_scope"), own, w)


def test_a_file_of_two_families_is_refused_with_both(tmp_path):
    sparsify(tmp_path, drawn(16, 8), extra={"decoder.weight": torch.zeros(8, 16)})
    next(tmp_path.rglob("cfg.json")).unlink()  # which would tell
    with pytest.raises(
        sm.MatchError, match=r"those of several formats; .* after its path: sparsify, llama_scope; else"
    ):
        sm.load(next(tmp_path.rglob("*.safetensors")))


def follow(advice, file):
    """Follow the advice of a refusal. The new file has the name of the old one, which is moved before."""
    old, new = file.with_name("old").joinpath(file.name), file
    old.parent.mkdir()
    file.rename(old)
    exec(advice, {"torch": torch, "numpy": np, "safetensors": safetensors, "file": str(old), "new_file": str(new)})
    shutil.rmtree(old.parent)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.sae."])
@pytest.mark.parametrize("made", [dictionary_learning, openai, goodfire, llama_scope, saelens, gemma_scope])
def test_names_with_a_prefix_are_refused_with_what_to_do(tmp_path, made, prefix):
    own, w = made(tmp_path, drawn(16, 8)), drawn(16, 8)
    (file,) = (path for path in tmp_path.rglob("*") if path.suffix in SUFFIXES)
    load, save = {
        ".npz": (np.load, lambda found, path: np.savez(path, **found)),
        ".safetensors": (load_file, save_file),
    }.get(file.suffix, (torch.load, torch.save))
    save({prefix + name: value for name, value in load(file).items() if hasattr(value, "shape")}, file)
    content = file.read_bytes()
    with pytest.raises(sm.MatchError, match=rf"tensors begin with '{prefix}' .*in a folder of its own") as refused:
        sm.load(tmp_path)
    assert file.read_bytes() == content
    follow(str(refused.value).rpartition("next to it: ")[2], file)
    assert_own_pass(sm.load(f"{tmp_path}{own.options}"), own, w)


@pytest.mark.parametrize("name", ["ae.pt", "8.pt", "layer_5.pth"])
def test_the_prefix_of_a_plain_file_is_named_too(tmp_path, name):
    torch.save({f"sae.{key}": value for key, value in drawn(16, 8).plain.items()}, tmp_path / name)
    with pytest.raises(sm.MatchError, match=r"tensors begin with 'sae\.'"):
        sm.load(tmp_path)


@pytest.mark.parametrize("keys", [("state_dict",), ("sae",), ("model", "state_dict"), ("a", "b", "c")])
@pytest.mark.parametrize("made", [dictionary_learning, openai, goodfire, qwen_scope])
def test_tensors_in_a_dictionary_of_their_own_are_refused_with_its_name(tmp_path, made, keys):
    own = made(tmp_path, drawn(16, 8))
    (file,) = (path for path in tmp_path.rglob("*") if path.suffix in SUFFIXES)
    found = torch.load(file, weights_only=True)
    for key in reversed(keys):
        found = {key: found, "version": "2.0", "config": {"encoder": "x", "decoder": "y"}}
    torch.save(found, file)
    named = " in ".join(map(repr, reversed(keys)))
    with pytest.raises(sm.MatchError, match=rf"are in a dictionary {named}; save that alone, to a new file") as refused:
        sm.load(tmp_path)
    follow(str(refused.value).rpartition("next to it: ")[2], file)
    assert_own_pass(sm.load(tmp_path), own, drawn(16, 8))


# Formats that need nothing folded: one SAE, whatever it is stored as.
ALIKE = {
    "jumprelu": (gemma_scope, gemma_scope_2, partial(saelens, kind="jumprelu", subtracts=False),
                 partial(dictionary_learning, kind="JumpReluAutoEncoder")),
    "relu": (goodfire, partial(saelens, subtracts=False), partial(dictionary_learning, kind="AutoEncoderNew"),
             partial(llamascopium, norms="folded")),
    "topk": (qwen_scope, partial(saelens, kind="topk", subtracts=False),
             partial(llamascopium, function="topk", norms="folded", by_norm=False)),
}  # fmt: skip


@pytest.mark.parametrize("activation", ALIKE)
def test_a_matching_does_not_depend_on_the_format(tmp_path, activation):
    read = []
    for number, made in enumerate(ALIKE[activation]):
        pair = [tmp_path / f"{number}-{seed}" for seed in range(2)]
        for seed, folder in enumerate(pair):
            made(folder, drawn(40, 8, seed=seed))
        read.append([sm.load(folder) for folder in pair])
    fold = "threshold" if activation == "jumprelu" else "decoder_norm"
    expected = sm.match(*read[0], fold=fold)
    for a, b in [*read[1:], (read[0][0], read[1][1])]:
        for name, tensor in read[0][0].tensors().items():
            assert torch.equal(a.tensors()[name], tensor)
        found = sm.match(a, b, fold=fold)
        np.testing.assert_array_equal(found.perm, expected.perm)
        assert found.cost == expected.cost


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("format", ["saelens", "gemma_scope"])
def test_what_is_saved_is_read_again(tmp_path, format, activation, dtype):
    sae = made_up(activation=activation).to(dtype)
    if (format, activation) == ("gemma_scope", "topk"):
        with pytest.raises(sm.MatchError, match=r"Gemma Scope has no TopK; choose format=\"saelens\""):
            sae.save(tmp_path / "layer_5", format)
        assert not (tmp_path / "layer_5").exists()
        return
    sae.save(tmp_path / "layer_5", format)
    found = sm.load(tmp_path)
    assert (only(tmp_path).family.name, found.k) == (format, sae.k)
    expected = sae.tensors()
    if (format, activation) == ("gemma_scope", "relu"):
        expected["threshold"] = torch.zeros(sae.F)
    assert (found.activation == "jumprelu") == ("threshold" in expected)
    assert found.tensors().keys() == expected.keys()
    for name, tensor in found.tensors().items():
        assert tensor.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(tensor.double(), expected[name].double())
    assert [note for note in found.notes if "not unit" not in note] == []


def test_tied_weights_and_those_in_training_are_saved(tmp_path):
    W = torch.nn.Parameter(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))
    sae = made_up(activation="relu", W_dec=W, W_enc=W.T)
    for format in ("saelens", "gemma_scope"):
        sae.save(tmp_path / format, format, hook="blocks.5.hook_resid_pre")
        found = sm.load(tmp_path / format)
        assert torch.equal(found.W_dec, W.detach())
        assert torch.equal(found.W_enc, W.detach().T)
    assert only(tmp_path / "saelens").describe().hook == "blocks.5.hook_resid_pre"


@pytest.mark.parametrize("format", ["saelens", "gemma_scope"])
def test_saving_replaces_nothing_unasked(tmp_path, format):
    old, new = made_up(seed=1), made_up(seed=2)
    old.save(tmp_path / "x", format)
    before = {path: path.read_bytes() for path in (tmp_path / "x").iterdir()}
    with pytest.raises(sm.MatchError, match=r"is there already; choose another folder, or overwrite it"):
        new.save(tmp_path / "x", format)
    assert {path: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before
    new.save(tmp_path / "x", format, overwrite=True)
    assert torch.equal(sm.load(tmp_path / "x").W_enc, new.W_enc)
    assert {path.name for path in (tmp_path / "x").iterdir()} == {path.name for path in before}


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    with full_disk(), pytest.raises(sm.MatchError, match=r"params\.npz: cannot be written"):
        made_up().save(tmp_path / "x", "gemma_scope")
    assert list((tmp_path / "x").iterdir()) == []
    made_up().save(tmp_path / "x", "gemma_scope")
    before = (tmp_path / "x" / "params.npz").read_bytes()
    with full_disk(), pytest.raises(sm.MatchError, match="cannot be written"):
        made_up(seed=1).save(tmp_path / "x", "gemma_scope", overwrite=True)
    assert [path.read_bytes() for path in (tmp_path / "x").iterdir()] == [before]


def test_a_place_that_is_no_folder_and_a_format_that_is_none_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(sm.MatchError, match=r"file: cannot be made"):
        made_up().save(tmp_path / "file")
    with pytest.raises(sm.MatchError, match="format 'npz' is not known; known are saelens, gemma_scope"):
        made_up().save(tmp_path / "x", "npz")
    assert not (tmp_path / "x").exists()
