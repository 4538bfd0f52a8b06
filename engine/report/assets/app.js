"use strict";
// The three views. What is looked at is in the address after #, so that a link reopens it.
const $ = (id) => document.getElementById(id);
const NUMBERS = ["cost", "encoder", "bias", "decoder", "cosine", "margin", "runner_up_cost"];
const RANGES = ["cost", "cosine", "margin"];
const DIGITS = { cosine: 3 };
const TITLES = { partner: "partner", cost: "cost", encoder: "encoder", bias: "bias", decoder: "decoder", cosine: "cosine", margin: "margin",
  tied: "tied", runner_up: "runner-up", runner_up_cost: "its cost" };

const state = new URLSearchParams(location.hash.slice(1));
const get = (name, otherwise = "") => state.get(name) ?? otherwise;
function set(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") state.delete(name);
    else state.set(name, value);
  }
  history.replaceState(null, "", `#${state}`);
}

// ---- Overview

const pairName = (pair) => `${pair.source} → ${pair.target}`;
function about(name) {
  return (run.definitions[name] || "").replace("{}", SAME);
}

function warnings() {
  const found = [];
  for (const { source, target, reason } of run.failures) found.push(`Layers ${source} and ${target} have no matching: ${reason}`);
  if (!run.complete) found.push("The run is not complete: it was stopped, or is still going on.");
  const open = run.pairs.filter((pair) => !pair.certified);
  if (open.length) found.push(`Not proved optimal: ${open.map((pair) => `${pairName(pair)} (${pair.status})`).join(", ")}.`);
  const l0 = new Map(run.layers.map((layer) => [layer.layer, layer.l0]));
  for (const { source, target } of run.two_sets ? [] : run.pairs) {
    const [a, b] = [l0.get(source), l0.get(target)];
    if (a && b && Math.max(a, b) > 1.5 * Math.min(a, b)) found.push(`Layers ${source} and ${target}: L0 differs more than 1.5-fold (${shown(a)} and ${shown(b)}), which alone makes features differ.`);
  }
  if (run.without_saes) found.push(`Cosines and costs by part are missing: ${run.without_saes}`);
  return found;
}

