"use strict";
// The explorer: search features, and follow one of them through the layers.
const NUMBERS = ["cost", "cosine", "margin", "encoder", "bias", "decoder"];
const OTHER_TARGET = ["runner_up", "runner_up_cost", "runner_up_taken_by"];
const RANGES = ["cost", "cosine", "margin"];
const TITLES = {
  partner: "partner", cost: "cost", encoder: "encoder", bias: "bias", decoder: "decoder", cosine: "cosine", margin: "margin",
  tied: "tied", runner_up: "cheapest other target",
};

const known = (name) => run.pairs.some((pair) => pair.columns.includes(name)); // whether any pair has a column
let results; // the table of features
let drawnHistograms = null; // the pairs of layers whose histograms are drawn
let searches = 0; // number of the latest search
const number = (value) => value.toLocaleString("en");

// A number as text. A margin that is only known to be no less is marked as such.
const shownNumber = (name, value, exact) =>
  (name === "margin" && exact === 0 && Number.isFinite(value) ? "≥ " : "") + (name === "cosine" ? fixed : shown)(value);

const layerName = ({ set, layer }) => `${titleOf(layer)}${run.two_sets ? ` of the ${SETS[set]} set` : ""}`;
const featureLink = (node, title = `${keyOf(node.layer)} / ${node.feature}`) =>
  button(title, () => follow(node), { title: `follow feature ${node.feature} of ${layerName(node)}` });

// The cheapest target feature other than the partner, its cost, and the source feature that it is the partner of.
function otherTarget(pair, { runner_up: feature, runner_up_cost: cost, runner_up_taken_by: holder }) {
  if (!(feature >= 0)) return "–";
  return element("span", {}, featureLink(targetOf(pair, feature)), ` costs ${shown(cost)}, `,
    ...(holder >= 0 ? ["taken by ", featureLink(sourceOf(pair, holder))] : ["free"]));
}

// ---- Search

function searchForm() {
  const form = $("search"), first = pairKey(run.pairs[0]);
  const field = (title, input) => element("label", {}, title, input);
  const range = (name) => {
    const input = (end, attributes) =>
      element("input", { name: `${name}-${end}`, type: "number", step: "any", title: about(name), ...attributes });
    return element("fieldset", {}, field(`${TITLES[name]} from`, input("from")),
      field("to", input("to", { "aria-label": `${TITLES[name]} to` })));
  };
  // A server sends one pair of layers at a time, so it does not offer all of them at once.
  const all = run.server || run.pairs.length < 2 ? [] : [element("option", { value: "all" }, `all pairs of ${run.several}`)];
  const pairs = run.pairs.map((pair) => element("option", { value: pairKey(pair) }, pairName(pair)));
  form.append(
    field(start(run.several), element("select", { name: "pair" }, ...all, ...pairs)),
    field("Feature", element("input", {
      name: "index", type: "number", min: 0, step: 1, title: "number of a feature of the source",
    })),
    field("Label contains", element("input", {
      name: "text", type: "search", title: "text in the label of the feature or of its partner",
    })),
    ...RANGES.filter(known).map(range),
    element("button", { type: "reset" }, "Clear"));
  for (const input of form.elements) if (input.name) input.value = get(input.name, input.name === "pair" ? first : "");
  if (!form.elements.pair.value) form.elements.pair.value = first;
  searchBy(form, search, [...form.elements].map((input) => input.name).filter((name) => name && name !== "pair"));
}

// Store the search in the address, and show its results.
function search() {
  const inputs = [...$("search").elements].filter((input) => input.name);
  set(Object.fromEntries(inputs.map((input) => [input.name, input.value])));
  showResults();
}

// Return a function that says whether a feature meets all conditions of the search.
function searchConditions() {
  const text = get("text").toLowerCase(), index = get("index") === "" ? null : Number(get("index"));
  const limits = RANGES.map((name) => [name, get(`${name}-from`), get(`${name}-to`)])
    .filter(([, low, high]) => low !== "" || high !== "")
    .map(([name, low, high]) => [name, low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)]);
  const contains = (label) => (label ?? "").toLowerCase().includes(text);
  return ({ columns, labels, partnerLabels }, feature) =>
    (index === null || feature === index) &&
    (!limits.length || columns.partner[feature] >= 0) && // a feature without a partner has no cost, margin or cosine
    limits.every(([name, low, high]) => columns[name]?.[feature] >= low && columns[name][feature] <= high) &&
    (!text || contains(labels.get(feature)) || contains(partnerLabels.get(columns.partner[feature])));
}

