// The explorer: what is on the screen is a scene, kept in the address behind #; every change draws again.
import { Board, cellsOf, textOf } from "./board.js";
import { announce, at, element, find, place } from "./common.js";
import { drawDifference, pixels } from "./stage.js";

const DEFAULTS = {
  what: "text",
  cells: "",
  mode: "patch",
  factor: "2",
  heads: "",
  branch: "both",
  num_steps: "",
  guidance: "",
  word: "",
};
const FIELDS = ["source", "target", "seed", "num_steps", "guidance"];
const MAPPED = ["source", "target"]; // pictures over which a word is shown
const SIDES = ["source", "result", "target"];
const FAINT = 24; // of 255: a smaller difference stays dark
const SMALL = 96; // pixels: such pictures are shown with sharp pixels
const page = Math.random().toString(36).slice(2); // a later request of this page takes the place of an earlier one

let scene = {};
let choices = null; // what the model has to choose from
let drawn = null; // what the server said about the scene that is shown
let asking = null; // the request that is under way
const board = new Board(find("board"), (cells) => change({ cells: textOf(cells) }));

// the scene in the address
function written(values) {
  const kept = Object.entries(values).filter(([name, value]) => value !== "" && value !== DEFAULTS[name]);
  return `#${new URLSearchParams(kept)}`;
}

function read() {
  return { ...DEFAULTS, model: find("model").options[0]?.value ?? "", ...Object.fromEntries(place()) };
}

// a change by hand: a new entry of the history, so that "back" undoes it
function change(values) {
  if (Object.entries(values).every(([name, value]) => scene[name] === value)) return;
  history.pushState({ changes: (history.state?.changes ?? 0) + 1 }, "", written({ ...scene, ...values }));
  follow();
}

// shows the scene in the address
async function follow() {
  const before = scene;
  scene = read();
  fill();
  find("said").replaceChildren();
  if (!scene.model) return say("There is no bundled model here: start the viewer with --model REF.");
  if (!choices || before.model !== scene.model || before.num_steps !== scene.num_steps) {
    const other = before.model !== scene.model;
    choices = await lines(
      at("/api/explore/board", { page, model: scene.model, num_steps: scene.num_steps }),
      {},
      other ? `loading ${scene.model}` : "",
    );
    if (!choices) return;
    if (!scene.source && choices.examples.length) {
      scene = { ...scene, ...texts(choices.examples[0]) };
      history.replaceState(null, "", written(scene));
    }
    fill();
  }
  if (!scene.source) return say("Write a source prompt to begin.");
  const found = await lines("/api/explore/draw", request({}), "");
  if (!found) return find("error").hidden || document.body.classList.add("stale");
  show(found);
  await light();
}

// darkens source and target where a word of their prompt is not read
async function light() {
  const found = scene.word
    ? await lines("/api/explore/attention", request({ word: scene.word }), "attention")
    : { maps: {} };
  for (const side of MAPPED) {
    const canvas = find(`map-${side}`);
    const name = found?.maps[side];
    canvas.hidden = !name;
    if (name) paint(canvas, await pixels(pictureAt(name)), (data, at) => [0, 0, 0, 0.85 * (255 - data[at])]);
  }
  if (drawn) cost(drawn);
}

const texts = (pair) => Object.fromEntries(Object.entries(pair).map(([name, value]) => [name, String(value)]));