function overview() {
  const list = warnings();
  $("warnings").hidden = !list.length;
  $("warnings").replaceChildren(...list.map((each) => element("li", { dir: "auto" }, each)));
  const { options, versions, machine } = run.run;
  const random = run.pairs.every((pair) => pair.random_cost) ? run.pairs.reduce((sum, pair) => sum + pair.random_cost, 0) : null;
  const total = run.pairs.reduce((sum, pair) => sum + pair.cost, 0);
  const seconds = run.pairs.reduce((sum, pair) => sum + (pair.seconds || 0), 0);
  const gpus = machine && machine.gpus ? machine.gpus.join(", ") : "";
  // of a list, where each layer is from
  const named = (source) => source && typeof source === "object" ? Object.values(source).join(", ") : source;
  const facts = [
    ["Source", named(run.run.source) ?? "in memory"], ["Against", named(run.run.against)], ["Run folder", run.folder],
    ["Pairs of layers", `${run.pairs.length}, ${run.pairs.filter((pair) => pair.certified).length} proved optimal`, "no other matching of the same features costs less: see the proof gap of each"],
    ["Cost", random ? `${shown(total)}, ${percent(total / random)} of a random pairing's` : shown(total), "sum over all pairs of layers and matched features of the squared distance of folded rows"],
    ["Compared", options ? `${options.parts.join(", ")}, folded by ${options.fold}; squared distance` : null, "a feature's row has these parts, in units of the fold"],
    ["Method", options && options.method], ["Pairs above this cost", options && options.max_cost !== null ? options.max_cost : null],
    ["Matched in", seconds ? `${shown(seconds, 3)} s of work on pairs` : null, `${about("seconds")}, added up; pairs may have been in work at once`],
    ["On", machine ? `${machine.cores} cores, ${machine.system} ${machine.processor}${gpus ? `, ${gpus}` : ""}` : null],
    ["With", versions ? Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ") : null],
  ];
  $("facts").replaceChildren(...facts.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value, title]) => element("div", { title }, element("dt", {}, name), element("dd", { dir: "auto" }, String(value)))));
  const columns = [
    { name: "layers", title: "layers", about: "source and target layer", text: true, value: (pair) => pair.source * 1e5 + pair.target,
      cell: (pair) => element("a", { href: `#view=explorer&pair=${pair.source}-${pair.target}` }, pairName(pair)) },
    { name: "features", title: "features", about: "of the source layer", value: (pair) => pair.features },
    { name: "matched", title: "matched", about: "source features that have a partner", value: (pair) => pair.matched },
    { name: "cost", title: "cost", about: "sum over matched features of the squared distance of their folded rows", value: (pair) => pair.cost },
    { name: "share", title: "of random", about: about("share"), value: (pair) => pair.random_cost ? pair.cost / pair.random_cost : null, cell: (pair) => percent(pair.random_cost ? pair.cost / pair.random_cost : null) },
    { name: "gap", title: "proof gap", about: about("gap"), value: (pair) => pair.gap },
    { name: "certified", title: "certified", about: "proved optimal", value: (pair) => Number(pair.certified),
      cell: (pair) => element("span", { class: pair.certified ? "yes" : "no" }, pair.certified ? "yes" : `no: ${pair.status}`) },
    { name: "mean_cosine", title: "mean cosine", about: "of matched decoder rows", value: (pair) => pair.mean_cosine },
    { name: "persistent", title: "persistent", about: about("persistent"), value: (pair) => pair.persistent?.[1], cell: (pair) => percent(pair.persistent?.[1]) },
    { name: "vanished", title: "vanished", about: about("vanished"), value: (pair) => pair.persistent && 1 - pair.persistent[1], cell: (pair) => percent(pair.persistent && 1 - pair.persistent[1]) },
    { name: "born", title: "born", about: about("born"), value: (pair) => pair.born?.[1], cell: (pair) => percent(pair.born?.[1]) },
    { name: "seconds", title: "seconds", about: about("seconds"), value: (pair) => pair.seconds },
  ];
  new SortedTable($("pairs"), columns, { caption: "Pairs of layers" }).show(run.pairs);
  const layers = [
    { name: "layer", title: "layer", about: "its number", value: (layer) => layer.layer },
    { name: "F", title: "features", about: "F, the width of the SAE", value: (layer) => layer.F },
    { name: "d", title: "d", about: "width of the activations", value: (layer) => layer.d },
    { name: "activation", title: "activation", about: "of the encoder", value: (layer) => layer.activation },
    { name: "l0", title: "L0", about: about("l0"), value: (layer) => layer.l0 },
    { name: "format", title: "format", about: "of its files", value: (layer) => layer.format },
    { name: "path", title: "path", about: "where the run read it", text: true, value: (layer) => layer.path },
    { name: "notes", title: "changed", about: "to bring it into the form that is compared", text: true, value: (layer) => (layer.notes || []).join("; ") },
  ];
  new SortedTable($("inputs"), layers, { caption: "Layers" }).show(run.layers);
}

// ---- Pictures

