"use strict";
// Elements, numbers and tables. Texts from files are only added as text: nothing here parses markup.
const $ = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
const button = (title, onclick, attributes = {}) => element("button", { type: "button", onclick, ...attributes }, title);
const outsideLink = (href, title) => element("a", { href, rel: "noopener noreferrer", target: "_blank" }, title);

const missing = (value) => value === null || value === undefined || Number.isNaN(value);
const capitalized = (text) => text[0].toUpperCase() + text.slice(1);

// A value as the page shows it.
function shown(value, digits = 4) {
  if (missing(value)) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? value.toLocaleString("en", { maximumSignificantDigits: digits }) : value.toExponential(1);
}
const fixed = (value) => (missing(value) ? "–" : value.toFixed(3)); // a cosine: its column is aligned at the point
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
const SHORT = 300; // letters of a label in a table; the view of a feature shows the whole label
const short = (text) => (text.length > SHORT ? `${text.slice(0, SHORT)}…` : text);

function download(name, content, kind) {
  const address = URL.createObjectURL(new Blob([content], { type: kind }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
const csvCell = (value) => {
  const text = missing(value) ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csv = (head, rows) => [head, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";

// Show facts [[name, value, title]] in the list of facts, without those whose value is not known.
function listFacts(facts) {
  const known = facts.filter(([, value]) => !missing(value) && value !== "");
  $("facts").replaceChildren(...known.map(([name, value, title]) =>
    element("div", { title }, element("dt", {}, name), element("dd", { dir: "auto" }, String(value)))));
}

// Search while a form is filled in, and after its inputs of the given names are cleared.
function searchBy(form, search, cleared) {
  let waiting;
  form.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 150); });
  form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const name of cleared) form.elements[name].value = "";
    search();
  });
}

// What is done with the features that a search has found; `save` writes them to a file.
const resultTools = (save) => [
  button("These features as CSV", save),
  element("span", { class: "soft" }, "The address of this page contains the search. A copy of the address reopens this view."),
];

// By which column the address says that a table is sorted, and how it says so.
const sortOfAddress = () => (get("sort") ? { name: get("sort"), down: get("down") === "1" } : null);
const storeSort = ({ name, down }) => set({ sort: name, down: down ? "1" : "" });

// A table that is sorted by a click on a column's head. Of many rows, only those in sight are elements.
// columns: [{name, title, about, value(row), cell(row) -> text or element, text, optional}]
// A column that is optional is hidden while no row has a value in it.
const ROW_HEIGHT = 28; // pixels, as in style.css
const ROWS_PER_STEP = 20; // rows are drawn in steps, so that a little scrolling draws nothing
const MOST_ROWS = 200; // a table with more rows draws only those in sight

class SortedTable {
  constructor(place, columns, { caption, sort = null, chosen = () => false, changed = () => {} }) {
    Object.assign(this, { place, columns, chosen, changed, rows: [], sort });
    this.head = element("tr");
    this.body = element("tbody");
    this.table = element("table", { "aria-label": caption }, element("thead", {}, this.head), this.body);
    place.replaceChildren(this.table);
    for (const { name, title, about, text } of columns) {
      const head = button(title, () => this.sortBy(name), { title: about || "" });
      this.head.append(element("th", { scope: "col", class: text ? "text" : null }, head));
    }
    place.addEventListener("scroll", () => { if (this.drawn !== this.span().join()) this.draw(); });
  }

  sortBy(name, down = this.sort && this.sort.name === name ? !this.sort.down : false) {
    this.sort = { name, down };
    this.order();
    this.changed(this.sort);
  }

  show(rows) {
    this.rows = rows;
    if (rows.length) this.hideEmpty();
    this.order();
  }

  hideEmpty() {
    this.columns.forEach((column, number) => {
      if (!column.optional) return;
      column.empty = !this.rows.some((row) => !missing(column.value(row)) && column.value(row) !== "");
      this.head.children[number].hidden = column.empty;
    });
  }

  order() {
    const sorted = this.columns.findIndex((column) => this.sort && column.name === this.sort.name);
    [...this.head.children].forEach((head, number) => {
      if (number === sorted) head.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    if (sorted >= 0) {
      const { value } = this.columns[sorted], sign = this.sort.down ? -1 : 1;
      const keys = new Map(this.rows.map((row) => [row, value(row)]));
      this.rows = [...this.rows].sort((a, b) => {
        const x = keys.get(a), y = keys.get(b);
        if (missing(x) || missing(y)) return missing(x) - missing(y); // missing values come last in both directions
        return sign * (x < y ? -1 : x > y ? 1 : 0);
      });
    }
    this.place.scrollTop = 0;
    this.draw();
  }

  // The first row that is drawn, and the row after the last one.
  span() {
    if (this.rows.length <= MOST_ROWS) return [0, this.rows.length];
    const first = Math.max(0, (Math.floor(this.place.scrollTop / ROW_HEIGHT / ROWS_PER_STEP) - 1) * ROWS_PER_STEP);
    const inSight = Math.ceil((this.place.clientHeight || 600) / ROW_HEIGHT);
    return [first, Math.min(this.rows.length, first + inSight + 4 * ROWS_PER_STEP)];
  }

  draw() {
    const [first, last] = this.span();
    this.drawn = [first, last].join();
    // The cell with the keyboard's focus is replaced too, so the focus is given to the new one.
    const focused = document.activeElement.closest("td");
    const focus = this.body.contains(focused) && [focused.parentElement.getAttribute("aria-rowindex"), focused.cellIndex];
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
    this.body.replaceChildren(
      ...(first ? [this.space(first)] : []),
      ...this.rows.slice(first, last).map((row, number) => this.row(row, first + number + 2)),
      ...(last < this.rows.length ? [this.space(this.rows.length - last)] : []));
    if (focus) this.body.querySelector(`tr[aria-rowindex="${focus[0]}"]`)?.cells[focus[1]].querySelector("button")?.focus();
  }

  row(row, index) {
    const cells = this.columns.map(({ cell, value, text, empty }) =>
      element("td", { class: text ? "text" : null, dir: text ? "auto" : null, hidden: empty }, cell ? cell(row) : shown(value(row))));
    return element("tr", { class: this.chosen(row) ? "chosen" : null, "aria-rowindex": index }, ...cells);
  }

  // Empty space in place of rows that are not drawn.
  space(rows) {
    const style = `height:${rows * ROW_HEIGHT}px;padding:0;border:0`;
    return element("tr", { "aria-hidden": "true" }, element("td", { colspan: this.columns.length, style }));
  }
}
