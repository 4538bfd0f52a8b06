"""The page of a run, opened in a browser."""

import csv
import http.client
import io
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import saematch as sm
from browser import findings_of_axe, needs_browser, page_at, rows_of, until
from saematch.cli.main import main
from saematch.options import Side
from saematch.report import Contents, Server, write_report
from saes import made_up, write_model, write_npz

HOSTILE = ["<script>document.title='taken'</script>", "<img src=x onerror=alert(1)>\"'", "</script><b>bold</b>",
           "\u202eright to left", "null \x00 byte", "🐈 cats", "long " * 2000, "=1+1"]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Write the report of the sample, as the command `demo` does."""
    home = tmp_path_factory.mktemp("report")
    chain = sm.match_layers(sm.load_layers("sample"), home / "run")
    write_report(Contents(chain, margins=True), home / "run" / "report.html")
    return home / "run" / "report.html"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Write a run with hostile labels, an unreadable layer, very different L0s, and a pair that is not proved."""
    home = tmp_path_factory.mktemp("odd")
    for layer, l0 in ((1, 20), (2, 90), (3, 95)):
        write_npz(home / "saes" / f"layer_{layer}" / f"average_l0_{l0}", made_up(40, seed=layer))
    rows = [{"feature": number, "tokens": [text]} for number, text in enumerate(HOSTILE)]
    (home / "saes" / "layer_2" / "average_l0_90" / "labels.json").write_text(json.dumps({"features": rows}))
    broken = home / "saes" / "layer_4" / "params.npz"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    sm.match_layers(sm.load_layers(home / "saes"), home / "run", method="greedy", progress=lambda _: None)
    assert main(["report", str(home / "run")]) == 3
    return home / "run" / "report.html"


@needs_browser
def test_overview_says_what_the_run_says(opened, report):
    chain = sm.Chain.load(report.parent)
    with page_at(opened, report.as_uri()) as page:
        rows = rows_of(page, "#pairs")
        assert [row[0] for row in rows] == ["8 → 9", "9 → 10", "10 → 11", "11 → 12", "12 → 13"]
        for row, (pair, matching) in zip(rows, chain.items(), strict=True):
            assert float(row[3].replace(",", "")) == pytest.approx(matching.cost, rel=1e-3), pair
            assert row[4] == f"{100 * matching.cost / matching.random_cost:.1f} %"
            assert row[6] == "yes"
        assert page.is_hidden("#warnings")
        page.click("#pairs th:nth-child(4) button")  # by cost, which rises, then falls
        page.click("#pairs th:nth-child(4) button")
        assert [row[0] for row in rows_of(page, "#pairs")][:2] == ["12 → 13", "11 → 12"]
        assert page.get_attribute("#pairs th:nth-child(4)", "aria-sort") == "descending"


def test_the_page_says_what_the_proofs_rest_on_if_the_run_says_it(report, tmp_path):
    shutil.copytree(report.parent / "pairs", tmp_path / "pairs")
    shutil.copy(report.parent / "run.json", tmp_path)
    said = []
    for stats in ({"precision": "ieee chooses"}, {"precision": "int8", "exact_pairs": 200, "largest_residual": 0.01}):
        for record in (tmp_path / "pairs").glob("*.json"):
            record.write_text(json.dumps(json.loads(record.read_text()) | {"stats": stats}))
        said.append(Contents(sm.Chain.load(tmp_path)).summary()["basis"])
    assert said[0] == ""
    assert said[1].startswith("Lower bounds rest on 1,000 costs in float64 and, for all other pairs, on int8 products")