function showPictures() {
  const figures = [], names = run.pairs.map(pairName);
  const methods = new Map(); // of an evaluation: method -> pair -> mean squared error
  for (const row of run.evaluation.mse || []) {
    if (row.seed) continue; // one of the random permutations is enough
    if (!methods.has(row.method)) methods.set(row.method, new Map());
    methods.get(row.method).set(`${row.source}-${row.target}`, row.mse);
  }
  const lines = (series) => series.map(([name, values], at) => ({ name, type: "line", symbol: ["circle", "rect", "triangle", "diamond"][at % 4], data: values }));
  const costs = [["matched", run.pairs.map((pair) => pair.cost)], ["random", run.pairs.map((pair) => pair.random_cost)],
    ["same number", run.pairs.map((pair) => pair.identity_cost)]].filter(([, values]) => values.some((value) => value !== null));
  const table = (head, series, rows) => () => ({ head: [head, ...series.map(([name]) => name)], rows: rows.map((name, at) => [name, ...series.map(([, values]) => values[at])]) });
  figures.push(pictures.figure("cost", "Cost of each pair of layers, beside pairing at random and by number (squared distance)",
    () => ({ legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: names, name: "layers" }, yAxis: { type: "value", name: "cost", nameGap: 48 }, series: lines(costs) }),
    table("layers", costs, names)));
  if (methods.size) {
    const series = [...methods].map(([name, found]) => [name, run.pairs.map((pair) => found.get(`${pair.source}-${pair.target}`) ?? null)]);
    figures.push(pictures.figure("methods", "Mean squared error of matched folded weights, by method",
      () => ({ legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: names, name: "layers" }, yAxis: { type: "value", name: "error", nameGap: 48 }, series: lines(series) }),
      table("layers", series, names)));
  }
  if (run.pairs.some((pair) => pair.persistent)) {
    const series = run.same.map((least, at) => [`cosine ≥ ${least}`, run.pairs.map((pair) => pair.persistent ? pair.persistent[at] : null)]);
    figures.push(pictures.figure("persistent", "Share of features whose partner is alike, by decoder cosine",
      () => ({ legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: names, name: "layers" }, yAxis: { type: "value", min: 0, max: 1, name: "share" }, series: lines(series) }),
      table("layers", series, names)));
  }
  if (run.lifetimes.length) {
    const ages = [...new Set(run.lifetimes.map((row) => row.layers))].sort((a, b) => a - b);
    const series = run.same.map((least) => [`cosine ≥ ${least}`, ages.map((age) => run.lifetimes.find((row) => row.cosine === least && row.layers === age)?.features ?? 0)]);
    figures.push(pictures.figure("lifetimes", "How many layers features live for, by the cosine that a step must have",
      () => ({ legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: ages, name: "layers" }, yAxis: { type: "value", name: "features", nameGap: 48 },
        series: series.map(([name, values]) => ({ name, type: "bar", data: values })) }),
      table("layers", series, ages)));
  }
  if (run.evaluation.distances?.length) {
    const rows = [...run.evaluation.distances].sort((a, b) => a.distance - b.distance);
    figures.push(pictures.figure("distances", "Composed against exact matchings of far layers: share of features with the same partner",
      () => ({ tooltip: {}, xAxis: { type: "value", name: "steps", minInterval: 1 }, yAxis: { type: "value", min: 0, max: 1, name: "agreement" },
        series: [{ type: "scatter", data: rows.map((row) => [row.distance, row.agreement]) }] }),
      () => ({ head: ["source", "target", "steps", "agreement", "composed cost", "exact cost"], rows: rows.map((row) => [row.source, row.target, row.distance, row.agreement, row.composed_cost, row.exact_cost]) })));
  }
  for (const quantity of ["decoder norm", "encoder norm", "threshold"]) {
    const rows = run.layers.map((layer) => [layer.layer, layer.quantities.find((each) => each.quantity === quantity)]).filter(([, found]) => found);
    if (!rows.length) continue;
    const series = [["5 %", "q5"], ["median", "q50"], ["95 %", "q95"]].map(([name, key]) => [name, rows.map(([, found]) => found[key])]);
    figures.push(pictures.figure(quantity.replace(" ", "-"), `${quantity === "threshold" ? "Threshold θ" : quantity[0].toUpperCase() + quantity.slice(1)} of features by layer, unfolded`,
      () => ({ legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: rows.map(([layer]) => layer), name: "layer" }, yAxis: { type: "value", scale: true, name: quantity, nameGap: 48 }, series: lines(series) }),
      table("layer", series, rows.map(([layer]) => layer))));
  }
  $("figures").replaceChildren(...figures);
}

// ---- Explorer

const known = (name) => run.pairs.some((pair) => pair.columns.includes(name));
let results, brushed = [], refreshing = 0;
const selected = () => get("chosen").split(",").filter(Boolean).map((each) => each.split(":").map(Number));

