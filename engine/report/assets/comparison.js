"use strict";
// The data of a comparison of SAEs, which are named by their place in `study.saes`, and its overview.
const study = JSON.parse(document.getElementById("summary").textContent);
const nameOf = (sae) => study.saes[sae].name;
// What an SAE is called in a sentence: a number alone says too little.
const titleOf = (sae) => (/^\d+$/.test(nameOf(sae)) ? `${study.axis} ${nameOf(sae)}` : nameOf(sae));
const pairName = ({ a, b }) => `${nameOf(a)} and ${nameOf(b)}`;
const about = (name) => study.definitions[name] ?? "";
const featuresOf = (sae) => study.saes[sae].F;
const wasCompared = (sae) => study.saes[sae].compared.length > 0;
const compared = study.saes.map((_, sae) => sae).filter(wasCompared);

// What is known of the features of an SAE: their partners in another SAE, and the decision over all others.
const known = (() => {
  const cache = new Map();
  function once(name, make) {
    if (!cache.has(name)) cache.set(name, make());
    return cache.get(name);
  }
  const columns = (name, features) => once(name, async () => {
    const content = await packed.embedded(name);
    return content && packed.unpack(content, {}, features);
  });
  const partners = (sae, other) => columns(`partners-${sae}-${other}`, featuresOf(sae));
  return {
    partners,
    rates: async (sae) => (await columns(`rates-${sae}`, featuresOf(sae)))?.rate,
    // With how many SAEs each feature is shared, and whether it is shared with any, unique compared with all, or uncertain.
    overall: (sae) => once(`overall-${sae}`, async () => {
      const [SHARED, UNIQUE, UNCERTAIN] = study.decisions.keys();
      const sharedWith = new Int32Array(featuresOf(sae)), decision = new Int32Array(featuresOf(sae)).fill(UNIQUE);
      for (const other of study.saes[sae].compared) {
        (await partners(sae, other)).decision.forEach((one, feature) => {
          if (one === SHARED) sharedWith[feature]++;
          if (one !== UNIQUE) decision[feature] = UNCERTAIN;
        });
      }
      sharedWith.forEach((count, feature) => { if (count) decision[feature] = SHARED; });
      return { sharedWith, decision };
    }),
  };
})();

const STATISTIC_TITLES = {
  mcc_decoder: "MCC, decoders", mcc_encoder: "MCC, encoders", mcc_joint: "MCC, both",
  mcc_decoder_absolute: "decoders up to sign", mcc_encoder_absolute: "encoders up to sign", mcc_joint_absolute: "both up to sign",
  mmcs_ab: "MMCS, A to B", mmcs_ba: "MMCS, B to A", shared: "shared", same_partner: "same partner",
  uniqueness_ab: "uniqueness, A to B", uniqueness_ba: "uniqueness, B to A",
};
const NULL_TITLES = { null_random: "random directions", null_rotated: "turned at random" };
const SHARES = ["shared", "same_partner"]; // shown in percent
const shownAs = (name, value) => (SHARES.includes(name) ? percent(value) : shown(value));

// A number of a pair, and how far it is above both null models.
function statisticCell(pair, name) {
  const nulls = study.nulls.filter((one) => pair[one]).map((one) => {
    const { mean, gap, seeds } = pair[one];
    const above = missing(gap[name]) ? "" : `, ${shown(gap[name], 3)} standard deviations below`;
    return `${NULL_TITLES[one]}: ${shownAs(name, mean[name])}${above} (${seeds} seeds)`;
  });
  return element("span", { title: nulls.join("\n") }, shownAs(name, pair[name]));
}

