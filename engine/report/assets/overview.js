"use strict";
// The overview: what was matched, with what and how well, one row per pair of layers and per layer.
const pairName = (pair) => `${keyOf(pair.source)} → ${keyOf(pair.target)}`;
const about = (name) => (run.definitions[name] || "").replace("{}", SAME);
const L0_RATIO = 1.5; // L0s that differ by more than this factor make the features of two layers differ

// A title at the start of a sentence: names stay as they are.
const start = (text) => (run.names.length ? text : capitalized(text));

function warnings() {
  const list = [];
  for (const pair of run.failures) list.push(`${start(titlesOf(pair))} have no matching: ${pair.reason}`);
  if (!run.complete) list.push("The run is not complete: it was stopped, it is still running, or some of its pairs have failed. " +
    "The same saematch layers command finishes it.");
  const unproved = run.pairs.filter((pair) => !pair.certified).map((pair) => `${pairName(pair)} (${pair.status})`);
  if (unproved.length) list.push(`Not proved optimal: ${unproved.join(", ")}.`);
  const l0s = new Map(run.layers.map((layer) => [`${layer.set}:${layer.layer}`, layer.l0]));
  for (const pair of run.pairs) {
    const a = l0s.get(`0:${pair.source}`), b = l0s.get(`${TARGETS}:${pair.target}`);
    if (a && b && Math.max(a, b) > L0_RATIO * Math.min(a, b)) {
      list.push(`${start(titlesOf(pair))}: L0 differs more than ${L0_RATIO}-fold (${shown(a)} and ${shown(b)}), ` +
        "which alone makes features differ.");
    }
  }
  if (run.without_saes) list.push(`Cosines and costs by part are missing: ${run.without_saes}`);
  return list;
}

