// A run: its answer, the pictures of a study in a grid, its report, and everything else that it says.
import { announce, ask, at, cost, element, find, fixed, moment, percent, place, repeat, setPlace, size, stateOf, whole } from "./common.js";
import { Grid } from "./grid.js";
import { Stage, scoreTable } from "./stage.js";
import { Study } from "./study.js";

const SIDES = { S: 56, M: 96, L: 160, scores: 22 };
const run = document.querySelector("header.run").dataset.run;
const study = new Study(run);
let grid, stage, facts;
let reported = false;

const narrow = matchMedia("(max-width: 40rem)").matches;
let sized = narrow ? "S" : "M";

function header() {
  find("headline").textContent = facts.headline || (facts.error ? "This run cannot be read." : "No answer yet.");
  find("explanation").textContent = facts.explanation;
  find("explanation").hidden = !facts.explanation;
  find("trouble").textContent = facts.error;
  find("trouble").hidden = !facts.error;
  const parts = [facts.kind, facts.model, cost(facts.spent), moment(facts.started), size(facts.bytes)];
  find("facts-line").replaceChildren(element("span", {}, stateOf(facts)), ...parts.filter(Boolean).map((part) => element("span", {}, part)));
}

function tab(name) {
  for (const one of ["pictures", "report", "details"]) {
    find(one).hidden = one !== name;
    find(`tab-${one}`).setAttribute("aria-selected", one === name);
    find(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  if (name === "report" && !reported) {
    reported = true;
    find("report").replaceChildren(element("iframe", { src: at("/report", { run }), title: "report", sandbox: "allow-scripts" }));
  }
  setPlace({ tab: name === "pictures" ? null : name });
}

function details() {
  const lists = Object.entries(facts.lists).filter(([, values]) => Object.keys(values).length);
  find("details").replaceChildren(
    ...lists.flatMap(([name, values]) => [
      element("h2", {}, name === "command" ? "Run it again" : name[0].toUpperCase() + name.slice(1)),
      name === "command"
        ? element("pre", {}, values.command)
        : element("dl", {}, Object.entries(values).flatMap(([key, value]) => [element("dt", {}, key.replaceAll("_", " ")), element("dd", {}, value)])),
    ]),
  );
}

function files() {
  const list = facts.pictures.filter((name) => !facts.study || !name.startsWith("images/")); // those are in the grid
  find("files").replaceChildren(
    ...list.map((name) => {
      const image = element("img", { src: at("/file", { run, name, side: 512, v: facts.ended }), alt: name, loading: "lazy" });
      return element("a", { href: at("/file", { run, name }), target: "_blank" }, element("figure", {}, image, element("figcaption", {}, name)));
    }),
  );
}

// the pairs and patches of a study
function lead(pair) {
  const ends = study.ends.map((trial, index) => {
    const box = element("div", { class: `end ${index ? "target" : "source"}`, title: study.pairs[pair][index ? "target" : "source"] });
    if (sized !== "scores") box.style.backgroundImage = `url("${study.strip(pair, trial, SIDES[sized])}")`;
    return box;
  });
  const { source, target } = study.pairs[pair];
  return element("div", { title: `${source}\n${target}`, "aria-label": `pair ${pair}, ${study.words(pair)}` }, element("span", { class: "pair" }, element("small", {}, `${pair}`), study.words(pair)), ends);
}

function name(row, column, score) {
  const said = score == null ? "no answer" : `${study.score.replaceAll("_", " ")} ${fixed(score)}`;
  return `${grid.columns[column].label} patched, pair ${grid.rows[row]}, ${study.words(grid.rows[row])}: ${said}`;
}

async function large(row, column) {
  const pair = grid.rows[row], patch = grid.columns[column];
  const { scores } = await ask("/api/study/cell", { run, trials: patch.row, pair });
  const ends = { source: study.ends[0], target: study.ends[1] };
  const shown = [["source", ends.source], [`${patch.label} patched`, patch.row], ["target", ends.target]];
  const measured = [scores[study.rank].source, scores[study.rank].patched, scores[study.rank].target];
  const stops = shown.filter((_, index) => measured[index] != null).map(([name, trial]) => ({ name, src: study.picture(trial, pair) }));
  if (measured[1] == null) throw new Error("This patch was not measured on this pair.");
  const effect = study.effects[patch.label];
  const { source, target, seed } = study.pairs[pair];
  const said = [
    ["source", source],
    ["target", target],
    ["seed", `${seed}`],
    ["patched", patch.path],
    ["way to the target", effect && `${percent(effect.way[0])} [${percent(effect.way[1])}, ${percent(effect.way[2])}] over ${effect.pairs} pairs`],
  ].filter(([, value]) => value);
  const list = element("dl", {}, said.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]));
  return { title: `${patch.label} patched · ${study.words(pair)}`, stops, main: stops.findIndex((stop) => stop.name.endsWith("patched")), facts: element("div", {}, list, scoreTable(["source", "patched", "target"], scores)) };
}

