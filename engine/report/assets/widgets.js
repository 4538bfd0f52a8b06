"use strict";
// Elements, numbers and tables. Text of files is only ever text: nothing here reads markup.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function shown(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? value.toLocaleString("en", { maximumSignificantDigits: digits }) : value.toExponential(1);
}
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
const SHORT = 300; // letters of a label in a table; the feature's own page has all of it
const short = (text) => (text.length > SHORT ? `${text.slice(0, SHORT)}…` : text);

function download(name, content, kind) {
  const address = URL.createObjectURL(new Blob([content], { type: kind }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
const csvCell = (value) => {
  const text = value === null || value === undefined || Number.isNaN(value) ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = (head, rows) => [head, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";

// A table that is sorted by its heads. Of many rows, only those in sight are elements.
// columns: {name, title, about, value(row), cell(row) -> text or element, text}
class SortedTable {
  constructor(place, columns, { caption, sort = null, chosen = () => false, changed = () => {} }) {
    Object.assign(this, { place, columns, chosen, changed, rows: [], sort });
    this.head = element("tr");
    this.body = element("tbody");
    this.table = element("table", { "aria-label": caption }, element("thead", {}, this.head), this.body);
    place.replaceChildren(this.table);
    for (const column of columns) {
      const button = element("button", { type: "button", title: column.about || "", onclick: () => this.by(column.name) }, column.title);
      this.head.append(element("th", { scope: "col", class: column.text ? "text" : null }, button));
    }
    place.addEventListener("scroll", () => { if (this.drawn !== this.span().join()) this.draw(); });
  }
  by(name, down = this.sort && this.sort.name === name ? !this.sort.down : false) {
    this.sort = { name, down };
    this.order();
    this.changed(this.sort);
  }
  show(rows) {
    this.rows = rows;
    this.order();
  }
  order() {
    const at = this.columns.findIndex((column) => this.sort && column.name === this.sort.name);
    [...this.head.children].forEach((head, number) =>
      number === at ? head.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    if (at >= 0) {
      const { value } = this.columns[at], sign = this.sort.down ? -1 : 1;
      const nothing = (x) => x === null || x === undefined || Number.isNaN(x);
      const keys = new Map(this.rows.map((row) => [row, value(row)]));
      this.rows = [...this.rows].sort((a, b) => {
        const x = keys.get(a), y = keys.get(b);
        if (nothing(x) || nothing(y)) return nothing(x) - nothing(y); // what is not known comes last, either way
        return sign * (x < y ? -1 : x > y ? 1 : 0);
      });
    }
    this.place.scrollTop = 0;
    this.draw();
  }
  // The first row that is an element, and the one after the last; in steps, so that little scrolling draws nothing.
  span() {
    const HEIGHT = 28, STEP = 20;
    if (this.rows.length <= 200) return [0, this.rows.length];
    const first = Math.max(0, (Math.floor(this.place.scrollTop / HEIGHT / STEP) - 1) * STEP);
    return [first, Math.min(this.rows.length, first + Math.ceil((this.place.clientHeight || 600) / HEIGHT) + 4 * STEP)];
  }
  draw() {
    const HEIGHT = 28, [first, last] = this.span();
    this.drawn = [first, last].join();
    const focused = document.activeElement.closest("td"), inside = this.body.contains(focused);
    const where = inside && [focused.parentElement.getAttribute("aria-rowindex"), focused.cellIndex];
    const space = (rows) => element("tr", { "aria-hidden": "true" }, element("td", { colspan: this.columns.length, style: `height:${rows * HEIGHT}px;padding:0;border:0` }));
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
    this.body.replaceChildren(
      ...(first ? [space(first)] : []),
      ...this.rows.slice(first, last).map((row, at) => element(
        "tr", { class: this.chosen(row) ? "chosen" : null, "aria-rowindex": first + at + 2 },
        ...this.columns.map((column) => {
          const inside = column.cell ? column.cell(row) : shown(column.value(row));
          return element("td", { class: column.text ? "text" : null, dir: column.text ? "auto" : null }, inside);
        }))),
      ...(last < this.rows.length ? [space(this.rows.length - last)] : []));
    if (where) this.body.querySelector(`tr[aria-rowindex="${where[0]}"]`)?.cells[where[1]].querySelector("button")?.focus();
  }
}
