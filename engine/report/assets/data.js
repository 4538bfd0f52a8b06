"use strict";
// The data of the page: unpacked when it is asked for, from the page itself or from the server that it came from.
const run = JSON.parse(document.getElementById("summary").textContent);
const SAME = run.same[1]; // the decoder cosine from which on a partner counts as the same feature

const data = (() => {
  const INTEGERS = new Set(["partner", "runner_up", "tied"]);
  const pairs = new Map(run.pairs.map((pair) => [`${pair.source}-${pair.target}`, pair]));
  const kept = new Map();

  const unzip = (packed) => new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

  // What lies in the page; null where there is none.
  async function inside(name) {
    const place = document.getElementById(name);
    if (!place) return null;
    const text = atob(place.textContent), packed = new Uint8Array(text.length);
    for (let at = 0; at < text.length; at++) packed[at] = text.charCodeAt(at);
    return unzip(packed);
  }

  async function ask(path, options = {}) {
    const query = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(options)) query.set(name, value);
    const answer = await fetch(`${path}?${query}`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  }

  // A line of JSON with the names of columns, then the columns.
  function unpacked(content, into, first) {
    const bytes = new Uint8Array(content), end = bytes.indexOf(10) + 1;
    const names = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    const rows = (content.byteLength - end) / 4 / names.length;
    names.forEach((name, at) => {
      const Kind = INTEGERS.has(name) ? Int32Array : Float32Array;
      into[name] ??= new Kind(into.features);
      into[name].set(new Kind(content, end + 4 * rows * at, rows), first);
    });
  }

  function once(name, make) {
    if (!kept.has(name)) {
      const answer = make();
      kept.set(name, answer);
      answer.catch(() => kept.delete(name));
      const most = run.server ? 12 : 1000; // of a large run, no more than a few layers at once
      if (kept.size > most) kept.delete(kept.keys().next().value);
    }
    return kept.get(name);
  }

  return {
    pairs: run.pairs,
    about: (source, target) => pairs.get(`${source}-${target}`),
    // Column name -> typed array, of one pair.
    columns: (source, target) => once(`pair-${source}-${target}`, async () => {
      const found = { features: pairs.get(`${source}-${target}`).features };
      const content = await inside(`pair-${source}-${target}`);
      if (content) unpacked(content, found, 0);
      else {
        const firsts = [];
        for (let first = 0; first < Math.max(1, found.features); first += run.server.piece) firsts.push(first);
        await Promise.all(firsts.map(async (first) => unpacked(await unzip(await (await ask(`data/${source}/${target}`, { first })).arrayBuffer()), found, first)));
      }
      delete found.features;
      return found;
    }),
    // Target feature -> its source feature, -1 for none.
    inverse: (source, target) => once(`inverse-${source}-${target}`, async () => {
      const { partner } = await data.columns(source, target);
      const found = new Int32Array(data.about(source, target).targets).fill(-1);
      partner.forEach((to, from) => { if (to >= 0) found[to] = from; });
      return found;
    }),
    // Feature -> text.
    labels: (layer) => once(`labels-${layer}`, async () => {
      const content = await inside(`labels-${layer}`) ?? (run.server ? await unzip(await (await ask(`labels/${layer}`)).arrayBuffer()) : null);
      if (content === null) return new Map();
      const [features, texts] = JSON.parse(new TextDecoder().decode(content));
      return new Map(features.map((feature, at) => [feature, texts[at]]));
    }),
    // The pair that a path takes from a layer, or to it: the nearest layer that it was matched with.
    next: (layer) => run.two_sets ? undefined : run.pairs.filter((pair) => pair.source === layer).sort((a, b) => a.target - b.target)[0],
    before: (layer) => run.two_sets ? undefined : run.pairs.filter((pair) => pair.target === layer && data.next(pair.source) === pair)
      .sort((a, b) => b.source - a.source)[0],
    // The whole path through a feature: [{layer, feature, step}], step being the values of the pair that led there.
    async path(layer, feature) {
      if (run.server) return (await ask(`path/${layer}/${feature}`)).json();
      const back = [], on = [];
      for (let at = { layer, feature }, pair; (pair = data.before(at.layer)); ) {
        const from = (await data.inverse(pair.source, pair.target))[at.feature];
        if (from < 0) break;
        back.unshift({ layer: pair.source, feature: from });
        at = back[0];
      }
      const all = [...back, { layer, feature }];
      for (let at = all[all.length - 1], pair; (pair = data.next(at.layer)); ) {
        const to = (await data.columns(pair.source, pair.target)).partner[at.feature];
        if (to < 0) break;
        on.push((at = { layer: pair.target, feature: to }));
      }
      const path = [...all, ...on];
      for (let at = 0; at < path.length; at++) {
        path[at].label = (await data.labels(path[at].layer)).get(path[at].feature);
        if (at === 0) continue;
        const columns = await data.columns(path[at - 1].layer, path[at].layer);
        path[at].step = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[path[at - 1].feature]]));
      }
      return path;
    },
    neuronpedia(layer, feature) {
      const about = run.layers.find((each) => each.layer === layer);
      return about && about.neuronpedia ? `https://www.neuronpedia.org/${about.neuronpedia.split("/").map(encodeURIComponent).join("/")}/${feature}` : null;
    },
  };
})();
