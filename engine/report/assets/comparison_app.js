"use strict";
// The page of a comparison of SAEs: its three views, and what its address may say.
const isCompared = (text) => compared.includes(Number(text)) && /^\d+$/.test(text);

shell.start({
  holder: "this comparison",
  allowed: {
    sae: isCompared,
    other: (text) => isCompared(text) && isCompared(get("sae", "0")) && study.saes[chosenSAE()].compared.includes(Number(text)),
    feature: (text) => isCompared(get("sae", String(compared[0]))) && hasFeature(text),
    sort: (text) => resultColumns().some((column) => column.name === text),
    decision: (text) => text in study.decisions,
    index: isNumber,
    ...Object.fromEntries(LIMITS.map((name) => [name, isNumber])),
  },
  draw() {
    showOverview();
    showPictures();
    showFeatures();
  },
  shown(view) {
    if (view === "pictures") charts.drawAll();
    if (view === "features") return showResults();
  },
  reopened: fillForm,
});
