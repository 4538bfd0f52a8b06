"use strict";
// The page as a whole: its three views, its theme, and what happens after an error.
const VIEWS = ["overview", "pictures", "explorer"];
let currentView = null;

// What an address may say, by name. A link may be of another run, or damaged.
const isNumber = (text) => Number.isFinite(Number(text));
const ALLOWED = {
  view: (text) => VIEWS.includes(text),
  theme: (text) => ["dark", "light"].includes(text),
  pair: (text) => (text === "all" && !run.server) || run.pairs.some((pair) => pairKey(pair) === text),
  sort: (text) => resultColumns().some((column) => column.name === text),
  index: isNumber,
  ...Object.fromEntries(RANGES.flatMap((name) => [`${name}-from`, `${name}-to`]).map((name) => [name, isNumber])),
};

// Remove from the address what this run does not have, and return what was removed.
function removeUnknown() {
  const wrong = Object.keys(ALLOWED).filter((name) => get(name) !== "" && !ALLOWED[name](get(name)));
  if (get("layer") + get("feature") + get("set") && !(get("feature") !== "" && data.has(followed()))) {
    wrong.push(...["set", "layer", "feature"].filter((name) => get(name) !== ""));
  }
  const removed = wrong.map((name) => `${name}=${get(name)}`);
  set(Object.fromEntries(wrong.map((name) => [name, ""])));
  const unknown = chosen().filter((node) => !data.has(node));
  if (unknown.length) {
    removed.push(`chosen=${get("chosen")}`);
    set({ chosen: "" });
  }
  return removed;
}

function notify(texts) {
  $("notices").hidden = !texts.length;
  $("notices").replaceChildren(...texts.map((text) => element("li", { dir: "auto" }, text)));
}

function checkAddress() {
  const removed = removeUnknown();
  notify(removed.length ? [`The address of this page asks for what this run does not have, which is left out: ${removed.join(", ")}.`] : []);
}

function showView() {
  const name = VIEWS.includes(get("view")) ? get("view") : "overview";
  for (const section of VIEWS) $(section).hidden = section !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `saematch: ${name}`;
  if (name === currentView) return;
  currentView = name;
  if (name === "pictures") charts.drawAll();
  if (name === "explorer" && run.pairs.length) {
    drawnHistograms = null;
    showResults().then(() => {
      if (followed()) follow(followed(), false);
      showFlow();
    });
  }
}

addEventListener("hashchange", () => {
  const now = new URLSearchParams(location.hash.slice(1));
  const isNavigation = [...now.keys()].length === 1 && now.has("view"); // a link to a view keeps the search
  if (!isNavigation) for (const name of [...state.keys()]) state.delete(name);
  for (const [name, value] of now) state.set(name, value);
  history.replaceState(null, "", `#${state}`);
  checkAddress();
  if (!isNavigation) {
    for (const input of $("search").elements) if (input.name) input.value = get(input.name, input.name === "pair" ? input.value : "");
    currentView = null;
  }
  showView();
  $("main").focus();
});

let resizing;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => charts.resizeAll(), 100); });

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  charts.drawAll();
}
$("theme").addEventListener("click", () => {
  setTheme(!isDark());
  set({ theme: document.documentElement.dataset.theme });
});

addEventListener("unhandledrejection", ({ reason }) => {
  notify([`This view cannot be shown: ${reason?.message ?? reason}`]);
});

checkAddress();
showOverview();
showPictures();
showExplorer();
setTheme(get("theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light") === "dark");
showView();
document.documentElement.dataset.ready = "yes";