function request(more) {
  const { model, word, ...rest } = scene;
  const chosen = ([name, value]) => value !== "" && value !== DEFAULTS[name] && (name !== "heads" || hasHeads());
  const given = Object.entries(rest).filter(chosen);
  const numbers = ["seed", "num_steps", "guidance", "factor"];
  const body = {
    page,
    model,
    scene: Object.fromEntries(given.map(([name, value]) => [name, numbers.includes(name) ? Number(value) : value])),
    ...more,
  };
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

// asks for lines of JSON and shows how far it is; the last line's answer, or nothing if there is none
async function lines(path, options, words) {
  asking?.abort();
  const mine = (asking = new AbortController());
  busy(words || "drawing");
  try {
    const answer = await fetch(path, { ...options, signal: mine.signal });
    if (!answer.ok) throw new Error((await answer.json()).error);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("The answer broke off; is t2iprobe view still running?");
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const line of parts.map((part) => JSON.parse(part))) {
        if (line.error) throw new Error(line.error);
        if (line.superseded) return null;
        if (line.done) {
          say("");
          return line.done;
        }
        busy(`${line.what} ${line.step}/${line.steps}`, line.step, line.steps);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError")
      say(error.name === "TypeError" ? "The viewer does not answer; is t2iprobe view still running?" : error.message);
    return null;
  } finally {
    if (asking === mine) busy("");
  }
}

function busy(words, step, steps) {
  const bar = find("progress");
  bar.hidden = !words;
  document.querySelector(".of-result .frame").classList.toggle("busy", Boolean(words));
  for (const side of MAPPED)
    document.querySelector(`.of-${side} .frame`).classList.toggle("old", Boolean(words && drawn && drawn.of !== unchanged()));
  if (words) find("cost").textContent = `${words} …`;
  if (steps) Object.assign(bar, { max: steps, value: step });
  else bar.removeAttribute("value");
}

function say(text) {
  find("error").textContent = text;
  find("error").hidden = !text;
}

// what the unchanged pictures are drawn from
const unchanged = () => ["model", "source", "target", "seed", "num_steps", "guidance"].map((name) => scene[name]).join("\n");

// fills the switches with the scene
function fill() {
  find("model").value = scene.model;
  for (const name of FIELDS) find(name).value = scene[name] ?? "";
  for (const name of ["mode", "branch"])
    for (const input of find(name).querySelectorAll("[type=radio]")) input.checked = input.value === scene[name];
  find("factor").value = scene.factor;
  find("undo").disabled = !history.state?.changes;
  find("word").value = scene.word;
  const words = new Set(`${scene.source ?? ""} ${scene.target ?? ""}`.match(/[\p{L}\p{N}]+/gu));
  find("words").replaceChildren(...[...words].map((word) => element("option", { value: word })));
  find("factor").hidden = scene.mode !== "scale";
  if (!choices) return;
  const { offers, steps, guided, defaults } = choices;
  find("num_steps").placeholder = defaults.num_steps ?? steps;
  find("guidance").placeholder = defaults.guidance ?? "";
  find("branch").hidden = !guided;
  if (find("what").options.length !== offers.length || find("what").options[1]?.value !== offers[1]?.name) {
    find("what").replaceChildren(
      ...offers.map((offer) =>
        element(
          "option",
          { value: offer.name },
          offer.name === "text" ? offer.title : `${offer.title} (${offer.name})`,
        ),
      ),
    );
  }
  find("what").value = scene.what;
  const layers = [...new Set(offers.flatMap((one) => Object.keys(one.heads).map(Number)))].sort(
    (one, other) => one - other,
  );
  board.show({ layers, steps, able: Object.keys(offer()?.heads ?? {}).map(Number), cells: cellsOf(scene.cells) });
  fillHeads();
}

const offer = () => choices?.offers.find((one) => one.name === scene.what);

// heads that all chosen layers have, or all layers as long as none is chosen
function headCount() {
  const chosen = [...cellsOf(scene.cells).keys()].map((layer) => offer()?.heads[layer] ?? 0);
  return Math.min(...(chosen.length ? chosen : Object.values(offer()?.heads ?? { 0: 0 })));
}
const hasHeads = () => !choices || headCount() > 0;

function fillHeads() {
  const chosen = new Set(scene.heads.split(",").filter(Boolean).map(Number));
  const count = headCount();
  const box = (text, checked, onchange) => {
    const input = element("input", {
      type: "checkbox",
      onchange,
      "aria-label": text === "all" ? "all heads" : `head ${text}`,
    });
    input.checked = checked;
    return element("label", {}, input, element("span", {}, text));
  };
  const toggled = (head) => {
    chosen.has(head) ? chosen.delete(head) : chosen.add(head);
    change({ heads: [...chosen].sort((one, other) => one - other).join(",") });
  };
  const heads = Array.from({ length: count }, (_, head) => box(`${head}`, chosen.has(head), () => toggled(head)));
  const focused = [...find("heads").querySelectorAll("input")].indexOf(document.activeElement);
  find("heads").hidden = !count;
  find("heads").replaceChildren(
    element("legend", {}, "attention heads"),
    box("all", !chosen.size, () => (chosen.size ? change({ heads: "" }) : fillHeads())),
    ...heads,
  );
  if (focused >= 0) find("heads").querySelectorAll("input")[focused]?.focus();
}

// shows what the server has drawn
function show(found) {
  document.body.classList.remove("stale");
  drawn = { ...found, of: unchanged() };
  for (const side of SIDES) {
    const image = find(`picture-${side}`);
    const name = found.pictures[side];
    image.alt = {
      source: `picture of: ${scene.source}`,
      target: `picture of: ${scene.target}`,
      result: `the source's picture, changed: ${found.sentence}`,
    }[side];
    name ? (image.src = pictureAt(name)) : image.removeAttribute("src");
  }
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u202f%`;
  find("moved").textContent = Object.entries(found.moved)
    .map(([side, share]) => `${percent(share)} from the ${side}`)
    .join(", ");
  find("moved").title = "root mean square difference of the pixels";
  find("sentence").textContent = scene.cells
    ? `${found.sentence}.`
    : "Nothing is changed yet: choose cells on the board.";
  cost(found);
  find("python").textContent = found.python;
  find("command").textContent = found.command;
  find("file").textContent = found.file && `The picture is ${found.file} in its run folder.`;
  find("shell").hidden = find("copy-command").disabled = !found.command;
  find("copy-command").title = found.missing;
  announce(`${scene.cells ? found.sentence : "Drawn"}. ${find("moved").textContent}`);
  if (find("differ").ariaPressed === "true") differ();
}

function cost({ rows, seconds }) {
  find("cost").textContent = rows ? `${rows} denoiser rows, ${seconds.toFixed(1)} s` : "nothing had to run";
}

const pictureAt = (name) => `/api/explore/pictures/${name}.png`;

// the difference between result and source
async function differ() {
  const on = find("differ").ariaPressed === "true";
  find("difference").hidden = !on;
  if (!on || !drawn) return;
  const [one, other] = await Promise.all(["result", "source"].map((side) => pixels(pictureAt(drawn.pictures[side]))));
  drawDifference(find("difference"), one, other, FAINT);
}

// fills a canvas with a colour for each pixel of a picture
function paint(canvas, { data, width, height }, colour) {
  Object.assign(canvas, { width, height });
  canvas.classList.toggle("small", width <= SMALL);
  const painted = new ImageData(width, height);
  for (let place = 0; place < data.length; place += 4) painted.data.set(colour(data, place), place);
  canvas.getContext("2d").putImageData(painted, 0, 0);
}

async function copy(text, what, id) {
  try {
    await navigator.clipboard.writeText(text);
    find("said").textContent = `${what} is copied.`;
  } catch {
    // a browser copies only on this machine or by https; there the text can be selected
    const shown = find(id);
    if (shown) {
      shown.closest("details").open = true;
      getSelection().selectAllChildren(shown);
    }
    find("said").textContent = shown ? "Press Ctrl+C to copy the selected text." : text;
  }
}

async function save() {
  const name = find("name").value;
  const found = await lines("/api/explore/save", request({ name }), "saving");
  if (found)
    find("said").replaceChildren("Saved as ", element("a", { href: at("/run", { run: found.run }) }, found.run), ".");
  if (drawn) cost(drawn);
}

for (const name of FIELDS)
  find(name).addEventListener(
    "change",
    () => find("pair").reportValidity() && change({ [name]: find(name).value.trim() }),
  );
find("pair").addEventListener("submit", (event) => event.preventDefault());
find("model").addEventListener("change", () =>
  change({ ...DEFAULTS, source: "", target: "", seed: "0", model: find("model").value }),
);
find("another").addEventListener("click", () => {
  const pairs = choices?.examples ?? [];
  const now = pairs.findIndex((pair) => pair.source === scene.source && pair.target === scene.target);
  if (pairs.length) change(texts(pairs[(now + 1) % pairs.length]));
});
for (const name of ["mode", "branch"])
  find(name).addEventListener(
    "change",
    (event) => event.target.type === "radio" && change({ [name]: event.target.value }),
  );
find("factor").addEventListener("change", () => find("factor").value && change({ factor: find("factor").value }));
find("word").addEventListener("change", () => change({ word: find("word").value.trim() }));
find("what").addEventListener("change", () => {
  const layers = choices.offers.find((one) => one.name === find("what").value).heads;
  const kept = new Map([...cellsOf(scene.cells)].filter(([layer]) => layer in layers));
  change({ what: find("what").value, heads: "", cells: textOf(kept) });
});
find("undo").addEventListener("click", () => history.back());
find("clear").addEventListener("click", () => change({ cells: "" }));
find("copy-python").addEventListener("click", () => copy(drawn?.python ?? "", "The script", "python"));
find("copy-command").addEventListener("click", () => copy(drawn?.command ?? "", "The command", "command"));
find("copy-link").addEventListener("click", () => copy(location.href, "The link", ""));
find("save").addEventListener("click", () => {
  const now = new Date();
  find("name").value =
    `explore-${scene.model.replace(/[^A-Za-z0-9]+/g, "-")}-${now.toTimeString().slice(0, 8).replaceAll(":", "")}`;
  find("saving").showModal();
});
find("saving").addEventListener("close", () => find("saving").returnValue === "save" && save());
find("differ").addEventListener("click", () => {
  find("differ").ariaPressed = String(find("differ").ariaPressed !== "true");
  differ();
});

// while the button is held, the result's place shows the source
function hold(on) {
  const side = on ? "source" : "result";
  if (drawn) find("picture-result").src = pictureAt(drawn.pictures[side]);
  if (on) find("difference").hidden = true;
  else differ();
}
for (const event of ["pointerdown", "keydown"])
  find("hold").addEventListener(
    event,
    (pressed) => (!pressed.key || [" ", "Enter"].includes(pressed.key)) && hold(true),
  );
for (const event of ["pointerup", "pointercancel", "pointerleave", "keyup", "blur"])
  find("hold").addEventListener(event, () => hold(false));
for (const side of SIDES)
  find(`picture-${side}`).addEventListener("load", (event) =>
    event.target.classList.toggle("small", event.target.naturalWidth <= SMALL),
  );
addEventListener("popstate", follow);
follow();
