"""Files that are cut, changed, inconsistent or hostile are refused in a sentence and little memory, and run nothing."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import saematch as sm
from damaged_files import (
    CONTAINERS,
    DAMAGED,
    LISTS,
    ONLY_READING_TELLS,
    REASONS,
    TEXTS,
    TYPES,
    write_container,
    write_list,
)
from hostile_files import CANARY, HOSTILE, MOST_BYTES, TENSORS, npz, refused, safetensors, topk
from saematch.cli.main import main
from saematch.evaluation import StoredActivations, evaluate
from saematch.evaluation.endpoint import EndpointJudge
from saematch.evaluation.meaning import read_grades
from saematch.evaluation.texts import Texts
from saematch.matching.files import read_permutation
from saematch.report import Contents
from saematch.sources.search import search
from saes import drawn, made_up, saelens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write all damaged files: those that a folder of SAEs may have in `saes`, and lists in another folder."""
    root = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        sources = {}
        for number, (name, write) in enumerate(DAMAGED.items()):
            home = root / ("lists" if name.startswith("list: ") else "saes") / str(number)
            home.mkdir(parents=True)
            sources[name] = write(home)
        for kind, (_, good, *_) in CONTAINERS.items():  # also: what reading needs is loaded before memory is measured
            assert sm.load(write_container(root / kind, kind, good)).F == 12
        assert list(sm.load_layers(write_list(root / "list", "- saes"))) == [5]
        yield root, sources


def test_there_are_many():
    assert len(DAMAGED) > 250
    assert {*REASONS, *ONLY_READING_TELLS} < {*DAMAGED}
    assert len(ONLY_READING_TELLS) == 9
    assert len(DAMAGED) == sum(len(each[2]) for each in CONTAINERS.values()) + len(TEXTS) + len(TYPES) + len(LISTS)


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_sentence_and_little_memory(folder, name, monkeypatch):
    root, sources = folder
    monkeypatch.chdir(root)
    source, named = sources[name]
    message, peak = refused(source)
    assert str(named) in message
    assert "\n" not in message
    assert len(message.replace(str(root), "")) < 800
    assert REASONS.get(name, "") in message
    assert peak < MOST_BYTES
    assert not Path(CANARY).exists()


@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.startswith("list: ")])
def test_headers_alone_refuse_it_too_where_they_tell(folder, name, monkeypatch):
    root, sources = folder
    monkeypatch.chdir(root)
    source, _ = sources[name]
    if name in ONLY_READING_TELLS:
        assert search(source)[0][0].describe().sae.F in (12, 16)
        return
    with pytest.raises(sm.MatchError):
        search(source)[0][0].describe()


def test_info_lists_a_folder_of_damaged_files(folder, capsys, monkeypatch):
    root, _ = folder
    monkeypatch.chdir(root)
    assert main(["info", str(root / "saes")]) == 3
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.count("\nwarning: ") > 150
    assert not Path(CANARY).exists()


def test_info_of_a_bad_list_is_one_line(folder, capsys, monkeypatch):
    root, sources = folder
    monkeypatch.chdir(root)
    for source, _ in sources.values():
        if source.suffix == ".yaml":
            assert main(["info", str(source)]) == 2
            shown = capsys.readouterr()
            assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert not Path(CANARY).exists()


def flips(content, until, step=1):
    """Yield the bytes with one flipped bit, for every byte up to `until`, or for every `step`-th byte."""
    for at in range(0, until, step):
        yield content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_of_an_archive_is_found_or_changes_nothing(tmp_path, compression):
    """The checksums of the archive show the change."""
    good, found = npz(compression), 0
    for content in flips(good, len(good), 5):
        (tmp_path / "params.npz").write_bytes(content)
        try:
            sae = sm.load(tmp_path / "params.npz")
        except sm.MatchError:
            found += 1
            continue
        for name, tensor in sae.tensors().items():
            assert torch.equal(tensor, TENSORS[name])
    assert found > 150


def test_a_flipped_bit_of_a_safetensors_header_is_found(tmp_path):
    good = safetensors()
    for content in flips(good, 8 + int.from_bytes(good[:8], "little")):
        refused(write_container(tmp_path, "safetensors", content))


def test_a_flipped_bit_of_a_torch_file_is_found_or_leaves_an_sae(tmp_path):
    """Torch checks no sums, so the values may change, but nothing else."""
    good, found = topk(), 0
    for content in flips(good, len(good), 11):
        try:
            sae = sm.load(write_container(tmp_path, "torch", content))
        except sm.MatchError:
            found += 1
            continue
        assert (sae.F, sae.d, sae.k) == (12, 8, 3)
    assert found > 0


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_file_that_is_written_over_does_not_change_what_was_read(tmp_path, kind):
    good = CONTAINERS[kind][1]
    sae = sm.load(write_container(tmp_path, kind, good))
    before = {name: tensor.clone() for name, tensor in sae.tensors().items()}
    write_container(tmp_path, kind, b"\xff" * len(good() if callable(good) else good))
    assert all(torch.equal(tensor, before[name]) for name, tensor in sae.tensors().items())