@needs_browser
def test_a_feature_is_found_followed_and_found_again_by_its_link(opened, report):
    chain = sm.Chain.load(report.parent)
    with page_at(opened, f"{report.as_uri()}#view=explorer") as page:
        page.fill("[name=text]", "girlfriend")
        until(page, "document.getElementById('found').innerText.startsWith('1 of')")
        (row,) = rows_of(page, "#table")
        layer, feature = map(int, row[0].split(" / "))
        assert "girlfriend" in row[1] + row[3]
        page.click("#table tbody button >> nth=0")
        page.wait_for_selector("#feature:not([hidden])")
        shown = [(int(cells[0]), int(cells[1])) for cells in rows_of(page, "#feature")]
        assert shown == [(step.layer, step.feature) for step in chain.path(layer, feature)]
        costs = [float(cells[3]) for cells in rows_of(page, "#feature")[1:]]
        np.testing.assert_allclose(costs, [step.cost for step in chain.path(layer, feature)][1:], rtol=1e-3)
        page.click("#feature >> text=Add to flow")
        page.wait_for_selector("#flow svg")
        link = page.url
    with page_at(opened, link) as page:
        page.wait_for_selector("#flow svg")
        assert rows_of(page, "#table") == [[*row[:-1], "\N{MINUS SIGN}"]]
        assert page.inner_text("#feature-title") == f"Layer {layer}, feature {feature}"


@needs_browser
def test_numbers_of_features_can_be_copied_and_bins_have_round_edges(opened, report):
    partner = sm.Chain.load(report.parent)[8, 9].perm.tolist()
    large = next(feature for feature, target in enumerate(partner) if target >= 1000)
    with page_at(opened, f"{report.as_uri()}#view=explorer&pair=8-9&index={large}") as page:
        page.wait_for_selector("#table td button")
        assert rows_of(page, "#table")[0][2] == f"9 / {partner[large]}"
        page.click("#figure-spread-of-cosine >> text=Numbers")
        edges = [row[0] for row in rows_of(page, "#figure-spread-of-cosine")]
        assert 15 < len(edges) < 45
        assert all(float(edge) * 1000 % 5 == pytest.approx(0, abs=1e-9) for edge in edges)


@needs_browser
def test_what_no_feature_has_takes_no_room(opened, tmp_path):
    write_model(tmp_path / "saes", layers=(1, 2))  # of random directions, without labels
    sm.match_layers(sm.load_layers(tmp_path / "saes"), tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    with page_at(opened, f"{(tmp_path / 'run' / 'report.html').as_uri()}#view=explorer&layer=1&feature=0") as page:
        page.wait_for_selector("#feature:not([hidden])")
        heads = page.locator("th:visible").all_inner_texts()
        assert {"feature", "partner", "cosine"} <= set(heads)
        assert not {"label", "its label", "Neuronpedia"} & set(heads)
        assert "It is the same feature" not in page.inner_text("#feature")


@needs_browser
def test_a_path_leads_both_ways(opened, report):
    chain = sm.Chain.load(report.parent)
    last = chain.path(8, 384)[-1]
    with page_at(opened, f"{report.as_uri()}#view=explorer&layer={last.layer}&feature={last.feature}") as page:
        page.wait_for_selector("#feature:not([hidden])")
        assert rows_of(page, "#feature")[0][:3] == ["8", "384", "Kn, Ex, Module, Dist, Gn"]
        assert "the first layer of the run" in page.inner_text("#feature")


@needs_browser
def test_brush_filters_and_the_table_is_taken_away(opened, report):
    chain = sm.Chain.load(report.parent)
    with page_at(opened, f"{report.as_uri()}#view=explorer&pair=9-10") as page:
        page.wait_for_selector("#figure-spread-of-cost svg")
        box = page.locator("#figure-spread-of-cost .chart").bounding_box()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 40, steps=5)
        page.mouse.up()
        until(page, "document.querySelector('[name=cost-to]').value !== ''")
        low, high = (float(page.input_value(f"[name=cost-{end}]")) for end in ("from", "to"))
        costs = chain[9, 10].pair_cost.numpy()
        until(page, "!document.getElementById('found').innerText.startsWith('1,024 of')")
        found = int(page.inner_text("#found").split(" of ")[0].replace(",", ""))
        assert 0 < found < 1024
        assert abs(found - int(((costs >= low) & (costs <= high)).sum())) <= 2  # edges are rounded for the form
        with page.expect_download() as waiting:
            page.click("text=These features as CSV")
        rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text(encoding="utf-8"))))
        assert len(rows) == found
        for row in rows[:20]:
            assert int(row["partner"]) == int(chain[9, 10].perm[int(row["feature"])])
            assert float(row["cost"]) == pytest.approx(float(costs[int(row["feature"])]), rel=1e-4)