function form() {
  const field = (title, input) => element("label", {}, title, input);
  const pair = element("select", { name: "pair" }, ...(run.server || run.pairs.length < 2 ? [] : [element("option", { value: "all" }, "all pairs of layers")]),
    ...run.pairs.map((each) => element("option", { value: `${each.source}-${each.target}` }, pairName(each))));
  $("search").append(
    field("Layers", pair),
    field("Feature", element("input", { name: "index", type: "number", min: 0, step: 1, title: "number of a feature of the source layer" })),
    field("Label contains", element("input", { name: "text", type: "search", title: "in the label of the feature or of its partner" })),
    ...RANGES.filter(known).map((name) => element("fieldset", {},
      field(`${TITLES[name]} from`, element("input", { name: `${name}-from`, type: "number", step: "any", title: about(name) })),
      field("to", element("input", { name: `${name}-to`, type: "number", step: "any", "aria-label": `${TITLES[name]} to`, title: about(name) })))),
    element("button", { type: "reset" }, "Clear"));
  const first = run.pairs[0];
  for (const input of $("search").elements) if (input.name) input.value = get(input.name, input.name === "pair" ? `${first.source}-${first.target}` : "");
  if (!$("search").elements.pair.value) pair.value = `${first.source}-${first.target}`;
  let waiting;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(searched, 150); });
  $("search").addEventListener("submit", (event) => { event.preventDefault(); searched(); });
  $("search").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const input of $("search").elements) if (input.name && input.name !== "pair") input.value = "";
    searched();
  });
}
function searched() {
  set(Object.fromEntries([...$("search").elements].filter((input) => input.name).map((input) => [input.name, input.value])));
  refresh();
}

const featureLink = (layer, feature, title = `${layer} / ${feature.toLocaleString("en")}`) =>
  element("button", { type: "button", title: `follow feature ${feature} of layer ${layer}`, onclick: () => follow(layer, feature) }, title);

function resultColumns() {
  const values = (name) => (row) => row.of.columns[name]?.[row.at];
  const label = (name, title, text) => ({ name, title, about: "what it fires on", text: true, value: text, cell: (row) => short(text(row) ?? "") });
  return [
    { name: "feature", title: "feature", about: "source layer / number", value: (row) => row.of.source * 1e7 + row.at, cell: (row) => featureLink(row.of.source, row.at) },
    label("label", "label", (row) => row.of.labels.get(row.at)),
    { name: "partner", title: "partner", about: about("partner"), value: values("partner"),
      cell: (row) => { const to = row.of.columns.partner[row.at]; return to < 0 ? "none" : featureLink(row.of.target, to); } },
    label("partner_label", "its label", (row) => row.of.others.get(row.of.columns.partner[row.at])),
    ...NUMBERS.filter((name) => known(name) && name !== "runner_up_cost").map((name) => ({ name, title: TITLES[name], about: about(name), value: values(name), cell: (row) => shown(values(name)(row), DIGITS[name]) })),
    ...(known("runner_up") ? [{ name: "runner_up", title: "runner-up", about: about("runner_up"), value: values("runner_up_cost"),
      cell: (row) => { const to = row.of.columns.runner_up?.[row.at]; return to >= 0 ? element("span", {}, featureLink(row.of.target, to), ` ${shown(row.of.columns.runner_up_cost[row.at])}`) : "–"; } }] : []),
    { name: "choose", title: "flow", about: "draw its path below", value: (row) => Number(isChosen(row.of.source, row.at)),
      cell: (row) => element("button", { type: "button", "aria-pressed": String(isChosen(row.of.source, row.at)), "aria-label": `flow of feature ${row.at} of layer ${row.of.source}`, onclick: () => choose(row.of.source, row.at) }, isChosen(row.of.source, row.at) ? "−" : "+") },
  ];
}

async function refresh() {
  const number = ++refreshing;
  const wanted = get("pair", `${run.pairs[0].source}-${run.pairs[0].target}`);
  const those = run.pairs.filter((pair) => wanted === "all" || wanted === `${pair.source}-${pair.target}`);
  const text = get("text").toLowerCase(), index = get("index") === "" ? null : Number(get("index"));
  const limits = RANGES.map((name) => [name, get(`${name}-from`), get(`${name}-to`)]).filter(([, low, high]) => low !== "" || high !== "")
    .map(([name, low, high]) => [name, low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)]);
  const rows = [], inRange = { cost: [], cosine: [] };
  for (const pair of those) {
    const of = { source: pair.source, target: pair.target, columns: await data.columns(pair.source, pair.target),
      labels: await data.labels(pair.source), others: run.two_sets ? new Map() : await data.labels(pair.target) };
    if (number !== refreshing) return; // another search has begun
    const { columns, labels, others } = of;
    for (const name of ["cost", "cosine"]) if (columns[name]) inRange[name].push(columns[name]);
    for (let at = 0; at < pair.features; at++) {
      if (index !== null && at !== index) continue;
      if (limits.some(([name, low, high]) => !(columns[name]?.[at] >= low && columns[name][at] <= high))) continue;
      if (text && !(labels.get(at) ?? "").toLowerCase().includes(text) && !(others.get(columns.partner[at]) ?? "").toLowerCase().includes(text)) continue;
      rows.push({ of, at });
    }
  }
  const total = those.reduce((sum, pair) => sum + pair.features, 0);
  $("found").textContent = `${rows.length.toLocaleString("en")} of ${total.toLocaleString("en")} features`;
  results.show(rows);
  const key = wanted;
  if (brushed.key !== key) {
    brushed.key = key;
    brush(Object.fromEntries(Object.entries(inRange).filter(([, parts]) => parts.length)));
  }
}