// Everything about a pair of layers that the rows of the table need.
async function openPair({ source, target }) {
  return {
    source, target, columns: await data.columns(source, target), labels: await data.labels(0, source),
    partnerLabels: await data.labels(TARGETS, target),
  };
}

async function showResults() {
  const current = ++searches;
  const wanted = get("pair", pairKey(run.pairs[0]));
  const pairs = run.pairs.filter((pair) => wanted === "all" || wanted === pairKey(pair));
  const matches = searchConditions();
  const rows = [], values = { cost: [], cosine: [] };
  for (const pair of pairs) {
    const opened = await openPair(pair);
    if (current !== searches) return; // another search has started
    for (const name of Object.keys(values)) {
      if (opened.columns[name]) values[name].push(opened.columns[name].filter((_, feature) => opened.columns.partner[feature] >= 0));
    }
    for (let feature = 0; feature < pair.features; feature++) {
      if (matches(opened, feature)) rows.push({ pair: opened, feature });
    }
  }
  const total = pairs.reduce((sum, pair) => sum + pair.features, 0);
  $("found").textContent = `${number(rows.length)} of ${number(total)} features`;
  results.show(rows);
  if (drawnHistograms !== wanted) {
    drawnHistograms = wanted;
    showHistograms(Object.entries(values).filter(([, parts]) => parts.length));
  }
}

function resultColumns() {
  const value = (name) => ({ pair, feature }) => pair.columns[name]?.[feature];
  const labelColumn = (name, title, label) =>
    ({ name, title, about: "what the feature fires on", text: true, optional: true, value: label, cell: (row) => short(label(row) ?? "") });
  const source = ({ pair, feature }) => sourceOf(pair, feature), target = (row) => targetOf(row.pair, value("partner")(row));
  const other = (row) => Object.fromEntries(OTHER_TARGET.map((name) => [name, value(name)(row)]));
  return [
    { name: "feature", title: "feature", about: "source / number of the feature",
      value: (row) => row.pair.source * 1e7 + row.feature, cell: (row) => featureLink(source(row)) },
    labelColumn("label", "label", (row) => row.pair.labels.get(row.feature)),
    { name: "partner", title: "partner", about: about("partner"), value: value("partner"),
      cell: (row) => (value("partner")(row) < 0 ? "none" : featureLink(target(row))) },
    labelColumn("partner_label", "its label", (row) => row.pair.partnerLabels.get(value("partner")(row))),
    ...NUMBERS.filter(known).map((name) => ({ name, title: TITLES[name], about: about(name), value: value(name),
      cell: (row) => shownNumber(name, value(name)(row), value("margin_exact")(row)) })),
    ...(known("runner_up") ? [{ name: "runner_up", title: TITLES.runner_up, about: about("runner_up"), value: value("runner_up_cost"),
      cell: (row) => otherTarget(row.pair, other(row)) }] : []),
    { name: "choose", title: "flow", about: "draw the path of the feature in the flow diagram below",
      value: (row) => Number(isChosen(source(row))),
      cell: (row) => button(isChosen(source(row)) ? "−" : "+", () => choose(source(row)), {
        "aria-pressed": String(isChosen(source(row))), "aria-label": `flow of feature ${row.feature} of ${titleOf(row.pair.source)}`,
      }) },
  ];
}

function saveResults() {
  const names = run.pairs[0].columns;
  const rows = results.rows.map(({ pair, feature }) => [
    keyOf(pair.source), keyOf(pair.target), feature, ...names.map((name) => pair.columns[name]?.[feature]), pair.labels.get(feature),
    pair.partnerLabels.get(pair.columns.partner[feature]),
  ]);
  download("features.csv", csv(["source", "target", "feature", ...names, "label", "partner_label"], rows), "text/csv");
}

