// The large view: pictures under one slider, blinking, their difference, or side by side.
import { announce, ask, element, find, setPlace } from "./common.js";

const BLINK = 650; // milliseconds
const MODES = { s: "slide", b: "blink", d: "difference", a: "beside" };

export class Stage {
  // show(row, column) -> { title, stops: [{ name, src }], facts } ; move(rows, columns) goes to a neighbour
  constructor({ show, move, closed }) {
    Object.assign(this, { show, closed, mode: "slide" });
    this.dialog = find("large");
    this.slider = find("slider");
    this.slider.addEventListener("input", () => this.slide());
    find("reference").addEventListener("change", () => this.draw());
    find("close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("close", () => {
      clearInterval(this.blinking);
      setPlace({ mode: null, open: null });
      this.closed?.();
    });
    for (const button of this.modes()) button.addEventListener("click", () => this.turn(button.dataset.mode));
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (step && event.target !== this.slider && event.target.tagName !== "SELECT") move(...step);
      else if (event.key in MODES) this.turn(MODES[event.key] === this.mode ? "slide" : MODES[event.key]);
      else return;
      event.preventDefault();
    });
  }

  modes() {
    return this.dialog.querySelectorAll("[data-mode]");
  }

  async open(row, column, mode = this.mode) {
    if (Object.values(MODES).includes(mode)) this.mode = mode;
    const asked = (this.asked = {});
    const { title, stops, main, facts } = await this.show(row, column);
    if (asked !== this.asked) return; // another cell was opened meanwhile
    const first = !this.dialog.open;
    Object.assign(this, { stops, main });
    find("large-title").textContent = title;
    find("facts").replaceChildren(facts);
    const others = stops.map((stop, index) => index).filter((index) => index !== main);
    const before = find("reference").value;
    find("reference").replaceChildren(...others.map((index) => element("option", { value: index }, stops[index].name)));
    if (others.includes(Number(before)) && before !== "") find("reference").value = before;
    if (first) {
      this.slider.max = 100 * (stops.length - 1);
      this.slider.value = stops.length > 2 ? 100 * main : 50;
      this.dialog.showModal();
      this.dialog.focus();
    }
    this.draw();
    announce(title);
  }

  turn(mode) {
    this.mode = mode;
    this.draw();
    announce(mode);
  }

  draw() {
    clearInterval(this.blinking);
    this.under = null;
    for (const button of this.modes()) button.setAttribute("aria-pressed", button.dataset.mode === this.mode);
    this.slider.hidden = find("stops").hidden = this.mode !== "slide";
    find("against").hidden = !["blink", "difference"].includes(this.mode) || this.stops.length < 3;
    find("stage").className = `stage ${this.mode}`;
    setPlace({ mode: this.mode, open: 1 });
    this[this.mode]();
  }

  image(stop) {
    const made = element("img", { src: stop.src, alt: stop.name, draggable: "false" });
    const caption = element("figcaption", {}, stop.name);
    made.addEventListener("load", () => made.classList.toggle("tiny", made.naturalWidth <= 160));
    made.addEventListener("error", async () => {
      caption.className = "reason";
      caption.textContent = await ask(stop.src).catch((error) => error.message);
    });
    return element("figure", {}, made, caption);
  }

  slide() {
    const value = Number(this.slider.value),
      last = this.stops.length - 1;
    const index = Math.min(last - 1, Math.floor(value / 100)),
      part = value / 100 - index;
    if (this.under !== index) {
      find("stage").replaceChildren(
        ...[index, index + 1].map((one) => this.image(this.stops[one])),
        element("div", { class: "edge" }),
      );
      find("stops").replaceChildren(
        ...this.stops.map((stop, one) =>
          element("button", { type: "button", onclick: () => this.jump(one) }, stop.name),
        ),
      );
      this.under = index;
    }
    const [, over, edge] = find("stage").children;
    over.style.clipPath = `inset(0 ${100 * (1 - part)}% 0 0)`;
    edge.style.left = `${100 * part}%`;
    edge.hidden = part === 0 || part === 1;
    const near = Math.round(value / 100);
    [...find("stops").children].forEach((one, place) =>
      one.setAttribute("aria-pressed", place === near && value === 100 * near),
    );
    const [from, to] = [this.stops[index].name, this.stops[index + 1].name];
    this.slider.setAttribute("aria-label", this.stops.map((stop) => stop.name).join(" – "));
    this.slider.setAttribute(
      "aria-valuetext",
      part === 0 ? from : part === 1 ? to : `${to} over the left ${Math.round(100 * part)} % of ${from}`,
    );
  }

  jump(index) {
    this.slider.value = 100 * index;
    this.slide();
  }

  reference() {
    return this.stops[Number(find("reference").value)];
  }

  blink() {
    const pictures = [this.reference(), this.stops[this.main]].map((stop) => this.image(stop));
    find("stage").replaceChildren(...pictures);
    let on = 1;
    const turn = () => pictures.forEach((one, index) => (one.style.visibility = index === on ? "visible" : "hidden"));
    turn();
    this.blinking = setInterval(() => ((on = 1 - on), turn()), BLINK);
  }

  beside() {
    find("stage").replaceChildren(...this.stops.map((stop) => this.image(stop)));
  }

  async difference() {
    const asked = (this.asked = {});
    const [one, other] = await Promise.all([this.stops[this.main], this.reference()].map((stop) => pixels(stop.src)));
    if (asked !== this.asked || this.mode !== "difference") return;
    const canvas = element("canvas", { role: "img", "aria-label": "difference" });
    const most = drawDifference(canvas, one, other);
    canvas.classList.toggle("tiny", one.width <= 160);
    const said = most ? `brightest: ${most} of 255 apart` : "no difference";
    find("stage").replaceChildren(element("figure", {}, canvas, element("figcaption", {}, said)));
  }
}

// the pixels of the picture at an address
export async function pixels(src) {
  const image = new Image();
  image.src = src;
  await image.decode();
  const canvas = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

// from black by orange to white, the largest difference of a pixel's channels being white; returns it
// least: a largest difference below it is not made brighter
export function drawDifference(canvas, one, other, least = 1) {
  Object.assign(canvas, { width: one.width, height: one.height });
  const pen = canvas.getContext("2d"),
    drawn = pen.createImageData(one.width, one.height);
  if (one.width !== other.width || one.height !== other.height) return 0;
  const apart = new Uint8Array(one.width * one.height);
  for (let pixel = 0; pixel < apart.length; pixel++)
    for (let channel = 0; channel < 3; channel++)
      apart[pixel] = Math.max(apart[pixel], Math.abs(one.data[4 * pixel + channel] - other.data[4 * pixel + channel]));
  const most = apart.reduce((high, value) => Math.max(high, value), 0);
  apart.forEach((value, pixel) => {
    const share = value / Math.max(most, least);
    drawn.data.set(
      [255 * Math.min(1, 2 * share), 255 * Math.max(0, share * 1.5 - 0.5), 255 * Math.max(0, 2 * share - 1), 255],
      4 * pixel,
    );
  });
  pen.putImageData(drawn, 0, 0);
  return most;
}

// the scores of a cell: one line for each score, one column for each picture
export function scoreTable(names, scores) {
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "score"),
    names.map((name) => element("th", { scope: "col" }, name)),
  );
  const lines = Object.entries(scores).map(([score, found]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, score.replaceAll("_", " ")),
      names.map((name) => element("td", {}, found[name] == null ? "–" : found[name].toFixed(2))),
    ),
  );
  return element("table", { class: "scores" }, element("thead", {}, head), element("tbody", {}, lines));
}
