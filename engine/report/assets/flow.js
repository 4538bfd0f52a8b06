"use strict";
// The flow of chosen features: a diagram of their paths through the layers.
const MOST_PATHS = MOST_COLOURS; // of a diagram
const MOST_LISTED = 60; // features of one quick list: servers refuse addresses that are much longer

// In the address, a feature is layer:feature or, in a second set of SAEs, layer:feature:1.
const chosen = () => get("chosen").split(",").filter(Boolean).map((text) => {
  const [layer, feature, set = 0] = text.split(":").map(Number);
  return { set, layer, feature };
});
const isChosen = (node) => chosen().some((other) => isSame(node, other));

function choose(node) {
  const features = isChosen(node) ? chosen().filter((other) => !isSame(node, other)) : [...chosen(), node];
  set({ chosen: features.map((one) => `${one.layer}:${one.feature}${one.set ? ":1" : ""}`).join(",") });
  results.draw();
  showFlow();
}

async function showFlow() {
  const place = $("flow"), features = chosen();
  charts.forget("flow");
  place.hidden = !features.length;
  if (!features.length) return;
  const paths = [];
  for (const node of features.slice(0, MOST_PATHS)) paths.push(await data.path(node));
  const { nodes, links } = flowGraph(paths);
  const options = () => ({ tooltip: { trigger: "item" }, series: [{
    type: "sankey", data: nodes, links, emphasis: { focus: "adjacency" }, nodeAlign: "left", layoutIterations: 0,
    label: { color: inkColour(), fontSize: 10 },
  }] });
  const numbers = () => ({
    head: ["feature", run.axis, "number", "label", "cosine of the step"],
    rows: paths.flatMap((path, at) => path.map((step) =>
      [nodeName(features[at]), keyOf(step.layer), step.feature, step.label, step.step?.cosine])),
  });
  const title = `Paths of ${features.length} features; the width of a band is the decoder cosine of the step`;
  const lists = quickLists(paths);
  place.replaceChildren(
    element("h3", { id: "flow-title" }, `Flow of chosen features through the ${run.several}`),
    charts.figure("flow", title, options, numbers, { size: "flow" }),
    element("div", { class: "tools" },
      button("Clear", () => { set({ chosen: "" }); results.draw(); showFlow(); }),
      ...lists.map((list, at) => outsideLink(list,
        `All features of these paths as a quick list on Neuronpedia${lists.length > 1 ? `, part ${at + 1} of ${lists.length}` : ""}`)),
      lists.length ? null : element("span", { class: "soft" },
        "There is no quick list, because the address of these SAEs on Neuronpedia is not known; give it with the option --neuronpedia.")));
  charts.draw("flow");
}

const nodeName = ({ set, layer, feature }) => `${keyOf(layer)} / ${feature}${set ? " (second set)" : ""}`;

// The nodes and links of a Sankey diagram: features and steps, in a colour for each path.
function flowGraph(paths) {
  const depths = new Map(run.layers.map((layer, depth) => [layer.layer, depth]));
  const nodes = new Map(), links = new Map();
  paths.forEach((path, number) => {
    const color = COLOURS[number];
    path.forEach((step, at) => {
      const depth = run.two_sets ? step.set : depths.get(step.layer);
      nodes.set(nodeName(step), { name: nodeName(step), depth, itemStyle: { color }, about: step.label });
      if (!at) return;
      const value = Math.max(0.05, step.step.cosine ?? 1);
      const ends = run.two_sets ? [path[0], step].sort((a, b) => a.set - b.set) : [path[at - 1], step];
      const [source, target] = ends.map(nodeName);
      links.set(`${source} - ${target}`, { source, target, value, lineStyle: { color, opacity: 0.45 } });
    });
  });
  return { nodes: [...nodes.values()], links: [...links.values()] };
}

// The addresses of quick lists on Neuronpedia with all features of some paths whose SAEs have an address there.
function quickLists(paths) {
  const nodes = new Map(paths.flat().map((node) => [nodeName(node), node]));
  const list = [...nodes.values()].filter(data.source).map((node) => {
    const [modelId, layer] = data.source(node);
    return { modelId, layer, index: String(node.feature) };
  });
  const parts = Array.from({ length: Math.ceil(list.length / MOST_LISTED) }, (_, at) =>
    list.slice(at * MOST_LISTED, (at + 1) * MOST_LISTED));
  return parts.map((part) =>
    `https://www.neuronpedia.org/quick-list/?name=saematch&features=${encodeURIComponent(JSON.stringify(part))}`);
}
