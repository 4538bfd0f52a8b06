"""SAEs from the hub: its own client against a server of ours that speaks its API, with no network."""

import importlib
import json
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants

import saematch as sm
from hub_server import Hub, Repository
from saematch.cli import main
from saematch.sources import registry
from saes import made_up, write_npz, write_saelens

GEMMA = "hf://google/gemma-scope-2b-pt-res"
PATTERN = f"{GEMMA}/layer_{{layer}}/width_16k/average_l0_{{l0}}"


@pytest.fixture(scope="module")
def server():
    """One for all tests: the client's file system remembers where it asks."""
    with Hub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def hub(server, tmp_path, monkeypatch):
    """The server without repositories, and the client with an empty cache."""
    server.repositories.clear(), server.asked.clear(), server.broken.clear(), server.cut.clear()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    return server


def bytes_of(folder, sae, **changes):
    return (write_npz(folder, sae, **changes) / "params.npz").read_bytes()


@pytest.fixture
def gemma(hub, tmp_path):
    """Layers 0, 2 and 10 in two widths and three L0s, and the embedding, which is no layer."""
    files = {"README.md": b"hello", "embedding/width_16k/average_l0_5/params.npz": bytes_of(tmp_path / "e", made_up())}
    for layer in (10, 0, 2):
        for width in ("16k", "65k"):
            for l0 in (20 + layer, 100 + layer, 300):
                made = bytes_of(tmp_path / "one", made_up(seed=1000 * layer + l0 + (width == "65k")))
                files[f"layer_{layer}/width_{width}/average_l0_{l0}/params.npz"] = made
    repository = hub.repositories["google/gemma-scope-2b-pt-res"] = Repository()
    repository.commit(files)
    return repository


def l0s(source):
    return {layer: stored.l0 for layer, stored in sm.load_layers(source).stored.items()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"{PATTERN}?l0=near:100", {0: 100, 2: 102, 10: 110}),
        (f"{PATTERN}?l0=min", {0: 20, 2: 22, 10: 30}),
        (f"{PATTERN}?l0=300", {0: 300, 2: 300, 10: 300}),
        (f"{GEMMA}?width=16k&l0=max&layer=1-5", {2: 300}),
        (f"{GEMMA}?width=16k&l0=max&layer=0,10", {0: 300, 10: 300}),
        (f"{GEMMA}/layer_*/width_65k/average_l0_300/params.npz", {0: 300, 2: 300, 10: 300}),
        (f"{GEMMA}/layer_2/width_65k?l0=near:25", {2: 22}),
    ],
)
def test_one_sae_a_layer_is_resolved(gemma, source, expected):
    found = l0s(source)
    assert found == expected
    assert list(found) == sorted(expected)


def test_weights_are_what_was_published(gemma):
    found = sm.load_layers(f"{PATTERN}?l0=near:100")[2]
    assert torch.equal(found.W_enc, made_up(seed=2102).W_enc.float())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GEMMA, "embedding/.*: no layer number in its path or configuration; .* leave it out with .layer="),
        (f"{GEMMA}?l0=near:100&layer=0-10", "two SAEs for layer 0, .*width_16k.*width_65k"),
        (f"{PATTERN}?l0=71", "no SAE of l0 71; there are 20, 22, 30, 100, 102, 110, 300"),
        (f"{PATTERN}?l0=min&layer=3", "no SAE of layer 3; there are 0, 2, 10"),
        (f"{GEMMA}?width=1m", "no SAE of width 1m; there are 16k, 65k"),
        (f"{PATTERN}?depth=1", "there is no option 'depth'; there are .*revision"),
        (f"{GEMMA}/nothing", "no SAE in a known format"),
        (f"{GEMMA}?revision=v9&width=16k", "hf://google/gemma-scope-2b-pt-res.revision=v9: there is no such revision"),
        ("hf://google/nothing/at/all", "hf://google/nothing: there is no such repository, or it is private"),
        ("hf://google", "expected hf://organisation/name, and a path in it"),
        (f"{GEMMA}@main/layer_2?revision=other", "two revisions, main and other; give one"),
    ],
)
def test_what_is_not_there_is_said(gemma, source, message):
    with pytest.raises(sm.MatchError, match=message) as caught:
        sm.load_layers(source)
    assert "\n" not in str(caught.value)


