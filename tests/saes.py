"""Small SAEs, and files of them in every layout that the package reads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

import saematch as sm


def made_up(F=12, d=8, activation="jumprelu", seed=0, **changes):
    """Return an SAE with random weights in float64."""
    r = np.random.default_rng(seed)
    tensors = {
        "W_enc": r.standard_normal((d, F)),
        "b_enc": r.standard_normal(F),
        "W_dec": r.standard_normal((F, d)),
        "b_dec": r.standard_normal(d),
    }
    if activation == "jumprelu":
        tensors["threshold"] = np.exp(r.standard_normal(F))
    values = {name: torch.from_numpy(array) for name, array in tensors.items()}
    return sm.SAE(**{**values, "activation": activation, "k": 3 if activation == "topk" else None, **changes})


def write_npz(folder, sae, dtype=np.float32, name="params.npz", **changes):
    """Write an SAE in Gemma Scope's layout. `changes` replace arrays; None removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: tensor.numpy().astype(dtype) for key, tensor in sae.tensors().items()}
    arrays.update(changes)
    np.savez(folder / name, **{key: array for key, array in arrays.items() if array is not None})
    return folder


def write_saelens(folder, sae, config, dtype=torch.float32, **extra):
    """Write an SAE in the layout of SAELens."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: tensor.to(dtype).contiguous() for key, tensor in sae.tensors().items()}
    save_file({**tensors, **extra}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def write_model(folder, layers=(3, 4, 5, 11), F=12, d=8):
    """Write one folder with a Gemma Scope file per layer."""
    for layer in layers:
        write_npz(folder / f"layer_{layer:02d}", made_up(F, d, seed=layer))
    return folder


# Every family's file from known weights, and the family's own formula, in float64. The formulas are those of
# `docs/formats.md` and of the packages that it names; none uses what reads the files.

LAYER, HOOK, K = 5, "blocks.5.hook_resid_post", 3
# What notes say of a change: each is there if the family's file calls for it, and only then.
FOLDED, SCALED, GATED = "folded into b_enc", "scaled to raw ones", "gated: the same as JumpReLU"
BY_NORM, LIMIT_BY_NORM, UNSET = "codes are in units of that norm", "norm: divided by it", "threshold was never set"
ONE = torch.ones((), dtype=torch.float64)
# About 40 roundings of 1.1e-16 lie between two orders of these sums, whose terms add up to less than 1e4 in size.
APART = 5e-11


@dataclass(frozen=True)
class Own:
    """The formula of a family: codes of activations, and activations of codes.

    `options` are the options that the file needs. A code of this package is `unit` times the code of the family, and
    with `unit_rows` the decoder rows have norm 1 then.
    """

    codes: Callable
    decoded: Callable
    activation: str = "relu"
    options: str = ""
    notes: tuple = ()
    unit: torch.Tensor = ONE
    unit_rows: bool = False


def assert_own_pass(found, own, w):
    """Assert that an SAE that was read encodes and decodes as the formula of its family does."""
    found = found.to(torch.float64)
    r = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(64, w.d, generator=r, dtype=torch.float64)
    codes = own.codes(x)
    assert 0.05 < (codes != 0).double().mean() < 0.95
    torch.testing.assert_close(found.encode(x), codes * own.unit, rtol=0, atol=APART)
    some = torch.rand(64, w.F, generator=r, dtype=torch.float64)
    torch.testing.assert_close(found.decode(some * own.unit), own.decoded(some), rtol=0, atol=APART)


def drawn(F, d, dtype=torch.float32, seed=0):
    """Draw weights, neither tied nor unit nor zero: multiples of 1/32 up to 8, which are exact in bfloat16."""
    r = np.random.default_rng(seed)

    def some(*shape):
        return torch.from_numpy((r.standard_normal(shape) * 32).round().clip(-255, 255) / 32)

    vectors = {name: some(F) for name in ("b_enc", "b_gate", "b_mag", "r_mag", "logarithm", "grow")}
    w = SimpleNamespace(F=F, d=d, dtype=dtype, enc=some(d, F), dec=some(F, d), b_dec=some(d), **vectors)
    w.limit, w.norm = some(F).abs() + 1 / 32, w.dec.norm(dim=1)
    w.plain = {"W_enc": w.enc, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec}
    w.turned = {"encoder.weight": w.enc.T, "decoder.weight": w.dec.T}
    w.decoded = lambda f: f @ w.dec + w.b_dec
    return w


def relu(z):
    return z.clamp(min=0)


def jump(z, limit):
    return z * (z > limit)


def largest(z):
    return relu(z) * (z >= z.sort(dim=-1).values[..., -K].unsqueeze(-1))


def gate(v, w):
    """Apply both gates of a gated SAE (arXiv 2404.16014): one decides, the other measures."""
    return relu(v @ w.enc * w.r_mag.exp() + w.b_mag) * (v @ w.enc + w.b_gate > 0)


def write_file(file, w, tensors, config=None, named="config.json"):
    """Write tensors in the precision of `w`, other values of a `.pt`, and a configuration if there is one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    narrow = {
        name: value.to(w.dtype).contiguous() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in tensors.items()
    }
    if file.suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in narrow.items()})
    elif file.suffix == ".safetensors":
        save_file(narrow, file)
    else:
        torch.save(narrow, file)
    if config is not None:
        written = yaml.safe_dump(config) if named.endswith(".yaml") else json.dumps(config)
        (file.parent / named).write_text(written)


