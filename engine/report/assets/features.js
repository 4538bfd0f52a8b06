"use strict";
// The features of one SAE: where each of them is found, and one of them in all SAEs that its SAE was compared with.
const number = (value) => value.toLocaleString("en");
const LIMITS = ["similarity-from", "similarity-to"];
const SEARCHED = ["index", "decision", ...LIMITS];
let results; // the table of features
let searches = 0; // number of the latest search

const chosenSAE = () => Number(get("sae", String(compared[0])));
const chosenOther = () => {
  const others = study.saes[chosenSAE()].compared, asked = Number(get("other", "-1"));
  return others.includes(asked) ? asked : others[0];
};
const hasFeature = (text) => /^\d+$/.test(text) && Number(text) < featuresOf(chosenSAE());

// A button that shows a feature of an SAE.
const featureButton = (sae, feature, text = String(feature)) =>
  (feature < 0 ? "none" : button(text, () => show(sae, feature), { title: `show feature ${feature} of ${titleOf(sae)}` }));
const start = (sae) => (titleOf(sae) === nameOf(sae) ? nameOf(sae) : capitalized(titleOf(sae))); // at the start of a sentence
const similarity = fixed;
const marginText = (columns, feature) => {
  const margin = columns.margin[feature];
  return (columns.margin_exact[feature] === 0 && Number.isFinite(margin) ? "≥ " : "") + shown(margin, 3);
};
// What is known of a feature of `sae` in `other`. at: a row of a table -> {sae, other, columns, feature}
function partnerColumns(at) {
  const of = (name) => (row) => { const { columns, feature } = at(row); return columns[name][feature]; };
  const partner = (name, title) => ({ name, title, about: about(name), value: of(name),
    cell: (row) => featureButton(at(row).other, of(name)(row)) });
  const cosine = (name, title) => ({ name, title, about: about(name), value: of(name), cell: (row) => similarity(of(name)(row)) });
  return [
    partner("partner", "partner"), cosine("similarity", "similarity"),
    ...(study.margins ? [{ name: "margin", title: "margin", about: about("margin"), value: of("margin"),
      cell: (row) => marginText(at(row).columns, at(row).feature) }] : []),
    partner("encoder_partner", "partner by encoder"), cosine("encoder_similarity", "similarity of encoders"),
    partner("nearest", "most similar"), cosine("nearest_similarity", "its similarity"),
    cosine("nearest_encoder_similarity", "largest of encoders"),
  ];
}

function resultColumns() {
  return [
    { name: "number", title: "feature", about: "number of the feature", value: (row) => row.feature,
      cell: (row) => featureButton(row.sae, row.feature) },
    { name: "decision", title: "decision", about: about("decision"), text: true, value: (row) => row.overall.decision[row.feature],
      cell: (row) => study.decisions[row.overall.decision[row.feature]] },
    { name: "shared_with", title: "shared with", about: about("shared_with_all"), value: (row) => row.overall.sharedWith[row.feature],
      cell: (row) => `${row.overall.sharedWith[row.feature]} of ${study.saes[row.sae].compared.length}` },
    { name: "rate", title: "firing rate", about: "firing rate of the feature, as it was given", optional: true,
      value: (row) => row.rates?.[row.feature], cell: (row) => shown(row.rates?.[row.feature], 3) },
    ...partnerColumns((row) => row),
  ];
}

function searchForm() {
  const form = $("search");
  const field = (title, input) => element("label", {}, title, input);
  const choices = (name, options) => element("select", { name }, ...options.map(([value, title]) => element("option", { value }, title)));
  form.append(
    field(`SAE (${study.axis})`, choices("sae", compared.map((sae) => [sae, nameOf(sae)]))),
    field("Compared with", choices("other", [])),
    field("Feature", element("input", { name: "index", type: "number", min: 0, step: 1, title: "number of a feature" })),
    field("Decision", choices("decision", [["", "any"], ...study.decisions.map((text, place) => [place, text])])),
    element("fieldset", {},
      field("Similarity from", element("input", { name: LIMITS[0], type: "number", step: "any", title: about("similarity") })),
      field("to", element("input", { name: LIMITS[1], type: "number", step: "any", "aria-label": "Similarity to" }))),
    element("button", { type: "reset" }, "Clear"));
  searchBy(form, search, SEARCHED);
  fillForm();
}

