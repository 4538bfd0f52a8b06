"""Explanations, the proxy, and endpoints that answer, give no grade, fail, are silent or are missing."""

import gzip
import json
import socket

import numpy as np
import pytest

import saematch as sm
from endpoint import Endpoint
from planted import World
from saematch.evaluation import EndpointJudge, TokenOverlap, evaluate, read_explanations, read_grades
from saematch.evaluation.endpoint import parse_grade
from saematch.evaluation.meaning import Grade, Verdict, measure_agreement, measure_meaning, token_overlap
from saematch.evaluation.methods import MethodPermutation

PAIRS = [("months", "March, July"), ("brackets", "cooking"), ("negation", "n't")]


def by_length(question):
    """Return a grade that depends on the question only."""
    return list(Grade)[len(question) % 3].name


def test_the_proxy_counts_tokens_in_common():
    assert token_overlap("a, b, c", "b, c, d") == 0.5
    judge = TokenOverlap()
    assert "proxy" in judge.name
    grades = [verdict.grade for verdict in judge.verdicts([("a, b, c", "b, c, d"), ("a, b", "b, c"), ("a", "b")])]
    assert grades == [Grade.SAME, Grade.MAYBE, Grade.DIFFERENT]


def test_grades_are_parsed_and_never_guessed():
    for answer in ("SAME", "same.", "Same\n", "**SAME** - both fire on months"):
        assert parse_grade(answer) is Grade.SAME
    for answer in ("", "Yes", "SAME or DIFFERENT, hard to say", "3", "the sameness"):
        assert parse_grade(answer) is None


def test_an_endpoint_is_asked_once_for_each_pair(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with Endpoint(by_length) as endpoint:
        judge = EndpointJudge(endpoint.address, "m", tmp_path / "judge.jsonl", at_once=2)
        verdicts = judge.verdicts(PAIRS * 2)
        assert judge.trouble is None
        assert len(endpoint.asked) == 3
        questions = {request["messages"][-1]["content"] for request in endpoint.asked}
        assert questions == {f"Explanation 1: {a}\nExplanation 2: {b}" for a, b in PAIRS}
        assert endpoint.keys == {"Bearer sk-secret"}
        assert endpoint.most_at_once <= 2
        examples = endpoint.asked[0]["messages"][1:-1]
        assert {message["content"] for message in examples if message["role"] == "assistant"} == set(Grade.__members__)
        again = EndpointJudge(endpoint.address, "m", tmp_path / "judge.jsonl")
        assert again.verdicts(PAIRS * 2) == verdicts
        assert len(endpoint.asked) == 3  # from the disk
        EndpointJudge(endpoint.address, "other", tmp_path / "judge.jsonl").verdicts(PAIRS)
        assert len(endpoint.asked) == 6  # another model is another judge
    expected = [list(Grade)[len(f"Explanation 1: {a}\nExplanation 2: {b}") % 3] for a, b in PAIRS * 2]
    assert verdicts == [Verdict(grade) for grade in expected]
    assert "sk-secret" not in (tmp_path / "judge.jsonl").read_text()


def test_what_names_no_grade_is_counted_and_not_asked_again(tmp_path):
    with Endpoint(lambda question: "Well, that depends." if "cooking" in question else "MAYBE") as endpoint:
        judge = EndpointJudge(endpoint.address, "m", tmp_path / "judge.jsonl")
        assert [verdict.status for verdict in judge.verdicts(PAIRS)] == ["graded", "unparsed", "graded"]
        judge.verdicts(PAIRS)
        assert len(endpoint.asked) == 3


def test_a_busy_endpoint_is_asked_again(tmp_path):
    tries = []

    def busy(question):
        tries.append(question)
        return (503, "busy") if len(tries) < 3 else "SAME"

    with Endpoint(busy) as endpoint:
        judge = EndpointJudge(endpoint.address, "m", tmp_path / "judge.jsonl", retries=3)
        assert judge.verdicts(PAIRS[:1]) == [Verdict(Grade.SAME)]
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: (401, "the key sk-secret is wrong"), "the key … is wrong"),
        (lambda _: (404, "no such model"), "no such model"),
        (lambda _: (500, "on fire"), "on fire"),
        (lambda _: b"<html>", "127.0.0.1"),
        (lambda _: b'{"choices": []}', "127.0.0.1"),
    ],
)
def test_an_endpoint_that_fails_leaves_what_was_answered(tmp_path, monkeypatch, answer, why):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    cache = tmp_path / "judge.jsonl"
    with Endpoint(lambda _: "SAME") as endpoint:
        EndpointJudge(endpoint.address, "m", cache).verdicts(PAIRS[:1])
    with Endpoint(answer) as endpoint:
        judge = EndpointJudge(endpoint.address, "m", cache, retries=0)
        verdicts = judge.verdicts(PAIRS)
        asked = len(endpoint.asked)
        judge.verdicts(PAIRS)
        assert len(endpoint.asked) == asked  # nothing more is asked in this run
    assert [verdict.status for verdict in verdicts] == ["graded", "unanswered", "unanswered"]
    assert why in judge.trouble
    assert "sk-secret" not in judge.trouble
    with Endpoint(lambda _: "MAYBE") as endpoint:  # later it resumes
        grades = [verdict.grade for verdict in EndpointJudge(endpoint.address, "m", cache).verdicts(PAIRS)]
    assert grades == [Grade.SAME, Grade.MAYBE, Grade.MAYBE]