// Histograms of all features of the chosen layers. A range that is selected in one limits the search.
function showHistograms(values) {
  const figures = values.map(([name, parts]) => {
    const bins = histogram(parts.length === 1 ? parts[0] : parts.flatMap((part) => [...part]));
    const options = () => ({
      grid: { left: 56, right: 12, top: 12, bottom: 34 }, tooltip: { trigger: "axis" }, toolbox: { show: false },
      brush: { xAxisIndex: 0, brushMode: "single", brushStyle: { borderColor: COLOURS[1] } },
      xAxis: { type: "category", data: bins.map((bin) => shown(bin.low, 6)), name: `${TITLES[name]} from`, nameGap: 20 },
      yAxis: { type: "value", name: "" },
      series: [{ type: "bar", barCategoryGap: "5%", data: bins.map((bin) => bin.count) }],
    });
    const numbers = () => ({ head: ["from", "to", "features"], rows: bins.map((bin) => [bin.low, bin.high, bin.count]) });
    const title = `${capitalized(TITLES[name])} of matched features: drag over the bars to filter the table`;
    return charts.figure(`spread-of-${name}`, title, options, numbers, { ready: (chart) => filterByBrush(chart, name, bins) });
  });
  $("brushes").replaceChildren(...figures);
  for (const [name] of values) charts.draw(`spread-of-${name}`);
}

function filterByBrush(chart, name, bins) {
  chart.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: "lineX", brushMode: "single" } });
  chart.on("brushEnd", ({ areas }) => {
    const range = areas[0]?.coordRange;
    const edges = range ? [bins[Math.max(0, range[0])].low, bins[Math.min(bins.length - 1, range[1])].high] : ["", ""];
    const [from, to] = edges.map((edge) => (edge === "" ? "" : Number(edge.toPrecision(6))));
    $("search").elements[`${name}-from`].value = from;
    $("search").elements[`${name}-to`].value = to;
    search();
  });
}

// ---- One feature

// The feature that is followed, as the address says; null if none is.
const followed = () => (get("feature") === "" ? null
  : { set: Number(get("set", "0")), layer: Number(get("layer")), feature: Number(get("feature")) });

