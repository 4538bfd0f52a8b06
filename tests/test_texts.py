"""Text with any characters, such as halves of surrogate pairs, breaks no export, page, terminal or log."""

import csv
import gzip
import io
import json
from xml.etree import ElementTree

import pyarrow.parquet
import pytest

import saematch as sm
from endpoint import Endpoint
from saematch.analysis.tables import Schema, Table
from saematch.cli.main import main
from saematch.evaluation import evaluate, read_explanations
from saematch.evaluation.endpoint import EndpointJudge
from saematch.evaluation.texts import Texts
from saematch.report import Contents
from saematch.storage.folders import LocalFolder
from saematch.text import well_formed
from saes import write_model

GIVEN = [
    "\ud83d", "\udc08 after", "\ud83d" + "\udc08", "\udc08\ud83d", "\udcff", "a\0b", "\r", "a\rb", "a\r\nb", "\n", "\t",
    "\u2028\u2029\x85\x0b\x0c\x1c", "\u202e\u2066\u200f", "\ufeff", "\ufffe\uffff", "\x1b[2J\x07", '"', "'; DROP",
    "]]>",
]  # fmt: skip
CLEAN = ["\ufffd", "\ufffd after", "🐈", "\ufffd\ufffd", "\ufffd", *GIVEN[5:]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write a run of two layers, whose features have the texts above as labels."""
    home = tmp_path_factory.mktemp("texts")
    model = write_model(home / "model", layers=(1, 2, 3), F=len(GIVEN))
    rows = [{"feature": number, "tokens": [text]} for number, text in enumerate(GIVEN)]
    for layer in (1, 2, 3):
        (model / f"layer_0{layer}" / "labels.json").write_text(json.dumps({"features": rows}))
    sm.match_layers(sm.load_layers(model), home / "run")
    return home / "run"


@pytest.mark.parametrize(("text", "expected"), list(zip(GIVEN, CLEAN, strict=True)), ids=ascii)
def test_text_that_any_file_can_hold(text, expected):
    assert well_formed(text) == well_formed(expected) == expected
    expected.encode()


def test_labels_of_a_chain(run):
    chain = sm.Chain.load(run)
    assert list(chain.labels(1).values()) == CLEAN
    assert [chain.label(1, feature) for feature in range(len(GIVEN))] == CLEAN
    assert chain.path(1, 0)[0].label == CLEAN[0]


def exported(run, path):
    assert main(["export", str(run), "-o", str(path)]) == 0
    return path


def test_exports_hold_every_label(run, tmp_path):
    with exported(run, tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == CLEAN * 2
    columns = pyarrow.parquet.read_table(exported(run, tmp_path / "x.parquet")).to_pydict()
    assert columns["label"] == CLEAN * 2
    assert [row["partner_label"] for row in rows] == columns["partner_label"]
    pairs = json.loads(exported(run, tmp_path / "x.json").read_text())["pairs"]
    assert [label for pair in pairs for label in pair["label"]] == CLEAN * 2
    root = ElementTree.parse(exported(run, tmp_path / "x.graphml")).getroot()
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    nodes = {
        node.get("id"): node.findtext("g:data[@key='label']", None, space) for node in root.findall(".//g:node", space)
    }
    without = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF), "\ufffd")  # what XML has not
    assert [nodes[f"0:1:{feature}"] for feature in range(len(CLEAN))] == [text.translate(without) for text in CLEAN]


def test_a_page_holds_every_label(run):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_bytes()
    page.decode()
    assert list(Contents(sm.Chain.load(run)).labels(1).values()) == CLEAN


def test_labels_that_are_given(run, tmp_path):
    lines = [{"layer": 1, "feature": feature, "explanation": f"x{text}x"} for feature, text in enumerate(GIVEN)]
    (tmp_path / "labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with gzip.open(tmp_path / "raw.jsonl.gz", "wt", encoding="utf-8") as file:  # with letters as they are, unescaped
        file.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines[5:])
    texts = [f"x{text}x" for text in CLEAN]
    assert list(read_explanations(tmp_path / "labels.jsonl")[1].values()) == texts
    assert list(read_explanations(tmp_path / "raw.jsonl.gz")[1].values()) == texts[5:]
    given = {1: {feature: f"x{text}x" for feature, text in enumerate(GIVEN)}}
    assert list(Contents(sm.Chain.load(run), labels=given).labels(1).values()) == texts
    for wrong in ({1: "text"}, {1: {0: b"bytes"}}, {1: {0: None}}, {"a": {0: "x"}}, {1: {0.5: "x"}}, [1], {True: {}}):
        with pytest.raises(sm.MatchError, match=r"give \{layer: \{feature: text\}\}"):
            Contents(sm.Chain.load(run), labels=wrong)
        with pytest.raises(sm.MatchError, match=r"give \{layer: \{feature: text\}\}"):
            evaluate(sm.Chain.load(run), tmp_path / "out", explanations=wrong)


def test_a_terminal_is_not_steered_and_json_is_ascii(run, capsys):
    for feature in range(len(GIVEN)):
        assert main(["path", str(run), "--layer", "1", "--feature", str(feature)]) == 0
        shown = capsys.readouterr().out
        assert len(shown.partition("\n\n")[0].splitlines()) == 5  # a table of three layers, above its legend
        assert shown.replace("\n", "").isprintable()
        shown.encode()
        assert main(["path", str(run), "--layer", "1", "--feature", str(feature), "--json"]) == 0
        shown = capsys.readouterr().out
        assert shown.isascii()
        assert json.loads(shown)["path"][0]["label"] == CLEAN[feature]


def test_an_evaluation_with_a_judge(run, tmp_path):
    with Endpoint(lambda question: "SAME") as server:
        judge = EndpointJudge(server.address, "m", tmp_path / "judge.jsonl", at_once=1)
        explanations = {layer: dict(enumerate(GIVEN)) for layer in (1, 2, 3)}
        found = evaluate(sm.Chain.load(run), tmp_path / "out", explanations=explanations, judge=judge, distance=1)
    assert found.unfinished is None
    assert {row["grade"] for row in found.tables["judgements"].rows} == {3}
    with (tmp_path / "out" / "judgements.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = pyarrow.parquet.read_table(tmp_path / "out" / "judgements.parquet").to_pydict()
    assert [row["source_explanation"] for row in rows] == columns["source_explanation"]
    assert set(columns["source_explanation"]) == set(CLEAN)


def test_a_table_with_every_text_is_read_again(tmp_path):
    schema = Schema("texts", "texts", {"text": "any", "number": "of it"})
    folder = LocalFolder(tmp_path)
    Table(schema, [schema.row(text=f"x{text}", number=at) for at, text in enumerate(CLEAN)]).write(folder)
    assert Table.read(folder, schema).rows == [{"text": f"x{text}", "number": at} for at, text in enumerate(CLEAN)]
    written = (tmp_path / "texts.csv").read_bytes().decode()
    assert list(csv.reader(io.StringIO(written, newline=""))) == [
        ["text", "number"],
        *([f"x{text}", str(at)] for at, text in enumerate(CLEAN)),
    ]
    for damaged in (written[: written.rindex(",")], written + "x,1,2\n"):
        folder.write("texts.csv", damaged.encode())
        with pytest.raises(sm.MatchError, match="damaged: a line is cut off"):
            Table.read(folder, schema)


def test_documents_of_every_text(tmp_path):
    (tmp_path / "texts.jsonl").write_text(
        "".join(
            f"{json.dumps({'text': f'x{text}'}, ensure_ascii=text != clean)}\n"
            for text, clean in zip(GIVEN, CLEAN, strict=True)
        ),
        encoding="utf-8",
    )
    assert Texts.read(tmp_path / "texts.jsonl").documents == [f"x{text}" for text in CLEAN]


@pytest.mark.parametrize("name", ["\ud83d", "a\udc08\ud83d/b"])
def test_paths_that_no_disk_holds_are_refused(name, capsys, tmp_path):
    for ask in (
        lambda: sm.load(name),
        lambda: sm.Chain.load(name),
        lambda: sm.Matching.load(name),
        lambda: sm.load_layers([name]),
        lambda: sm.match_layers(sm.load_layers("sample"), name),
    ):
        with pytest.raises(sm.MatchError):
            ask()
    assert main(["info", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.strip().isprintable()