@needs_browser
@pytest.mark.parametrize("kind", ["SVG", "PNG"])
def test_pictures_are_taken_away(opened, report, kind):
    with page_at(opened, f"{report.as_uri()}#view=pictures") as page:
        page.wait_for_selector("#figure-lifetimes svg")
        assert page.locator("#figures figure").count() == 6
        with page.expect_download() as waiting:
            page.click(f"#figure-cost >> text={kind}")
        content = waiting.value.path().read_bytes()
        assert content.startswith(b"<svg" if kind == "SVG" else b"\x89PNG")
        page.click("#figure-cost >> text=Numbers")
        assert len(rows_of(page, "#figure-cost")) == 5


@needs_browser
def test_keyboard_alone(opened, report):
    with page_at(opened, report.as_uri()) as page:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText") == "Explorer":
                break
        page.keyboard.press("Enter")
        until(page, "document.getElementById('found').innerText.includes('of')")
        while page.evaluate("document.activeElement.name") != "text":
            page.keyboard.press("Tab")
        page.keyboard.type("woman")
        until(page, "!document.getElementById('found').innerText.startsWith('1,024')")
        while not page.evaluate("document.activeElement.closest('#table tbody') !== null"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#feature:not([hidden])")
        until(page, "document.activeElement.id === 'feature-title'")


@needs_browser
@pytest.mark.parametrize("view", ["overview", "pictures", "explorer&layer=9&feature=455&chosen=8:384"])
@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}])
def test_nothing_serious_for_those_who_see_otherwise(opened, report, view, options):
    with page_at(opened, f"{report.as_uri()}#view={view}", **options) as page:
        if "explorer" in view:
            page.wait_for_selector("#flow svg")
        assert findings_of_axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@needs_browser
def test_what_is_odd_is_shown_as_what_it_is(opened, odd):
    with page_at(opened, odd.as_uri()) as page:
        warnings = page.inner_text("#warnings")
        assert "Layers 3 and 4 have no matching: " in warnings
        assert "The run is not complete" in warnings
        assert "L0 differs more than 1.5-fold (20 and 90)" in warnings
        assert "Not proved optimal: 1 → 2 (suboptimal)" in warnings
        assert [row[6] for row in rows_of(page, "#pairs")] == ["no: suboptimal"] * 2
        page.goto(f"{odd.as_uri()}#view=explorer&pair=2-3")
        page.wait_for_selector("#table td button")
        labels = [row[1] for row in rows_of(page, "#table")][: len(HOSTILE)]
        assert labels[:2] == HOSTILE[:2]
        assert labels[6] == f"{HOSTILE[6][:300]}…"
        assert page.title() == "saematch: explorer"
        assert page.locator("#table script, #table img, #table b").count() == 0
        page.click("#table tbody button >> nth=0")
        page.wait_for_selector("#feature:not([hidden])")
        assert HOSTILE[0] in page.inner_text("#feature")


@pytest.fixture
def two(tmp_path):
    """Write two sets of SAEs with labels, of which only the features 0 to 8 of both sets share a number, and a run."""
    for name, F, seed in (("a", 12, 1), ("b", 9, 2)):
        folder = write_npz(tmp_path / name / "layer_1", made_up(F, seed=seed))
        rows = [{"feature": feature, "tokens": [f"{name}{feature}"]} for feature in range(F)]
        (folder / "labels.json").write_text(json.dumps({"features": rows}))
    sm.match_layers(sm.load_layers(tmp_path / "a"), tmp_path / "run", against=sm.load_layers(tmp_path / "b"))
    return tmp_path / "run"


