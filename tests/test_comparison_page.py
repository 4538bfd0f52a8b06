"""The page of a comparison of SAEs, opened in a browser."""

import csv
import json

import numpy as np
import pytest

import saematch as sm
from browser import findings_of_axe, needs_browser, page_at, rows_of, until
from saematch.cli.main import main
from saematch.report import write_comparison
from saes import made_up, write_npz

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Compare three SAEs, one of another size and with a hostile name, with margins, firing rates and null models."""
    home = tmp_path_factory.mktemp("study")
    features = {"seed_0": 40, "seed_1": 40, HOSTILE: 30}
    saes = {}
    for number, (name, count) in enumerate(features.items()):
        saes[name] = str(write_npz(home / "machine" / "saes" / str(number), made_up(count, seed=number)))
    rates = {"seed_0": np.linspace(0.5, 0.01, 40)}
    sm.consistency(saes, nulls=2, margins=True, threshold=0.6, firing_rates=rates, out=home / "out")
    assert main(["report", str(home / "out")]) == 0
    return home / "out"


@needs_browser
def test_the_overview_has_the_numbers_of_the_comparison(opened, study):
    result = sm.Consistency.load(study)
    with page_at(opened, (study / "report.html").as_uri()) as page:
        rows = rows_of(page, "#pairs")
        assert [row[0] for row in rows] == [f"{pair.a} and {pair.b}" for pair in result.pairs]
        for row, pair in zip(rows, result.pairs, strict=True):
            assert [int(cell) for cell in row[1:3]] == [pair.features_a, pair.features_b]
            first, *others = pair.numbers().values()
            nulls = [pair.null_random.mean["mcc_decoder"], pair.null_rotated.mean["mcc_decoder"]]
            numbers = [first, *nulls, *others]  # next to the MCC is what it would be at random
            shown = [float(cell.removesuffix(" %")) / (100 if cell.endswith(" %") else 1) for cell in row[3:17]]
            np.testing.assert_allclose(shown, numbers, atol=6e-4)
            assert row[17] == "yes"
        names = [row[0] for row in rows_of(page, "#saes")]
        assert names == ["seed_0", "seed_1", HOSTILE]
        share = [f"{100 * result.shared_with_all[name]:.1f} %" for name in names]
        assert [row[5] for row in rows_of(page, "#saes")] == share
        assert f"decoders {result.pw_mcc_decoder:.4g}" in page.inner_text("#facts")


@needs_browser
def test_a_feature_is_found_in_other_saes_and_followed_there(opened, study):
    result = sm.Consistency.load(study)
    forth = result.partners["seed_0", "seed_1"]
    with page_at(opened, f"{(study / 'report.html').as_uri()}#view=features&sae=0&other=1") as page:
        until(page, "document.querySelectorAll('#table tbody tr').length === 40")
        for feature, row in enumerate(rows_of(page, "#table")):
            assert row[0] == str(feature)
            assert row[4] == str(forth["partner"][feature])
            assert float(row[5]) == pytest.approx(forth["similarity"][feature], abs=6e-4)
            assert float(row[6].removeprefix("≥ ")) == pytest.approx(forth["margin"][feature], rel=6e-3)
        page.click("#table tbody tr:nth-child(8) td:nth-child(5) button")
        partner = int(forth["partner"][7])
        until(page, f"document.getElementById('feature-title')?.innerText === 'seed_1, feature {partner}'")
        rows = rows_of(page, "#feature")
        assert [row[0] for row in rows] == ["seed_0", HOSTILE]
        for row in rows:
            columns = result.partners["seed_1", row[0]]
            own = int(columns["partner"][partner])
            assert row[2] == ("none" if own < 0 else str(own))
        assert rows[0][2] == "7"
        link = page.url
    with page_at(opened, link) as page:
        until(page, f"document.getElementById('feature-title')?.innerText === 'seed_1, feature {partner}'")


@needs_browser
def test_features_are_searched_and_taken_away(opened, study):
    with (study / "features.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sae"] == "seed_0" and row["decision"] == "shared"]
    assert 0 < len(rows) < 40
    with page_at(opened, f"{(study / 'report.html').as_uri()}#view=features") as page:
        page.select_option("[name=decision]", label="shared")
        until(page, f"document.getElementById('found').innerText.startsWith('{len(rows)} of 40')")
        assert [row[0] for row in rows_of(page, "#table")] == [row["feature"] for row in rows]
        with page.expect_download() as waiting:
            page.click("text=These features as CSV")
        taken = list(csv.DictReader(waiting.value.path().read_text().splitlines()))
        assert [row["feature"] for row in taken] == [row["feature"] for row in rows]
        assert {row["decision"] for row in taken} == {"shared"}
        rates = [[float(row["firing_rate"]) for row in side] for side in (taken, rows)]
        np.testing.assert_allclose(*rates, rtol=1e-4)
        page.fill("[name=index]", rows[0]["feature"])
        until(page, "document.getElementById('found').innerText.startsWith('1 of 40')")


@needs_browser
def test_pictures_have_the_numbers_of_the_tables(opened, study):
    result = sm.Consistency.load(study)
    with page_at(opened, f"{(study / 'report.html').as_uri()}#view=pictures") as page:
        for toggle in page.query_selector_all("#figures >> text=Numbers"):
            toggle.click()
        mcc = [float(row[2]) for row in rows_of(page, "#figure-matrix-mcc_decoder")]
        assert mcc == pytest.approx([pair.mcc_decoder for pair in result.pairs], abs=6e-5)
        counts = np.sum([pair.histograms["matched"]["decoder"] for pair in result.pairs], axis=0)
        shares = [float(row[1]) for row in rows_of(page, "#figure-similarity-decoder")]
        np.testing.assert_allclose(shares, (counts / counts.sum())[-len(shares) :], atol=6e-4)
        assert sum(shares) == pytest.approx(1, abs=1e-2)
        deciles = [row["shared"] for row in result.firing_rates if row["other"] == "seed_1"]
        assert [float(row[1]) for row in rows_of(page, "#figure-firing-rates")] == pytest.approx(deciles, abs=6e-4)
        legend = page.inner_text("#figure-similarity-joint .chart")
        assert all(title in legend for title in ("matched", "random directions", "turned at random"))


@needs_browser
@pytest.mark.parametrize("view", ["overview", "pictures", "features&feature=3"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everybody_can_use_it(opened, study, view, theme):
    with page_at(opened, f"{(study / 'report.html').as_uri()}#view={view}&theme={theme}") as page:
        page.wait_for_selector({"overview": "#pairs td", "pictures": "#figures svg"}.get(view, "#feature h3"))
        assert findings_of_axe(page) == []


@needs_browser
@pytest.mark.parametrize(
    "asked", ["sae=7", "other=0", "feature=40", "sort=cost", "decision=9", "index=x", "view=explorer"]
)
def test_a_link_to_what_is_not_there_says_so(opened, study, asked):
    with page_at(opened, f"{(study / 'report.html').as_uri()}#{asked}") as page:
        said = page.inner_text("#notices")
        assert said.startswith("The address of this page asks for what this comparison does not have")
        assert asked in said


@needs_browser
def test_a_comparison_with_a_reference_and_without_nulls(opened, tmp_path):
    saes = {step: made_up(20, seed=step) for step in range(3)}
    result = sm.consistency(saes, nulls=0, reference="0", axis="step")
    write_comparison(result, tmp_path / "page.html")
    with page_at(opened, (tmp_path / "page.html").as_uri()) as page:
        assert [row[0] for row in rows_of(page, "#pairs")] == ["0 and 1", "0 and 2"]
        assert "all with step 0" in page.inner_text("#facts")
        assert "random" not in page.inner_text("#pairs")
        page.click("text=Pictures")
        page.click("#figure-shared >> text=Numbers")
        assert [row[0] for row in rows_of(page, "#figure-shared")] == ["1", "2"]
        page.click("text=Features")
        page.wait_for_selector("#table tbody tr")
        assert "margin" not in page.inner_text("#table thead")
        page.click("#table tbody tr:nth-child(3) td:first-child button")
        until(page, "document.getElementById('feature-title')?.innerText === 'Step 0, feature 2'")
        assert [row[0] for row in rows_of(page, "#feature")] == ["1", "2"]


def test_the_page_has_no_folder_of_the_machine_and_no_markup_from_names(study):
    text = (study / "report.html").read_text()
    assert "/machine/" not in text
    assert "saes/0/params.npz" in text
    assert HOSTILE not in text


def test_the_command_refuses_what_is_for_runs_and_keeps_a_page_that_exists(study, capsys):
    assert main(["report", str(study), "--margins", "--overwrite"]) == 2
    assert "is a comparison of SAEs, not a run; --margins is for runs" in capsys.readouterr().err
    assert main(["report", str(study)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["report", str(study / "nowhere")]) == 2
    assert "neither a run nor a comparison of SAEs: there is no such folder" in capsys.readouterr().err
    for command in (["serve"], ["export", "-o", "x.csv"], ["path", "--layer", "0", "--feature", "0"]):
        assert main([command[0], str(study), *command[1:]]) == 2
        assert "saematch report show it" in capsys.readouterr().err
    assert main(["report", str(study), "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
