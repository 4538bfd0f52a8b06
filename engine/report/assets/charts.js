"use strict";
// Charts. Each has its numbers as a table, and can be saved. The first colours are those of Okabe and Ito that both themes
// show, which colour-blind readers can tell apart. Further colours differ in hue and lightness: no chart uses one twice.
const MOST_COLOURS = 60;
const FIRST_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8B5A2B", "#7B5FC0", "#888888",
  "#44AA99", "#CC6677", "#999933"];
const COLOURS = Array.from({ length: MOST_COLOURS }, (_, number) => FIRST_COLOURS[number] ??
  `hsl(${Math.round(137.5 * number) % 360},55%,${[35, 50, 65][number % 3]}%)`);
const LEGEND_LINE = 20; // pixels: the height of a legend of one line
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
      legend: options.legend && { textStyle: { color: ink }, top: 0, ...options.legend },
      tooltip: { renderMode: "richText", confine: true, valueFormatter: (value) => shown(value), ...options.tooltip },
      xAxis: axis(options.xAxis), yAxis: axis(options.yAxis),
    };
  }

  // Show a chart whose height is `height` with a legend of one line, and higher by the further lines of its legend.
  function show(chart, options, height) {
    chart.setOption(options);
    if (!options.legend) return;
    const legend = chart.getViewOfComponentModel(chart.getModel().getComponent("legend"));
    const further = Math.max(0, Math.ceil(legend.group.getBoundingRect().height) - LEGEND_LINE);
    chart.resize({ height: height + further });
    chart.setOption({ grid: { top: options.grid.top + further } });
  }

  function draw(name) {
    const figure = figures.get(name), { place } = figure;
    figure.chart?.dispose();
    place.style.height = "";
    figure.height = place.clientHeight;
    if (!figure.height) return; // the figure is hidden; it is drawn when its view is shown
    figure.chart = echarts.init(place, null, { renderer: "svg" });
    show(figure.chart, themed(figure.options()), figure.height);
    place.style.height = `${figure.chart.getHeight()}px`;
    figure.ready?.(figure.chart);
  }

  function resize({ place, chart }, name) {
    if (!chart || chart.isDisposed() || chart.getWidth() === place.clientWidth) return;
    if (chart.getOption().legend?.length) draw(name); // the legend may need more lines, or fewer
    else chart.resize();
  }

  function save(name, kind) {
    const { place, options, height } = figures.get(name), width = place.clientWidth;
    const chart = echarts.init(element("div"), null, { renderer: kind === "svg" ? "svg" : "canvas", width, height });
    show(chart, { ...themed(options()), backgroundColor: isDark() ? "#16181b" : "#fff" }, height);
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
    resizeAll() { figures.forEach(resize); },
    forget(name) { figures.get(name)?.chart?.dispose(); figures.delete(name); },
  };
})();

// Lines over the same values of x. series: [[name, values]]
// Unless the values of x are in an order, points are not joined.
function lineChart(name, title, xName, xValues, yName, series, yOptions = {}, joined = true) {
  const lines = series.map(([line, values], number) => ({
    name: line, type: "line", symbol: ["circle", "rect", "triangle", "diamond"][number % 4], data: values,
    ...(joined ? {} : { lineStyle: { width: 0 }, symbolSize: 9 }),
  }));
  const options = () => ({
    legend: {}, tooltip: { trigger: "axis" }, xAxis: { type: "category", data: xValues, name: xName },
    yAxis: { type: "value", name: yName, nameGap: 48, ...yOptions }, series: lines,
  });
  return charts.figure(name, title, options, numbersOf(xName, xValues, series));
}
const numbersOf = (xName, xValues, series) => () => ({
  head: [xName, ...series.map(([name]) => name)],
  rows: xValues.map((x, number) => [x, ...series.map(([, values]) => values[number])]),
});

// Count values in about 40 bins, whose edges are round numbers.
function histogram(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(high > low)) { low = Number.isFinite(low) ? low - 0.5 : 0; high = low + 1; }
  const least = (high - low) / 40, power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= least);
  const first = Math.floor(low / step);
  const counts = new Array(Math.floor(high / step) - first + 1).fill(0);
  for (const value of values) if (Number.isFinite(value)) counts[Math.floor(value / step) - first]++;
  const edge = (number) => Number(((first + number) * step).toPrecision(12));
  return counts.map((count, number) => ({ low: edge(number), high: edge(number + 1), count }));
}
