"use strict";
// The pictures of a comparison of SAEs.
const MOST_NUMBERS = 12; // SAEs up to which a matrix shows its numbers
const KIND_TITLES = { decoder: "decoder rows", encoder: "encoder columns", joint: "both" };

// A matrix of a number between 0 and 1 of every pair of SAEs: dark is much.
function matrixPicture(name, title) {
  const cells = study.pairs.flatMap((pair) => [[pair.a, pair.b, pair[name]], [pair.b, pair.a, pair[name]]]);
  const names = study.saes.map((_, sae) => nameOf(sae));
  const axis = { type: "category", data: names };
  const options = () => ({
    grid: { left: 90, right: 80, top: 12, bottom: 44 },
    tooltip: { formatter: ({ value: [a, b, value] }) => `${pairName({ a, b })}: ${shownAs(name, value)}` },
    xAxis: { ...axis, name: study.axis }, yAxis: { ...axis, inverse: true },
    visualMap: { min: 0, max: 1, right: 10, top: "center", itemHeight: 100, text: ["1", "0"],
      textStyle: { color: inkColour() }, inRange: { color: ["#f7fbff", "#6baed6", "#08306b"] } },
    series: [{ type: "heatmap", data: cells, label: { show: names.length <= MOST_NUMBERS, formatter: ({ value }) => shownAs(name, value[2]) } }],
  });
  const numbers = () => ({ head: ["A", "B", title], rows: study.pairs.map((pair) => [nameOf(pair.a), nameOf(pair.b), pair[name]]) });
  return charts.figure(`matrix-${name}`, `${title} of every pair of SAEs`, options, numbers);
}

// The distribution of the similarity of matched features over all pairs, and of both null models.
function similarityPicture(kind) {
  const total = study.pairs[0].histograms.matched[kind].map(() => 0);
  const series = [["matched", "matched"], ...Object.entries(NULL_TITLES)].flatMap(([of, title]) => {
    const counts = study.pairs.map((pair) => pair.histograms[of]?.[kind]).filter(Boolean);
    if (!counts.length) return [];
    const sums = total.map((_, bin) => counts.reduce((sum, one) => sum + one[bin], 0));
    const all = sums.reduce((sum, count) => sum + count, 0);
    return [[title, sums.map((count) => count / all)]];
  });
  const nonzero = Math.min(...series.map(([, shares]) => shares.findIndex((share) => share > 0)));
  const first = nonzero - (nonzero % 4); // four bins are a tenth
  const from = total.map((_, bin) => shown(study.edges[bin])).slice(first);
  const title = `Similarity of matched features by ${KIND_TITLES[kind]}, over all pairs`;
  return lineChart(`similarity-${kind}`, title, "similarity from", from, "share of features",
    series.map(([name, shares]) => [name, shares.slice(first)]));
}

// The share of shared features along the axis, as shares of the features of each SAE.
function sharedPicture() {
  const saes = compared.filter((sae) => sae !== study.reference);
  const of = (share) => saes.map((sae) => share(study.saes[sae]));
  const series = [["shared with all", of((sae) => sae.shared_with_all)]];
  if (study.reference === null && saes.length > 2) series.push(["shared with at least one", of((sae) => 1 - sae.shared_with_none)]);
  series.push(["unique compared with all", of((sae) => sae.unique)]);
  const title = `Shared features by ${study.axis}${study.reference === null ? "" : `, compared with ${titleOf(study.reference)}`}`;
  return lineChart("shared", title, study.axis, saes.map(nameOf), "share", series, { min: 0, max: 1 });
}

function ratesPicture() {
  const lines = [...new Set(study.firing_rates.map(({ sae, other }) => `${sae}-${other}`))].slice(0, MOST_COLOURS);
  if (!lines.length) return null;
  const rows = (line) => study.firing_rates.filter(({ sae, other }) => `${sae}-${other}` === line);
  const deciles = [...new Set(study.firing_rates.map((row) => row.decile))].sort((a, b) => a - b);
  const series = lines.map((line) => {
    const [sae, other] = line.split("-"), shares = new Map(rows(line).map((row) => [row.decile, row.shared]));
    return [`${nameOf(sae)} in ${nameOf(other)}`, deciles.map((decile) => shares.get(decile) ?? null)];
  });
  const title = "Share of shared features by firing rate, from the tenth that is least active (1)";
  return lineChart("firing-rates", title, "tenth by firing rate", deciles, "share", series, { min: 0, max: 1 });
}

function showPictures() {
  const figures = [
    matrixPicture("mcc_decoder", "MCC of decoders"), matrixPicture("shared", "Share of shared features"),
    ...Object.keys(KIND_TITLES).map(similarityPicture), sharedPicture(), ratesPicture(),
  ];
  $("figures").replaceChildren(...figures.filter((figure) => figure !== null));
}