function showFacts() {
  const { options, versions, machine, source, against } = run.run;
  const sum = (value) => run.pairs.reduce((total, pair) => total + value(pair), 0);
  const cost = sum((pair) => pair.cost), seconds = sum((pair) => pair.seconds || 0);
  const random = run.pairs.every((pair) => pair.random_cost) ? sum((pair) => pair.random_cost) : null;
  const gpus = machine && machine.gpus ? machine.gpus.map((gpu) => `, ${gpu}`).join("") : "";
  // The source of a list is an object: the address of each layer.
  const addresses = (given) => (given && typeof given === "object" ? Object.values(given).join(", ") : given);
  const facts = [
    [run.two_sets ? "First set (source)" : "Source", addresses(source) ?? "in memory"],
    ["Second set (against)", addresses(against)],
    ["Run folder", run.folder],
    [`Pairs of ${run.several}`, `${run.pairs.length}, ${run.pairs.filter((pair) => pair.certified).length} proved optimal`,
      "no other matching of the same features costs less, within the proof gap of each pair"],
    ["Proof", run.basis, "how the bounds were computed that the cost of every pair is compared with"],
    ["Cost", random ? `${shown(cost)}, ${percent(cost / random)} of a random pairing` : shown(cost),
      "sum over all pairs and matched features of the cost of the pair, by the metric of the run"],
    ["Compared", options ? compared(options) : null,
      "parts of a feature row and the scale by which each feature is folded, or what activations are compared by"],
    ["Method", options && options.method],
    ["Maximum cost of a pair", options && options.max_cost],
    ["Time", seconds ? `${shown(seconds, 3)} s of work on pairs` : null,
      `sum of: ${about("seconds")}; pairs can be in work at the same time`],
    ["Machine", machine ? `${machine.cores} cores, ${machine.system} ${machine.processor}${gpus}` : null],
    ["Versions", versions ? Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ") : null],
  ];
  listFacts(facts);
}

function compared(options) {
  const metric = (options.metric ?? "squared_distance").replaceAll("_", " ");
  const mapped = options.map ? "; sources mapped into the basis of the targets" : "";
  if (!options.activations) return `${options.parts.join(", ")}, folded by ${options.fold}; ${metric}${mapped}`;
  const { tokens } = options.activations;
  return `activations by ${metric}${tokens ? `, ${tokens.toLocaleString("en")} tokens` : ""}`;
}

function pairColumns() {
  const share = (pair) => (pair.random_cost ? pair.cost / pair.random_cost : null);
  const vanished = (pair) => pair.persistent && 1 - pair.persistent[1];
  return [
    { name: "layers", title: run.several, about: "source and target", text: true, value: (pair) => pair.source * 1e5 + pair.target,
      cell: (pair) => element("a", { href: `#view=explorer&pair=${pairKey(pair)}` }, pairName(pair)) },
    { name: "features", title: "features", about: "number of features of the source", value: (pair) => pair.features },
    { name: "matched", title: "matched", about: "number of source features with a partner", value: (pair) => pair.matched },
    { name: "cost", title: "cost", about: "sum over matched features of the cost of the pair, by the metric of the run",
      value: (pair) => pair.cost },
    { name: "share", title: "of random", about: about("share"), value: share, cell: (pair) => percent(share(pair)) },
    { name: "gap", title: "proof gap", about: about("gap"), value: (pair) => pair.gap },
    { name: "certified", title: "certified", about: "whether the matching is proved optimal", value: (pair) => Number(pair.certified),
      cell: (pair) => element("span", { class: pair.certified ? "yes" : "no" }, pair.certified ? "yes" : `no: ${pair.status}`) },
    { name: "mean_cosine", title: "mean cosine", about: "mean cosine of matched decoder rows", value: (pair) => pair.mean_cosine,
      cell: (pair) => fixed(pair.mean_cosine) },
    { name: "persistent", title: "persistent", about: about("persistent"), value: (pair) => pair.persistent?.[1],
      cell: (pair) => percent(pair.persistent?.[1]) },
    { name: "vanished", title: "vanished", about: about("vanished"), value: vanished, cell: (pair) => percent(vanished(pair)) },
    { name: "born", title: "born", about: about("born"), value: (pair) => pair.born?.[1], cell: (pair) => percent(pair.born?.[1]) },
    { name: "seconds", title: "seconds", about: about("seconds"), value: (pair) => pair.seconds },
  ];
}

// The column of the layer, or of the name, of SAEs or of the steps of a path; it is sorted by the order of the run.
const layerColumn = () => ({ name: "layer", title: run.axis, about: run.names.length ? "name of the SAE" : `number of the ${run.axis}`,
  text: run.names.length > 0, value: (row) => row.layer, cell: (row) => shown(keyOf(row.layer)) });

function layerColumns() {
  return [
    ...(run.two_sets ? [{ name: "set", title: "set", about: "set of SAEs", text: true, value: (layer) => SETS[layer.set] }] : []),
    layerColumn(),
    { name: "F", title: "features", about: "F, the number of features of the SAE", value: (layer) => layer.F },
    { name: "d", title: "d", about: "width of the activations", value: (layer) => layer.d },
    { name: "activation", title: "activation", about: "activation function of the encoder", text: true, value: (layer) => layer.activation },
    { name: "l0", title: "L0", about: about("l0"), optional: true, value: (layer) => layer.l0 },
    { name: "format", title: "format", about: "format of the files", text: true, value: (layer) => layer.format },
    { name: "path", title: "path", about: "where the run read the SAE", text: true, value: (layer) => layer.path },
    { name: "notes", title: "changes", about: "what was changed to bring the SAE into the form that is compared", text: true,
      optional: true, value: (layer) => (layer.notes || []).join("; ") },
  ];
}

function showOverview() {
  $("pairs-title").textContent = `Pairs of ${run.several}`;
  $("inputs-title").textContent = start(run.several);
  const list = warnings();
  $("warnings").hidden = !list.length;
  $("warnings").replaceChildren(...list.map((warning) => element("li", { dir: "auto" }, warning)));
  showFacts();
  new SortedTable($("pairs"), pairColumns(), { caption: `Pairs of ${run.several}` }).show(run.pairs);
  new SortedTable($("inputs"), layerColumns(), { caption: start(run.several) }).show(run.layers);
}
