// A grid of pictures that fetches only what is on the screen: rows are pairs, columns are patches.
import { announce, element } from "./common.js";

const STRIP = 8; // columns of pictures that come in one file
const BLOCK = 16; // rows and columns of scores that are asked for at once
const REST = 70; // milliseconds without scrolling before anything is fetched

export class Grid {
  // box: where it goes. label: its name. sources: what a cell shows side by side, each with
  //   values(rows, columns) -> promise of scores by row, null where there is no answer
  //   strip(row, columns, version) -> address of pictures side by side
  // corner: what is above the rows' heads. head(column), lead(row): elements. name(row, column): words. open(row, column), moved(row, column): called.
  constructor(box, settings) {
    Object.assign(this, { rows: [], columns: [], at: [0, 0], side: 96, pictures: true, ...settings });
    this.values = this.sources.map(() => new Map());
    this.shown = new Map(); // row elements by row
    this.heads = element("div", { class: "heads", role: "row" });
    this.body = element("div", { class: "cells", role: "rowgroup" });
    this.box = element(
      "div",
      { class: "grid", role: "grid", tabindex: 0, "aria-label": this.label },
      this.heads,
      this.body,
    );
    box.replaceChildren(this.box);
    this.box.addEventListener("scroll", () => this.draw());
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.box.addEventListener("click", (event) => this.click(event));
    this.box.addEventListener("focus", () => this.box.matches(":focus-visible") && this.move(...this.at));
    new ResizeObserver(() => this.draw()).observe(this.box);
  }

  // rows and columns are lists of anything; what is known about scores is forgotten
  show(rows, columns, { side = this.side, pictures = this.pictures } = {}) {
    Object.assign(this, { rows, columns, side, pictures });
    this.width = (side + 3) * this.sources.length + (pictures ? 3 : -1); // with the gaps of viewer.css
    this.height = side + (pictures ? 6 : 2);
    this.values.forEach((known) => known.clear());
    for (const [name, value] of [
      ["--side", side],
      ["--width", this.width],
      ["--height", this.height],
    ])
      this.box.style.setProperty(name, `${value}px`);
    this.box.style.setProperty("--ends", this.corner.length - 1);
    this.box.classList.toggle("plain", !pictures);
    this.box.setAttribute("aria-rowcount", rows.length);
    this.box.setAttribute("aria-colcount", columns.length);
    this.at = [Math.min(this.at[0], rows.length - 1), Math.min(this.at[1], columns.length - 1)].map((index) =>
      Math.max(0, index),
    );
    this.body.replaceChildren();
    const axis = element("small", { class: "axis" }, "way from source to target, 95 % interval");
    this.heads.replaceChildren(
      element(
        "div",
        { class: "lead", role: "columnheader" },
        this.corner.map((word) => element("span", {}, word)),
        axis,
      ),
    );
    this.shown.clear();
    this.body.style.height = `${rows.length * this.height}px`;
    this.draw();
  }

  // new answers have come: what is shown is asked for again, and stays until it is there
  refresh(columns = this.columns) {
    if (columns.length !== this.columns.length) return this.show(this.rows, columns);
    this.columns = columns;
    this.values.forEach((known) => known.clear());
    this.heads.replaceChildren(this.heads.firstChild);
    this.draw();
  }

  // rows and columns on the screen
  seen() {
    const left = this.heads.firstChild.offsetWidth,
      top = this.heads.offsetHeight;
    const span = (from, length, unit, count) => [
      Math.max(0, Math.floor(from / unit)),
      Math.min(count, Math.ceil((from + length) / unit)),
    ];
    this.body.style.width = this.heads.style.width = `${left + this.columns.length * this.width}px`;
    return [
      span(this.box.scrollTop, this.box.clientHeight - top, this.height, this.rows.length),
      span(this.box.scrollLeft, this.box.clientWidth - left, this.width, this.columns.length),
    ];
  }

