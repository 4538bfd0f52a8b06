"use strict";
// The data of the page. They are unpacked when they are needed: from the page itself, or from the server.
const run = JSON.parse(document.getElementById("summary").textContent);
const SAME = run.same[1]; // the decoder cosine from which on a partner counts as the same feature
const pairKey = (pair) => `${pair.source}-${pair.target}`;
// A feature is {set, layer, feature}: in set 0 or, if it is a target in a run of two sets of SAEs, in set 1.
const TARGETS = run.two_sets ? 1 : 0;
const SETS = ["first", "second"];
const sourceOf = (pair, feature) => ({ set: 0, layer: pair.source, feature });
const targetOf = (pair, feature) => ({ set: TARGETS, layer: pair.target, feature });
const isSame = (a, b) => a.set === b.set && a.layer === b.layer && a.feature === b.feature;

// What a layer is called: in tables by its number, or its name in a run of named SAEs; and in sentences.
const keyOf = (layer) => run.names[layer] ?? layer;
const titleOf = (layer) => (/^\d+$/.test(keyOf(layer)) ? `${run.axis} ${keyOf(layer)}` : keyOf(layer));
const titlesOf = ({ source, target }) =>
  run.several === "layers" ? `layers ${source} and ${target}` : `${titleOf(source)} and ${titleOf(target)}`;

// The site that an SAE of a flow reads: "residual", "attention" or "mlp".
const siteOf = (layer) => run.sites[layer];

const isWithinASite = ({ source, target }) => siteOf(source) === siteOf(target);