function brush(values) {
  const figures = Object.entries(values).map(([name, parts]) => {
    const bins = histogram(parts.length === 1 ? parts[0] : parts.flatMap((part) => [...part]));
    return pictures.figure(`spread-of-${name}`, `${TITLES[name][0].toUpperCase()}${TITLES[name].slice(1)} of matched features: drag over the bars to filter the table`,
      () => ({ grid: { left: 56, right: 12, top: 12, bottom: 34 }, tooltip: { trigger: "axis" }, brush: { xAxisIndex: 0, brushMode: "single", brushStyle: { borderColor: COLOURS[1] } }, toolbox: { show: false },
        xAxis: { type: "category", data: bins.map((bin) => shown((bin.low + bin.high) / 2, 3)), name: TITLES[name], nameGap: 20 }, yAxis: { type: "value", name: "" },
        series: [{ type: "bar", barCategoryGap: "5%", data: bins.map((bin) => bin.count) }] }),
      () => ({ head: ["from", "to", "features"], rows: bins.map((bin) => [bin.low, bin.high, bin.count]) }),
      { ready: (chart) => {
        chart.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: "lineX", brushMode: "single" } });
        chart.on("brushEnd", ({ areas }) => {
          const range = areas[0]?.coordRange;
          const edges = range ? [bins[Math.max(0, range[0])].low, bins[Math.min(bins.length - 1, range[1])].high] : ["", ""];
          const rounded = edges.map((edge) => edge === "" ? "" : Number(edge.toPrecision(6)));
          $("search").elements[`${name}-from`].value = rounded[0];
          $("search").elements[`${name}-to`].value = rounded[1];
          searched();
        });
      } });
  });
  $("brushes").replaceChildren(...figures);
  Object.keys(values).forEach((name) => pictures.draw(`spread-of-${name}`));
}

