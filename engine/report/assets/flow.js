"use strict";
// The flow of chosen features: a diagram of their paths through the layers.
const MOST_PATHS = MOST_COLOURS; // of a diagram

const chosen = () => get("chosen").split(",").filter(Boolean).map((feature) => feature.split(":").map(Number));
const isChosen = (layer, feature) => chosen().some(([a, b]) => a === layer && b === feature);

function choose(layer, feature) {
  const others = chosen().filter(([a, b]) => a !== layer || b !== feature);
  const features = isChosen(layer, feature) ? others : [...others, [layer, feature]];
  set({ chosen: features.map((one) => one.join(":")).join(",") });
  results.draw();
  showFlow();
}

async function showFlow() {
  const place = $("flow"), features = chosen();
  charts.forget("flow");
  place.hidden = !features.length;
  if (!features.length) return;
  const paths = [];
  for (const [layer, feature] of features.slice(0, MOST_PATHS)) paths.push(await data.path(layer, feature));
  const { nodes, links } = flowGraph(paths);
  const options = () => ({ tooltip: { trigger: "item" }, series: [{
    type: "sankey", data: nodes, links, emphasis: { focus: "adjacency" }, nodeAlign: "left", layoutIterations: 0,
    label: { color: inkColour(), fontSize: 10 },
  }] });
  const numbers = () => ({
    head: ["feature", "layer", "number", "label", "cosine of the step"],
    rows: paths.flatMap((path, at) => path.map((step) =>
      [features[at].join(" / "), step.layer, step.feature, step.label, step.step?.cosine])),
  });
  const title = `Paths of ${features.length} features; the width of a band is the decoder cosine of the step`;
  const list = quickList(features);
  place.replaceChildren(
    element("h3", { id: "flow-title" }, "Flow of chosen features through the layers"),
    charts.figure("flow", title, options, numbers, { size: "flow" }),
    element("div", { class: "tools" },
      button("Clear", () => { set({ chosen: "" }); results.draw(); showFlow(); }),
      list ? outsideLink(list, "As a quick list on Neuronpedia") : element("span", { class: "soft" },
        "There is no quick list, because the address of these SAEs on Neuronpedia is not known; give it with the option --neuronpedia.")));
  charts.draw("flow");
}

// The nodes and links of a Sankey diagram: features and steps, in a colour for each path.
function flowGraph(paths) {
  const name = (step) => `${step.layer} / ${step.feature}`;
  const depths = new Map(run.layers.map((layer, depth) => [layer.layer, depth]));
  const nodes = new Map(), links = new Map();
  paths.forEach((path, number) => {
    const color = COLOURS[number];
    path.forEach((step, at) => {
      nodes.set(name(step), { name: name(step), depth: depths.get(step.layer), itemStyle: { color }, about: step.label });
      if (!at) return;
      const value = Math.max(0.05, step.step.cosine ?? 1);
      links.set(name(step), { source: name(path[at - 1]), target: name(step), value, lineStyle: { color, opacity: 0.45 } });
    });
  });
  return { nodes: [...nodes.values()], links: [...links.values()] };
}

// The address of a quick list on Neuronpedia; null if the address of one of the SAEs is not known.
function quickList(features) {
  const saes = features.map(([layer]) => run.layers.find((one) => one.layer === layer)?.neuronpedia);
  if (!saes.every(Boolean)) return null;
  const list = saes.map((sae, at) => ({ modelId: sae.split("/")[0], layer: sae.split("/")[1], index: String(features[at][1]) }));
  return `https://www.neuronpedia.org/quick-list/?name=saematch&features=${encodeURIComponent(JSON.stringify(list))}`;
}