@needs_browser
@pytest.mark.parametrize("served", [False, True])
def test_a_partner_of_a_second_set_of_saes_is_found_in_that_set(opened, two, served):
    perm = sm.Chain.load(two)[1, 1].perm.tolist()
    feature = next(feature for feature in range(12) if perm[feature] not in (-1, feature))
    contents = Contents(sm.Chain.load(two), margins=True)
    write_report(contents, two / "report.html")
    with serving(contents) as running:
        address = running.address if served else (two / "report.html").as_uri()
        with page_at(opened, f"{address}#view=explorer") as page:
            page.wait_for_selector("#table td button")
            rows = rows_of(page, "#table")
            assert [row[2] for row in rows].count("none") == 3
            assert [row[3] for row in rows] == [f"b{partner}" if partner >= 0 else "" for partner in perm]
            page.click("#figure-spread-of-cost >> text=Numbers")  # those without a partner have no cost
            assert sum(int(row[2]) for row in rows_of(page, "#figure-spread-of-cost")) == 9
            page.fill("[name=cost-to]", "1e9")
            until(page, "document.getElementById('found').innerText === '9 of 12 features'")
            page.click("text=Clear")
            until(page, "document.getElementById('found').innerText === '12 of 12 features'")
            page.click(f"#table tbody tr:nth-child({feature + 1}) td:nth-child(3) button")
            page.wait_for_selector("#feature:not([hidden])")
            expected = [
                ["second", "1", f"{perm[feature]}", f"b{perm[feature]}"],
                ["first", "1", f"{feature}", f"a{feature}"],
            ]
            assert [row[:4] for row in rows_of(page, "#feature")] == expected
            assert page.inner_text("#feature-title") == f"Layer 1 of the second set, feature {perm[feature]}"
            page.click("#feature >> text=Add to flow")
            page.wait_for_selector("#flow svg")
            link = page.url
            page.click("#feature tbody tr:nth-child(2) button")
            until(
                page,
                "document.getElementById('feature-title')?.innerText === "
                f"'Layer 1 of the first set, feature {feature}'",
            )
            assert [row[:4] for row in rows_of(page, "#feature")] == expected[::-1]
            page.click("text=Overview")
            assert [row[:3] for row in rows_of(page, "#inputs")] == [["first", "1", "12"], ["second", "1", "9"]]
        with page_at(opened, link) as page:
            page.wait_for_selector("#flow svg")
            assert page.inner_text("#feature-title") == f"Layer 1 of the second set, feature {perm[feature]}"


def test_a_second_set_of_saes_that_has_moved_is_given(two, tmp_path):
    (tmp_path / "b").rename(tmp_path / "moved")
    for given, reason in (
        (["--inputs", "a"], "no longer where the run found them"),
        (["--against", "moved"], None),
        (["--against", "a"], "has changed since the run"),
    ):
        assert main(["report", str(two), "--overwrite", given[0], str(tmp_path / given[1])]) == 0
        without = summary_of(two / "report.html")["without_saes"]
        assert without is None if reason is None else reason in without


@needs_browser
def test_the_cheapest_other_target_is_shown_with_the_feature_that_has_it(opened, report):
    """It costs less than the partner for many features, so that it would mislead as a next best partner."""
    columns = Contents(sm.Chain.load(report.parent), margins=True).columns((8, 9))
    cheaper = np.nonzero(columns["runner_up_cost"] < columns["cost"])[0]
    assert len(cheaper) > 100
    feature = int(cheaper[0])
    other, holder = (int(columns[name][feature]) for name in ("runner_up", "runner_up_taken_by"))
    assert int(columns["partner"][holder]) == other
    with page_at(opened, f"{report.as_uri()}#view=explorer&pair=8-9&index={feature}&layer=8&feature={feature}") as page:
        page.wait_for_selector("#feature:not([hidden])")
        said = f"9 / {other} costs {columns['runner_up_cost'][feature]:.4g}, taken by 8 / {holder}"
        assert said in rows_of(page, "#table")[0]
        assert said in rows_of(page, "#feature")[1]


