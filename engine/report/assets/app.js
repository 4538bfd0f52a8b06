"use strict";
// The page of a run: its three views, and what its address may say.

// Remove a feature that this run does not have from the address, and return what was removed.
function removeUnknownFeatures() {
  const removed = [];
  if (get("layer") + get("feature") + get("set") && !(get("feature") !== "" && data.has(followed()))) {
    const wrong = ["set", "layer", "feature"].filter((name) => get(name) !== "");
    removed.push(...wrong.map((name) => `${name}=${get(name)}`));
    set(Object.fromEntries(wrong.map((name) => [name, ""])));
  }
  if (chosen().some((node) => !data.has(node))) {
    removed.push(`chosen=${get("chosen")}`);
    set({ chosen: "" });
  }
  return removed;
}

shell.start({
  holder: "this run",
  allowed: {
    pair: (text) => (text === "all" && !run.server) || run.pairs.some((pair) => pairKey(pair) === text),
    sort: (text) => resultColumns().some((column) => column.name === text),
    index: isNumber,
    ...Object.fromEntries(RANGES.flatMap((name) => [`${name}-from`, `${name}-to`]).map((name) => [name, isNumber])),
  },
  unknown: removeUnknownFeatures,
  draw() {
    showOverview();
    showPictures();
    showExplorer();
  },
  shown(view) {
    if (view === "pictures") charts.drawAll();
    if (view === "explorer" && run.pairs.length) {
      drawnHistograms = null;
      showResults().then(() => {
        if (followed()) follow(followed(), false);
        showFlow();
      });
    }
  },
  reopened() {
    for (const input of $("search").elements) if (input.name) input.value = get(input.name, input.name === "pair" ? input.value : "");
  },
});