async function follow(node, focus = true) {
  set({ set: node.set || "", layer: node.layer, feature: node.feature });
  results.draw(); // the row of the feature is marked
  const path = await data.path(node);
  const place = $("feature"), link = data.neuronpedia(node), { label } = path.find((step) => isSame(step, node));
  const table = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Path through the ${run.several}` });
  const before = await data.predecessors(node);
  const sites = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Predecessors by site" });
  const embedded = element("div");
  const embed = () => embedded.replaceChildren(element("iframe", {
    src: `${link}?embed=true`, title: "The feature on Neuronpedia", sandbox: "allow-scripts allow-same-origin",
    referrerpolicy: "no-referrer",
  }));
  place.replaceChildren(
    element("h3", { id: "feature-title", tabindex: "-1" }, `${start(layerName(node))}, feature ${node.feature}`),
    element("p", { class: "whole", dir: "auto" }, label ?? "This feature has no label."),
    element("p", {}, run.two_sets ? describePartners(path) : describePath(path, node.layer)),
    element("p", {}, run.two_sets ? "The numbers in a row belong to the pair of this feature and the feature in the row."
      : "The numbers in a row belong to the step that leads to its feature from the feature in the row above."),
    element("div", { class: "tools" },
      button(isChosen(node) ? "Remove from flow" : "Add to flow", () => {
        choose(node);
        follow(node, false);
      }, { "aria-pressed": String(isChosen(node)) }),
      button("CSV", () => savePath(path, node)),
      link && outsideLink(link, "On Neuronpedia"),
      link && button("Show it here", embed, { title: "loads the feature from neuronpedia.org" })),
    table,
    before.length ? element("p", {}, "The partner of this feature in each site that adds up to its residual stream. " +
      "The numbers in a row belong to the pair of this feature and the feature in the row.") : "",
    before.length ? sites : "", embedded);
  if (before.length) new SortedTable(sites, pathColumns(), { caption: "Predecessors by site" }).show(before);
  new SortedTable(table, pathColumns(), { caption: `Path through the ${run.several}`, chosen: (step) => isSame(step, node) }).show(path);
  place.hidden = false;
  if (focus) $("feature-title").focus();
}

// Say where a path begins and ends.
function describePath(path, layer) {
  const first = path[0].layer, last = path[path.length - 1].layer;
  if (run.sites.length) return `The path follows the residual stream from ${titleOf(first)} to ${titleOf(last)}.${describeSame(path, layer)}`;
  const one = run.several.slice(0, -1);
  const begin = first === run.layers[0].layer ? `from the first ${one} of the run`
    : `from ${titleOf(first)}, where it is not the partner of any feature`;
  const end = last === run.layers[run.layers.length - 1].layer ? `to the last ${one}`
    : `to ${titleOf(last)}, where it has no partner`;
  return `The path has ${path.length} of ${run.layers.length} ${run.several}: ${begin}, ${end}.${describeSame(path, layer)}`;
}

// Say in which layers a path stays the same feature.
function describeSame(path, layer) {
  if (!known("cosine") || path.length < 2) return "";
  const alike = (step) => step.step && (missing(step.step.cosine) || step.step.cosine >= SAME);
  const here = path.findIndex((step) => step.layer === layer);
  let from = here, to = here;
  while (from > 0 && alike(path[from])) from--;
  while (to + 1 < path.length && alike(path[to + 1])) to++;
  if (from === to) return ` No step that begins or ends here has a decoder cosine of at least ${SAME}.`;
  return ` It is the same feature (each step has a decoder cosine of at least ${SAME}) from ${titleOf(path[from].layer)} ` +
    `to ${titleOf(path[to].layer)}.`;
}

function describePartners([node, ...partners]) {
  const other = SETS[1 - node.set];
  if (partners.length < 2) return `It has ${partners.length ? "a" : "no"} partner in the ${other} set.`;
  return `It has ${partners.length} partners in the ${other} set, one for each pair in which it is matched.`;
}

function pathColumns() {
  return [
    ...(run.two_sets ? [{ name: "set", title: "set", about: "set of SAEs", text: true, value: (step) => SETS[step.set] }] : []),
    layerColumn(),
    { name: "feature", title: "feature", about: "number of the feature in its SAE", value: (step) => step.feature,
      cell: (step) => featureLink(step, String(step.feature)) },
    { name: "label", title: "label", about: "what the feature fires on", text: true, optional: true, value: (step) => step.label,
      cell: (step) => short(step.label ?? "") },
    ...NUMBERS.filter(known).map((name) => ({ name, title: TITLES[name], about: about(name), value: (step) => step.step?.[name],
      cell: (step) => shownNumber(name, step.step?.[name], step.step?.margin_exact) })),
    ...(known("runner_up") ? [{ name: "runner_up", title: TITLES.runner_up, about: about("runner_up"),
      value: (step) => step.step?.runner_up_cost, cell: ({ pair, step }) => (pair ? otherTarget(pair, step) : "–") }] : []),
    { name: "neuronpedia", title: "Neuronpedia", about: "the page of the feature on Neuronpedia", optional: true, value: (step) => data.neuronpedia(step),
      cell: (step) => { const link = data.neuronpedia(step); return link ? outsideLink(link, "open") : "–"; } },
  ];
}

function savePath(path, node) {
  const names = [...NUMBERS, ...OTHER_TARGET].filter(known), head = run.two_sets ? ["set", run.axis] : [run.axis];
  const rows = path.map((step) => [...(run.two_sets ? [SETS[step.set]] : []), keyOf(step.layer), step.feature, step.label,
    ...names.map((name) => step.step?.[name])]);
  download(`path-${node.layer}-${node.feature}.csv`, csv([...head, "feature", "label", ...names], rows), "text/csv");
}

function showExplorer() {
  if (!run.pairs.length) {
    $("found").textContent = "No pair is finished.";
    return;
  }
  searchForm();
  results = new SortedTable($("table"), resultColumns(), {
    caption: "Features that match the search",
    sort: sortOfAddress(), changed: storeSort,
    chosen: (row) => [sourceOf(row.pair, row.feature), targetOf(row.pair, row.pair.columns.partner[row.feature])]
      .slice(0, 1 + TARGETS).some((node) => followed() && isSame(node, followed())),
  });
  $("tools").append(...resultTools(saveResults));
}