@needs_browser
def test_a_link_to_what_the_run_does_not_have_says_so(opened, report):
    wrong = ["pair=99-1", "layer=8", "feature=5000", "chosen=8:17,7:1", "sort=nothing", "cost-from=x", "theme=red"]
    with page_at(opened, f"{report.as_uri()}#view=explorer&{'&'.join(wrong)}") as page:
        said = page.inner_text("#notices")
        assert "asks for what this run does not have" in said
        assert [each for each in wrong if each not in said] == []
        assert page.inner_text("#found") == "1,024 of 1,024 features"
        page.evaluate("location.hash = 'view=explorer&layer=x&feature=1'")
        until(page, "document.getElementById('notices').innerText.includes('layer=x, feature=1')")
        page.evaluate("location.hash = 'view=explorer&layer=8&feature=1'")
        page.wait_for_selector("#feature:not([hidden])")
        assert page.is_hidden("#notices")


def summary_of(page):
    return json.loads(page.read_text(encoding="utf-8").rpartition('id="summary">')[2].partition("</script>")[0])


def test_a_page_and_an_export_do_not_say_where_the_saes_are_on_this_machine(tmp_path):
    saes = write_model(tmp_path / "my saes", layers=(1, 2, 3))
    (saes / "layer_04").mkdir()
    (saes / "layer_04" / "params.npz").write_bytes(b"nothing")
    sm.match_layers(sm.load_layers(f"{saes}/layer_{{layer}}/*"), tmp_path / "run", progress=lambda _: None)
    assert main(["report", str(tmp_path / "run")]) == 3
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "x.json")]) == 3
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "x.graphml")]) == 3
    for file in (tmp_path / "run" / "report.html", tmp_path / "x.json", tmp_path / "x.graphml"):
        text = file.read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert tmp_path.name not in text
    summary = summary_of(tmp_path / "run" / "report.html")
    assert summary["run"]["source"] == "my saes/layer_{layer}/*"
    assert summary["folder"] == "run"
    assert [layer["path"] for layer in summary["layers"]] == [
        f"my saes/layer_0{layer}/params.npz" for layer in (1, 2, 3)
    ]
    assert summary["failures"][0]["reason"].startswith("my saes/layer_04/params.npz: ")
    saes.rename(tmp_path / "moved")
    assert str(tmp_path) not in str(Contents(sm.Chain.load(tmp_path / "run")).summary())


def test_a_page_is_replaced_only_on_request(tmp_path, capsys):
    run = tmp_path / "run"
    sm.match_layers(sm.load_layers(write_model(tmp_path / "saes", layers=(1, 2))), run)
    assert main(["report", str(run), "--margins"]) == 0
    before = (run / "report.html").read_bytes()
    assert main(["report", str(run)]) == 2
    assert (
        "exists already; choose another name, or replace it with --overwrite (and --margins, to keep its margins)"
        in (capsys.readouterr().err)
    )
    assert (run / "report.html").read_bytes() == before
    assert main(["report", str(run), "--overwrite"]) == 0
    assert "margin" not in summary_of(run / "report.html")["pairs"][0]["columns"]
    assert main(["report", str(run)]) == 2
    assert "--margins" not in capsys.readouterr().err


@needs_browser
def test_a_quick_list_has_every_feature_of_the_chosen_paths(opened, report):
    contents = Contents(sm.Chain.load(report.parent), weights=False, neuronpedia="m/{layer}-res-1k")
    page_of = report.with_name("lists.html")
    write_report(contents, page_of)
    path = contents.chain.path(8, 384)
    with page_at(opened, f"{page_of.as_uri()}#view=explorer&chosen=10:{path[2].feature},8:384") as page:
        page.wait_for_selector("#flow a")
        (link,) = page.eval_on_selector_all("#flow a", "links => links.map(link => link.href)")
        listed = json.loads(parse_qs(urlsplit(link).query)["features"][0])
        assert listed == [
            {"modelId": "m", "layer": f"{step.layer}-res-1k", "index": str(step.feature)} for step in path
        ]


