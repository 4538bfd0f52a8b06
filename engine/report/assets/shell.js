"use strict";
// What the pages share: views, of which one is shown, a theme, and what happens after an error. `shell.start` takes
//   allowed    name -> whether the page can show a value of this name in its address
//   unknown()  removes what the page does not have from the address in other ways; returns what was removed
//   draw()     makes all views, once
//   shown(view)  a view is shown that was not shown before
//   reopened() the address was changed by hand
// and views hold their content in a section of their own name.
const isNumber = (text) => Number.isFinite(Number(text));

const shell = (() => {
  const views = [...document.querySelectorAll("nav a")].map((link) => link.dataset.view);
  const always = { view: (text) => views.includes(text), theme: (text) => ["dark", "light"].includes(text) };
  let page, current = null;

  function notify(texts) {
    $("notices").hidden = !texts.length;
    $("notices").replaceChildren(...texts.map((text) => element("li", { dir: "auto" }, text)));
  }

  // Remove from the address what the page does not have. A link may be of another page, or damaged.
  function check() {
    const allowed = { ...always, ...page.allowed };
    const wrong = Object.keys(allowed).filter((name) => get(name) !== "" && !allowed[name](get(name)));
    const removed = [...wrong.map((name) => `${name}=${get(name)}`), ...(page.unknown?.() ?? [])];
    set(Object.fromEntries(wrong.map((name) => [name, ""])));
    notify(removed.length ? [`The address of this page asks for what ${page.holder} does not have, which is left out: ${removed.join(", ")}.`] : []);
  }

  function show() {
    const name = get("view") || views[0];
    for (const section of views) $(section).hidden = section !== name;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.view === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = `saematch: ${name}`;
    if (name === current) return;
    current = name;
    page.shown(name);
  }

  function setTheme(dark) {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    $("theme").setAttribute("aria-pressed", String(dark));
    charts.drawAll();
  }

  addEventListener("hashchange", () => {
    const now = new URLSearchParams(location.hash.slice(1));
    const isNavigation = [...now.keys()].length === 1 && now.has("view"); // a link to a view keeps the search
    if (!isNavigation) for (const name of [...state.keys()]) state.delete(name);
    for (const [name, value] of now) state.set(name, value);
    history.replaceState(null, "", `#${state}`);
    check();
    if (!isNavigation) {
      page.reopened();
      current = null;
    }
    show();
    $("main").focus();
  });

  let resizing;
  addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => charts.resizeAll(), 100); });

  $("theme").addEventListener("click", () => {
    setTheme(!isDark());
    set({ theme: document.documentElement.dataset.theme });
  });

  addEventListener("unhandledrejection", ({ reason }) => {
    notify([`This view cannot be shown: ${reason?.message ?? reason}`]);
  });

  return {
    start(given) {
      page = given;
      check();
      page.draw();
      setTheme(get("theme", matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light") === "dark");
      show();
      document.documentElement.dataset.ready = "yes";
    },
  };
})();