def test_an_endpoint_that_does_not_answer_is_asked_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts connections, and nobody reads them
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        judge = EndpointJudge(address, "m", tmp_path / "judge.jsonl", retries=0, timeout=0.1, at_once=1)
        assert {verdict.status for verdict in judge.verdicts(PAIRS)} == {"unanswered"}
        assert "timed out" in judge.trouble
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_no_server_listens(tmp_path):
    judge = EndpointJudge("http://127.0.0.1:9/v1", "m", tmp_path / "judge.jsonl", retries=0)
    assert {verdict.status for verdict in judge.verdicts(PAIRS)} == {"unanswered"}
    assert "127.0.0.1:9" in judge.trouble


def test_a_limit_of_calls_is_kept(tmp_path):
    with Endpoint(by_length) as endpoint:
        judge = EndpointJudge(endpoint.address, "m", tmp_path / "judge.jsonl", calls=2)
        assert [verdict.status for verdict in judge.verdicts(PAIRS)].count("unanswered") == 1
        assert len(endpoint.asked) == 2
        assert judge.trouble == "the limit of 2 calls is reached"


def test_a_cache_that_was_cut_off_loses_its_last_answer_alone(tmp_path):
    cache = tmp_path / "judge.jsonl"
    with Endpoint(by_length) as endpoint:
        verdicts = EndpointJudge(endpoint.address, "m", cache).verdicts(PAIRS)
        cache.write_text(cache.read_text()[:-9])
        assert EndpointJudge(endpoint.address, "m", cache).verdicts(PAIRS) == verdicts
        assert len(endpoint.asked) == 4
        assert EndpointJudge(endpoint.address, "m", cache).verdicts(PAIRS) == verdicts
        assert len(endpoint.asked) == 4
    cache.write_text("something else\n")
    with pytest.raises(sm.MatchError, match="not a file with the answers of a judge"):
        EndpointJudge("http://127.0.0.1:9/v1", "m", cache)


