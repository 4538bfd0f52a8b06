"use strict";
// The pictures: charts of the whole run, and of its evaluation if there is one.

// The pairs and the SAEs of a flow are of several sites, and lines would join one site with another.
const IS_JOINED = !run.flow;
// An axis that shows differences, but not those of rounding: it spans at least a hundredth of its values.
const DIFFERENCES = {
  scale: true,
  min: ({ min, max }) => (max - min < 0.01 * Math.abs(max) ? min - 0.01 * Math.abs(max) : null),
  max: ({ min, max }) => (max - min < 0.01 * Math.abs(max) ? max + 0.01 * Math.abs(max) : null),
};

function costPicture(names) {
  const series = [
    ["matched", run.pairs.map((pair) => pair.cost)],
    ["random", run.pairs.map((pair) => pair.random_cost)],
    ["same number", run.pairs.map((pair) => pair.identity_cost)],
  ].filter(([, values]) => values.some((value) => value !== null));
  const title = `Cost of each pair of ${run.several}, compared with pairing at random and by number`;
  return lineChart("cost", title, run.several, names, "cost", series, {}, IS_JOINED);
}

// The mean squared error of each method, if an evaluation measured it.
function methodsPicture(names) {
  const methods = new Map(); // method -> pair -> mean squared error
  for (const row of run.evaluation.mse || []) {
    if (row.seed) continue; // of several random permutations, one is shown
    if (!methods.has(row.method)) methods.set(row.method, new Map());
    methods.get(row.method).set(pairKey(row), row.mse);
  }
  if (!methods.size) return null;
  const series = [...methods].map(([name, errors]) => [name, run.pairs.map((pair) => errors.get(pairKey(pair)) ?? null)]);
  return lineChart("methods", "Mean squared error of matched folded weights, by method", run.several, names, "error", series, {}, IS_JOINED);
}

function persistentPicture(names) {
  if (!run.pairs.some((pair) => pair.persistent)) return null;
  const series = run.same.map((least, number) =>
    [`cosine ≥ ${least}`, run.pairs.map((pair) => (pair.persistent ? pair.persistent[number] : null))]);
  const title = "Share of features that persist: their partner has at least this decoder cosine";
  return lineChart("persistent", title, run.several, names, "share", series, { min: 0, max: 1, nameGap: 28 }, IS_JOINED);
}

function lifetimesPicture() {
  if (!run.lifetimes.length) return null;
  const ages = [...new Set(run.lifetimes.map((row) => row.layers))].sort((a, b) => a - b);
  const features = (least, age) => run.lifetimes.find((row) => row.cosine === least && row.layers === age)?.features ?? 0;
  const series = run.same.map((least) => [`cosine ≥ ${least}`, ages.map((age) => features(least, age))]);
  const options = () => ({
    legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: ages, name: run.several },
    yAxis: { type: "value", name: "features", nameGap: 48 },
    series: series.map(([name, values]) => ({ name, type: "bar", data: values })),
  });
  const title = `Number of ${run.several} that features live for, by the least decoder cosine of a step`;
  return charts.figure("lifetimes", title, options, numbersOf(run.several, ages, series));
}

// Which sites the features of each residual stream have a predecessor in.
function predecessorsPicture(by) {
  const shares = (run.flow?.shares ?? []).filter((row) => row.by === by);
  const bars = shares.filter((row) => row.least === SAME);
  if (!bars.length) return null;
  const { layers, groups } = run.flow, title = (group) => group.replaceAll("+", " + ");
  const colour = (group) => (group === "none" ? "#888888" : COLOURS[groups.indexOf(group)]); // no other group is grey
  const options = () => ({
    legend: {}, tooltip: { trigger: "axis", valueFormatter: percent }, xAxis: { type: "category", data: layers, name: "layer" },
    yAxis: { type: "value", name: "share", min: 0, max: 1 },
    series: bars.map(({ group, shares: data }) =>
      ({ name: title(group), type: "bar", stack: "all", barCategoryGap: "15%", data, color: colour(group) })),
  });
  const numbers = () => ({
    head: ["layer", ...shares.map(({ group, least }) => `${title(group)}, cosine ≥ ${least}`)],
    rows: layers.map((layer, at) => [layer, ...shares.map((row) => row.shares[at])]),
  });
  const way = by === "nearest" ? "nearest feature" : "one-to-one partner";
  return charts.figure(`predecessors-${by}`,
    `Where residual features come from: the sites whose ${way} has a decoder cosine of at least ${SAME}`, options, numbers);
}

// How much of an exact matching of far layers the composed matching finds, if an evaluation measured it.
function distancesPicture() {
  const rows = [...(run.evaluation.distances || [])].sort((a, b) => a.distance - b.distance);
  if (!rows.length) return null;
  const options = () => ({
    tooltip: {}, xAxis: { type: "value", name: "steps", minInterval: 1 },
    yAxis: { type: "value", min: 0, max: 1, name: "agreement" },
    series: [{ type: "scatter", data: rows.map((row) => [row.distance, row.agreement]) }],
  });
  const numbers = () => ({
    head: ["source", "target", "steps", "agreement", "composed cost", "exact cost"],
    rows: rows.map((row) => [row.source, row.target, row.distance, row.agreement, row.composed_cost, row.exact_cost]),
  });
  const title = "Composed and exact matchings of far layers: share of features with the same partner";
  return charts.figure("distances", title, options, numbers);
}

function quantityPicture(quantity) {
  const rows = run.layers.map(({ set, layer, quantities }) => ({ set, layer, ...quantities.find((row) => row.quantity === quantity) }))
    .filter((row) => row.quantity);
  if (!rows.length) return null;
  const layers = [...new Set(rows.map((row) => row.layer))].sort((a, b) => a - b);
  const series = SETS.slice(0, 1 + TARGETS).flatMap((name, set) => [["5 %", "q5"], ["median", "q50"], ["95 %", "q95"]].map(([share, key]) => [
    run.two_sets ? `${share}, ${name} set` : share,
    layers.map((layer) => rows.find((row) => row.set === set && row.layer === layer)?.[key] ?? null),
  ]));
  const title = `${quantity === "threshold" ? "Threshold θ" : capitalized(quantity)} of features by ${run.axis}, unfolded`;
  return lineChart(quantity.replace(" ", "-"), title, run.axis, layers.map(keyOf), quantity, series, DIFFERENCES, IS_JOINED);
}

function showPictures() {
  const names = run.pairs.map(pairName);
  const figures = [
    costPicture(names), methodsPicture(names), persistentPicture(names), predecessorsPicture("nearest"),
    predecessorsPicture("partner"), lifetimesPicture(), distancesPicture(),
    ...["decoder norm", "encoder norm", "threshold"].map(quantityPicture),
  ];
  $("figures").replaceChildren(...figures.filter((figure) => figure !== null));
}