@pytest.mark.parametrize(
    "address", ["gemma", "m/res-16k", "m/{layers}-res", "a/b/{layer}-res", "m/7-res", "https://m/{layer}-x", ""]
)
def test_what_is_no_address_on_neuronpedia_is_refused(report, capsys, address):
    assert main(["report", str(report.parent), "--overwrite", "--neuronpedia", address]) == 2
    assert f"--neuronpedia '{address}': not the address of SAEs of this run" in capsys.readouterr().err
    one = Contents(sm.Chain.load(report.parent), weights=False, neuronpedia="m/9-res").summary()["layers"]
    assert [layer["neuronpedia"] for layer in one] == [None, "m/9-res", None, None, None, None]


@needs_browser
def test_an_evaluation_adds_its_pictures(opened, tmp_path):
    run = tmp_path / "run"
    sm.match_layers(sm.load_layers(write_model(tmp_path / "saes", layers=(1, 2, 3, 4))), run)
    assert main(["evaluate", str(run), "--quiet"]) == 0
    assert main(["report", str(run)]) == 0
    with page_at(opened, f"{(run / 'report.html').as_uri()}#view=pictures") as page:
        page.wait_for_selector("#figure-distances svg")
        page.click("#figure-methods >> text=Numbers")
        head = page.eval_on_selector_all("#figure-methods th", "heads => heads.map(head => head.innerText)")
        assert {"layers", "matched", "identity", "random", "greedy"} <= set(head)
        page.click("#figure-distances >> text=Numbers")
        assert [row[2] for row in rows_of(page, "#figure-distances")] == ["2", "2", "3"]
        for name in ("cost", "methods", "persistent", "encoder-norm"):
            shows_its_numbers(page, name)


def shows_its_numbers(page, name):
    """Assert that every line of a picture is in the legend, has its own colour, and is drawn through its numbers."""
    place = f"#figure-{name}"
    if page.is_hidden(f"{place} table"):
        page.click(f"{place} >> text=Numbers")
    names = page.eval_on_selector_all(f"{place} th", "heads => heads.slice(1).map(head => head.innerText)")
    numbers = [[float(cell.replace(",", "")) for cell in row[1:]] for row in rows_of(page, place)]
    texts = page.eval_on_selector_all(f"{place} svg text", "texts => texts.map(text => text.textContent)")
    assert set(names) <= set(texts)
    assert not [text for text in texts if "/" in text]  # no pages of a legend, like 1/2
    drawn = page.eval_on_selector_all(
        f"{place} svg path", "paths => paths.map(path => ['stroke', 'fill', 'd'].map(key => path.getAttribute(key)))"
    )
    in_legend = [stroke for stroke, _, d in drawn if d.startswith("M0 7L")]
    points = {
        stroke: np.array(re.findall(r"[\d.]+", d), float).reshape(-1, 2)
        for stroke, fill, d in drawn
        if fill == "none" and d.count("L") == len(numbers) - 1
    }
    assert list(points) == in_legend, name
    assert len(points) == len(names), name
    heights = np.concatenate([line[:, 1] for line in points.values()])
    expected = np.concatenate(np.transpose(numbers))
    scale = np.polyfit(expected, heights, 1)
    np.testing.assert_allclose(np.polyval(scale, expected), heights, atol=1)  # pixels


@needs_browser
def test_without_the_saes_the_page_says_so(opened, tmp_path):
    saes = write_model(tmp_path / "saes", layers=(1, 2))
    sm.match_layers(sm.load_layers(saes), tmp_path / "run")
    saes.rename(tmp_path / "moved")
    assert main(["report", str(tmp_path / "run"), "--neuronpedia", "gemma-2-2b/{layer}-gemmascope-res-16k"]) == 0
    with page_at(opened, (tmp_path / "run" / "report.html").as_uri()) as page:
        assert "Cosines and costs by part are missing" in page.inner_text("#warnings")
        page.click("text=Explorer")
        page.click("#table tbody button >> nth=0")
        page.wait_for_selector("#feature a")
        assert page.get_attribute("#feature a >> nth=0", "href").startswith(
            "https://www.neuronpedia.org/gemma-2-2b/1-gemmascope-res-16k/"
        )


