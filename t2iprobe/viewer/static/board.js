// A grid of layers and denoising steps, whose cells are chosen by pointer or keyboard.
import { element } from "./common.js";

// the steps of each layer, from and to the text of an address: 6:0-19;7,8:3
export function cellsOf(text) {
  const found = new Map();
  for (const part of (text || "").split(";").filter(Boolean)) {
    const [layers, steps] = part.split(":").map(numbersOf);
    for (const layer of layers) found.set(layer, new Set([...(found.get(layer) ?? []), ...steps]));
  }
  return found;
}

export function textOf(cells) {
  const bySteps = new Map();
  for (const [layer, steps] of [...cells].sort(([one], [other]) => one - other)) {
    if (!steps.size) continue;
    const text = rangesOf([...steps]);
    bySteps.set(text, [...(bySteps.get(text) ?? []), layer]);
  }
  return [...bySteps].map(([steps, layers]) => `${rangesOf(layers)}:${steps}`).join(";");
}

function numbersOf(text) {
  return text.split(",").flatMap((part) => {
    const [first, last = first] = part.split("-").map(Number);
    return Array.from({ length: Math.min(last - first + 1, 10000) || 0 }, (_, index) => first + index);
  });
}

function rangesOf(numbers) {
  const runs = [];
  for (const number of [...numbers].sort((one, other) => one - other)) {
    const run = runs.at(-1);
    if (run && number === run[1] + 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(",");
}

export class Board {
  // onchange gets the chosen cells once a click, a stroke or a key is complete
  constructor(table, onchange) {
    Object.assign(this, { table, onchange, layers: [], steps: 0, cells: new Map(), able: new Set(), at: [0, 0] });
    table.addEventListener("pointerdown", (event) => this.press(event));
    table.addEventListener("pointermove", (event) => this.stroke(event));
    table.addEventListener("pointerup", () => this.release());
    table.addEventListener("pointercancel", () => this.release(true));
    table.addEventListener("keydown", (event) => this.key(event));
    table.addEventListener("click", (event) => this.label(event.target.closest("button")));
  }

  // layers: numbers of all rows; able: those that can be chosen
  show({ layers, steps, able, cells }) {
    const same = steps === this.steps && layers.join() === this.layers.join();
    Object.assign(this, { layers, steps, able: new Set(able), cells });
    if (!same) this.build();
    this.paint();
  }

  build() {
    const every = this.steps > 24 ? 5 : 1;
    const label = (row, column, text, words) =>
      element(
        "button",
        { type: "button", tabindex: -1, "data-row": row, "data-column": column, "aria-label": words },
        text,
      );
    const head = Array.from({ length: this.steps }, (_, step) =>
      element("th", { scope: "col" }, label(-1, step, step % every ? "·" : `${step}`, `step ${step} in all layers`)),
    );
    const rows = this.layers.map((layer, row) => {
      const cells = Array.from({ length: this.steps }, (_, step) =>
        element("td", {
          role: "gridcell",
          tabindex: -1,
          "data-row": row,
          "data-column": step,
          "aria-label": `layer ${layer}, step ${step}`,
        }),
      );
      return element(
        "tr",
        { role: "row" },
        element("th", { scope: "row" }, label(row, -1, `${layer}`, `layer ${layer} at all steps`)),
        cells,
      );
    });
    const corner = element("th", {}, label(-1, -1, "all", "all cells"));
    this.table.style.minWidth = `${2 + 0.75 * this.steps}rem`; // narrower, it scrolls
    this.table.replaceChildren(
      element("thead", {}, element("tr", { role: "row" }, corner, head)),
      element("tbody", {}, rows),
    );
    this.at = [Math.min(this.at[0], this.layers.length - 1), Math.min(this.at[1], this.steps - 1)];
    this.part(...this.at).tabIndex = 0;
  }

  paint() {
    for (const cell of this.table.querySelectorAll("td")) {
      const [row, column] = placeOf(cell);
      const able = this.able.has(this.layers[row]);
      able ? cell.removeAttribute("aria-disabled") : cell.setAttribute("aria-disabled", "true");
      cell.setAttribute("aria-selected", able && this.has(row, column));
    }
  }

  part(row, column) {
    return this.table.querySelector(`[data-row="${row}"][data-column="${column}"]`);
  }

  has(row, column) {
    return this.cells.get(this.layers[row])?.has(column) ?? false;
  }

  // chooses or leaves a rectangle; rows and columns are inclusive
  fill([top, left], [bottom, right], on) {
    for (let row = Math.min(top, bottom); row <= Math.max(top, bottom); row += 1) {
      const layer = this.layers[row];
      if (!this.able.has(layer)) continue;
      const steps = new Set(this.cells.get(layer));
      for (let column = Math.min(left, right); column <= Math.max(left, right); column += 1)
        on ? steps.add(column) : steps.delete(column);
      steps.size ? this.cells.set(layer, steps) : this.cells.delete(layer);
    }
  }

  press(event) {
    const cell = event.target.closest("td");
    if (!cell || event.button || cell.ariaDisabled === "true") return;
    const from = placeOf(cell);
    this.held = { from, on: !this.has(...from), before: new Map(this.cells) };
    this.focus(...from);
    this.drag(from);
  }

  stroke(event) {
    const cell = this.held && document.elementFromPoint(event.clientX, event.clientY)?.closest("#board td");
    if (cell) this.drag(placeOf(cell));
  }

  drag(to) {
    this.cells = new Map(this.held.before);
    this.fill(this.held.from, to, this.held.on);
    this.paint();
  }

  release(undone = false) {
    if (!this.held) return;
    const { before } = this.held;
    this.held = null;
    if (undone) {
      this.cells = before;
      this.paint();
    } else if (textOf(before) !== textOf(this.cells)) this.onchange(this.cells);
  }

  // a number at the edge takes its whole layer or step, or leaves it
  label(button) {
    if (!button) return;
    const [row, column] = placeOf(button);
    const from = [Math.max(row, 0), Math.max(column, 0)];
    const to = [row < 0 ? this.layers.length - 1 : row, column < 0 ? this.steps - 1 : column];
    this.focus(row, column);
    this.toggle(from, to);
  }

  toggle(from, to) {
    const before = textOf(this.cells);
    const kept = new Map(this.cells);
    this.fill(from, to, true);
    if (textOf(this.cells) === before) {
      this.cells = kept;
      this.fill(from, to, false);
    }
    this.paint();
    if (textOf(this.cells) !== before) this.onchange(this.cells);
  }

  focus(row, column) {
    this.part(...this.at).tabIndex = -1;
    this.at = [row, column];
    const part = this.part(row, column);
    part.tabIndex = 0;
    part.focus({ preventScroll: false });
  }

  key(event) {
    const moves = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      Home: [0, -this.steps],
      End: [0, this.steps],
    };
    const [row, column] = this.at;
    if (event.key === " " || event.key === "Enter") {
      if (row >= 0 && column >= 0) this.toggle(this.at, this.at);
      else this.label(this.part(row, column));
    } else if (event.key in moves) {
      const [down, right] = moves[event.key];
      const to = [
        Math.min(Math.max(row + down, -1), this.layers.length - 1),
        Math.min(Math.max(column + right, event.shiftKey ? 0 : -1), this.steps - 1),
      ];
      this.focus(...to);
      if (event.shiftKey && row >= 0 && column >= 0 && to[0] >= 0) {
        const before = textOf(this.cells);
        this.fill(to, to, this.has(row, column));
        this.paint();
        if (textOf(this.cells) !== before) this.onchange(this.cells);
      }
    } else return;
    event.preventDefault();
  }
}

function placeOf(part) {
  return [Number(part.dataset.row), Number(part.dataset.column)];
}
