"""SAEs on the hub: the client of the hub with a local server that has the same API, without a network."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from sae_lens_registry import BEGIN, BY_DECODER, END, LOADERS, READ, named, survey
from sae_lens_registry import publish as publish_registered

import saematch as sm
from hub_server import Hub, Repository
from saematch.cli.main import main
from saematch.sources import registry
from saes import (
    LAYER,
    assert_own_pass,
    circuit_tracer_clt,
    drawn,
    llama_scope,
    llamascopium_clt,
    made_up,
    saelens,
    sparsify,
    write_npz,
    write_saelens,
)

REPO = "google/gemma-scope-2b-pt-res"
GEMMA = f"hf://{REPO}"
PATTERN = f"{GEMMA}/layer_{{layer}}/width_16k/average_l0_{{l0}}"
NEAR = f"{PATTERN}?l0=near:100"
PLAIN = {"architecture": "jumprelu", "apply_b_dec_to_input": False}


@pytest.fixture(scope="module")
def server():
    """Start one server for all tests, since the client's file system remembers the address."""
    with Hub() as hub:
        yield hub


@pytest.fixture(autouse=True)
def hub(server, tmp_path, monkeypatch):
    """Return the server without repositories; the client has an empty cache, no token, and does not wait."""
    server.clear()
    changed = {
        "ENDPOINT": server.address,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_ASSETS_CACHE": str(tmp_path / "assets"),
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_OFFLINE": False,
    }
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda _: None))
    huggingface_hub.HfFileSystem.clear_instance_cache()
    return server


def bytes_of(folder, sae):
    return (write_npz(folder, sae) / "params.npz").read_bytes()


def publish(hub, folder, repo="my/saes", **options):
    """Publish all files below a folder as a repository."""
    hub.repositories[repo] = repository = Repository(**options)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    repository.commit({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})


def in_cache(pattern):
    return list(Path(constants.HF_HUB_CACHE).rglob(pattern))


@pytest.fixture
def gemma(hub, tmp_path):
    """Publish layers 0, 2 and 10 in two widths and three L0s, and the embedding, which is not a layer."""
    files = {"README.md": b"hello", "embedding/width_16k/average_l0_5/params.npz": bytes_of(tmp_path / "e", made_up())}
    for layer in (10, 0, 2):
        for width in ("16k", "65k"):
            for l0 in (20 + layer, 100 + layer, 300):
                made = bytes_of(tmp_path / "one", made_up(seed=1000 * layer + l0 + (width == "65k")))
                files[f"layer_{layer}/width_{width}/average_l0_{l0}/params.npz"] = made
    hub.repositories[REPO] = repository = Repository()
    repository.commit(files)
    return repository


def l0s(source):
    return {layer: stored.l0 for layer, stored in sm.load_layers(source).handles.items()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (NEAR, {0: 100, 2: 102, 10: 110}),
        (f"{PATTERN}?l0=min", {0: 20, 2: 22, 10: 30}),
        (f"{PATTERN}?l0=300", {0: 300, 2: 300, 10: 300}),
        (f"{NEAR}&layer=1-2", {2: 102}),
        (f"{GEMMA}?width=16k&l0=near:100&layer=0-10", {0: 100, 2: 102, 10: 110}),
        (f"{GEMMA}?width=16k&l0=max&layer=0,10", {0: 300, 10: 300}),
        (f"{GEMMA}/layer_{{layer}}/width_{{width}}/average_l0_{{l0}}?width=65k&l0=300", {0: 300, 2: 300, 10: 300}),
        (f"{GEMMA}/layer_*/width_65k/average_l0_300/params.npz", {0: 300, 2: 300, 10: 300}),
        (f"{GEMMA}/layer_2/width_65k?l0=near:25", {2: 22}),
    ],
)
def test_one_sae_a_layer_is_resolved_from_names_alone(gemma, hub, source, expected):
    found = l0s(source)
    assert found == expected
    assert list(found) == sorted(expected)
    assert sum("/tree/" in each.path for each in hub.asked) > 1  # pages of the listing
    assert hub.sent() == hub.sent("embedding/width_16k/average_l0_5/params.npz")  # whose layer no name says


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (GEMMA, "embedding/.*: no layer number in its path or configuration; .* leave it out with .layer="),
        (f"{GEMMA}?l0=near:100&layer=0-10", "two SAEs for layer 0, .*width_16k.*width_65k"),
        (PATTERN, "3 SAEs for layer 0, .*average_l0_20/.*average_l0_100/.*average_l0_300/.*or say which, like .l0="),
        (f"{PATTERN}?l0=71", "no SAE of l0 71; there are 20, 22, 30, 100, 102, 110, 300"),
        (f"{PATTERN}?l0=min&layer=3", "no SAE of layer 3; there are 0, 2, 10"),
        (f"{GEMMA}?width=1m", "no SAE of width 1m; there are 16k, 65k"),
        (f"{PATTERN}?depth=1", "there is no option 'depth'; there are allow, .*layer, l0, width, revision"),
        (f"{GEMMA}/nothing", "there is no nothing; there are README.md, embedding, layer_0, layer_2, layer_10"),
        (f"{GEMMA}/layer_{{layer}}/width_1m", "there is no layer_{layer}/width_1m; there are layer_0/width_16k, "),
        (f"{GEMMA}/README.md", "no SAE in a known format; known are Gemma Scope"),
        (f"{GEMMA}?revision=v9&width=16k", "hf://google/gemma-scope-2b-pt-res.revision=v9: there is no such revision"),
        ("hf://google/nothing/at/all", "hf://google/nothing: there is no such repository, or it is private"),
        ("hf://google", "expected hf://organisation/name, and a path in it"),
        ("hf://google/two..dots", "that is not the name of a repository"),
        (f"{GEMMA}@main/layer_2?revision=other", "two revisions, main and other; give one"),
    ],
)
def test_what_is_not_there_is_said(gemma, source, message):
    with pytest.raises(sm.MatchError, match=message) as caught:
        sm.load_layers(source)
    assert "\n" not in str(caught.value)