  draw() {
    if (!this.box.clientHeight || !this.heads.firstChild) return;
    const [[top, bottom], [left, right]] = this.seen();
    const from = left - (left % STRIP),
      to = Math.min(this.columns.length, Math.ceil(right / STRIP) * STRIP);
    this.drawHeads(from, to);
    for (const [row, one] of this.shown) if (row < top || row >= bottom) (one.remove(), this.shown.delete(row));
    for (let row = top; row < bottom; row++) this.drawRow(row, from, to);
    this.mark();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.fetch(top, bottom, from, to), REST);
  }

  drawHeads(from, to) {
    keep(this.heads, from, to, (column) => {
      const head = this.head(this.columns[column]);
      head.classList.add("head");
      head.setAttribute("role", "columnheader");
      return this.placed(head, column);
    });
  }

  drawRow(row, from, to) {
    if (!this.shown.has(row)) {
      const lead = this.lead(this.rows[row]);
      lead.classList.add("lead");
      lead.setAttribute("role", "rowheader");
      const made = element("div", { class: "row", role: "row", "aria-rowindex": row + 1 }, lead);
      made.style.top = `${row * this.height}px`;
      this.shown.set(row, made);
      this.body.append(made);
    }
    keep(this.shown.get(row), from, to, (column) => {
      const pictures = this.sources.map(() => element("div", { class: "picture" }));
      const cell = element(
        "div",
        { class: "cell", role: "gridcell", id: `cell-${row}-${column}`, "aria-colindex": column + 1 },
        pictures,
      );
      return this.placed(cell, column);
    });
  }

  placed(one, column) {
    one.dataset.column = column;
    one.style.left = `calc(var(--lead) + ${column * this.width}px)`;
    return one;
  }

  async fetch(top, bottom, from, to) {
    const blocks = [];
    for (let row = top - (top % BLOCK); row < bottom; row += BLOCK)
      for (let column = from - (from % BLOCK); column < to; column += BLOCK) blocks.push([row, column]);
    await Promise.all(
      this.sources.map((source, index) => Promise.all(blocks.map((block) => this.block(source, index, block)))),
    );
  }

  // fetch a block of scores, unless it is known, and paint what it is about
  async block(source, index, [row, column]) {
    const key = `${row}:${column}`,
      known = this.values[index];
    const rows = this.rows.slice(row, row + BLOCK),
      columns = this.columns.slice(column, column + BLOCK);
    if (!known.has(key)) known.set(key, source.values(rows, columns));
    const values = await known.get(key).catch(() => known.delete(key));
    if (!Array.isArray(values) || this.values[index].get(key) === undefined) return;
    values.forEach((scores, down) => this.paint(source, index, row + down, column, scores));
  }

  paint(source, index, row, first, scores) {
    const line = this.shown.get(row);
    for (let start = 0; line && start < scores.length; start += STRIP) {
      const part = scores.slice(start, start + STRIP);
      const columns = this.columns.slice(first + start, first + start + STRIP);
      const mask = part.map((score) => Number(score !== null)).join("");
      const pictures =
        this.pictures && mask.includes("1") ? `url("${source.strip(this.rows[row], columns, mask)}")` : "none";
      part.forEach((score, place) => {
        const cell = line.querySelector(`[data-column="${first + start + place}"].cell`);
        if (!cell) return;
        const picture = cell.children[index];
        picture.classList.toggle("none", score === null);
        picture.style.setProperty("--share", this.share(score));
        cell.setAttribute("aria-label", this.name(row, first + start + place, score));
        if (score === null || pictures === picture.style.backgroundImage) return;
        picture.style.backgroundImage = pictures;
        picture.style.backgroundSize = `${part.length * 100}% 100%`;
        picture.style.backgroundPosition = `${part.length > 1 ? (place * 100) / (part.length - 1) : 0}% 0`;
      });
    }
  }

  share(score) {
    return score === null ? 0 : Math.min(1, Math.max(0, score));
  }

  // the cell that the keyboard is at
  mark() {
    const [row, column] = this.at,
      id = `cell-${row}-${column}`;
    this.box.setAttribute("aria-activedescendant", id);
    this.box.querySelector(".cell.at")?.classList.remove("at");
    this.shown.get(row)?.querySelector(`#${id}`)?.classList.add("at");
  }

  move(row, column) {
    if (!this.rows.length || !this.columns.length) return;
    row = Math.min(this.rows.length - 1, Math.max(0, row));
    column = Math.min(this.columns.length - 1, Math.max(0, column));
    this.at = [row, column];
    this.reveal(row, column);
    this.moved?.(row, column);
  }

  // scroll until a cell is in sight
  reveal(row, column) {
    const lead = this.heads.firstChild.offsetWidth,
      head = this.heads.offsetHeight,
      { box } = this;
    const into = (now, from, unit, room) => Math.max(from + unit - room, Math.min(now, from));
    box.scrollTop = into(box.scrollTop, row * this.height, this.height, box.clientHeight - head);
    box.scrollLeft = into(box.scrollLeft, column * this.width, this.width, box.clientWidth - lead);
    this.draw();
  }

  key(event) {
    const [row, column] = this.at,
      page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const steps = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      PageUp: [row - page, column],
      PageDown: [row + page, column],
      Home: [event.ctrlKey ? 0 : row, 0],
      End: [event.ctrlKey ? this.rows.length - 1 : row, this.columns.length - 1],
    };
    if (event.key in steps) this.move(...steps[event.key]);
    else if (event.key === "Enter") this.open(row, column);
    else return;
    event.preventDefault();
    announce(this.box.querySelector(".cell.at")?.getAttribute("aria-label") ?? "");
  }

  click(event) {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    const [, row, column] = cell.id.split("-").map(Number);
    this.move(row, column);
    this.open(row, column);
  }
}

// the children of a line for these columns: others are removed, missing ones made
function keep(line, from, to, make) {
  const there = new Set();
  for (const one of [...line.querySelectorAll(":scope > [data-column]")]) {
    const column = Number(one.dataset.column);
    column < from || column >= to ? one.remove() : there.add(column);
  }
  for (let column = from; column < to; column++) if (!there.has(column)) line.append(make(column));
}