def test_a_run_without_a_pair_has_no_page(tmp_path, capsys):
    run = tmp_path / "run"
    sm.match_layers(sm.load_layers(write_model(tmp_path / "saes", layers=(1, 2))), run)
    for file in (run / "pairs").iterdir():
        file.unlink()
    assert main(["report", str(run)]) == 2
    assert "no finished pair to show" in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_the_page_of_a_run_in_a_store_is_written_where_it_is_said(capsys):
    assert main(["report", "memory://somewhere/run"]) == 2
    assert "give -o FILE" in capsys.readouterr().err


def test_labels_of_a_labels_json_are_shown_wherever_labels_are(report, tmp_path, capsys):
    rows = [{"feature": 384, "tokens": ["May", "June"]}, {"feature": 5, "tokens": []}]
    own, folder = tmp_path / "labels.json", tmp_path / "mine" / "layer_9"
    own.write_text(json.dumps({"layer": 8, "features": rows}))
    folder.mkdir(parents=True)
    (folder / "labels.json").write_text(json.dumps({"features": [{"feature": 455, "tokens": ["July"]}]}))
    run = str(report.parent)
    for path, labels in ((own, ["May, June", None]), (tmp_path, ["May, June", "July"])):
        assert main(["path", run, "--layer", "8", "--feature", "384", "--json", "--labels", str(path)]) == 0
        assert [step["label"] for step in json.loads(capsys.readouterr().out.splitlines()[-1])["path"]][:2] == labels
        assert main(["export", run, "-o", str(tmp_path / "x.csv"), "--overwrite", "--labels", str(path)]) == 0
        with (tmp_path / "x.csv").open(newline="") as file:
            row = next(row for row in csv.DictReader(file) if row["feature"] == "384")
        assert [row["label"], row["partner_label"]] == [label or "" for label in labels]
        assert main(["report", run, "-o", str(tmp_path / "x.html"), "--overwrite", "--labels", str(path)]) == 0
        assert ('id="labels-0-9"' in (tmp_path / "x.html").read_text()) == (labels[1] is not None)
    own.write_text(json.dumps({"features": rows}))
    assert main(["path", run, "--layer", "8", "--feature", "384", "--labels", str(own)]) == 2
    assert "of which layer its labels are is not known" in capsys.readouterr().err
    own.write_text(json.dumps({"layer": 8, "features": [{"feature": 1024, "tokens": ["a"]}]}))
    assert main(["path", run, "--layer", "8", "--feature", "384", "--labels", str(own)]) == 2
    assert "features that its SAE does not have, the first of feature 1024 of 1024" in capsys.readouterr().err