def test_explanations_from_our_lines_and_from_neuronpedias(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"layer": 3, "feature": 7, "explanation": "months"}\n\n')
    rows = [
        {"modelId": "m", "layer": "4-res-16k", "index": "9", "description": " cooking ", "typeName": "x"},
        {"modelId": "m", "layer": "4-res-16k", "index": "9", "description": "a second one"},
        {"modelId": "m", "layer": "4-res-16k", "index": "10", "description": None},
    ]
    with gzip.open(tmp_path / "batch-0.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    assert read_explanations(tmp_path) == {3: {7: "months"}, 4: {9: "cooking"}}
    assert read_explanations(tmp_path / "own.jsonl") == {3: {7: "months"}}
    (tmp_path / "empty").mkdir()
    for content in ('{"layer": 1}', '{"layer": "x", "feature": 1, "explanation": ""}', "[]", "nonsense", "\udcff"):
        (tmp_path / "own.jsonl").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(sm.MatchError, match=r"own\.jsonl"):
            read_explanations(tmp_path / "own.jsonl")
    with pytest.raises(sm.MatchError, match="no explanations there"):
        read_explanations(tmp_path / "empty")


def test_pairs_are_drawn_evenly_and_what_is_unexplained_is_counted():
    size = 100
    perm = np.roll(np.arange(size), 1)
    errors = np.random.default_rng(0).permutation(size).astype(float)
    explained = [{i: f"word{i % 3}" for i in range(0, size, 2)}, {i: f"word{i % 2}" for i in range(size)}]
    rows = measure_meaning(
        (1, 2), [(MethodPermutation("matched", 0, perm), errors)], explained, TokenOverlap(), judged=20
    )
    judged = rows["judgements"]
    assert len(judged) == 20
    assert all(row["feature"] % 2 == 0 and row["partner"] == perm[row["feature"]] for row in judged)
    assert [row["mse"] for row in judged] == sorted(row["mse"] for row in judged)
    assert all(abs(row["rank"] - (row["mse"] + 0.5) / size) < 1e-9 for row in judged)
    whole, *quarters = rows["meaning"]
    assert (whole["judged"], whole["unexplained"], whole["quarter"]) == (20, 50, 0)
    assert sum(row["judged"] for row in quarters) == 20
    for row in rows["meaning"]:
        assert row["same"] + row["maybe"] + row["different"] == pytest.approx(1)
        assert row["value"] == pytest.approx(row["different"] + 2 * row["maybe"] + 3 * row["same"])
        assert row["low"] <= row["value"] <= row["high"]


def test_kappa_is_cohens(tmp_path):
    # Cohen's own form: 20 + 15 agree of 50, chance is (25 * 30 + 25 * 20) / 2500: kappa 0.4.
    cells = [(1, 1)] * 20 + [(1, 2)] * 5 + [(2, 1)] * 10 + [(2, 2)] * 15
    path = tmp_path / "grades.csv"
    lines = [f"1,2,{n},{n},{Grade(human).name if n % 2 else human}" for n, (human, _) in enumerate(cells)]
    path.write_text("\n".join(["source,target,feature,partner,grade", *lines, "1,2,999,0,3"]))
    judged = [
        {"judge": "m", "source": 1, "target": 2, "feature": n, "partner": n, "grade": grade}
        for n, (_, grade) in enumerate(cells)
    ]
    ungraded = {"judge": "m", "source": 1, "target": 2, "feature": 999, "partner": 0, "grade": None}
    (row,) = measure_agreement([*judged, ungraded], read_grades(path))["judge_agreement"]
    assert (row["pairs"], row["agreement"]) == (50, pytest.approx(0.7))
    assert row["value"] == pytest.approx(0.4)
    assert row["low"] < 0.4 < row["high"]
    path.write_text("source,target,feature,partner,grade\n1,2,3,4,BEST\n")
    with pytest.raises(sm.MatchError, match="no grades can be read"):
        read_grades(path)


def test_a_judge_that_fails_leaves_an_evaluation_unfinished_and_later_it_resumes(tmp_path):
    world = World()
    chain = sm.match_layers({0: world.a, 1: world.b})
    explained = {layer: {i: f"text {layer} {i}" for i in range(16)} for layer in (0, 1)}

    def measured(endpoint, **options):
        judge = EndpointJudge(endpoint.address, "m", tmp_path / "judge.jsonl", retries=0, **options)
        return evaluate(chain, tmp_path / "out", explanations=explained, judge=judge)

    with Endpoint(by_length) as endpoint:
        first = measured(endpoint, calls=10)
        assert first.unfinished == "the limit of 10 calls is reached"
        assert [row["unanswered"] for row in first.tables["meaning"].where(method="matched", quarter=0)] == [6]
        whole = measured(endpoint)
        assert whole.unfinished is None
        assert [row["judged"] for row in whole.tables["meaning"].where(quarter=0)] == [16, 16]
        assert len(endpoint.asked) <= 32  # nothing twice