def test_private_and_gated_repositories_ask_for_a_token(hub, tmp_path, monkeypatch):
    write_npz(tmp_path / "saes" / "layer_1", made_up())
    publish(hub, tmp_path / "saes", "my/private", tokens=("hf_secret",))
    publish(hub, tmp_path / "saes", "my/gated", tokens=("hf_secret",), gated=True)
    for token in ("", "hf_of_somebody_else"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(sm.MatchError, match="there is no such repository, or it is private: log in"):
            sm.load("hf://my/private")
        with pytest.raises(sm.MatchError, match="it is gated: accept its terms"):
            sm.load("hf://my/gated")
    hub.expired.add("hf_old")
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(sm.MatchError, match=r"the hub refuses .*; your token may be wrong or may not read it"):
        sm.load("hf://my/private")
    hub.asked.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert sm.load("hf://my/private").F == 12
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).write_text("hf_secret")  # as logging in does
    assert sm.load("hf://my/gated").F == 12
    assert {(each.host, each.token) for each in hub.asked} == {("127.0.0.1", "hf_secret"), ("localhost", None)}


def test_a_hub_that_is_down_is_said(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(sm.MatchError, match=r"hf://google/x: the hub cannot be read \(.*\); try again"):
        sm.load("hf://google/x")


@pytest.mark.parametrize(
    ("write", "name"), [(write_npz, "params.npz"), (partial(write_saelens, config=PLAIN), "sae_weights.safetensors")]
)
def test_headers_are_read_before_weights_are_fetched(hub, tmp_path, capsys, write, name):
    sae = made_up(F=6000, d=64)
    write(tmp_path / "saes" / "layer_1", sae)
    publish(hub, tmp_path / "saes")
    size = (tmp_path / "saes" / "layer_1" / name).stat().st_size
    assert main(["info", "hf://my/saes"]) == 0
    assert "6,000  64    jumprelu" in capsys.readouterr().out
    assert all(each.span is not None for each in hub.asked if each.path.endswith(name))
    assert 0 < hub.sent(name) < size / 20
    for sent in (size, 0):  # then it is in the cache
        hub.asked.clear()
        assert torch.equal(sm.load("hf://my/saes").W_dec, sae.W_dec.float())
        assert hub.sent(name) == sent


def test_a_run_keeps_the_commit_that_it_was_made_from(gemma, hub, tmp_path):
    (old,) = gemma.commits
    layers = sm.load_layers(NEAR)
    assert layers.source == f"{GEMMA}@{old}/layer_{{layer}}/width_16k/average_l0_{{l0}}?l0=near:100"
    chain = sm.match_layers(layers, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == layers.source
    assert chain.pair_record((0, 2))["inputs"][0]["path"].startswith(f"{GEMMA}@{old}/layer_0/")
    other = {"layer_2/width_16k/average_l0_102/params.npz": bytes_of(tmp_path / "x", made_up(seed=7))}
    new = gemma.commit({**gemma.commits[old], **other})
    assert sm.load_layers(NEAR).source.startswith(f"{GEMMA}@{new}/")
    assert torch.equal(sm.Chain.load(tmp_path / "run").sae(2).W_enc, made_up(seed=2102).W_enc.float())
    assert torch.equal(pickle.loads(pickle.dumps(layers))[2].W_enc, made_up(seed=2102).W_enc.float())
    for there in (f"{NEAR}&revision={old}", f"{GEMMA}@{old}?width=16k&l0=near:100&layer=0-10"):
        assert sm.match_layers(sm.load_layers(there), tmp_path / "run").complete
    with pytest.raises(sm.MatchError, match=r"layer 2 .* has changed since pair 0-2 was matched"):
        sm.match_layers(sm.load_layers(NEAR), tmp_path / "run")
    gemma.commit({**gemma.commits[old], "README.md": b"new"})
    hub.asked.clear()
    assert sm.match_layers(sm.load_layers(NEAR), tmp_path / "run").complete  # the same weights, which are here
    assert all(each.span is not None for each in hub.asked if each.sent and "/api/" not in each.path)


def test_branches_and_tags(hub, tmp_path, monkeypatch):
    hub.repositories["my/saes"] = saes = Repository()
    for revision, F in (("main", 12), ("wide", 20), ("refs/pr/1", 16)):
        saes.commit({"layer_1/params.npz": bytes_of(tmp_path / "one", made_up(F))}, revision)
    assert sm.load("hf://my/saes").F == 12
    assert sm.load("hf://my/saes?revision=wide").F == sm.load("hf://my/saes@wide/layer_1").F == 20
    for there in ("layer_1?revision=refs/pr/1", "?revision=refs/pr/1"):
        assert sm.load(f"hf://my/saes/{there}").F == 16
    assert sm.load("hf://my/saes@refs/pr/1/layer_1").F == sm.load("hf://my/saes@refs/pr/1").F == 16
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision, F in (("main", 12), ("wide", 20), ("refs/pr/1", 16)):
        assert sm.load(f"hf://my/saes@{revision}").F == F
    for revision in ("other", "../refs/main", "/etc/hostname"):
        with pytest.raises(
            sm.MatchError, match=r"it is not in the cache, .*|is not the name of a branch, tag or commit"
        ):
            sm.load(f"hf://my/saes?revision={revision}")


def test_offline_what_was_fetched_is_there_and_the_rest_is_said(gemma, hub, monkeypatch):
    one = f"{GEMMA}/layer_2/width_16k/average_l0_102"
    pinned = sm.load_layers(one)
    assert pinned[2].F == 12
    hub.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in (one, pinned.source):
        assert torch.equal(sm.load(source).W_enc, made_up(seed=2102).W_enc.float())
    with pytest.raises(sm.MatchError, match=r"l0_22/params.npz: it is not in the cache, and the hub was not asked"):
        sm.load(f"{GEMMA}/layer_2/width_16k/average_l0_22")
    for absent in ("hf://google/other", f"{GEMMA}@{'0' * 40}/layer_2"):
        with pytest.raises(sm.MatchError, match="it is not in the cache, and the hub was not asked"):
            sm.load(absent)
    assert hub.asked == []


def test_offline_an_sae_is_chosen_among_all_that_there_are(gemma, monkeypatch):
    chosen = f"{GEMMA}/layer_2/width_16k?l0=near:100"
    sm.load(f"{GEMMA}/layer_2/width_16k/average_l0_22")  # alone in the cache
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(sm.MatchError, match=r"average_l0_102/params.npz: it is not in the cache"):
        sm.load(chosen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert sm.load(chosen).F == 12
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(sm.load(chosen).W_enc, made_up(seed=2102).W_enc.float())


def test_offline_what_another_program_fetched_is_found(gemma, monkeypatch, tmp_path):
    huggingface_hub.snapshot_download(REPO, allow_patterns=["layer_2/width_16k/*"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert l0s(f"{PATTERN}?l0=near:100") == {0: 100, 2: 102, 10: 110}
    assert torch.equal(sm.load_layers(NEAR)[2].W_enc, made_up(seed=2102).W_enc.float())
    with pytest.raises(sm.MatchError, match=r"layer_0/.*: it is not in the cache"):
        sm.load_layers(NEAR)[0]
    older = shutil.move(constants.HF_HUB_CACHE, tmp_path / "older")  # the client remembers what it read of a folder
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(older))
    for trees in older.rglob("trees"):
        shutil.rmtree(trees)
    with pytest.raises(sm.MatchError, match="or name what was fetched as a folder: ") as caught:
        sm.load_layers(NEAR)
    folder = str(caught.value).rpartition(": ")[2]
    assert torch.equal(sm.load(f"{folder}?width=16k&l0=near:100").W_enc, made_up(seed=2102).W_enc.float())


def test_offline_a_commit_that_only_another_program_saw_names_the_one_before(gemma, monkeypatch):
    before = sm.load_layers(NEAR)
    gemma.commit({"README.md": b"new"})
    huggingface_hub.hf_hub_download(REPO, "README.md")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        sm.MatchError, match=r"not known what else it holds.*the files of another commit are known: "
    ) as caught:
        sm.load_layers(NEAR)
    revision = str(caught.value).rpartition("?")[2]
    assert sm.load_layers(f"{NEAR}&{revision}").source == before.source


def test_offline_a_configuration_that_never_came_is_missed(hub, tmp_path, monkeypatch):
    write_saelens(tmp_path / "saes" / "layer_1", made_up(), PLAIN)
    publish(hub, tmp_path / "saes")
    hub.broken["layer_1/cfg.json"] = 500
    with pytest.raises(sm.MatchError, match=r"cfg.json: the hub cannot be read \(.*500.*\); try again"):
        sm.load("hf://my/saes")
    assert in_cache("*.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(sm.MatchError, match=r"cfg.json: it is not in the cache"):
        sm.load("hf://my/saes")


def test_a_cache_that_cannot_be_written_costs_work_offline_only(gemma, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    assert l0s(NEAR) == {0: 100, 2: 102, 10: 110}


def test_a_cache_that_cannot_be_used_is_not_blamed_on_the_hub(gemma, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(sm.MatchError, match=r"params.npz: the cache cannot be used: .*/file.*; check HF_HOME"):
        sm.load(f"{GEMMA}/layer_2/width_16k/average_l0_22")


@pytest.mark.parametrize("name", ["../up/params.npz", "/layer_1/params.npz", "layer_1/../../params.npz"])
def test_a_listing_that_leads_out_of_the_repository_is_refused(gemma, name):
    gemma.commit({name: b"", "layer_1/params.npz": b""})
    with pytest.raises(sm.MatchError, match=r"lists '.*params.npz', which is not a file in it"):
        sm.load_layers(GEMMA)


@pytest.mark.parametrize("name", ["q?uestion", "st*r", "{layer}", "100%", "%3F", "a\nb", "a b&c=d#e"])
def test_an_address_means_the_one_file_that_it_names(hub, tmp_path, name):
    for number, folder in enumerate((name, "q", "star", "1")):
        write_npz(tmp_path / "saes" / f"layer_{number}" / folder, made_up(seed=number))
    publish(hub, tmp_path / "saes")
    layers = sm.load_layers("hf://my/saes")
    address = str(layers.handles[0].checkpoint.address)
    again = sm.load_layers(address)
    assert [(each.shown, each.layer) for each in again.handles.values()] == [(layers.handles[0].shown, 0)]
    assert address == layers.handles[0].shown
    assert torch.equal(again[0].W_enc, made_up(seed=0).W_enc.float())
    named = sm.load_layers(["hf://my/saes/layer_1", f"{address}?family=gemma_scope"])
    assert named.source["0"] == f"{address}?family=gemma_scope"
    assert list(sm.load_layers(named.source)) == [0, 1]


def test_a_listing_is_asked_for_once_and_a_damaged_one_again(gemma, hub, tmp_path):
    def pages():
        hub.asked.clear()
        assert l0s(NEAR) == {0: 100, 2: 102, 10: 110}
        return sum("/tree/" in each.path for each in hub.asked)

    first = pages()
    assert first > 1
    assert pages() == 0
    (note,) = (tmp_path / "assets").rglob("*.json")
    for damaged in ("[", '"name"', "[1]", "\0"):
        note.write_text(damaged)
        assert pages() == first


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "there is no such file in it"),
        (403, "the hub refuses .*403.*hf auth login"),
        (500, "cannot be read .*500"),
    ],
)
@pytest.mark.parametrize(
    ("write", "name"), [(write_npz, "params.npz"), (partial(write_saelens, config=PLAIN), "sae_weights.safetensors")]
)
def test_headers_that_are_refused_are_no_damaged_file(hub, tmp_path, capsys, write, name, status, message):
    write(tmp_path / "saes" / "layer_1", made_up())
    publish(hub, tmp_path / "saes")
    hub.broken[f"layer_1/{name}"] = status
    assert main(["info", "hf://my/saes"]) == 3
    assert re.search(f"layer_1/{name}: .*{message}", capsys.readouterr().out)
    hub.broken.clear()
    hub.repositories["my/saes"].tokens, hub.repositories["my/saes"].gated = ("hf_secret",), True
    assert main(["info", "hf://my/saes"]) == 3
    assert f"layer_1/{name}: it is gated: accept its terms" in capsys.readouterr().out


def test_the_program_finds_hub_token_and_cache_in_its_environment(gemma, hub, tmp_path):
    gemma.tokens = ("hf_secret",)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    online = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_secret"}
    for run, offline in (("run", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
        hub.asked.clear()
        command = [sys.executable, "-m", "saematch", "layers", f"{NEAR}&layer=0-2", "-o", str(tmp_path / run)]
        done = subprocess.run(command, env={**plain, **online, **offline}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert sm.Chain.load(tmp_path / run).complete
        assert bool(hub.asked) == (run == "run")
    assert list((tmp_path / "home" / "hub").rglob("params.npz"))


@pytest.fixture
def interrupted(hub, tmp_path, monkeypatch):
    """Return an SAE whose headers are read and half of whose file will be sent. It is written in parts of 64 KiB."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    sae = made_up(F=6000, d=64)
    write_npz(tmp_path / "saes" / "layer_1", sae)
    publish(hub, tmp_path / "saes")
    stored = sm.load_layers("hf://my/saes").handles[1]
    stored.describe()
    hub.asked.clear()
    hub.cut["layer_1/params.npz"] = 24 * 2**16 + 5
    return SimpleNamespace(stored=stored, W_dec=sae.W_dec.float())


def test_a_download_that_ends_early_resumes_where_it_was(interrupted, hub):
    assert torch.equal(interrupted.stored.read().W_dec, interrupted.W_dec)
    assert [each.span for each in hub.asked if each.sent] == [None, f"bytes={24 * 2**16}-"]


def test_a_download_that_breaks_is_an_error_and_begins_again(interrupted, hub):
    hub.resets = True
    with pytest.raises(sm.MatchError, match=r"layer_1/params.npz: the hub cannot be read \(.*reset.*\); try again"):
        interrupted.stored.read()
    assert not in_cache("*.npz") + in_cache("*.incomplete")  # this client keeps no half of a file
    assert torch.equal(interrupted.stored.read().W_dec, interrupted.W_dec)


def test_weights_that_cannot_be_fetched_cost_their_pairs(gemma, hub, tmp_path):
    name = "layer_0/width_16k/average_l0_100/params.npz"
    hub.broken[name] = 500
    assert main(["layers", NEAR, "-o", str(tmp_path / "run")]) == 3
    assert name in sm.Chain.load(tmp_path / "run").failures[0, 2]
    hub.broken[name] = 404
    chain = sm.match_layers(sm.load_layers(NEAR), tmp_path / "run", progress=lambda _: None)
    assert list(chain) == [(2, 10)]
    assert name in chain.failures[0, 2]
    hub.broken.clear()
    assert sm.match_layers(sm.load_layers(NEAR), tmp_path / "run").complete


@pytest.mark.parametrize(
    ("write", "folder", "config"),
    [(saelens, "", "cfg.json"), (sparsify, "", "cfg.json"), (llama_scope, "Base-L5R-8x", "hyperparams.json")],
)
def test_a_configuration_is_fetched_with_its_weights(hub, tmp_path, write, folder, config):
    w = drawn(12, 8)
    own = write(tmp_path / "saes" / folder, w)
    publish(hub, tmp_path / "saes")
    layers = sm.load_layers("hf://my/saes")
    x = torch.randn(64, w.d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(layers[LAYER].to(torch.float64).encode(x), own.codes(x), rtol=0, atol=1e-10)
    assert [config] == [path.name for path in in_cache("*.json")]
    assert config in layers.handles[LAYER].sha256()


@pytest.fixture
def sae_lens(gemma, tmp_path, monkeypatch):
    """Write a package that has the registry of sae-lens, and that ends every process that imports it."""
    package = tmp_path / "packages" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    canonical = [
        {"id": f"{name}/canonical", "path": f"{name}/average_l0_{l0}", "l0": l0, "neuronpedia": f"gemma-2-2b/{name}"}
        for name, l0 in [(f"layer_{n}/width_{width}", 100 + n) for n in (10, 0, 2) for width in ("16k", "65k")]
    ]
    scaled = [{"id": "blocks.3", "path": "blocks.3", "l0": 42.0, "norm_scaling_factor": 0.25}]
    releases = {"gemma-scope-2b-pt-res-canonical": {"repo_id": REPO, "saes": canonical}}
    rescaled = {"normalize_activations": "constant_norm_rescale"}
    plain = [{"id": "blocks.3", "path": "blocks.3", "l0": 42.0}]
    releases["my-rescaled"] = {"repo_id": "my/rescaled", "saes": plain, "config_overrides": rescaled}
    releases["my-scaled"] = {"repo_id": "my/scaled", "saes": scaled}
    # sae-lens' L0 is not always that of the path, and its ids may look like patterns
    odd = [{"id": f"l{{{n}}}*?", "path": f"layer_{n}/width_16k/average_l0_{100 + n}", "l0": "50.3"} for n in (0, 2)]
    releases["my-odd"] = {"repo_id": REPO, "saes": odd}
    releases["my-gone"] = {"repo_id": REPO, "saes": [{"id": "one", "path": "layer_1"}, {"id": "two", "path": "layer"}]}
    releases["my-untidy"] = {"repo_id": REPO, "saes": [{"id": "a", "path": "./layer_0/width_16k/average_l0_100/"}]}
    layers = [{"id": f"layer_{n}", "path": n} for n in (5, 7)]
    releases["my-clt"] = {"repo_id": "my/clt", "saes": layers, "conversion_func": "mntss_clt_layer_transcoder"}
    releases[""] = releases["null"] = {"repo_id": REPO, "saes": []}
    releases["my-new"] = {"repo_id": REPO, "saes": [{"name": "one", "path": "layer_1"}]}
    # JSON is YAML, whose keys may be anything
    text = json.dumps(releases).replace('"": {', "5: {").replace('"null": {', "null: {")
    (package / "pretrained_saes.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(package.parent))
    registry._table.cache_clear()
    yield
    registry._table.cache_clear()
    registry.release.cache_clear()


ATTENTION = "refused: `attention`"
LAYER_5 = "layer_5_width_16k_l0_small"
GEMMA_2, GEMMA_3 = "google/gemma-scope-2b-pt", "google/gemma-scope-2-4b-pt"
# An SAE of each loader of sae-lens and of each place that its SAEs read, and what becomes of it.
REGISTERED = [
    ("gemma_2", f"{GEMMA_2}-res", "layer_5/width_16k/average_l0_71", None, READ),
    ("gemma_2", f"{GEMMA_2}-res", "embedding/width_4k/average_l0_6", None, READ),
    ("gemma_2", f"{GEMMA_2}-mlp", "layer_5/width_16k/average_l0_71", None, READ),
    ("gemma_2", f"{GEMMA_2}-att", "layer_5/width_16k/average_l0_71", None, ATTENTION),
    ("gemma_2_transcoder", f"{GEMMA_2}-transcoders", "layer_5/width_16k/average_l0_71", None, BY_DECODER),
    *(
        ("gemma_3", GEMMA_3, f"{LAYER_5}{affine}", f"{place}{every}/{LAYER_5}{affine}", outcome)
        for place, affine, outcome in (
            ("resid_post", "", READ),
            ("mlp_out", "", READ),
            ("attn_out", "", ATTENTION),
            ("transcoder", "", BY_DECODER),
            ("transcoder", "_affine", BY_DECODER),
        )
        for every in ("", "_all")
    ),
    *(("llama_scope", f"fnlp/LX{s}", f"l5{s.lower()}_8x", f"Llama3_1-8B-Base-L5{s}-8x", READ) for s in "RAM"),
    ("llama_scope_r1_distill", "fnlp/R1", "l5r_800m", "800M-Slimpajama-0-OpenR1-Math-220k/L5R", READ),
    *(
        ("dictionary_learning_1", "a/lm_sae", f"blocks.5.hook_resid_post__{kind}", f"{kind}/resid_post_layer_5/x", READ)
        for kind in ("topk", "vanilla", "gated", "matryoshka", "andyrdt")
    ),
    ("deepseek_r1", "qresearch/R1", "blocks.5.hook_resid_post", "DeepSeek-R1-Distill-Llama-8B-SAE-l5.pt", READ),
    ("goodfire", "Goodfire/Llama", "layer_5", "Llama-3.1-8B-Instruct-SAE-l5.pth", READ),
    ("qwen_scope", "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_100", "layer5", "layer5.sae.pt", READ),
    ("connor_rob_hook_z", "ckkissane/attn", "blocks.5.hook_z", "gpt2-small_L5_Hcat_z_v9.pt", ATTENTION),
    ("mwhanna_transcoder", "mwhanna/qwen3-4b-transcoders", "layer_5", "layer_5.safetensors", BY_DECODER),
    ("mwhanna_transcoder", "mwhanna/qwen3-14b-transcoders", "layer_5", "layer_5.safetensors", BY_DECODER),
    ("mntss_clt_layer_transcoder", "mntss/clt-gemma-2-2b-2.5M", "layer_5", "5", READ),
    ("temporal", "canrager/t", "blocks.5.hook_resid_post", "gemma-2-2B/layer_5/temporal", "refused: a temporal SAE"),
    ("sae_lens", "jbloom/a", "blocks.5.hook_resid_pre_768", None, READ),
    ("sae_lens", "ctigges/b", "blocks.5.hook_attn_out", "5-att-sm", READ),
    ("sae_lens", "ctigges/c", "blocks.5.hook_mlp_out", "5-mlp-sm", READ),
    ("sae_lens", "jbloom/OAI-v5-32k", "blocks.5.hook_resid_mid", "v5_32k_layer_5.pt", "refused: `layer_norm`"),
    ("sae_lens", "chanind/matryoshka", "blocks.5.hook_resid_post", "standard/blocks.5.hook_resid_post", READ),
]  # fmt: skip


def test_an_sae_of_each_loader_of_sae_lens_is_read_or_refused_as_the_documentation_counts(hub, tmp_path, monkeypatch):
    assert {loader for loader, *_ in REGISTERED} == set(LOADERS)
    table = {}
    for number, (loader, repo, id, path, _) in enumerate(REGISTERED):
        entry = {"repo_id": repo, "saes": [{"id": id, "path": path or id}]}
        table[f"{repo.split('/')[1]}-{number}"] = entry | ({} if loader == "sae_lens" else {"conversion_func": loader})
    monkeypatch.setattr(registry, "_table", lambda: table)
    registry.release.cache_clear()
    for place, sae in enumerate(REGISTERED):
        by_loader = named(dict([[*table.items()][place]]))
        publish_registered(hub, by_loader)
        outcomes, wrong = survey(by_loader)
        assert (wrong, outcomes) == ([], {sae[0]: {sae[-1]: 1}}), sae
    registry.release.cache_clear()
    # The table of the documentation has these loaders and outcomes.
    written = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    lines = written.split(BEGIN)[1].split(END)[0].strip().splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    counts = {row[0].strip("`"): dict(zip(header, row, strict=True)) for row in rows}
    assert set(counts) == {*LOADERS, "all"}
    for loader, *_, outcome in REGISTERED:
        assert counts[loader][outcome] != "0", (loader, outcome)


def test_a_release_is_resolved(sae_lens, gemma):
    assert l0s("saelens://gemma-scope-2b-pt-res-canonical?width=16k") == {0: 100, 2: 102, 10: 110}
    named = sm.load_layers("saelens://gemma-scope-2b-pt-res-canonical/layer_{layer}/width_65k/canonical?layer=2-10")
    assert list(named) == [2, 10]
    assert torch.equal(named[2].W_enc, made_up(seed=2103).W_enc.float())
    (old,) = gemma.commits
    gemma.commit({})
    assert named.source.endswith(f"?layer=2-10&revision={old}")
    assert list(sm.load_layers(named.source)) == [2, 10]
    assert named.handles[2].neuronpedia_names()[0] == "gemma-2-2b/layer_2/width_65k"


def test_the_registrys_scale_is_used_where_files_need_one(sae_lens, hub, tmp_path):
    sae = made_up(activation="relu").to(torch.float32)
    config = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    write_saelens(tmp_path / "saes" / "blocks.3", sae, {**config, "apply_b_dec_to_input": False})
    publish(hub, tmp_path / "saes", "my/scaled")
    assert l0s("saelens://my-scaled") == {3: 42}
    with pytest.raises(sm.MatchError, match="a scale that its files do not say"):
        sm.load("hf://my/scaled")
    np.testing.assert_allclose(sm.load("saelens://my-scaled").W_enc, sae.W_enc.double() * 0.25, rtol=1e-15)
    np.testing.assert_allclose(sm.load("saelens://my-scaled?scale=2").W_enc, sae.W_enc.double() * 2, rtol=1e-15)


def test_the_layers_of_one_file_are_told_by_its_headers_which_are_read_once(hub, tmp_path):
    w = drawn(2048, 64)
    llamascopium_clt(tmp_path / "saes" / "mine", w, "jumprelu")
    publish(hub, tmp_path / "saes", "my/clt")
    layers = sm.load_layers("hf://my/clt?to=7")
    assert list(layers) == [4, 5, 6, 7]
    assert {handle.describe().sae.F for handle in layers.handles.values()} == {2048}
    assert not in_cache("*.safetensors")
    (commit,) = hub.repositories["my/clt"].commits
    address = f"hf://my/clt@{commit}/mine/sae_weights.safetensors?to=7&layer=5"
    assert str(layers.handles[LAYER].checkpoint.address) == address
    header = 8 + len((tmp_path / "saes/mine/sae_weights.safetensors").read_bytes()[8:].partition(b"}}")[0])
    assert header < hub.sent("sae_weights.safetensors") < 4 * 2**16
    found = sm.load(address)
    assert_own_pass(found, llamascopium_clt(tmp_path / "own", w, "jumprelu", to=7), w)


@pytest.mark.parametrize("address", ["saelens://my-clt/layer_5", "hf://my/clt/W_enc_{layer}.safetensors"])
def test_a_layer_of_a_cross_layer_transcoder_is_read_from_its_files(sae_lens, hub, tmp_path, address):
    w = drawn(16, 8)
    own = circuit_tracer_clt(tmp_path / "saes", w, to=7)
    publish(hub, tmp_path / "saes", "my/clt")
    layers = sm.load_layers(f"{address}?layer=5&to=7")
    assert set(layers.handles[5].stamps()) == {f"{name}.safetensors" for name in ("W_enc_5", "W_dec_5", "W_enc_7")} | {
        "config.yaml"
    }
    assert layers.handles[5].describe().sae.writes == sm.Space("blocks.7.hook_mlp_out")
    assert_own_pass(layers[5], own, w)
    assert torch.equal(sm.load(layers.source).W_dec, layers[5].W_dec)


def test_the_registry_corrects_a_configuration(sae_lens, hub, tmp_path):
    write_saelens(tmp_path / "saes" / "blocks.3", made_up(activation="relu"), {**PLAIN, "architecture": "standard"})
    publish(hub, tmp_path / "saes", "my/rescaled")
    assert sm.load("hf://my/rescaled").F == 12
    with pytest.raises(sm.MatchError, match=r"constant_norm_rescale.* write .allow=constant_norm_rescale"):
        sm.load("saelens://my-rescaled")
    assert sm.load("saelens://my-rescaled?allow=constant_norm_rescale").F == 12


def test_the_saes_of_a_list_are_kept_one_by_one(sae_lens, gemma, hub, tmp_path, monkeypatch):
    (old,) = gemma.commits
    write_npz(tmp_path / "here", made_up(seed=5))
    listed = {
        "0": f"{GEMMA}/layer_0/width_16k?l0=max",
        "2": "saelens://gemma-scope-2b-pt-res-canonical/layer_2/width_16k/canonical",
        "3": "here",
    }
    (tmp_path / "list.yaml").write_text(json.dumps(listed))
    monkeypatch.chdir(tmp_path)
    layers = sm.load_layers("list.yaml")
    assert (
        layers.source
        == sm.load_layers(listed).source
        == {
            "0": f"{GEMMA}@{old}/layer_0/width_16k/average_l0_300/params.npz",
            "2": f"saelens://gemma-scope-2b-pt-res-canonical/layer_2/width_16k/canonical?revision={old}",
            "3": str(tmp_path / "here" / "params.npz"),
        }
    )
    assert sm.load_layers([listed["0"], listed["2"]]).source == {layer: layers.source[layer] for layer in "02"}
    sm.match_layers(layers, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == layers.source
    gemma.commit({})
    (tmp_path / "list.yaml").unlink()
    chain = sm.Chain.load(tmp_path / "run")
    for layer, seed in ((0, 300), (2, 2102), (3, 5)):
        assert torch.equal(chain.sae(layer).W_enc, made_up(seed=seed).W_enc.float())


def test_an_unknown_release_is_answered_with_names_like_it(sae_lens):
    with pytest.raises(sm.MatchError, match="knows no such release; names like it: gemma-scope-2b-pt-res-canonical"):
        sm.load_layers("saelens://gemma-scope-2b-res")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("my-odd/l3", r"my-odd has no such SAE; it has l\{0\}\*\?, l\{2\}"),
        (
            "my-gone",
            "sae-lens says that google/gemma-scope-2b-pt-res has its weights in layer_1, layer; there are none of",
        ),
        ("my-new", r"what sae-lens says of it is not understood \(KeyError: 'id'\)"),
    ],
)
def test_what_a_release_has_not_is_said(sae_lens, gemma, source, message):
    with pytest.raises(sm.MatchError, match=message):
        sm.load_layers(f"saelens://{source}")


def test_the_l0_of_the_registry_goes_before_that_of_the_path(sae_lens, gemma):
    assert l0s("saelens://my-odd") == l0s("saelens://my-odd?l0=near:7") == l0s("saelens://my-odd?l0=50.3")
    assert l0s("saelens://my-odd") == {0: 50.3, 2: 50.3}
    assert l0s("saelens://my-untidy") == {0: 100}
    layers = sm.load_layers(["saelens://my-odd/l%7B2%7D%2A%3F"])
    (commit,) = gemma.commits
    assert layers.source == {"2": f"saelens://my-odd/l%7B2%7D%2A%3F?revision={commit}"}
    assert l0s(layers.source) == {2: 50.3}


def test_without_sae_lens_it_is_said_how_to_install_it(monkeypatch):
    registry._table.cache_clear()
    monkeypatch.setattr(registry, "find_spec", lambda _: None)
    with pytest.raises(sm.MatchError, match=r"not installed: pip install 'saematch\[saelens\]'"):
        sm.load_layers("saelens://x")