async function follow(layer, feature, move = true) {
  set({ layer, feature });
  results.draw(); // its line is marked
  const place = $("feature"), link = data.neuronpedia(layer, feature);
  const path = await data.path(layer, feature);
  const here = path.findIndex((step) => step.layer === layer);
  let first = here, last = here;
  const alike = (at) => path[at].step && (path[at].step.cosine === undefined || path[at].step.cosine >= SAME);
  while (first > 0 && alike(first)) first--;
  while (last + 1 < path.length && alike(last + 1)) last++;
  const cosines = known("cosine");
  const born = path[0].layer === run.layers[0].layer ? "there from the first layer of the run" : `nobody's partner before layer ${path[0].layer}`;
  const ends = path[path.length - 1].layer === run.layers[run.layers.length - 1].layer ? "followed to the last layer" : `without a partner after layer ${path[path.length - 1].layer}`;
  const columns = [
    { name: "layer", title: "layer", about: "its number", value: (step) => step.layer },
    { name: "feature", title: "feature", about: "number in its layer", value: (step) => step.feature, cell: (step) => featureLink(step.layer, step.feature, step.feature.toLocaleString("en")) },
    { name: "label", title: "label", about: "what it fires on", text: true, value: (step) => step.label, cell: (step) => short(step.label ?? "") },
    ...NUMBERS.filter(known).map((name) => ({ name, title: name === "runner_up_cost" ? "runner-up's cost" : TITLES[name], about: about(name), value: (step) => step.step?.[name], cell: (step) => shown(step.step?.[name], DIGITS[name]) })),
    ...(known("runner_up") ? [{ name: "runner_up", title: "runner-up", about: about("runner_up"), value: (step) => step.step?.runner_up,
      cell: (step) => (step.step?.runner_up >= 0 ? featureLink(step.layer, step.step.runner_up, step.step.runner_up.toLocaleString("en")) : "–") }] : []),
    { name: "neuronpedia", title: "Neuronpedia", about: "the feature's own page", value: () => 0, cell: (step) => { const to = data.neuronpedia(step.layer, step.feature); return to ? element("a", { href: to, rel: "noopener noreferrer", target: "_blank" }, "open") : "–"; } },
  ];
  const table = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Path through the layers" });
  const inside = element("div");
  place.replaceChildren(
    element("h3", { id: "feature-title", tabindex: "-1" }, `Layer ${layer}, feature ${feature.toLocaleString("en")}`),
    element("p", { class: "whole", dir: "auto" }, path[here].label ?? "no label"),
    element("p", {}, `Its path has ${path.length} of ${run.layers.length} layers: ${born}, ${ends}.` +
      (cosines && path.length > 1 ? ` The same feature (decoder cosine of each step at least ${SAME}) from layer ${path[first].layer} to ${path[last].layer}.` : "")),
    element("p", {}, "Cost, cosine and the rest of a line are those of the step that leads to it from the line above."),
    element("div", { class: "tools" },
      element("button", { type: "button", "aria-pressed": String(isChosen(layer, feature)), onclick: () => { choose(layer, feature); follow(layer, feature, false); } }, isChosen(layer, feature) ? "Remove from flow" : "Add to flow"),
      element("button", { type: "button", onclick: () => download(`path-${layer}-${feature}.csv`, csv(["layer", "feature", "label", ...NUMBERS.filter(known)], path.map((step) => [step.layer, step.feature, step.label, ...NUMBERS.filter(known).map((name) => step.step?.[name])])), "text/csv") }, "CSV"),
      link && element("a", { href: link, rel: "noopener noreferrer", target: "_blank" }, "On Neuronpedia"),
      link && element("button", { type: "button", title: "asks neuronpedia.org for it", onclick: () => inside.replaceChildren(element("iframe", { src: `${link}?embed=true`, title: "The feature on Neuronpedia", sandbox: "allow-scripts allow-same-origin", referrerpolicy: "no-referrer" })) }, "Show it here")),
    table, inside);
  new SortedTable(table, columns, { caption: "Path through the layers", chosen: (step) => step.layer === layer }).show(path);
  place.hidden = false;
  if (move) $("feature-title").focus();
}

const isChosen = (layer, feature) => selected().some(([a, b]) => a === layer && b === feature);
function choose(layer, feature) {
  const others = selected().filter(([a, b]) => a !== layer || b !== feature);
  const all = isChosen(layer, feature) ? others : [...others, [layer, feature]];
  set({ chosen: all.map((each) => each.join(":")).join(",") });
  results.draw();
  flow();
}