def gemma_scope(folder, w, repository="gemma-scope-2b-pt-res", lower=False, extra=()):
    file = folder / repository / f"layer_{LAYER}/width_16k/average_l0_71/params.npz"
    tensors = {**w.plain, "threshold": w.limit, **dict(extra)}
    write_file(file, w, {name.lower(): tensor for name, tensor in tensors.items()} if lower else tensors)
    return Own(lambda x: jump(x @ w.enc + w.b_enc, w.limit), w.decoded, "jumprelu")


def gemma_scope_2(folder, w, site="resid_post", config=True, extra=(), **changes):
    hook = {"hf_hook_point_in": f"model.layers.{LAYER}.output", "model_name": "google/gemma-3-4b-it"}
    config = {**hook, "architecture": "jump_relu", "l0": 71, "type": "sae", **changes} if config else None
    tensors = {name.lower(): tensor for name, tensor in w.plain.items()} | {"threshold": w.limit}
    home = folder / f"{site}_all" / (f"layer_{LAYER}_width_16k_l0_small" if config is None else "16k_l0_small")
    write_file(home / "params.safetensors", w, tensors | dict(extra), config)
    return Own(lambda x: jump(x @ w.enc + w.b_enc, w.limit), w.decoded, "jumprelu")


def saelens(folder, w, kind="standard", subtracts=True, old=False, c=None, extra=(), **changes):
    """Write a file of SAELens. `c`: scale of activations in training. `old`: a configuration before version 6."""
    kind, _, way = kind.partition(" ")
    tensors, n, grow, activation, notes = dict(w.plain), ONE, ONE, "relu", ()
    config = {"architecture": kind, "d_in": w.d, "d_sae": w.F}
    config |= {} if subtracts is None else {"apply_b_dec_to_input": subtracts}  # which is their default
    subtracts = subtracts in (None, True)
    code = lambda v: relu(v @ w.enc + w.b_enc)
    if way == "by norm":
        n, config["rescale_acts_by_decoder_norm"] = w.norm, True
    if kind.startswith("jumprelu") or way == "inference":
        logarithmic, activation = way == "log_threshold", "jumprelu"
        tensors |= {way: w.logarithm} if logarithmic else {"threshold": w.limit}
        code = lambda v: jump(v @ w.enc + w.b_enc, w.logarithm.exp() if logarithmic else w.limit)
    elif kind in ("batchtopk", "matryoshka_batchtopk"):
        tensors["topk_threshold"], activation = torch.tensor(0.75), "jumprelu"
        code = lambda v: jump((v @ w.enc + w.b_enc) * n, 0.75)
    elif kind in ("topk", "abstopk"):
        older = {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
        config |= older if old else {"k": K}
        activation, code = "topk", lambda v: largest((v @ w.enc + w.b_enc) * n)
    elif kind == "gated":
        del tensors["b_enc"]
        tensors |= {"b_gate": w.b_gate, "b_mag": w.b_mag, "r_mag": w.r_mag}
        activation, code, notes = "jumprelu", lambda v: gate(v, w), (GATED,)
    if way in ("scaling_factor", "finetuning_scaling_factor"):
        grow, tensors[way], config["finetuning_scaling_factor"] = w.grow, w.grow, True
    if c is not None:
        config["normalize_activations"] = True if old else "expected_average_only_in"
    config |= {"hook_point": HOOK, "hook_point_layer": LAYER} if old else {"metadata": {"hook_name": HOOK}}
    write_file(folder / "sae_weights.safetensors", w, tensors | dict(extra), config | changes, "cfg.json")
    shift, times = w.b_dec if subtracts else 0, c or 1.0
    notes += (FOLDED,) * subtracts + (SCALED,) * (c is not None) + (BY_NORM,) * (way == "by norm")
    return Own(
        lambda x: code(times * x - shift),
        lambda f: w.decoded(f * grow / n) / times,
        activation,
        "" if c is None else f"?scale={c}",
        notes,
        ONE / times if way == "by norm" else ONE,
        way == "by norm",
    )


def sparsify(folder, w, multiple=False, module=f"layers.{LAYER}", extra=(), **changes):
    width = {"expansion_factor": w.F // w.d, "num_latents": 0} if multiple and w.F % w.d == 0 else {"num_latents": w.F}
    tensors = {"encoder.weight": w.enc.T, "encoder.bias": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec, **dict(extra)}
    config = {"d_in": w.d, "k": K, "activation": "topk", "signed": False, **width, **changes}
    write_file(folder / f"{module}/sae.safetensors", w, tensors, config, "cfg.json")
    subtracts = not changes.get("transcode")
    shift = w.b_dec if subtracts else 0
    return Own(lambda x: largest((x - shift) @ w.enc + w.b_enc), w.decoded, "topk", notes=(FOLDED,) * subtracts)


def normalised(w, c, code, activation, options="", by_norm="", subtracts=False):
    """Encode activations times `c[0]`, decode to activations times `c[1]`; codes may be scaled by decoder norms."""
    shift, n, notes = (w.b_dec if subtracts else 0), (w.norm if by_norm else ONE), (by_norm,) * bool(by_norm)
    return Own(
        lambda x: code((c[0] * x - shift) @ w.enc + w.b_enc, n),
        lambda f: w.decoded(f) / c[1],
        activation,
        options,
        (FOLDED,) * subtracts + (SCALED,) * (c != (1, 1)) + notes,
        n / c[1] if by_norm == BY_NORM else ONE,
        by_norm == BY_NORM,
    )


def llama_scope(folder, w, by_norm=False, subtracts=False, scale=None, **changes):
    """Write a file of Llama Scope. Its one threshold is in raw units. `scale`: only the address says the norms."""
    config = {
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.40625,
        "d_model": w.d,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": by_norm,
        "apply_decoder_bias_to_pre_encoder": subtracts,
        "dataset_average_activation_norm": None if scale else {"in": 5.5, "out": 1.75},
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        **changes,
    }
    tensors = {**w.turned, "encoder.bias": w.b_enc, "decoder.bias": w.b_dec}
    write_file(folder / "checkpoints/final.safetensors", w, tensors, config, "../hyperparams.json")
    c = (scale, scale) if scale else (math.sqrt(w.d) / 5.5, math.sqrt(w.d) / 1.75)
    code, options = lambda z, n: z * (z * n > 0.40625 * c[0]), f"?scale={scale}" if scale else ""
    return normalised(w, c, code, "jumprelu", options, LIMIT_BY_NORM if by_norm else "", subtracts)


def norms_of(w, norms):
    """Return (c_in, c_out), tensors, configuration. The norms are in the file, the configuration, or neither."""
    hooks = {"d_model": w.d, "hook_point_in": HOOK, "hook_point_out": HOOK, "norm_activation": "dataset-wise"}
    name, root = "dataset_average_activation_norm", math.sqrt(w.d)
    return {
        "file": ((root / 5.5, root / 5.5), {f"{name}.{HOOK}": torch.tensor(5.5)}, hooks),
        "config": ((root / 5.5, root / 1.75), {}, {**hooks, name: {"in": 5.5, "out": 1.75}}),
        "folded": ((1, 1), {}, {**hooks, "norm_activation": "inference"}),
        "nowhere": ((1, 1), {}, hooks),
    }[norms]


def llama_scope_r1(folder, w, by_norm=False, norms="file", subtracts=False, **changes):
    c, more, config = norms_of(w, norms)
    config |= {"sparsity_include_decoder_norm": by_norm, "apply_decoder_bias_to_pre_encoder": subtracts, **changes}
    tensors = {**w.turned, "encoder.bias": w.b_enc, "decoder.bias": w.b_dec, "log_jumprelu_threshold": w.logarithm}
    write_file(folder / "sae_weights.safetensors", w, tensors | more, config)
    code = lambda z, n: z * (z * n > w.logarithm.exp())
    return normalised(w, c, code, "jumprelu", "", LIMIT_BY_NORM if by_norm else "", subtracts)


def llamascopium(folder, w, function="relu", by_norm=True, norms="file", bias=True, **changes):
    c, more, config = norms_of(w, norms)
    tensors = {"W_E": w.enc, "W_D": w.dec, "b_E": w.b_enc, **({"b_D": w.b_dec} if bias else {}), **more}
    if function == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = w.logarithm
    config |= {"sae_type": "sae", "act_fn": function, "sparsity_include_decoder_norm": by_norm, "top_k": K}
    config |= {"use_decoder_bias": bias, **changes}
    write_file(folder / "sae_weights.safetensors", w, tensors, config)
    code = {
        "relu": lambda z, n: relu(z * n) / n,
        "topk": lambda z, n: largest(z * n) / n,
        "jumprelu": lambda z, n: jump(z * n, w.logarithm.exp()) / n,
    }[function]
    says = {"topk": BY_NORM, "jumprelu": LIMIT_BY_NORM}.get(function, "") if by_norm else ""
    own = normalised(w, c, code, function, by_norm=says)
    return own if bias else replace(own, decoded=lambda f: f @ w.dec / c[1])


def llamascopium_crosscoder(folder, w, function="relu", head=1, norms="file"):
    """Write a crosscoder of llamascopium. The heads read activations of different norms."""
    hooks = ["blocks.4.hook_resid_post", "blocks.5.hook_resid_post", "blocks.6.hook_resid_post"]
    enc, dec = [w.enc * 2.0**n for n in range(3)], [w.dec * 2.0**-n for n in range(3)]
    tensors = {"W_E": torch.stack(enc), "W_D": torch.stack(dec)}
    tensors |= {"b_E": torch.stack([w.b_enc, -w.b_enc, w.b_gate]), "b_D": torch.stack([w.b_dec] * 3)}
    if function == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = w.logarithm
    config = {"sae_type": "crosscoder", "act_fn": function, "sparsity_include_decoder_norm": True, "top_k": K}
    config |= {
        "d_model": w.d,
        "hook_points": hooks,
        "norm_activation": "inference" if norms == "folded" else "dataset-wise",
    }
    c = 1.0
    if norms == "file":
        tensors |= {
            f"dataset_average_activation_norm.{hook}": torch.tensor(1.5 * (1 + n)) for n, hook in enumerate(hooks)
        }
        c = math.sqrt(w.d) / (1.5 * (1 + head))
    write_file(folder / "sae_weights.safetensors", w, tensors, config)
    n = dec[head].norm(dim=1)
    z = lambda x: ((c * x) @ enc[head] + w.b_gate) * n
    act = {"relu": relu, "topk": largest, "jumprelu": lambda z: jump(z, w.logarithm.exp())}[function]
    by_norm = function == "topk"  # codes are in units of the norm of their decoder rows, scaled to raw activations
    return Own(
        lambda x: act(z(x)) / n,
        lambda f: (f @ dec[head] + w.b_dec) / c,
        function,
        f"?head={head}",
        unit=n / c if by_norm else ONE,
    )


def dictionary_learning(folder, w, kind="AutoEncoder", threshold=0.75, file="ae.pt", config=True, drop=(), **changes):
    """Write a file of dictionary_learning. Without `config`, path and tensors say the layer and the class."""
    z, codes, activation, notes = lambda x: (x - w.b_dec) @ w.enc + w.b_enc, None, "jumprelu", (FOLDED,)
    stored = {"k": torch.tensor(K), "threshold": torch.tensor(threshold)}
    if kind == "AutoEncoder":
        tensors = {**w.turned, "encoder.bias": w.b_enc, "bias": w.b_dec}
        codes, activation = lambda x: relu(z(x)), "relu"
    elif kind == "AutoEncoderNew":
        tensors = {**w.turned, "encoder.bias": w.b_enc, "decoder.bias": w.b_dec}
        codes, activation, notes = lambda x: relu(x @ w.enc + w.b_enc), "relu", ()
    elif kind == "GatedAutoEncoder":
        vectors = {"decoder_bias": w.b_dec, "gate_bias": w.b_gate, "mag_bias": w.b_mag, "r_mag": w.r_mag}
        tensors, codes, notes = {**w.turned, **vectors}, lambda x: gate(x - w.b_dec, w), (GATED, FOLDED)
    elif kind == "JumpReluAutoEncoder":
        tensors, codes, notes = {**w.plain, "threshold": w.limit}, lambda x: jump(x @ w.enc + w.b_enc, w.limit), ()
    elif kind == "AutoEncoderTopK":
        tensors = {**w.turned, "encoder.bias": w.b_enc, "b_dec": w.b_dec, **stored}
        codes, activation = lambda x: largest(z(x)), "topk"
    elif kind == "BatchTopKSAE":
        tensors = {**w.turned, "encoder.bias": w.b_enc, "b_dec": w.b_dec, **stored}
    else:
        tensors = {**w.plain, **stored, "group_sizes": torch.tensor([2, w.F - 2])}
    if codes is None:  # trained by batch, with one threshold at inference
        codes, notes = lambda x: jump(relu(z(x)), threshold), (FOLDED, *((UNSET,) * (threshold < 0)))
    trainer = {"dict_class": kind.removesuffix("New"), "layer": LAYER, "submodule_name": f"resid_post_layer_{LAYER}"}
    trainer |= ({"k": K} if "TopK" in kind else {}) | changes
    home = folder / ("trainer_0" if config else f"resid_post_layer_{LAYER}")
    above, tensors = "../" if "/" in file else "", {name: tensors[name] for name in tensors if name not in drop}
    write_file(home / file, w, tensors, {"trainer": trainer} if config else None, f"{above}config.json")
    return Own(codes, w.decoded, activation, notes=notes)


def openai(folder, w, activation="ReLU", tied=False, location="resid_post_mlp", **state):
    tensors = {**w.turned, "latent_bias": w.b_enc, "pre_bias": w.b_dec, "activation": activation}
    tensors["stats_last_nonzero"] = torch.zeros(w.F, dtype=torch.int64)
    tensors |= {"latents_activation_frequency": torch.ones(w.F), "latents_mean_square": torch.zeros(w.F)}
    if tied:
        tensors["decoder.linear.weight"] = tensors.pop("decoder.weight").T
    if activation == "TopK":
        tensors["activation_state_dict"] = {"k": K, "postact_fn": "ReLU", **state}
    write_file(folder / f"{location}/{LAYER}.pt", w, tensors)
    act = relu if activation == "ReLU" else largest
    codes = lambda x: act((x - w.b_dec) @ w.enc + w.b_enc)
    return Own(codes, w.decoded, str(activation).lower(), notes=(FOLDED,))


def circuit_tracer(folder, w, function="relu", extra=(), **changes):
    tensors = {"W_enc": w.enc.T, "W_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, **dict(extra)}
    config = {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set", "scan": "qwen3-4b"}
    config |= {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    act = {"relu": relu, "jumprelu": lambda z: jump(z, w.limit), "topk": largest}[function]
    if function == "jumprelu":
        tensors["activation_function.threshold"] = w.limit
    if function == "topk":
        config |= {"activation": "topk", "k": K}
    config = {name: value for name, value in (config | changes).items() if value is not None}
    write_file(folder / f"layer_{LAYER}.safetensors", w, tensors, config, "config.yaml")
    return Own(lambda x: act(x @ w.enc + w.b_enc), w.decoded, function)


LAYERS = 8  # of the model of a cross-layer transcoder


def circuit_tracer_clt(folder, w, function="relu", to=None, config=True, **changes):
    """Write layer 5 of a cross-layer transcoder, and what belongs to the layer that it writes."""
    decoders = {layer: w.dec * (layer - 3) for layer in range(LAYER, LAYERS)}  # exact
    biases = {layer: w.b_dec * 2.0**layer for layer in range(LAYERS)}
    target = LAYER if to is None else to
    own = {f"W_enc_{LAYER}": w.enc.T, f"b_enc_{LAYER}": w.b_enc, f"b_dec_{LAYER}": biases[LAYER]}
    if function == "jumprelu":
        own[f"threshold_{LAYER}"] = w.limit
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out", **changes}
    described = {"model_name": "google/gemma-2-2b", "model_kind": "cross_layer_transcoder", **hooks}
    write_file(folder / f"W_enc_{LAYER}.safetensors", w, own, described if config else None, "config.yaml")
    write_file(folder / f"W_dec_{LAYER}.safetensors", w, {f"W_dec_{LAYER}": torch.stack([*decoders.values()], dim=1)})
    if target != LAYER:
        write_file(folder / f"W_enc_{target}.safetensors", w, {f"b_dec_{target}": biases[target]})
    act = relu if function == "relu" else lambda z: jump(z, w.limit)
    options = "" if to is None else f"?to={to}"
    return Own(lambda x: act(x @ w.enc + w.b_enc), lambda f: f @ decoders[target] + biases[target], function, options)


def gemma_scope_2_clt(folder, w, to=None, affine=False, drop=()):
    """Write layer 5 of a cross-layer transcoder of Gemma Scope 2, and the bias of the layer that it writes."""
    target = LAYER if to is None else to
    home = folder / "clt" / "width_262k_l0_medium"
    w_dec = torch.stack([w.dec * (layer - 3) for layer in range(LAYERS)], dim=1)
    for layer in {LAYER, target}:
        tensors = {
            "w_enc": w.enc,
            "w_dec": w_dec,
            "b_enc": w.b_enc,
            "b_dec": w.b_dec * 2.0**layer,
            "threshold": w.limit,
        }
        tensors |= {"affine_skip_connection": torch.ones(w.d, w.d)} if affine else {}
        write_file(home / f"params_layer_{layer}.safetensors", w, tensors)
    options = f"?layer={LAYER}" + ("" if to is None else f"&to={to}")
    decoded = lambda f: f @ w_dec[:, target] + w.b_dec * 2.0**target
    return Own(lambda x: jump(x @ w.enc + w.b_enc, w.limit), decoded, "jumprelu", options)


def gemma_scope_2_crosscoder(folder, w, layer=13, to=None, config=True, home="crosscoder/layer_7_13_17_22_width_65k"):
    """Write one layer of a crosscoder of four layers, and the bias of the layer that it writes."""
    layers = [7, 13, 17, 22]
    target = layer if to is None else to
    w_dec = torch.stack([w.dec * 2.0**place for place in range(4)], dim=1)
    hooks = {f"hf_hook_point_{side}": "model.layers.{7,13,17,22}.output" for side in ("in", "out")}
    described = {**hooks, "architecture": "jump_relu", "type": "crosscoder", "width": 4 * w.F}
    for each in {layer, target}:
        tensors = {
            "w_enc": w.enc,
            "w_dec": w_dec,
            "b_enc": w.b_enc,
            "b_dec": w.b_dec * 2.0 ** layers.index(each),
            "threshold": w.limit,
        }
        file = folder / home / f"params_layer_{layers.index(each)}.safetensors"
        write_file(file, w, tensors, described if config else None)
    place = layers.index(target)
    decoded = lambda f: f @ w_dec[:, place] + w.b_dec * 2.0**place
    options = f"?layer={layer}" + ("" if to is None else f"&to={to}")
    return Own(lambda x: jump(x @ w.enc + w.b_enc, w.limit), decoded, "jumprelu", options)


def llamascopium_clt(folder, w, function="relu", to=None, by_norm=True, norms="file", hooks=None, **changes):
    """Write a cross-layer transcoder of llamascopium, whose layers 4 to 7 read and write activations of other norms.

    The gate of a feature sees the norm of all its decoder rows together.
    """
    layers, place = [4, 5, 6, 7], 1
    target = place if to is None else layers.index(to)
    enc = torch.stack([w.enc * 2.0 ** (n - place) for n in range(4)])
    dec = [torch.stack([w.dec * 2.0 ** (i - j) for i in range(j + 1)]) for j in range(4)]
    tensors = {"W_E": enc, "b_E": torch.stack([w.b_gate, w.b_enc, w.b_mag, w.r_mag])}
    tensors |= {f"W_D.{j}": each for j, each in enumerate(dec)} | {f"b_D.{j}": w.b_dec * 2.0**j for j in range(4)}
    if function == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = torch.stack(
            [w.grow, w.logarithm, w.grow - 1, w.grow + 1]
        )
    hooks = hooks or {
        f"hook_points_{side}": [f"blocks.{n}.{name}" for n in layers]
        for side, name in (("in", "hook_resid_mid"), ("out", "hook_mlp_out"))
    }
    c = (1, 1)
    if norms == "file":
        for n, hook in enumerate([*hooks["hook_points_in"], *hooks["hook_points_out"]]):
            tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(1.5 + n)
        c = math.sqrt(w.d) / (1.5 + place), math.sqrt(w.d) / (5.5 + target)
    config = {"sae_type": "clt", "act_fn": function, "sparsity_include_decoder_norm": by_norm, "top_k": K, **hooks}
    config |= {"d_model": w.d, "norm_activation": "inference" if norms == "folded" else "dataset-wise"}
    write_file(folder / "sae_weights.safetensors", w, tensors, config | changes)
    n = torch.stack([dec[j][place].norm(dim=1) for j in range(place, 4)]).norm(dim=0) if by_norm else ONE
    act = {"relu": relu, "topk": largest, "jumprelu": lambda z: jump(z, w.logarithm.exp())}[function]
    says = {"topk": BY_NORM, "jumprelu": LIMIT_BY_NORM}.get(function, "") if by_norm else ""
    return Own(
        lambda x: act(((c[0] * x) @ w.enc + w.b_enc) * n) / n,
        lambda f: (f @ dec[target][place] + w.b_dec * 2.0**target) / c[1],
        function,
        f"?layer={LAYER}" + ("" if to is None else f"&to={to}"),
        (SCALED,) * (norms == "file") + (says,) * bool(says),
        n / c[1] if says == BY_NORM else ONE,
    )


def crosscoder(folder, w, kind="replication", head=1, heads=2, norm=None, file="cc_weights.pt", **changes):
    """Write a crosscoder. `kind`: the layout. `norm`: what the threshold of one that was trained by batch is for."""
    enc, dec = [w.enc * (1 + n) for n in range(heads)], [w.dec * (2 - 3 * n) for n in range(heads)]
    b_dec = torch.stack([w.b_dec * 2.0**n for n in range(heads)])
    if kind == "replication":
        tensors = {"W_enc": torch.stack(enc), "W_dec": torch.stack(dec, dim=1), "b_enc": w.b_enc, "b_dec": b_dec}
    else:
        tensors = {"encoder.weight": torch.stack(enc), "decoder.weight": torch.stack(dec)}
        tensors |= {"encoder.bias": w.b_enc, "decoder.bias": b_dec, "code_normalization_id": torch.tensor(norm or 1)}
    norms = torch.stack([each.norm(dim=1) for each in dec])
    times = {1: norms.sum(dim=0), 2: norms.norm(dim=0), 4: 1, 5: norms[head]}.get(norm)
    if norm is not None:
        tensors |= {"threshold": torch.tensor([3.0] * heads if norm == 5 else 3.0), "k": torch.tensor(K)}
    write_file(
        folder / f"blocks.{LAYER}.hook_resid_pre" / file, w, tensors | changes, {"model_name": "gemma-2-2b"}, "cfg.json"
    )
    z = lambda x: relu(x @ enc[head] + w.b_enc)
    codes = z if norm is None else lambda x: z(x) * (z(x) * times > 3.0)
    return Own(codes, lambda f: f @ dec[head] + b_dec[head], "relu" if norm is None else "jumprelu", f"?head={head}")


def nanda(folder, w, hook="blocks.5.hook_mlp_out", **changes):
    config = {"act_name": hook, "act_size": w.d, "dict_size": w.F, "layer": LAYER, **changes}
    config = {name: value for name, value in config.items() if value is not None}
    write_file(folder / "gpt2-small_L5_v9.pt", w, w.plain, config, "gpt2-small_L5_v9_cfg.json")
    return Own(lambda x: relu((x - w.b_dec) @ w.enc + w.b_enc), w.decoded, notes=(FOLDED,))


def goodfire(folder, w, suffix=".pth"):
    tensors = {"encoder_linear.weight": w.enc.T, "encoder_linear.bias": w.b_enc}
    tensors |= {"decoder_linear.weight": w.dec.T, "decoder_linear.bias": w.b_dec}
    write_file(folder / f"Llama-3.1-8B-Instruct-SAE-l{LAYER}{suffix}", w, tensors)
    return Own(lambda x: relu(x @ w.enc + w.b_enc), w.decoded)


def qwen_scope(folder, w, repository=f"SAE-Res-Qwen3-8B-Base-W64K-L0_{K}"):
    tensors = {"W_enc": w.enc.T, "W_dec": w.dec.T, "b_enc": w.b_enc, "b_dec": w.b_dec}
    write_file(folder / repository / f"layer{LAYER}.sae.pt", w, tensors)
    options = "?family=qwen_scope" if w.d == w.F else ""
    return Own(lambda x: largest(x @ w.enc + w.b_enc), w.decoded, "topk", options)


LENS = (
    "standard", "standard scaling_factor", "gated finetuning_scaling_factor", "jumprelu", "jumprelu log_threshold",
    "topk", "topk by norm", "gated", "batchtopk", "batchtopk inference", "batchtopk by norm", "matryoshka_batchtopk",
    "matryoshka_batchtopk by norm",
)  # fmt: skip
CLASSES = (
    "AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK", "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)  # fmt: skip


def variants():
    """Return name -> a function that writes a file and returns its formula. The name begins with the family's."""
    found = [
        (gemma_scope, {}), (gemma_scope, {"lower": True}), (gemma_scope_2, {}), (sparsify, {}),
        (sparsify, {"multiple": True}), (openai, {}), (openai, {"tied": True}), (goodfire, {}),
        (goodfire, {"suffix": ".pt"}), (qwen_scope, {}), (llamascopium, {"bias": False}),
        (llama_scope, {}), (llama_scope, {"by_norm": True}), (llama_scope, {"subtracts": True}),
        (llama_scope, {"by_norm": True, "scale": 0.375}), (circuit_tracer, {}),
        (nanda, {}), (circuit_tracer_clt, {}), (circuit_tracer_clt, {"function": "jumprelu"}), (crosscoder, {}),
        (crosscoder, {"head": 0, "heads": 3, "file": "cc_weights.safetensors"}), (crosscoder, {"kind": "learning"}),
        (crosscoder, {"kind": "learning", "norm": 1}), (crosscoder, {"kind": "learning", "norm": 2}),
        (crosscoder, {"kind": "learning", "norm": 4, "file": "model.safetensors"}),
        (crosscoder, {"kind": "learning", "norm": 5, "file": "model.safetensors"}),
        (circuit_tracer, {"function": "jumprelu"}), (circuit_tracer, {"function": "topk"}),
    ]  # fmt: skip
    for by_norm in (True, False):
        found += [(llama_scope_r1, {"norms": norms, "by_norm": by_norm}) for norms in ("file", "config", "folded")]
        found += [(llamascopium_clt, {"function": each, "by_norm": by_norm}) for each in ("relu", "jumprelu", "topk")]
        for norms in ("file", "folded"):
            all_three = [{"function": function} for function in ("relu", "jumprelu", "topk")]
            found += [(llamascopium, {**each, "norms": norms, "by_norm": by_norm}) for each in all_three]
    found += [(llama_scope_r1, {"subtracts": True}), (saelens, {"subtracts": None})]
    for kind in LENS:
        for subtracts, old in [(True, False), (False, True)]:
            found += [(saelens, {"kind": kind, "subtracts": subtracts, "old": old})]
            found += [(saelens, {"kind": kind, "subtracts": subtracts, "old": not old, "c": 0.375})]
    for kind in CLASSES:
        ways = [{}, {"file": "checkpoints/ae_500.pt"}]
        ways += [{"config": False}] if kind not in ("AutoEncoderTopK", "BatchTopKSAE") else []
        ways += [{"threshold": -1.0}] if "BatchTopK" in kind else []
        found += [(dictionary_learning, {"kind": kind, **way}) for way in ways]
    return {" ".join([made.__name__, *(f"{k}={v}" for k, v in o.items())]): partial(made, **o) for made, o in found}


VARIANTS = variants()