function open(row, column, mode) {
  stage.open(row, column, mode).catch((error) => announce(error.message));
}

function moved(row, column) {
  setPlace({ pair: grid.rows[row], trial: grid.columns[column]?.label });
}

function arrange() {
  for (const button of document.querySelectorAll("[data-size]")) button.setAttribute("aria-pressed", button.dataset.size === sized);
  grid.show(study.matching(find("pairs").value), study.ordered(find("order").value), { side: SIDES[sized], pictures: sized !== "scores" });
}

function startStudy() {
  find("score").replaceChildren(...study.scores.map((name) => element("option", { value: name }, name.replaceAll("_", " "))));
  const source = study.source(() => SIDES[sized]);
  const corner = ["pair", ...["source", "target"].slice(0, study.ends.length)];
  grid = new Grid(find("grid"), { label: "pictures by pair and patch", sources: [source], head: (column) => study.head(column), lead, name, open, moved, corner });
  stage = new Stage({
    show: large,
    move: (down, right) => {
      grid.move(grid.at[0] + down, grid.at[1] + right);
      open(...grid.at);
    },
    closed: () => grid.box.focus(),
  });
  find("pairs").addEventListener("input", arrange);
  find("order").addEventListener("change", arrange);
  find("score").addEventListener("change", () => {
    study.score = find("score").value;
    arrange();
  });
  for (const button of document.querySelectorAll("[data-size]")) button.addEventListener("click", () => ((sized = button.dataset.size), arrange()));
  addEventListener("hashchange", visit);
  find("tools").hidden = false;
  arrange();
}

// go to the cell that the address names, or else show the first layer of the answer
function visit() {
  const wanted = place();
  const found = grid.columns.findIndex((one) => study.effects[one.label]?.overlap === "found");
  if (!wanted.has("pair") && found > 0) grid.reveal(0, Math.min(found + 2, grid.columns.length - 1));
  const column = grid.columns.findIndex((one) => one.label === wanted.get("trial"));
  if (wanted.has("pair")) grid.move(Number(wanted.get("pair")), column);
  if (wanted.has("open") && column >= 0) open(...grid.at, wanted.get("mode") ?? undefined);
}

// load what is new about the study, and show it without moving anything
async function follow() {
  const version = study.version, first = !grid;
  study.made = facts.started;
  await study.load();
  if (first) startStudy();
  if (study.version !== version) {
    await study.loadEffects();
    grid.refresh(study.ordered(find("order").value));
    if (first) visit();
    else announce(`${whole(study.answers)} answers`);
  }
}

for (const one of ["pictures", "report", "details"]) find(`tab-${one}`).addEventListener("click", () => tab(one));
find("tabs").addEventListener("keydown", (event) => {
  const all = [...find("tabs").children].filter((one) => !one.hidden), here = all.indexOf(document.activeElement);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) all[(here + step + all.length) % all.length].focus(), document.activeElement.click();
});

await repeat(async () => {
  try {
    const before = facts && JSON.stringify(facts);
    facts = await ask("/api/run", { run });
    if (JSON.stringify(facts) !== before) {
      header();
      details();
      files();
      if (before) reported = false;
    }
    const damaged = Boolean(facts.error), empty = !facts.study && !facts.pictures.length;
    for (const one of ["pictures", "details"]) find(`tab-${one}`).hidden = damaged;
    if (!before) tab(empty ? "report" : (place().get("tab") ?? "pictures"));
    if (facts.study) await follow();
  } catch (error) {
    find("trouble").textContent = error.message;
    find("trouble").hidden = false;
  }
  return facts?.state === "running" ? 1500 : facts?.state === "finished" ? 0 : 5000;
});