async function flow() {
  const place = $("flow"), those = selected();
  pictures.forget("flow");
  place.hidden = !those.length;
  if (!those.length) return;
  const paths = [];
  for (const [layer, feature] of those.slice(0, 60)) paths.push(await data.path(layer, feature));
  const name = (step) => `${step.layer} / ${step.feature}`, depths = new Map(run.layers.map((layer, at) => [layer.layer, at]));
  const nodes = new Map(), links = new Map();
  paths.forEach((path, number) => path.forEach((step, at) => {
    nodes.set(name(step), { name: name(step), depth: depths.get(step.layer), itemStyle: { color: COLOURS[number % COLOURS.length] }, about: step.label });
    if (at) links.set(name(step), { source: name(path[at - 1]), target: name(step), value: Math.max(0.05, step.step.cosine ?? 1), lineStyle: { color: COLOURS[number % COLOURS.length], opacity: 0.45 } });
  }));
  const ids = those.map(([layer, feature]) => [run.layers.find((each) => each.layer === layer)?.neuronpedia, feature]);
  const listed = ids.every(([id]) => id) && `https://www.neuronpedia.org/quick-list/?name=${encodeURIComponent("saematch")}&features=${encodeURIComponent(JSON.stringify(
    ids.map(([id, feature]) => ({ modelId: id.split("/")[0], layer: id.split("/")[1], index: String(feature) }))))}`;
  place.replaceChildren(
    element("h3", { id: "flow-title" }, "Flow of chosen features through the layers"),
    pictures.figure("flow", `Paths of ${those.length} features; the width of a band is the decoder cosine of the step`,
      () => ({ tooltip: { trigger: "item" }, series: [{ type: "sankey", data: [...nodes.values()], links: [...links.values()], emphasis: { focus: "adjacency" }, nodeAlign: "left", layoutIterations: 0,
        label: { color: document.documentElement.dataset.theme === "dark" ? "#ececec" : "#1a1a1a", fontSize: 10 } }] }),
      () => ({ head: ["feature", "layer", "number", "label", "cosine of the step"], rows: paths.flatMap((path, number) => path.map((step) => [those[number].join(" / "), step.layer, step.feature, step.label, step.step?.cosine])) }),
      { size: "flow" }),
    element("div", { class: "tools" },
      element("button", { type: "button", onclick: () => { set({ chosen: "" }); results.draw(); flow(); } }, "Clear"),
      listed ? element("a", { href: listed, rel: "noopener noreferrer", target: "_blank" }, "As a quick list on Neuronpedia") : element("span", { class: "soft" }, "No quick list: what Neuronpedia calls these SAEs is not known (--neuronpedia says it).")));
  pictures.draw("flow");
}

function explorer() {
  if (!run.pairs.length) {
    $("found").textContent = "No pair of layers is finished.";
    return;
  }
  form();
  results = new SortedTable($("table"), resultColumns(), {
    caption: "Features that were found", sort: get("sort") ? { name: get("sort"), down: get("down") === "1" } : null,
    changed: ({ name, down }) => set({ sort: name, down: down ? "1" : "" }),
    chosen: (row) => String(row.of.source) === get("layer") && String(row.at) === get("feature"),
  });
  $("tools").append(
    element("button", { type: "button", onclick: () => {
      const names = run.pairs[0].columns;
      const rows = results.rows.map(({ of, at }) => [of.source, of.target, at, ...names.map((name) => of.columns[name]?.[at]), of.labels.get(at), of.others.get(of.columns.partner[at])]);
      download("features.csv", csv(["source", "target", "feature", ...names, "label", "partner_label"], rows), "text/csv");
    } }, "These features as CSV"),
    element("span", { class: "soft" }, "The address of this page holds the search: a copy of it reopens the view."));
}

// ---- Views

let shownView = null;
function view() {
  const name = ["overview", "pictures", "explorer"].includes(get("view")) ? get("view") : "overview";
  for (const section of ["overview", "pictures", "explorer"]) $(section).hidden = section !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `saematch: ${name}`;
  if (name === shownView) return;
  shownView = name;
  if (name === "pictures") pictures.drawAll();
  if (name === "explorer" && run.pairs.length) {
    brushed.key = null;
    refresh().then(() => { if (get("layer") && get("feature")) follow(Number(get("layer")), Number(get("feature")), false); flow(); });
  }
}
addEventListener("hashchange", () => {
  const now = new URLSearchParams(location.hash.slice(1));
  const within = [...now.keys()].length === 1 && now.has("view"); // a link of the head keeps the search
  if (!within) for (const name of [...state.keys()]) state.delete(name);
  for (const [name, value] of now) state.set(name, value);
  history.replaceState(null, "", `#${state}`);
  if (!within) {
    for (const input of $("search").elements) if (input.name) input.value = get(input.name, input.name === "pair" ? input.value : "");
    shownView = null;
  }
  view();
  $("main").focus();
});
let resizing;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => pictures.resize(), 100); });

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  pictures.drawAll();
}
$("theme").addEventListener("click", () => { theme(document.documentElement.dataset.theme !== "dark"); set({ theme: document.documentElement.dataset.theme }); });

function fail(reason) {
  $("main").prepend(element("p", { class: "warnings", role: "alert" }, `This view could not be made: ${reason?.message ?? reason}`));
}
addEventListener("unhandledrejection", (event) => fail(event.reason));
overview();
showPictures();
explorer();
theme(get("theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light") === "dark");
view();
document.documentElement.dataset.ready = "yes";
