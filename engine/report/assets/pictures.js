"use strict";
// Charts, each with its numbers as a table and to take away. Colours: Okabe and Ito's, told apart by colour-blind eyes too.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#F0E442"];

const pictures = (() => {
  const drawn = new Map(); // name -> {chart, options, place}
  const dark = () => document.documentElement.dataset.theme === "dark";

  function themed(options) {
    const ink = dark() ? "#ececec" : "#1a1a1a", line = dark() ? "#444" : "#d0d0d0";
    const axis = (one) => one && { nameLocation: "middle", nameGap: 28, ...one, axisLine: { lineStyle: { color: ink } },
      axisLabel: { color: ink, hideOverlap: true, ...one.axisLabel }, nameTextStyle: { color: ink }, splitLine: { lineStyle: { color: line } } };
    return {
      animation: false, color: COLOURS, textStyle: { color: ink, fontFamily: "system-ui, sans-serif" }, aria: { enabled: true, decal: { show: false } },
      grid: { left: 64, right: 20, top: 34, bottom: 44 }, ...options, legend: options.legend && { textStyle: { color: ink }, type: "scroll", top: 0, ...options.legend },
      tooltip: { renderMode: "richText", confine: true, valueFormatter: (value) => shown(value), ...options.tooltip },
      xAxis: axis(options.xAxis), yAxis: axis(options.yAxis),
    };
  }

  function draw(name) {
    const { place, options } = drawn.get(name);
    drawn.get(name).chart?.dispose();
    if (!place.clientWidth) return; // not in sight: drawn when it is
    const chart = echarts.init(place, null, { renderer: "svg" });
    chart.setOption(themed(options()));
    drawn.get(name).chart = chart;
    drawn.get(name).ready?.(chart);
  }

  function save(name, kind) {
    const { place, options } = drawn.get(name);
    const width = place.clientWidth || 640, height = place.clientHeight || 320;
    const hidden = element("div", { style: `width:${width}px;height:${height}px` });
    const chart = echarts.init(hidden, null, { renderer: kind === "svg" ? "svg" : "canvas", width, height });
    chart.setOption({ ...themed(options()), backgroundColor: dark() ? "#16181b" : "#fff" });
    const address = kind === "svg" ? null : chart.getDataURL({ type: "png", pixelRatio: 2 });
    if (kind === "svg") download(`${name}.svg`, chart.renderToSVGString(), "image/svg+xml");
    else element("a", { href: address, download: `${name}.png` }).click();
    chart.dispose();
  }

  return {
    // A figure: options() for the chart, numbers() -> {head, rows} behind it.
    figure(name, title, options, numbers, { size = "chart", ready } = {}) {
      const place = element("div", { class: size, "aria-hidden": "true" });
      const behind = element("div", { class: "scroll tall", hidden: true, tabindex: "0", role: "region", "aria-label": `Numbers: ${title}` });
      const toggle = element("button", { type: "button", "aria-expanded": "false", onclick: () => {
        behind.hidden = !behind.hidden;
        toggle.setAttribute("aria-expanded", String(!behind.hidden));
        const { head, rows } = numbers();
        behind.replaceChildren(element("table", { "aria-label": title },
          element("thead", {}, element("tr", {}, ...head.map((each) => element("th", { scope: "col" }, each)))),
          element("tbody", {}, ...rows.slice(0, 2000).map((row) => element("tr", {}, ...row.map((value) => element("td", {}, shown(value))))))));
      } }, "Numbers");
      const take = (kind) => element("button", { type: "button", "aria-label": `Save as ${kind.toUpperCase()}: ${title}`, onclick: () => save(name, kind) }, kind.toUpperCase());
      drawn.set(name, { place, options, ready });
      return element("figure", { id: `figure-${name}` }, element("figcaption", {}, title), place,
        element("div", { class: "tools" }, toggle, take("svg"), take("png")), behind);
    },
    draw,
    drawAll() { for (const name of drawn.keys()) draw(name); },
    resize() { for (const { chart } of drawn.values()) if (chart && !chart.isDisposed()) chart.resize(); },
    forget(name) { drawn.get(name)?.chart?.dispose(); drawn.delete(name); },
  };
})();

function histogram(values, bins = 40) {
  let low = Infinity, high = -Infinity;
  for (const value of values) if (Number.isFinite(value)) { if (value < low) low = value; if (value > high) high = value; }
  if (!(high > low)) { low = Number.isFinite(low) ? low - 0.5 : 0; high = low + 1; }
  const counts = new Array(bins).fill(0);
  for (const value of values) if (Number.isFinite(value)) counts[Math.min(bins - 1, Math.floor(((value - low) / (high - low)) * bins))]++;
  return counts.map((count, at) => ({ low: low + ((high - low) * at) / bins, high: low + ((high - low) * (at + 1)) / bins, count }));
}