// Show in the form what the address says.
function fillForm() {
  const { elements } = $("search");
  elements.sae.value = chosenSAE();
  elements.other.replaceChildren(...study.saes[chosenSAE()].compared.map((sae) => element("option", { value: sae }, nameOf(sae))));
  elements.other.value = chosenOther();
  for (const name of SEARCHED) elements[name].value = get(name);
}

// Store the search in the address, and show its results.
function search() {
  const inputs = [...$("search").elements].filter((input) => input.name);
  set(Object.fromEntries(inputs.map((input) => [input.name, input.value])));
  if (!hasFeature(get("feature"))) set({ feature: "" });
  fillForm();
  showResults();
}

async function showResults() {
  const current = ++searches, sae = chosenSAE(), other = chosenOther();
  const [columns, overall, rates] = await Promise.all([known.partners(sae, other), known.overall(sae), known.rates(sae)]);
  if (current !== searches) return; // another search has started
  const [index, decision, low, high] = SEARCHED.map((name) => (get(name) === "" ? null : Number(get(name))));
  const rows = [];
  for (let feature = 0; feature < featuresOf(sae); feature++) {
    const value = columns.similarity[feature];
    const fits = (index === null || feature === index) && (decision === null || overall.decision[feature] === decision) &&
      (low === null || value >= low) && (high === null || value <= high);
    if (fits) rows.push({ sae, other, feature, columns, overall, rates });
  }
  $("found").textContent = `${number(rows.length)} of ${number(featuresOf(sae))} features of ${titleOf(sae)}, with their partners in ${titleOf(other)}`;
  results.sort = sortOfAddress();
  results.show(rows);
  await showFeature();
}

// Show a feature of an SAE, which may be another one than that of the table.
async function show(sae, feature) {
  if (sae !== chosenSAE()) {
    const from = chosenSAE();
    set({ sae, other: from, index: "", decision: "", [LIMITS[0]]: "", [LIMITS[1]]: "" });
    fillForm();
  }
  set({ feature });
  await showResults();
  $("feature-title")?.focus(); // null if another search has started
}

async function showFeature() {
  const sae = chosenSAE(), place = $("feature");
  place.hidden = get("feature") === "";
  if (place.hidden) return;
  const feature = Number(get("feature")), { compared: others } = study.saes[sae];
  const rows = await Promise.all(others.map(async (other) => ({ sae, other, feature, columns: await known.partners(sae, other) })));
  const { decision, sharedWith } = await known.overall(sae), rates = await known.rates(sae);
  const table = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "The feature in other SAEs" });
  const rate = rates ? ` Its firing rate is ${shown(rates[feature], 3)}.` : "";
  place.replaceChildren(
    element("h3", { id: "feature-title", tabindex: "-1", dir: "auto" }, `${start(sae)}, feature ${feature}`),
    element("p", {}, `${capitalized(study.decisions[decision[feature]])}: found in ${sharedWith[feature]} of the ${others.length} SAEs ` +
      `that this one was compared with.${rate}`),
    table);
  new SortedTable(table, [
    { name: "sae", title: study.axis, about: "name of the other SAE", text: true, value: (row) => row.other, cell: (row) => nameOf(row.other) },
    { name: "decision", title: "decision", about: about("decision"), text: true, value: (row) => row.columns.decision[feature],
      cell: (row) => study.decisions[row.columns.decision[feature]] },
    ...partnerColumns((row) => row),
  ], { caption: "The feature in other SAEs" }).show(rows);
}

function saveResults() {
  const rows = results.rows.map(({ sae, other, feature, columns, overall, rates }) => [
    nameOf(sae), nameOf(other), feature, study.decisions[overall.decision[feature]], overall.sharedWith[feature], rates?.[feature],
    ...Object.keys(columns).map((name) => (name === "decision" ? study.decisions[columns[name][feature]] : columns[name][feature])),
  ]);
  const names = Object.keys(results.rows[0]?.columns ?? {}).map((name) => (name === "decision" ? "decision_in_other" : name));
  download("features.csv", csv(["sae", "other", "feature", "decision", "shared_with", "firing_rate", ...names], rows), "text/csv");
}

function showFeatures() {
  searchForm();
  results = new SortedTable($("table"), resultColumns(), {
    caption: "Features that match the search", changed: storeSort,
    chosen: (row) => get("feature") !== "" && row.feature === Number(get("feature")),
  });
  $("tools").append(...resultTools(saveResults));
}
