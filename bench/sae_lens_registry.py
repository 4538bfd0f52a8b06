"""Resolve every SAE that an installed sae-lens knows, and print how many are read and refused, by loader of sae-lens.

The Hub itself is not asked: a server with its API (`tests/hub_server.py`) has, at the path of every SAE, small files
with made-up weights in the layout of the loader, with a configuration as the loader expects it. Their headers are read
as `saematch info saelens://RELEASE` reads them. The script fails if an SAE leads to no file or to several, or if its
file format or its layer is not the one that sae-lens means.

    python bench/sae_lens_registry.py                        print the table
    python bench/sae_lens_registry.py docs/formats.md        write the table between its two marks

`make test-formats` makes an environment with sae-lens, .venv-formats. The script takes a minute or two.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import hub_server
import saes
from saematch.errors import MatchError
from saematch.sources import registry
from saematch.sources.files.tensors import SUFFIXES
from saematch.sources.search import search
from saematch.sources.stored import StoredSAE

BEGIN, END = "<!-- bench/sae_lens_registry.py -->\n", "<!-- end -->\n"
READ, BY_DECODER = "read", "read, compared by decoders"
F, D = 128, 8  # at least as many features as the k in the names of repositories
Files = dict[str, bytes]


class Named(NamedTuple):
    """One SAE of the registry.

    Attributes:
        release: the name of its release.
        repo: the repository.
        id: its id in the release.
        path: its path in the repository.
        is_scaled: whether the registry has a scale of its activations.
    """

    release: str
    repo: str
    id: str
    path: str
    is_scaled: bool

    @property
    def layer(self) -> int | None:
        """The layer that the id names; None for embeddings."""
        match = re.search(r"(?:layer_?|blocks\.|^l)(\d+)", self.id)
        return int(match[1]) if match else None


@functools.cache
def _written(made: Callable[..., Any], **options: Any) -> tuple[bytes, Mapping[str, Any]]:
    """Return the file with weights that a writer of the tests writes, and its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        made(Path(folder), saes.drawn(F, D), **options)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        (weights,) = (file.read_bytes() for file in files if file.suffix in SUFFIXES)
        configs = [yaml.safe_load(file.read_text()) for file in files if file.suffix not in SUFFIXES]
        return weights, (configs or [{}])[0]


def _json(config: Mapping[str, Any]) -> bytes:
    return json.dumps(config).encode()


def _sae_lens(sae: Named) -> Files:
    """SAEs of OpenAI (v5) are TopK SAEs of layer-normed tokens, those of "matryoshka" have JumpReLU."""
    hook = re.match(r"blocks\.\d+\.hook_[a-z]+_[a-z]+", sae.id)
    assert hook is not None
    kind = "topk" if "-v5-" in sae.release else "jumprelu" if "matryoshka" in sae.release else "standard"
    weights, config = _written(saes.saelens, kind=kind, old=kind != "jumprelu")
    normalisation = "layer_norm" if kind == "topk" else "expected_average_only_in" if sae.is_scaled else "none"
    place = {"metadata": {"hook_name": hook[0]}} if kind == "jumprelu" else {"hook_point": hook[0]}
    config = {**config, **place, "hook_point_layer": sae.layer, "normalize_activations": normalisation}
    return {f"{sae.path}/sae_weights.safetensors": weights, f"{sae.path}/cfg.json": _json(config)}


def _gemma_scope(sae: Named) -> Files:
    return {f"{sae.path}/params.npz": _written(saes.gemma_scope)[0]}