function pairColumns() {
  const nulls = study.nulls.filter((name) => study.pairs[0][name]);
  const statistic = (name) => ({ name, title: STATISTIC_TITLES[name], about: about(name), value: (pair) => pair[name],
    cell: (pair) => statisticCell(pair, name) });
  return [
    { name: "pair", title: "SAEs", about: "names of SAE A and of SAE B", text: true, value: (pair) => pair.a * 1e4 + pair.b,
      cell: (pair) => element("a", { href: `#view=features&sae=${pair.a}&other=${pair.b}` }, pairName(pair)) },
    ...[["features_a", "features of A"], ["features_b", "features of B"]].map(([name, title]) =>
      ({ name, title, about: about(name), value: (pair) => pair[name] })),
    statistic("mcc_decoder"),
    ...nulls.map((name) => ({ name, title: NULL_TITLES[name], about: `MCC of decoders under: ${about(name)}`,
      value: (pair) => pair[name].mean.mcc_decoder })),
    ...study.statistics.filter((name) => name !== "mcc_decoder").map(statistic),
    { name: "certified", title: "certified", about: about("certified"), value: (pair) => Number(pair.certified),
      cell: (pair) => element("span", { class: pair.certified ? "yes" : "no" }, pair.certified ? "yes" : "no") },
  ];
}

function saeColumns() {
  const share = (name, title) => ({ name, title, about: about(name), value: (sae) => sae[name], cell: (sae) => percent(sae[name]) });
  return [
    { name: "sae", title: study.axis, about: "name of the SAE", text: true, value: (sae) => study.saes.indexOf(sae), cell: (sae) => sae.name },
    { name: "F", title: "features", about: "number of features of the SAE", value: (sae) => sae.F },
    { name: "d", title: "d", about: "width of the activations", value: (sae) => sae.d },
    { name: "activation", title: "activation", about: "activation function of the encoder", text: true, value: (sae) => sae.activation },
    { name: "compared_with", title: "compared with", about: about("compared_with"), value: (sae) => sae.compared_with },
    share("shared_with_all", "shared with all"), share("shared_with_some", "with some"), share("shared_with_none", "with none"),
    share("unique", "unique"),
    { name: "format", title: "format", about: "format of the files", text: true, value: (sae) => sae.format },
    { name: "path", title: "path", about: "where the SAE was read", text: true, value: (sae) => sae.path },
    { name: "notes", title: "changes", about: "what was changed to bring the SAE into the form that is compared", text: true,
      optional: true, value: (sae) => sae.notes.join("; ") },
  ];
}

function showFacts() {
  const { versions, machine, device } = study.provenance, proved = study.pairs.filter((pair) => pair.certified).length;
  const three = (suffix) => ["decoder", "encoder", "joint"].map((kind, number) =>
    `${["decoders", "encoders", "both"][number]} ${shown(study.pw[`mcc_${kind}${suffix}`])}`).join(", ");
  const { seeds } = study.pairs[0].null_random ?? {};
  const facts = [
    [`SAEs, by ${study.axis}`, study.saes.length],
    ["Pairs", `${study.pairs.length}, ${study.reference === null ? "each with each" : `all with ${titleOf(study.reference)}`}`],
    ["PW-MCC", three(""), about("pw_mcc")],
    ["PW-MCC up to the sign", three("_absolute"), about("mcc_absolute")],
    ["Shared above a cosine of", study.threshold, about("shared")],
    ["Null models", seeds ? `${seeds} seeds of each` : "none", "the numbers of each pair, with one of its SAEs replaced at random"],
    ["Proof", `${proved} of ${study.pairs.length} pairs`,
      "pairs of which every matching behind a number, also those with null models, is proved to be optimal"],
    ["Machine", machine && `${machine.cores} cores, ${machine.system} ${machine.processor}${device === "cpu" ? "" : `, ${device}`}`],
    ["Versions", versions && Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")],
  ];
  listFacts(facts);
}

function showOverview() {
  const unproved = study.pairs.filter((pair) => !pair.certified).map(pairName);
  $("warnings").hidden = !unproved.length;
  $("warnings").replaceChildren(...(unproved.length
    ? [element("li", { dir: "auto" }, `Some matchings are not proved optimal, of: ${unproved.join(", ")}.`)] : []));
  showFacts();
  new SortedTable($("pairs"), pairColumns(), { caption: "Pairs of SAEs" }).show(study.pairs);
  new SortedTable($("saes"), saeColumns(), { caption: "SAEs" }).show(study.saes);
}