def test_private_and_gated_repositories_ask_for_a_token(hub, tmp_path, monkeypatch):
    files = {"layer_1/params.npz": bytes_of(tmp_path / "one", made_up())}
    hub.repositories["my/private"] = Repository(tokens=("hf_secret",))
    hub.repositories["my/gated"] = Repository(tokens=("hf_secret",), gated=True)
    for repository in hub.repositories.values():
        repository.commit(files)
    with pytest.raises(sm.MatchError, match="private: hf auth login"):
        sm.load("hf://my/private")
    with pytest.raises(sm.MatchError, match="it is gated: accept its terms"):
        sm.load("hf://my/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert sm.load("hf://my/private").F == sm.load("hf://my/gated").F == 12


def test_a_hub_that_is_down_is_said(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(sm.MatchError, match=r"hf://google/x: the hub cannot be read \(.*\); try again"):
        sm.load("hf://google/x")


def test_headers_are_read_before_weights_are_fetched(hub, tmp_path, capsys):
    whole = bytes_of(tmp_path / "one", made_up(F=6000, d=64))
    hub.repositories["my/saes"] = repository = Repository()
    repository.commit({"layer_1/params.npz": whole})
    assert main(["info", "hf://my/saes"]) == 0
    assert "6,000  64    jumprelu" in capsys.readouterr().out
    assert 0 < hub.sent("params.npz") < len(whole) / 10
    assert sm.load("hf://my/saes").F == 6000
    assert hub.sent("params.npz") < 1.1 * len(whole)
    before = hub.sent("params.npz")
    sm.load("hf://my/saes")  # from the cache
    assert hub.sent("params.npz") == before


def test_a_run_keeps_the_commit_that_it_was_made_from(gemma, hub, tmp_path):
    (old,) = gemma.commits
    layers = sm.load_layers(f"{PATTERN}?l0=near:100")
    assert layers.source == f"{GEMMA}@{old}/layer_{{layer}}/width_16k/average_l0_{{l0}}?l0=near:100"
    chain = sm.match_layers(layers, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == layers.source
    assert chain.pair_record((0, 2))["inputs"][0]["path"].startswith(f"{GEMMA}@{old}/layer_0/")
    other = bytes_of(tmp_path / "x", made_up(seed=7))
    moved = {**gemma.commits[old], "layer_2/width_16k/average_l0_102/params.npz": other}
    new = gemma.commit(moved)
    assert sm.load_layers(f"{PATTERN}?l0=near:100").source.startswith(f"{GEMMA}@{new}/")
    assert torch.equal(sm.Chain.load(tmp_path / "run").sae(2).W_enc, made_up(seed=2102).W_enc.float())
    for there in (f"{PATTERN}?l0=near:100&revision={old}", f"{GEMMA}@{old}?width=16k&l0=near:100&layer=0-10"):
        assert sm.match_layers(sm.load_layers(there), tmp_path / "run").complete
    with pytest.raises(sm.MatchError, match=r"layer 2 .* has changed since pair 0-2 was matched"):
        sm.match_layers(sm.load_layers(f"{PATTERN}?l0=near:100"), tmp_path / "run")
    gemma.commit({**gemma.commits[old], "README.md": b"new"})
    assert sm.match_layers(sm.load_layers(f"{PATTERN}?l0=near:100"), tmp_path / "run").complete  # the same weights


def test_branches_and_tags(hub, tmp_path):
    hub.repositories["my/saes"] = repository = Repository()
    for branch, F in (("main", 12), ("wide", 20)):
        repository.commit({"layer_1/params.npz": bytes_of(tmp_path / "one", made_up(F))}, branch)
    assert sm.load("hf://my/saes").F == 12
    assert sm.load("hf://my/saes?revision=wide").F == sm.load("hf://my/saes@wide/layer_1").F == 20


def test_offline_what_was_fetched_is_there_and_the_rest_is_said(gemma, hub, monkeypatch):
    one = f"{GEMMA}/layer_2/width_16k/average_l0_102"
    sm.load(one)
    hub.repositories.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(sm.load(one).W_enc, made_up(seed=2102).W_enc.float())
    with pytest.raises(sm.MatchError, match="no SAE in a known format"):
        sm.load(f"{GEMMA}/layer_2/width_16k/average_l0_22")
    with pytest.raises(sm.MatchError, match="it is not in the cache, and the hub was not asked"):
        sm.load("hf://google/other")


def test_an_interrupted_download_goes_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    sae = made_up(F=6000, d=64)
    whole = bytes_of(tmp_path / "one", sae)
    hub.repositories["my/saes"] = repository = Repository()
    repository.commit({"layer_1/params.npz": whole})
    stored = sm.load_layers("hf://my/saes").stored[1]
    stored.describe()
    hub.asked.clear()
    hub.cut["layer_1/params.npz"] = len(whole) // 2
    assert torch.equal(stored.read().W_dec, sae.W_dec.float())
    assert hub.cut == {}
    assert len(whole) <= hub.sent("params.npz") < len(whole) + 2 * 2**16  # the half that was there is not asked again


def test_weights_that_cannot_be_fetched_cost_their_pairs(gemma, hub, tmp_path):
    layers = sm.load_layers(f"{PATTERN}?l0=near:100")
    for stored in layers.stored.values():
        stored.describe()
    hub.broken["layer_0/width_16k/average_l0_100/params.npz"] = 404
    chain = sm.match_layers(layers, tmp_path / "run", progress=lambda _: None)
    assert list(chain) == [(2, 10)]
    assert "average_l0_100/params.npz" in chain.failures[0, 2]
    hub.broken.clear()
    assert sm.match_layers(layers, tmp_path / "run").complete


def test_a_configuration_is_fetched_with_its_weights(hub, tmp_path):
    config = {"architecture": "topk", "k": 3, "apply_b_dec_to_input": True, "hook_layer": 4}
    folder = write_saelens(tmp_path / "one", made_up(activation="topk"), config)
    hub.repositories["my/saes"] = repository = Repository()
    repository.commit({f"blocks.4/{file.name}": file.read_bytes() for file in folder.iterdir()})
    found = sm.load("hf://my/saes")
    assert (found.activation, found.k) == ("topk", 3)
    assert found.notes[0].startswith("b_dec is subtracted")
    record = sm.load_layers("hf://my/saes").stored[4]
    assert set(record.sha256()) == {"cfg.json", "sae_weights.safetensors"}


# ---- saelens://


@pytest.fixture
def sae_lens(gemma, hub, tmp_path, monkeypatch):
    """A package that has the registry of sae-lens, and must not be imported."""
    package = tmp_path / "packages" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    layers = [(layer, l0, width) for layer, l0 in ((0, 100), (2, 102), (10, 110)) for width in ("16k", "65k")]
    canonical = [
        {"id": f"layer_{layer}/width_{width}/canonical", "path": f"layer_{layer}/width_{width}/average_l0_{l0}",
         "l0": l0, "neuronpedia": f"gemma-2-2b/{layer}-{width}"}
        for layer, l0, width in layers
    ]  # fmt: skip
    scaled = [{"id": "blocks.3", "path": "blocks.3", "norm_scaling_factor": 0.25}]
    write = {
        "gemma-scope-2b-pt-res-canonical": {"repo_id": "google/gemma-scope-2b-pt-res", "saes": canonical},
        "my-scaled": {"repo_id": "my/scaled", "saes": scaled},
    }
    (package / "pretrained_saes.yaml").write_text(json.dumps(write))  # JSON is YAML
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.invalidate_caches()
    registry._table.cache_clear()
    yield
    assert "sae_lens" not in sys.modules
    registry._table.cache_clear()


def test_a_release_is_resolved(sae_lens):
    assert l0s("saelens://gemma-scope-2b-pt-res-canonical?width=16k") == {0: 100, 2: 102, 10: 110}
    named = sm.load_layers("saelens://gemma-scope-2b-pt-res-canonical/layer_{layer}/width_65k/canonical?layer=2-10")
    assert list(named) == [2, 10]
    assert torch.equal(named[2].W_enc, made_up(seed=2103).W_enc.float())
    assert "revision=" in named.source
    assert list(sm.load_layers(named.source)) == [2, 10]
    assert registry.neuronpedia("google/gemma-scope-2b-pt-res", named.stored[2].at.name) == "gemma-2-2b/2-65k"


def test_the_registrys_scale_is_used_where_files_need_one(sae_lens, hub, tmp_path):
    sae = made_up(activation="relu").to(torch.float32)
    config = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    folder = write_saelens(tmp_path / "scaled", sae, {**config, "apply_b_dec_to_input": False})
    hub.repositories["my/scaled"] = repository = Repository()
    repository.commit({f"blocks.3/{file.name}": file.read_bytes() for file in folder.iterdir()})
    with pytest.raises(sm.MatchError, match="a scale that its files do not say"):
        sm.load("hf://my/scaled")
    np.testing.assert_allclose(sm.load("saelens://my-scaled").W_enc, sae.W_enc.double() * 0.25, rtol=1e-15)
    np.testing.assert_allclose(sm.load("saelens://my-scaled?scale=2").W_enc, sae.W_enc.double() * 2, rtol=1e-15)


def test_an_unknown_release_is_answered_with_names_like_it(sae_lens):
    with pytest.raises(sm.MatchError, match="knows no such release; names like it: gemma-scope-2b-pt-res-canonical"):
        sm.load_layers("saelens://gemma-scope-2b-pt-res")


def test_without_sae_lens_it_is_said_how_to_install_it(monkeypatch):
    registry._table.cache_clear()
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(sm.MatchError, match=r"not installed: pip install 'saematch\[saelens\]'"):
        sm.load_layers("saelens://x")