const data = (() => {
  const pairs = new Map(run.pairs.map((pair) => [pairKey(pair), pair]));
  const sizes = new Map(run.pairs.flatMap((pair) =>
    [[`${TARGETS}:${pair.target}`, pair.targets], [`0:${pair.source}`, pair.features]]));
  const cache = new Map();

  async function request(path, options = {}) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(options)) query.set(name, value);
    const response = await fetch(`${path}?${query}`).catch(() => {
      throw new Error("the server does not answer. Start saematch serve again, and open the address that it prints.");
    });
    if (!response.ok) throw new Error(await response.text());
    return response;
  }

  async function requestColumns(source, target, columns, features) {
    const firsts = [];
    for (let first = 0; first < Math.max(1, features); first += run.server.piece) firsts.push(first);
    await Promise.all(firsts.map(async (first) => {
      const response = await request(`data/${source}/${target}`, { first });
      packed.unpack(await packed.unzip(await response.arrayBuffer()), columns, features, first);
    }));
  }

  // Make something once, and keep it. Of a large run that is served, only a few layers are kept at a time.
  function once(name, make) {
    if (!cache.has(name)) {
      const made = make();
      cache.set(name, made);
      made.catch(() => cache.delete(name));
      const most = run.server ? 12 : 1000;
      if (cache.size > most) cache.delete(cache.keys().next().value);
    }
    return cache.get(name);
  }

  return {
    pair: (source, target) => pairs.get(`${source}-${target}`),
    // The columns of a pair: typed arrays by name.
    columns: (source, target) => once(`pair-${source}-${target}`, async () => {
      const columns = {}, { features } = data.pair(source, target);
      const content = await packed.embedded(`pair-${source}-${target}`);
      if (content) packed.unpack(content, columns, features);
      else await requestColumns(source, target, columns, features);
      return columns;
    }),
    // The source feature of each target feature; -1 without one.
    inverse: (source, target) => once(`inverse-${source}-${target}`, async () => {
      const { partner } = await data.columns(source, target);
      const inverse = new Int32Array(data.pair(source, target).targets).fill(-1);
      partner.forEach((to, from) => { if (to >= 0) inverse[to] = from; });
      return inverse;
    }),
    // Whether the run has a feature.
    has: ({ set, layer, feature }) => Number.isInteger(feature) && feature >= 0 && feature < (sizes.get(`${set}:${layer}`) ?? 0),
    // The labels of a layer, by feature.
    labels: (set, layer) => once(`labels-${set}-${layer}`, async () => {
      let content = await packed.embedded(`labels-${set}-${layer}`);
      if (content === null && run.server) content = await packed.unzip(await (await request(`labels/${set}/${layer}`)).arrayBuffer());
      if (content === null) return new Map();
      const [features, texts] = JSON.parse(new TextDecoder().decode(content));
      return new Map(features.map((feature, at) => [feature, texts[at]]));
    }),
    // The step of paths that leads from a layer: to the nearest layer that it was matched with.
    stepFrom: (layer) => run.two_sets ? undefined
      : run.pairs.filter((pair) => pair.source === layer).sort((a, b) => a.target - b.target)[0],
    // The step of paths that leads to a layer: of several, the step within a site, or else from the nearest layer.
    stepTo: (layer) => run.two_sets ? undefined
      : run.pairs.filter((pair) => pair.target === layer && data.stepFrom(pair.source) === pair)
        .sort((a, b) => isWithinASite(b) - isWithinASite(a) || b.source - a.source)[0],
    // The whole path through a feature: [{set, layer, feature, label, step, pair}]. A step has the values of the pair of
    // features that leads to this feature from the one before; pair is the pair of layers. Of two sets of SAEs, the path
    // is the feature and its partner in every pair of layers, and the step is of these two.
    async path(node) {
      if (run.two_sets) return data.partners(node);
      if (run.server) return (await request(`path/${node.layer}/${node.feature}`)).json();
      const { layer, feature } = node, path = [{ layer, feature }];
      for (let pair; (pair = data.stepTo(path[0].layer)); ) {
        const from = (await data.inverse(pair.source, pair.target))[path[0].feature];
        if (from < 0) break;
        path.unshift({ layer: pair.source, feature: from });
      }
      for (let last = { layer, feature }, pair; (pair = data.stepFrom(last.layer)); ) {
        const to = (await data.columns(pair.source, pair.target)).partner[last.feature];
        if (to < 0) break;
        path.push((last = { layer: pair.target, feature: to }));
      }
      for (let at = 0; at < path.length; at++) {
        path[at].set = 0;
        path[at].label = (await data.labels(0, path[at].layer)).get(path[at].feature);
        if (at === 0) continue;
        path[at].pair = data.pair(path[at - 1].layer, path[at].layer);
        path[at].step = await data.values(path[at].pair, path[at - 1].feature);
      }
      return path;
    },
    // The partners of a feature of a residual stream in the sites that add up to it, as the steps of a path.
    async predecessors({ layer, feature }) {
      const pairs = run.pairs.filter((pair) => pair.target === layer && run.flow?.pairs.includes(pairKey(pair)));
      const found = await Promise.all(pairs.map(async (pair) => {
        const from = (await data.inverse(pair.source, pair.target))[feature];
        if (from < 0) return null;
        const label = (await data.labels(0, pair.source)).get(from);
        return { ...sourceOf(pair, from), label, pair, step: await data.values(pair, from) };
      }));
      return found.filter((one) => one !== null);
    },
    async partners(node) {
      const path = [{ set: node.set, layer: node.layer, feature: node.feature }], side = node.set ? "target" : "source";
      for (const pair of run.pairs.filter((pair) => pair[side] === node.layer)) {
        const { partner } = await data.columns(pair.source, pair.target);
        const source = node.set ? (await data.inverse(pair.source, pair.target))[node.feature] : node.feature;
        if (source < 0 || partner[source] < 0) continue;
        path.push({ ...(node.set ? sourceOf(pair, source) : targetOf(pair, partner[source])), pair, step: await data.values(pair, source) });
      }
      return Promise.all(path.map(async (one) => ({ ...one, label: (await data.labels(one.set, one.layer)).get(one.feature) })));
    },
    // The values of all columns of a source feature of a pair of layers.
    async values(pair, feature) {
      const columns = Object.entries(await data.columns(pair.source, pair.target));
      return Object.fromEntries(columns.map(([name, values]) => [name, values[feature]]));
    },
    // The model and the source on Neuronpedia of the SAE of a feature; null if they are not known.
    source({ set, layer }) {
      const address = run.layers.find((one) => one.set === set && one.layer === layer)?.neuronpedia;
      return address ? address.split("/") : null;
    },
    // The address of a feature on Neuronpedia; null if that of its SAE is not known.
    neuronpedia(node) {
      const source = data.source(node);
      return source ? `https://www.neuronpedia.org/${source.map(encodeURIComponent).join("/")}/${node.feature}` : null;
    },
  };
})();