def _gemma_scope_2(sae: Named) -> Files:
    """The folders "…_all" are laid out without a configuration, so that their names have to tell the places."""
    affine = sae.path.endswith("_affine")
    weights = _affine() if affine else _written(saes.gemma_scope_2)[0]
    folder, of = sae.path.partition("/")[0], f"model.layers.{sae.layer}."
    hooks = {
        "resid_post": ("output", "output"),
        "attn_out": ("self_attn.o_proj.input", "self_attn.o_proj.input"),
        "mlp_out": ("post_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
        "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    }[folder.removesuffix("_all")]
    places = {f"hf_hook_point_{side}": of + hook for side, hook in zip(("in", "out"), hooks, strict=True)}
    kind = "transcoder" if folder.startswith("transcoder") else "sae"
    config = {**places, "architecture": "jump_relu", "type": kind, "affine_connection": affine}
    written = {f"{sae.path}/params.safetensors": weights}
    return written if folder.endswith("_all") else written | {f"{sae.path}/config.json": _json(config)}


@functools.cache
def _affine() -> bytes:
    w = saes.drawn(F, D)
    tensors = {name.lower(): tensor.float().contiguous() for name, tensor in w.plain.items()}
    return bytes(save({**tensors, "threshold": w.limit.float(), "affine_skip_connection": torch.ones(D, D)}))


def _llama_scope(sae: Named) -> Files:
    weights, config = _written(saes.llama_scope)
    site = re.search(r"L\d+([RAM])", sae.path)
    assert site is not None
    hook = f"blocks.{sae.layer}.{ {'R': 'hook_resid_post', 'A': 'hook_attn_out', 'M': 'hook_mlp_out'}[site[1]] }"
    config = {**config, "hook_point_in": hook, "hook_point_out": hook}
    return {f"{sae.path}/checkpoints/final.safetensors": weights, f"{sae.path}/hyperparams.json": _json(config)}


def _llama_scope_r1(sae: Named) -> Files:
    weights, config = _written(saes.llama_scope_r1, norms="config")
    hook = f"blocks.{sae.layer}.hook_resid_post"
    config = {**config, "hook_point_in": hook, "hook_point_out": hook}
    return {f"{sae.path}/sae_weights.safetensors": weights, f"{sae.path}/config.json": _json(config)}


def _dictionary_learning(sae: Named) -> Files:
    """The class is named by the release or the path; those of andyrdt are BatchTopK SAEs."""
    classes = {
        "matryoshka": "MatryoshkaBatchTopKSAE", "andyrdt": "BatchTopKSAE", "gated": "GatedAutoEncoder",
        "topk": "AutoEncoderTopK", "": "AutoEncoder",
    }  # fmt: skip
    kind = next(kind for name, kind in classes.items() if name in f"{sae.release} {sae.path}".lower())
    weights, config = _written(saes.dictionary_learning, kind=kind)
    place = {"layer": sae.layer, "submodule_name": f"resid_post_layer_{sae.layer}"}
    config = {**config, "trainer": {**config["trainer"], **place}}
    return {f"{sae.path}/ae.pt": weights, f"{sae.path}/config.json": _json(config)}


def _mwhanna(sae: Named) -> Files:
    """The repositories of the 14B model have no config.yaml, as the loader says, and no hooks then."""
    weights, config = _written(saes.circuit_tracer)
    hooks = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
    written = {sae.path: weights, "wandb-config.yaml": yaml.safe_dump({"d_model": {"value": D}}).encode()}
    return written if "14b" in sae.repo else written | {"config.yaml": yaml.safe_dump({**config, **hooks}).encode()}


def _clt(sae: Named) -> Files:
    w, layers = saes.drawn(F, D), 26
    encoder = {"W_enc": w.enc.T, "b_enc": w.b_enc, "b_dec": w.b_dec}
    encoders = {f"{name}_{sae.path}": tensor.float().contiguous() for name, tensor in encoder.items()}
    decoders = {f"W_dec_{sae.path}": torch.stack([w.dec.float()] * (layers - int(sae.path)), dim=1)}
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    return {
        f"W_enc_{sae.path}.safetensors": save(encoders),
        f"W_dec_{sae.path}.safetensors": save(decoders),
        "config.yaml": yaml.safe_dump({"model_name": "google/gemma-2-2b", **hooks}).encode(),
    }


def _connor_rob(sae: Named) -> Files:
    weights, config = _written(saes.nanda)
    config = {**config, "act_name": f"blocks.{sae.layer}.attn.hook_z", "layer": sae.layer}
    return {sae.path: weights, f"{sae.path.removesuffix('.pt')}_cfg.json": _json(config)}


def _temporal(sae: Named) -> Files:
    shapes = {"D": (F, D), "E": (D, F), "b": (D,), "attn_layers.0.c_proj.weight": (D, D)}
    weights = save({name: torch.zeros(shape) for name, shape in shapes.items()})
    return {f"{sae.path}/latest_ckpt.safetensors": weights, f"{sae.path}/conf.yaml": b"sae: {exp_factor: 16}\n"}


def _one_file(made: Callable[..., Any], **options: Any) -> Callable[[Named], Files]:
    return lambda sae: {sae.path: _written(made, **options)[0]}


# Loader -> the files of an SAE, and the format by which saematch reads them; None for one that no format reads.
LOADERS: dict[str, tuple[Callable[[Named], Files], str | None]] = {
    "sae_lens": (_sae_lens, "saelens"),
    "gemma_2": (_gemma_scope, "gemma_scope"),
    "gemma_2_transcoder": (_gemma_scope, "gemma_scope"),
    "gemma_3": (_gemma_scope_2, "gemma_scope_2"),
    "llama_scope": (_llama_scope, "llama_scope"),
    "llama_scope_r1_distill": (_llama_scope_r1, "llama_scope_r1"),
    "dictionary_learning_1": (_dictionary_learning, "dictionary_learning"),
    "deepseek_r1": (_one_file(saes.dictionary_learning, kind="AutoEncoderNew"), "dictionary_learning"),
    "goodfire": (_one_file(saes.goodfire), "goodfire"),
    "qwen_scope": (_one_file(saes.qwen_scope), "qwen_scope"),
    "connor_rob_hook_z": (_connor_rob, "nanda"),
    "mwhanna_transcoder": (_mwhanna, "circuit_tracer"),
    "mntss_clt_layer_transcoder": (_clt, "circuit_tracer_clt"),
    "temporal": (_temporal, None),
}


def named(table: Mapping[str, Any]) -> dict[str, list[Named]]:
    """Return the SAEs of a registry by loader."""
    found = defaultdict(list)
    for release, entry in table.items():
        for sae in entry["saes"]:
            one = Named(release, entry["repo_id"], str(sae["id"]), str(sae["path"]), "norm_scaling_factor" in sae)
            found[entry.get("conversion_func") or "sae_lens"].append(one)
    return found


def publish(hub: hub_server.Hub, by_loader: Mapping[str, list[Named]]) -> None:
    """Make the repositories of all SAEs."""
    files: dict[str, Files] = defaultdict(dict)
    for loader, listed in by_loader.items():
        for sae in listed:
            files[sae.repo] |= LOADERS[loader][0](sae)
    for repo, content in files.items():
        hub.repositories[repo] = hub_server.Repository()
        hub.repositories[repo].commit(content)


def survey(by_loader: Mapping[str, list[Named]]) -> tuple[dict[str, Counter[str]], list[str]]:
    """Return what became of the SAEs of each loader, and what is wrong."""
    outcomes, wrong = dict[str, Counter[str]](), list[str]()
    for loader, listed in by_loader.items():
        outcomes[loader] = Counter()
        found: dict[tuple[str, str], list[StoredSAE]] = defaultdict(list)
        for release in dict.fromkeys(sae.release for sae in listed):
            for stored in search(f"saelens://{release}")[0]:
                assert stored.checkpoint.registered is not None
                found[release, stored.checkpoint.registered.id].append(stored)
        for sae in listed:
            at = f"saelens://{sae.release}/{sae.id}"
            handles = found[sae.release, sae.id]
            if len(handles) != 1:
                wrong.append(f"{at}: {len(handles)} files")
                continue
            outcome, of_format = _outcome(handles[0])
            outcomes[loader][outcome] += 1
            if of_format not in (None, LOADERS[loader][1]) or (of_format and handles[0].layer != sae.layer):
                wrong.append(f"{at}: {of_format}, layer {handles[0].layer}")
    return outcomes, wrong


def _outcome(stored: StoredSAE) -> tuple[str, str | None]:
    """Return what became of an SAE, and its format if it can be read, if need be with the option that permits it."""
    try:
        sae = stored.describe().sae
    except MatchError as error:
        allow = re.search(r"write \?allow=(\S+) after", str(error))
        if allow is None:
            return f"refused: {_subject(str(error), stored.shown)}", None
        allowed = replace(stored, checkpoint=replace(stored.checkpoint, options={"allow": allow[1]}))
        allowed.describe()
        return f"refused: `{allow[1]}`", allowed.format
    return (BY_DECODER if sae.reads.barrier else READ), stored.format


def _subject(message: str, shown: str) -> str:
    """Return the first words of a refusal, which say what the file is."""
    return re.split(r"[:(,;]", message.removeprefix(f"{shown}: "))[0].strip()


def table_of(outcomes: Mapping[str, Counter[str]], by_loader: Mapping[str, list[Named]]) -> str:
    """Return the table in Markdown."""
    kinds = sorted(
        {kind for counts in outcomes.values() for kind in counts}, key=lambda kind: ("read" not in kind, kind)
    )
    rows = [["loader of sae-lens", "releases", "SAEs", *kinds], ["---", *["---:"] * (2 + len(kinds))]]
    for loader, counts in sorted(outcomes.items(), key=lambda item: -len(by_loader[item[0]])):
        releases = len({sae.release for sae in by_loader[loader]})
        rows.append([f"`{loader}`", *_numbers(releases, len(by_loader[loader]), *(counts[kind] for kind in kinds))])
    totals = [sum(counts[kind] for counts in outcomes.values()) for kind in kinds]
    every = [sae for listed in by_loader.values() for sae in listed]
    rows.append(["all", *_numbers(len({sae.release for sae in every}), len(every), *totals)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _numbers(*numbers: int) -> list[str]:
    return [f"{number:,}" for number in numbers]


def main() -> None:
    """Resolve the installed registry, and print the table or write it into a file."""
    by_loader = named(registry._table())
    with hub_server.Hub() as hub, tempfile.TemporaryDirectory() as home:
        hub_server.PAGE = 1000
        os.environ |= {"HF_HOME": home, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
        publish(hub, by_loader)
        outcomes, wrong = survey(by_loader)
    if wrong:
        sys.exit("\n".join([*wrong, f"{len(wrong)} SAEs are not what sae-lens means"]))
    table = table_of(outcomes, by_loader)
    if len(sys.argv) < 2:
        print(table, end="")
        return
    file = Path(sys.argv[1])
    before, rest = file.read_text(encoding="utf-8").split(BEGIN)
    file.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
