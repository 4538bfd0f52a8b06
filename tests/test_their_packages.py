"""SAEs that training packages have written, read here and compared with the forward passes of these packages; and
numbers that both measure.

`make test-formats` installs the packages; without them, these tests are skipped.
"""

import importlib
import json
import sys
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from sae_lens_registry import named
from safetensors.torch import save_file

import saematch as sm
from saes import made_up

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own: at import, and about models that are not there


def needs(package, module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {package}: make test-formats")


needs_sae_lens = needs("sae-lens", "sae_lens")
needs_sparsify = needs("eai-sparsify", "sparsify")
needs_dictionary_learning = needs("dictionary-learning", "dictionary_learning")
needs_circuit_tracer = needs("circuit-tracer", "circuit_tracer")
needs_llamascopium = needs("llamascopium", "llamascopium")
needs_overcomplete = needs("overcomplete", "overcomplete")

SIZES = [(12, 8), (8, 8)]  # F = d: a matrix that should be turned, and is not, still fits
LAYER, HOOK, TRANSCODED = 3, "blocks.3.hook_resid_post", "blocks.3.mlp.hook_out"


def randomised(module, threshold=None):
    """Return the module with random parameters: tied weights, unit decoders and zero biases would hide mistakes."""
    r = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.from_numpy(r.standard_normal(tuple(parameter.shape)))
            parameter.copy_(drawn.exp() if name.endswith("threshold") else drawn)
        for name, buffer in module.named_buffers():
            if name.endswith("threshold") and threshold is not None:
                buffer.fill_(threshold)
    return module


def assert_same_pass(found, theirs):
    """Assert that both forward passes agree. They compute in float64 from one file, and differ in the order of sums.

    With a dozen terms that add up to less than 1000 in size, the difference is below 12 x 1e-16 x 1000, about 1e-12. A
    bias that is folded, or a threshold that is rounded, in float32 would differ by 1e-6.
    """
    found = found.to(torch.float64)
    r = torch.Generator().manual_seed(0)
    x = torch.randn(64, found.d, generator=r, dtype=torch.float64)
    codes = torch.rand(64, found.F, generator=r, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.encode(x)
        assert 0.05 < (expected > 0).double().mean() < 0.95
        for ours, other in [
            (found.encode(x), expected),
            (found.decode(codes), theirs.decode(codes)),
            (found.decode(found.encode(x)), theirs.decode(expected)),
        ]:
            torch.testing.assert_close(ours, other, rtol=1e-11, atol=1e-11)


def only_sae(folder):
    """Return the one SAE below a folder, whose files name its layer."""
    assert list(sm.load_layers(folder)) == [LAYER]
    return sm.load(folder)


LENS = {
    "standard": ("standard", {}),
    "jumprelu": ("jumprelu", {}),
    "gated": ("gated", {}),
    "topk": ("topk", {"k": 3}),
    "topk by norm": ("topk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
}
TRAINED = {"topk": 3, "batchtopk": 2.5, "matryoshka_batchtopk": 2.5}  # k, which may be a mean


def lens(architecture, F, d, training=False, threshold=None, hooks=(), **config):
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    made, configured = (get_sae_training_class if training else get_sae_class)(architecture)
    metadata = SAEMetadata(model_name="gpt2", **{"hook_name": HOOK, **dict(hooks)})
    return randomised(made(configured(d_in=d, d_sae=F, metadata=metadata, **config)), threshold)


def lens_reads(folder, training=False):
    import sae_lens

    return (sae_lens.TrainingSAE if training else sae_lens.SAE).load_from_disk(folder, dtype="float64")


@needs_sae_lens
@pytest.mark.parametrize("name", LENS)
@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_sae_lens(tmp_path, name, subtracts, F, d):
    architecture, config = LENS[name]
    lens(architecture, F, d, apply_b_dec_to_input=subtracts, **config).save_model(tmp_path)
    assert_same_pass(only_sae(tmp_path), lens_reads(tmp_path))


@needs_sae_lens
@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_transcoders_of_sae_lens(tmp_path, kind, F, d):
    """Both decode the codes alone: the skip connection is added in the package's `forward`."""
    hooks = {"hook_name": "blocks.3.ln2.hook_normalized", "hook_name_out": "blocks.3.hook_mlp_out"}
    lens(kind, F, d, hooks=hooks, apply_b_dec_to_input=False, d_out=d).save_model(tmp_path)
    found = only_sae(tmp_path)
    assert_same_pass(found, lens_reads(tmp_path))
    assert (found.reads.place, found.writes.place) == tuple(hooks.values())


@needs_sae_lens
@pytest.mark.parametrize("function", ["relu", "jumprelu"])
def test_sae_lens_reads_a_transcoder_that_is_saved_for_it(tmp_path, function):
    places = {"reads": sm.Space("blocks.3.ln2.hook_normalized", "layer_norm"), "writes": sm.Space(TRANSCODED)}
    sae = made_up(12, 8, function, **places)
    sae.save(tmp_path / "layer_3", format="saelens")
    theirs = lens_reads(tmp_path / "layer_3")
    assert_same_pass(sae, theirs)
    assert theirs.cfg.metadata.hook_name_out == TRANSCODED


@needs_sae_lens
@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("abstopk", {"k": 3}, r"abstopk: it chooses the k largest in size and keeps their sign.*\?allow=signed"),
        ("matching_pursuit", {}, "matching pursuit: its codes come from a search .* and it has no encoder"),
        ("temporal", {"bottleneck_factor": 2, "n_heads": 2, "kval_topk": 3}, r"a temporal SAE .*saematch\.assign"),
        ("temporal", {"bottleneck_factor": 2, "n_heads": 2, "tied_weights": False}, "a temporal SAE"),
    ],
)
def test_what_sae_lens_has_besides_is_refused_by_its_name(tmp_path, architecture, config, message):
    lens(architecture, 12, 8, **config).save_model(tmp_path)
    for source in (tmp_path, tmp_path / "sae_weights.safetensors"):
        with pytest.raises(sm.MatchError, match=message):
            sm.load(source)


@needs_sparsify
def test_groupmax_of_sparsify_is_refused_by_its_name(tmp_path):
    from sparsify import SparseCoder, SparseCoderConfig

    SparseCoder(8, SparseCoderConfig(k=3, num_latents=12, activation="groupmax")).save_to_disk(tmp_path / "layers.3")
    with pytest.raises(sm.MatchError, match="groupmax: in each of k groups of features, the largest one is active"):
        sm.load(tmp_path)


@needs_circuit_tracer
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("function", ["relu", "jumprelu"])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_circuit_tracer(tmp_path, function, skip, F, d):
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_relu_transcoder

    act = torch.relu if function == "relu" else JumpReLU(torch.zeros(F, dtype=torch.float64), 0.1)
    options = {"device": torch.device("cpu"), "dtype": torch.float64}
    randomised(SingleLayerTranscoder(d, F, act, LAYER, skip, **options)).to_safetensors(
        tmp_path / "layer_3.safetensors"
    )
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    (tmp_path / "config.yaml").write_text(f"model_name: Qwen/Qwen3-4B\nmodel_kind: transcoder_set\n{hooks}")
    theirs = load_relu_transcoder(tmp_path / "layer_3.safetensors", LAYER, **options, lazy_encoder=False)
    theirs.W_skip = None  # which belongs to no feature
    found = only_sae(tmp_path)
    assert_same_pass(found, theirs)
    assert (found.reads.place, found.writes.place) == ("blocks.3.mlp.hook_in", TRANSCODED)


@needs_circuit_tracer
@pytest.mark.parametrize("to", [3, 4])
@pytest.mark.parametrize("function", ["relu", "jump_relu"])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_cross_layer_transcoders_of_circuit_tracer(tmp_path, function, to, F, d):
    """Where no other layer is active, the package decodes what one layer writes."""
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt

    options = {"lazy_decoder": False, "device": torch.device("cpu"), "dtype": torch.float64}
    randomised(CrossLayerTranscoder(LAYER + 2, F, d, function, **options)).to_safetensors(tmp_path)
    (tmp_path / "config.yaml").write_text("feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n")
    theirs = load_clt(tmp_path, **options)

    def decode(codes):
        every = codes.new_zeros(LAYER + 2, *codes.shape)
        every[LAYER] = codes
        return theirs.decode(every)[to]

    found = sm.load(f"{tmp_path}?layer={LAYER}&to={to}")
    assert_same_pass(found, SimpleNamespace(encode=lambda x: theirs.encode_layer(x, LAYER), decode=decode))
    assert found.writes.place == f"blocks.{to}.hook_mlp_out"


@needs_circuit_tracer
@pytest.mark.parametrize("to", [3, 4])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_cross_layer_transcoders_of_gemma_scope_2(tmp_path, to, F, d):
    """The files are made up; circuit-tracer reads their layout too, all but the last of the files that it is given."""
    from circuit_tracer.transcoder.cross_layer_transcoder import load_gemma_scope_2_clt

    home, layers = tmp_path / "clt" / "width_262k_l0_medium", LAYER + 2
    home.mkdir(parents=True)
    r = torch.Generator().manual_seed(0)
    shapes = {"w_enc": (d, F), "b_enc": (F,), "w_dec": (F, layers, d), "b_dec": (d,), "threshold": (F,)}
    for layer in range(layers):
        drawn = {name: torch.randn(shape, generator=r, dtype=torch.float64) for name, shape in shapes.items()}
        save_file(drawn | {"threshold": drawn["threshold"].exp()}, home / f"params_layer_{layer}.safetensors")
    paths = {layer: str(home / f"params_layer_{layer}.safetensors") for layer in range(layers)} | {layers: ""}
    theirs = load_gemma_scope_2_clt(paths, device=torch.device("cpu"), dtype=torch.float64)

    def decode(codes):
        every = codes.new_zeros(layers, *codes.shape)
        every[LAYER] = codes
        return theirs.decode(every)[to]

    found = sm.load(f"{tmp_path}?layer={LAYER}&to={to}")
    assert_same_pass(found, SimpleNamespace(encode=lambda x: theirs.encode_layer(x, LAYER), decode=decode))


@needs_sae_lens
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", LENS)
def test_sae_lens_in_other_precisions(tmp_path, name, dtype):
    architecture, config = LENS[name]
    lens(architecture, 12, 8, dtype=dtype, **config).save_model(tmp_path)
    assert_same_pass(only_sae(tmp_path), lens_reads(tmp_path))


@needs_sae_lens
@pytest.mark.parametrize("name", LENS)
@pytest.mark.parametrize("subtracts", [True, False])
def test_sae_lens_for_scaled_activations(tmp_path, name, subtracts):
    """The package folds the scale of training into the weights as `?scale=` does, for raw activations."""
    architecture, config = LENS[name]
    config = {**config, "apply_b_dec_to_input": subtracts, "normalize_activations": "expected_average_only_in"}
    lens(architecture, 12, 8, **config).save_model(tmp_path)
    theirs = lens_reads(tmp_path)
    theirs.fold_activation_norm_scaling_factor(0.375)
    assert_same_pass(sm.load(f"{tmp_path}?scale=0.375"), theirs)


@needs_sae_lens
@pytest.mark.parametrize("architecture", TRAINED)
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize(("F", "d"), SIZES)
class TestSAELensTraining:
    """BatchTopK SAEs become JumpReLU SAEs at inference, and a checkpoint is read in the same way."""

    @staticmethod
    def made(architecture, by_norm, subtracts, F, d):
        config = {"rescale_acts_by_decoder_norm": by_norm, "apply_b_dec_to_input": subtracts}
        if architecture == "matryoshka_batchtopk":
            config["matryoshka_widths"] = [3, F]
        return lens(architecture, F, d, training=True, threshold=0.7, k=TRAINED[architecture], **config)

    def test_checkpoint(self, tmp_path, architecture, by_norm, subtracts, F, d):
        self.made(architecture, by_norm, subtracts, F, d).save_model(tmp_path / "checkpoint")
        widened = lens_reads(tmp_path / "checkpoint", training=True)  # so that the package folds norms in float64 too
        widened.save_inference_model(tmp_path / "inference")
        assert_same_pass(only_sae(tmp_path / "checkpoint"), lens_reads(tmp_path / "inference"))

    def test_inference_model(self, tmp_path, architecture, by_norm, subtracts, F, d):
        self.made(architecture, by_norm, subtracts, F, d).save_inference_model(tmp_path)
        assert_same_pass(only_sae(tmp_path), lens_reads(tmp_path))


@needs_sae_lens
@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_sae_lens_reads_what_is_saved_for_it(tmp_path, activation, dtype, F, d):
    sae = made_up(F, d, activation).to(dtype)
    sae.save(tmp_path / "layer_3", format="saelens", hook=HOOK)
    theirs = lens_reads(tmp_path / "layer_3")
    assert_same_pass(sae, theirs)
    assert theirs.cfg.metadata.hook_name == HOOK


@needs_sae_lens
@pytest.mark.parametrize(("F", "other_F"), [(40, 40), (40, 70), (70, 40)])
def test_sae_lens_measures_the_same_consistency(F, other_F):
    """Both compute means of absolute cosines in float64, which differ by their rounding: far less than 1e-12."""
    from sae_lens.synthetic.evals import feature_uniqueness, mean_correlation_coefficient

    a, b = made_up(F, 8, seed=0), made_up(other_F, 8, seed=1)
    b.W_dec[:10] = -a.W_dec[5:15]  # negated features, which are the same to this package
    b.W_dec[10] = 0
    pair = sm.consistency({"a": a, "b": b}, nulls=0).pairs[0]
    assert abs(pair.mcc_decoder_absolute - mean_correlation_coefficient(a.W_dec, b.W_dec)) < 1e-12
    assert pair.mcc_decoder_absolute - pair.mcc_decoder > 0.05
    assert pair.uniqueness_ab == feature_uniqueness(a.W_dec, b.W_dec)
    assert pair.uniqueness_ba == feature_uniqueness(b.W_dec, a.W_dec)


@needs_sparsify
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("width", [{"num_latents": 12}, {"num_latents": 8}, {"expansion_factor": 2}])
def test_sparsify(tmp_path, width, k):
    from sparsify import SparseCoder, SparseCoderConfig, sparse_coder
    from sparsify.utils import eager_decode

    folder = tmp_path / "layers.3"
    randomised(SparseCoder(8, SparseCoderConfig(k=k, **width))).save_to_disk(folder)
    coder = SparseCoder.load_from_disk(folder).double()

    def encode(x):
        acts, chosen, _ = coder.encode(x)
        return x.new_zeros(len(x), coder.num_latents).scatter(-1, chosen, acts)

    def decode(codes):
        every = torch.arange(coder.num_latents).expand(codes.shape)
        with pytest.MonkeyPatch.context() as patch:  # the kernel that it prefers is for GPUs
            patch.setattr(sparse_coder, "decoder_impl", eager_decode)
            return coder.decode(codes, every)

    assert_same_pass(only_sae(tmp_path), SimpleNamespace(encode=encode, decode=decode))


DICTIONARIES = {
    "AutoEncoder": ("standard", "StandardTrainer", {}),
    "AutoEncoderNew": ("standard", "StandardTrainerAprilUpdate", {}),  # which writes that it is an AutoEncoder
    "GatedAutoEncoder": ("gdm", "GatedSAETrainer", {}),
    "JumpReluAutoEncoder": ("jumprelu", "JumpReluTrainer", {}),
    "AutoEncoderTopK": ("top_k", "TopKTrainer", {"k": 3}),
    "BatchTopKSAE": ("batch_top_k", "BatchTopKTrainer", {"k": 3}),
    "MatryoshkaBatchTopKSAE": (
        "matryoshka_batch_top_k",
        "MatryoshkaBatchTopKTrainer",
        {"k": 3, "group_fractions": [0.25, 0.75]},
    ),
}
SET_LATE = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")  # their threshold is -1 for 1000 steps


def without_init(*packages):
    """Yield modules of a package by name, without the `__init__` of these packages, which import far more."""
    with pytest.MonkeyPatch.context() as patch:
        for name in packages:
            package = ModuleType(name)
            package.__path__ = list(find_spec(name).submodule_search_locations)
            patch.setitem(sys.modules, name, package)
        yield lambda name: importlib.import_module(f"{packages[0]}.{name}")


@pytest.fixture(scope="module")
def modules():
    yield from without_init("dictionary_learning")


def trained(modules, name, F, d, threshold):
    module, trainer, config = DICTIONARIES[name]
    described = {"layer": LAYER, "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_3"}
    if name == "AutoEncoderNew":
        config = {"dict_class": modules("dictionary").AutoEncoderNew}
    made = getattr(modules(f"trainers.{module}"), trainer)(
        steps=100_000, activation_dim=d, dict_size=F, device="cpu", **described, **config
    )
    assert type(made.ae).__name__ == name
    randomised(made.ae, threshold)
    return made


def write_dictionary(folder, trainer, weights="ae.pt"):
    """Write a dictionary as `trainSAE` does. `weights` is `checkpoints/ae_{step}.pt` during training."""
    (folder / weights).parent.mkdir(parents=True)
    config = {"trainer": trainer.config, "buffer": {"d_submodule": 8, "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    torch.save({name: tensor.cpu() for name, tensor in trainer.ae.state_dict().items()}, folder / weights)
    return trainer.ae.double()


@needs_dictionary_learning
@pytest.mark.parametrize(
    ("name", "threshold"), [(name, None) for name in DICTIONARIES] + [(name, 0.7) for name in SET_LATE]
)
@pytest.mark.parametrize("weights", ["ae.pt", "checkpoints/ae_5000.pt"])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_dictionary_learning(tmp_path, modules, name, threshold, weights, F, d):
    theirs = write_dictionary(tmp_path / "trainer_0", trained(modules, name, F, d, threshold), weights)
    assert_same_pass(only_sae(tmp_path), theirs)


@needs_sae_lens
def test_the_documentation_counts_the_saes_that_sae_lens_knows():
    """`bench/sae_lens_registry.py` resolves them all, which takes more than a minute, and writes the table."""
    from saematch.sources import registry

    table = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    for loader, listed in named(registry._table()).items():
        releases = len({sae.release for sae in listed})
        assert f"| `{loader}` | {releases:,} | {len(listed):,} |" in table


@needs_sae_lens
def test_every_release_that_sae_lens_knows_is_understood():
    from saematch.sources import registry

    for name in registry._table():
        repo, listed = registry.release(name)
        assert repo.count("/") == 1
        assert len({each.id for each in listed}) == len(listed) > 0


@pytest.fixture(scope="module")
def models():
    yield from without_init("llamascopium")


def write_llamascopium(folder, model, hooks, norms):
    """Write a dictionary as its trainer does, with the norms of the activations that it was trained on."""
    model = randomised(model)
    if norms:
        model.set_dataset_average_activation_norm(dict(zip(hooks, norms, strict=True)))
    folder.mkdir(parents=True, exist_ok=True)
    model.cfg.save_hyperparameters(folder)
    model.save_pretrained(folder)
    return model


def llamascopium(kind, F, d, function, by_norm, norms, **hooks):
    normalisation = "dataset-wise" if norms else "inference"
    options = {
        "act_fn": function,
        "norm_activation": normalisation,
        "sparsity_include_decoder_norm": by_norm,
        "top_k": 3,
    }
    return kind(d_model=d, expansion_factor=F / d, dtype=torch.float64, **options, **hooks)


def as_raw(model, norms, encode, decode, unit):
    """Return its pass for raw activations. A code of this package is `unit` times the code of llamascopium."""
    c = [model.cfg.d_model**0.5 / norm for norm in norms or (model.cfg.d_model**0.5,) * 2]
    n = unit / c[1] if model.cfg.act_fn == "topk" and model.cfg.sparsity_include_decoder_norm else 1
    return SimpleNamespace(encode=lambda x: encode(x * c[0]) * n, decode=lambda f: decode(f / n) / c[1])


FUNCTIONS = ["relu", "jumprelu", "topk"]


@needs_llamascopium
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("norms", [(5.5, 1.75), None])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_llamascopium(tmp_path, models, function, by_norm, norms, F, d):
    sae = models("models.sae")
    hooks = {"hook_point_in": "blocks.3.hook_resid_mid", "hook_point_out": "blocks.3.hook_mlp_out"}
    config = llamascopium(sae.SAEConfig, F, d, function, by_norm, norms, **hooks)
    theirs = write_llamascopium(tmp_path, sae.SparseAutoEncoder(config), hooks.values(), norms)
    found = only_sae(tmp_path)
    assert_same_pass(found, as_raw(theirs, norms, theirs.encode, theirs.decode, theirs.decoder_norm()))
    assert [found.reads.place, found.writes.place] == [*hooks.values()]


@needs_llamascopium
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("norms", [(2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5, 11.5), None])
@pytest.mark.parametrize(("F", "d"), SIZES)
@pytest.mark.parametrize("to", [3, 4])
def test_cross_layer_transcoders_of_llamascopium(tmp_path, models, function, by_norm, norms, to, F, d):
    """Where no other layer is active, the package decodes what one layer writes."""
    clt, layers = models("models.clt"), range(LAYER + 2)
    hooks = {"hook_points_in": [f"blocks.{n}.hook_resid_mid" for n in layers]}
    hooks["hook_points_out"] = [f"blocks.{n}.hook_mlp_out" for n in layers]
    config = llamascopium(clt.CLTConfig, F, d, function, by_norm, norms, **hooks)
    theirs = write_llamascopium(tmp_path, clt.CrossLayerTranscoder(config), [*chain(*hooks.values())], norms)

    def alone(tensor):
        every = tensor.new_zeros(len(tensor), len(layers), tensor.shape[1])
        every[:, LAYER] = tensor
        return every

    read, written = norms and norms[LAYER], norms and norms[len(layers) + to]
    encode, decode = lambda x: theirs.encode(alone(x))[:, LAYER], lambda f: theirs.decode(alone(f))[to]
    unit = theirs.decoder_norm_per_feature()[LAYER]
    found = sm.load(f"{tmp_path}?layer={LAYER}&to={to}")
    assert list(sm.load_layers(tmp_path)) == [*layers]
    assert_same_pass(found, as_raw(theirs, norms and (read, written), encode, decode, unit))
    assert found.writes.place == f"blocks.{to}.hook_mlp_out"


@needs_llamascopium
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("norms", [(5.5, 1.75, 2.25), None])
@pytest.mark.parametrize("head", [0, 2])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_crosscoders_of_llamascopium(tmp_path, models, function, norms, head, F, d):
    """A head is read where all other heads read 0."""
    crosscoder, hooks = models("models.crosscoder"), [f"blocks.{n}.hook_resid_post" for n in (2, 3, 4)]
    config = llamascopium(crosscoder.CrosscoderConfig, F, d, function, True, norms, hook_points=hooks)
    theirs = write_llamascopium(tmp_path, crosscoder.Crosscoder(config), hooks, norms)

    def alone(tensor):
        every = tensor.new_zeros(len(tensor), 3, tensor.shape[1])
        every[:, head] = tensor
        return every

    encode, decode = lambda x: theirs.encode(alone(x))[:, head], lambda f: theirs.decode(alone(f))[:, head]
    found = sm.load(f"{tmp_path}?head={head}")
    of_head = norms and (norms[head],) * 2
    assert_same_pass(found, as_raw(theirs, of_head, encode, decode, theirs.decoder_norm()[head]))
    assert found.reads.place == hooks[head]


@needs_llamascopium
@pytest.mark.parametrize("kind", ["lorsa", "molt"])
def test_dictionaries_of_llamascopium_that_are_no_saes_are_refused_by_their_names(tmp_path, models, kind):
    module, hooks = models(f"models.{kind}"), {"hook_point_in": "blocks.3.ln1.hook_normalized"}
    hooks["hook_point_out"] = "blocks.3.hook_attn_out" if kind == "lorsa" else "blocks.3.hook_mlp_out"
    if kind == "lorsa":
        attention = {"n_qk_heads": 2, "d_qk_head": 4, "rotary_dim": 4, "n_ctx": 16}
        config = llamascopium(module.LorsaConfig, 16, 8, "relu", True, None, **hooks, **attention)
        model = module.LowRankSparseAttention(config)
    else:
        config = llamascopium(module.MOLTConfig, 16, 8, "relu", True, None, **hooks, rank_counts={1: 8, 2: 8})
        model = module.MixtureOfLinearTransform(config)
    write_llamascopium(tmp_path, model, hooks.values(), None)
    for source in (tmp_path, tmp_path / "sae_weights.safetensors"):
        with pytest.raises(sm.MatchError, match=f"a {'Lorsa' if kind == 'lorsa' else 'MOLT'} of llamascopium"):
            sm.load(source)


@pytest.fixture(scope="module")
def overcomplete():
    """Return the modules of the package by name, without those that need scikit-learn."""
    yield from without_init("overcomplete", "overcomplete.sae")


@needs_overcomplete
@pytest.mark.parametrize("name", ["TopKSAE", "JumpSAE", "RATopKSAE", "QSAE"])
@pytest.mark.parametrize(("F", "d"), SIZES)
def test_overcomplete_is_refused_and_is_read_as_the_refusal_says(tmp_path, overcomplete, name, F, d):
    file = {"TopKSAE": "topk_sae", "JumpSAE": "jump_sae", "RATopKSAE": "rasae", "QSAE": "qsae"}[name]
    options = {"TopKSAE": {"top_k": 3}, "RATopKSAE": {"top_k": 3, "points": torch.randn(20, d)}}.get(name, {})
    theirs = randomised(getattr(overcomplete(f"sae.{file}"), name)(d, F, **options)).double().eval()
    torch.save(theirs.state_dict(), tmp_path / "layer_3.pt")
    with pytest.raises(sm.MatchError, match=r"a dictionary of overcomplete: .*saematch\.SAE\(W_enc, b_enc, W_dec, b_d"):
        sm.load(tmp_path)
    if name == "QSAE":  # its codes have a few values, which is no activation of this package
        return
    encoder = theirs.encoder.final_block[0]
    activation = (
        {"activation": "jumprelu", "threshold": theirs.thresholds.exp()}
        if name == "JumpSAE"
        else {"activation": "topk", "k": 3}
    )
    weights = {"W_enc": encoder.weight.T, "b_enc": encoder.bias, "W_dec": theirs.get_dictionary()}
    weights = {key: each.detach() if torch.is_tensor(each) else each for key, each in (weights | activation).items()}
    sm.SAE(**weights, b_dec=torch.zeros(d, dtype=torch.float64)).save(tmp_path / "saved" / "layer_3")
    own = SimpleNamespace(encode=lambda x: theirs.encode(x)[1], decode=theirs.decode)
    assert_same_pass(sm.load(tmp_path / "saved"), own)
