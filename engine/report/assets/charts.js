"use strict";
// Charts. Each has its numbers as a table, and can be saved. The colours are those of Okabe and Ito, which colour-blind
// readers can tell apart.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#F0E442"];
const isDark = () => document.documentElement.dataset.theme === "dark";
const inkColour = () => (isDark() ? "#ececec" : "#1a1a1a");

const charts = (() => {
  const figures = new Map(); // by name: {place, options, ready, chart}

  function themed(options) {
    const ink = inkColour(), line = isDark() ? "#444" : "#d0d0d0";
    const axis = (own) => own && {
      nameLocation: "middle", nameGap: 28, ...own, axisLine: { lineStyle: { color: ink } },
      axisLabel: { color: ink, hideOverlap: true, ...own.axisLabel }, nameTextStyle: { color: ink },
      splitLine: { lineStyle: { color: line } },
    };
    return {
      animation: false, color: COLOURS, textStyle: { color: ink, fontFamily: "system-ui, sans-serif" },
      aria: { enabled: true, decal: { show: false } }, grid: { left: 64, right: 20, top: 34, bottom: 44 }, ...options,
      legend: options.legend && { textStyle: { color: ink }, type: "scroll", top: 0, ...options.legend },
      tooltip: { renderMode: "richText", confine: true, valueFormatter: (value) => shown(value), ...options.tooltip },
      xAxis: axis(options.xAxis), yAxis: axis(options.yAxis),
    };
  }

  function draw(name) {
    const figure = figures.get(name);
    figure.chart?.dispose();
    if (!figure.place.clientWidth) return; // the figure is hidden; it is drawn when its view is shown
    figure.chart = echarts.init(figure.place, null, { renderer: "svg" });
    figure.chart.setOption(themed(figure.options()));
    figure.ready?.(figure.chart);
  }

  function save(name, kind) {
    const { place, options } = figures.get(name);
    const width = place.clientWidth || 640, height = place.clientHeight || 320;
    const hidden = element("div", { style: `width:${width}px;height:${height}px` });
    const chart = echarts.init(hidden, null, { renderer: kind === "svg" ? "svg" : "canvas", width, height });
    chart.setOption({ ...themed(options()), backgroundColor: isDark() ? "#16181b" : "#fff" });
    const address = kind === "svg" ? null : chart.getDataURL({ type: "png", pixelRatio: 2 });
    if (kind === "svg") download(`${name}.svg`, chart.renderToSVGString(), "image/svg+xml");
    else element("a", { href: address, download: `${name}.png` }).click();
    chart.dispose();
  }

  function numbersTable(title, { head, rows }) {
    const heads = head.map((name) => element("th", { scope: "col" }, name));
    const lines = rows.slice(0, 2000).map((row) => element("tr", {}, ...row.map((value) => element("td", {}, shown(value)))));
    return element("table", { "aria-label": title },
      element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines));
  }

  return {
    // Return a figure: options() are the options of the chart, and numbers() returns {head, rows} of its numbers.
    // ready(chart) is called each time the chart is drawn.
    figure(name, title, options, numbers, { size = "chart", ready } = {}) {
      const place = element("div", { class: size, "aria-hidden": "true" });
      const table = element("div", {
        class: "scroll tall", hidden: true, tabindex: "0", role: "region", "aria-label": `Numbers: ${title}`,
      });
      const toggle = button("Numbers", () => {
        table.hidden = !table.hidden;
        toggle.setAttribute("aria-expanded", String(!table.hidden));
        table.replaceChildren(numbersTable(title, numbers()));
      }, { "aria-expanded": "false" });
      const saveAs = (kind) =>
        button(kind.toUpperCase(), () => save(name, kind), { "aria-label": `Save as ${kind.toUpperCase()}: ${title}` });
      figures.set(name, { place, options, ready });
      return element("figure", { id: `figure-${name}` }, element("figcaption", {}, title), place,
        element("div", { class: "tools" }, toggle, saveAs("svg"), saveAs("png")), table);
    },
    draw,
    drawAll() { for (const name of figures.keys()) draw(name); },
    resize() { for (const { chart } of figures.values()) if (chart && !chart.isDisposed()) chart.resize(); },
    forget(name) { figures.get(name)?.chart?.dispose(); figures.delete(name); },
  };
})();

function histogram(values, bins = 40) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(high > low)) { low = Number.isFinite(low) ? low - 0.5 : 0; high = low + 1; }
  const counts = new Array(bins).fill(0);
  for (const value of values) {
    if (Number.isFinite(value)) counts[Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins))]++;
  }
  const edge = (number) => low + ((high - low) * number) / bins;
  return counts.map((count, number) => ({ low: edge(number), high: edge(number + 1), count }));
}