@pytest.mark.parametrize("name", ["os.system", "open", "eval", "getattr"])
def test_the_hostile_pickles_are_hostile(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    getattr(pickle.loads(HOSTILE[name]), "close", int)()
    assert Path(CANARY).exists()


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "params.npz").symlink_to("nothing")
    (tmp_path / "sae_weights.safetensors").symlink_to("sae_weights.safetensors")
    for name in ("params.npz", "sae_weights.safetensors"):
        with pytest.raises(sm.MatchError, match="no such file or folder"):
            sm.load(tmp_path / name)
    assert main(["info", str(tmp_path)]) == 3


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 302065000\n"
WEIGHTS = ("params.npz", "sae_weights.safetensors", "params.safetensors", "ae.pt", "5.pt", "x.pth", "any.safetensors")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pointer_of_git_lfs_is_named_and_not_taken_for_damage(tmp_path, name):
    (tmp_path / "layer_5").mkdir()
    (tmp_path / "layer_5" / name).write_text(POINTER)
    for source in (tmp_path, tmp_path / "layer_5" / name, f"{tmp_path}/layer_{{layer}}"):
        with pytest.raises(sm.MatchError, match=rf"{name}: is not the file but a pointer of Git LFS .*git lfs pull"):
            sm.load(source)


def test_a_pointer_in_place_of_activations_or_a_matching_is_named(tmp_path):
    for name in ("layer_5.npy", "perm.npy", "perm.safetensors"):
        (tmp_path / name).write_text(POINTER)
    named = r"is not the file but a pointer of Git LFS"
    with pytest.raises(sm.MatchError, match=rf"^{tmp_path}/layer_5\.npy: {named}"):
        StoredActivations(tmp_path)
    for name in ("perm.npy", "perm.safetensors"):
        with pytest.raises(sm.MatchError, match=rf"^{tmp_path}/{name}: {named}"):
            read_permutation(tmp_path / name)


def test_a_pointer_in_a_run_folder_is_named(tmp_path):
    model = {layer: made_up(seed=layer) for layer in (1, 2, 3)}
    chain = sm.match_layers(model, tmp_path / "run", fold="none")
    before = (tmp_path / "run" / "pairs" / "1-2.safetensors").read_bytes()
    evaluate(chain, tmp_path / "run" / "evaluation", distance=1)
    for name, use in {
        "pairs/1-2.safetensors": lambda run: (run.path(1, 0), run[1, 2]),
        "pairs/2-3.safetensors": lambda run: run[2, 3],
        "evaluation/mse.csv": lambda run: Contents(run, evaluation=tmp_path / "run" / "evaluation").summary(),
    }.items():
        (tmp_path / "run" / name).write_text(POINTER)
        with pytest.raises(sm.MatchError, match=f"{name}: is not the file but a pointer of Git LFS"):
            use(sm.Chain.load(tmp_path / "run"))
    with pytest.raises(sm.MatchError, match="a pointer of Git LFS"):
        sm.Chain.load(tmp_path / "run").path(1, 0)
    sm.match_layers(model, tmp_path / "run", fold="none")  # answers that are not there are made again
    assert (tmp_path / "run" / "pairs" / "1-2.safetensors").read_bytes() == before
    for name in ("pairs/1-2.json", "run.json"):
        (tmp_path / "run" / name).write_text(POINTER)
        with pytest.raises(sm.MatchError, match=f"{name}: is not the file but a pointer of Git LFS"):
            sm.Chain.load(tmp_path / "run")


@pytest.mark.parametrize(
    "read", [Texts.read, read_grades, lambda path: EndpointJudge("http://127.0.0.1:9", "model", path)]
)
@pytest.mark.parametrize("name", ["given.txt", "given.jsonl", "given.csv"])
def test_a_pointer_in_place_of_what_an_evaluation_reads_is_named(tmp_path, read, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(sm.MatchError, match=f"{name}: is not the file but a pointer of Git LFS"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["cfg.json", "labels.json"])
def test_a_pointer_in_place_of_json_is_named_too(tmp_path, name):
    saelens(tmp_path / "layer_5", drawn(16, 8))
    (tmp_path / "layer_5" / name).write_text(POINTER)
    with pytest.raises(sm.MatchError, match=rf"{name}: is not the file but a pointer of Git LFS"):
        _ = sm.load_layers(tmp_path).handles[5].describe(), sm.load_layers(tmp_path).handles[5].labels


def test_a_folder_whose_name_is_not_utf8_is_what_the_message_blames(tmp_path):
    folder = tmp_path / os.fsdecode(b"o\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    made_up().save(tmp_path / "sae")
    shutil.copytree(tmp_path / "sae", folder / "sae")
    with pytest.raises(sm.MatchError, match="its path is not valid UTF-8"):
        sm.load(str(folder / "sae"))