def test_labels_of_a_second_set_are_given(two, tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text('{"layer": "1-res", "feature": 8, "explanation": "names of rivers"}\n')
    command = ["export", str(two), "-o", str(tmp_path / "x.json"), "--overwrite"]
    assert main([*command, "--against-labels", str(tmp_path / "own.jsonl")]) == 0
    table = json.loads((tmp_path / "x.json").read_text())["pairs"][0]
    assert table["partner_label"] == ["names of rivers" if partner == 8 else None for partner in table["partner"]]
    assert table["label"] == [f"a{feature}" for feature in range(12)]
    (tmp_path / "own.jsonl").write_text(
        "".join(f'{{"layer": "1-{name}", "feature": 8, "explanation": "x"}}\n' for name in ("res", "att"))
    )
    capsys.readouterr()
    assert main([*command, "--against-labels", str(tmp_path / "own.jsonl")]) == 2
    assert "choose one: --against-neuronpedia '{layer}-res'" in capsys.readouterr().err
    with pytest.raises(sm.MatchError, match="has only one set"):
        sm.match_layers(sm.load_layers("sample?layer=8-9")).labelled({8: {0: "x"}}, Side.TARGET)


def test_labels_from_elsewhere_and_an_evaluation(report, tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"layer": 8, "feature": 3, "explanation": "names of rivers"}\n')
    contents = Contents(sm.Chain.load(report.parent), labels={8: {3: "names of rivers"}})
    assert contents.labels(8) == {3: "names of rivers"}
    assert contents.labels(9) == {}
    with pytest.raises(sm.MatchError, match="no tables of saematch evaluate in it"):
        Contents(sm.Chain.load(report.parent), evaluation=tmp_path).summary()
    assert (
        main(["report", str(report.parent), "-o", str(tmp_path / "x.html"), "--labels", str(tmp_path / "labels.jsonl")])
        == 0
    )


# ---- saematch serve


@contextmanager
def serving(contents, host="127.0.0.1"):
    with Server(contents, host) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(report):
    with serving(Contents(sm.Chain.load(report.parent), weights=False)) as running:
        yield running


def ask(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@needs_browser
def test_the_served_page_finds_what_the_file_does(opened, server, report):
    path = sm.Chain.load(report.parent).path(8, 384)
    with page_at(opened, f"{server.address}#view=explorer&pair=10-11&layer=10&feature={path[2].feature}") as page:
        page.wait_for_selector("#feature:not([hidden])")
        assert [row[:2] for row in rows_of(page, "#feature")] == [[str(s.layer), str(s.feature)] for s in path]
        assert page.inner_text("#found") == "1,024 of 1,024 features"


def test_a_served_path_goes_back_along_the_steps_of_paths(tmp_path):
    chain = sm.match_layers(sm.load_layers(write_model(tmp_path / "saes", layers=(1, 2, 3, 4))), pairs="all")
    with Server(Contents(chain, weights=False)) as running:
        for feature in range(12):
            path = chain.path(1, feature)
            for step in path:
                found = running.path(step.layer, step.feature)
                assert [(one["layer"], one["feature"]) for one in found] == [(one.layer, one.feature) for one in path]


def test_a_hundred_requests_at_once(server):
    asked = ["/data/8/9?first=0", "/labels/0/8", "/path/8/384", "/"] * 25
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda path: ask(server, path), asked))
    assert {status for status, _ in answers} == {200}
    assert len({content for _, content in answers}) == 4


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd",
        "/data/..%2f..%2frun.json/9?first=0",
        "/data/8/9",
        "/data/8/9?first=1024",
        "/data/8/9?first=-1",
        "/data/8/9?first=99999999999999999999",
        "/data/8/13?first=0",
        "/data/8",
        "/labels/0/x",
        "/labels/8",
        "/labels/2/8",
        "/path/8/1024",
        "/path/99/1",
        "/nothing",
        "/run.json",
        "/data/%EF%BC%98/9?first=0",
    ],
)
def test_what_is_not_there_is_refused(server, path):
    status, content = ask(server, path)
    assert status == 404
    assert len(content) < 300


def test_names_that_lead_here_from_elsewhere_are_refused(server):
    assert ask(server, "/", Host="evil.example")[0] == 403
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_other_addresses_than_loopback_need_the_token(report):
    with serving(Contents(sm.Chain.load(report.parent), weights=False), "0.0.0.0") as running:
        assert ask(running, "/")[0] == 403
        assert ask(running, "/data/8/9?first=0&token=wrong")[0] == 403
        assert ask(running, f"/data/8/9?first=0&token={running.token}")[0] == 200
        assert running.address.endswith(f"?token={running.token}")


def test_a_port_that_is_taken_is_named(server, report, capsys):
    assert main(["serve", str(report.parent), "--port", str(server.server_port)]) == 2
    assert "cannot be served" in capsys.readouterr().err
