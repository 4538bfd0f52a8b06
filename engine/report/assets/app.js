"use strict";
// The page as a whole: its three views, its theme, and what happens after an error.
const VIEWS = ["overview", "pictures", "explorer"];
let currentView = null;

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
      if (get("layer") && get("feature")) follow(Number(get("layer")), Number(get("feature")), false);
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
  $("main").prepend(element("p", { class: "warnings", role: "alert" }, `This view cannot be shown: ${reason?.message ?? reason}`));
});

showOverview();
showPictures();
showExplorer();
setTheme(get("theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light") === "dark");
showView();
document.documentElement.dataset.ready = "yes";
