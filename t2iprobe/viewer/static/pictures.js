// The pictures of a study: a grid of pairs × patches, and the large view of a cell.
import { announce, ask, element, find, fixed, percent, place, setPlace, whole } from "./common.js";
import { Grid } from "./grid.js";
import { Stage, scoreTable } from "./stage.js";
import { Study } from "./study.js";

const SIDES = { S: 56, M: 96, L: 160, scores: 22 }; // pixels of a cell
const ENDS = ["source", "target"];
let study, grid, stage;
let sized = matchMedia("(max-width: 40rem)").matches ? "S" : "M";

function lead(pair) {
  const ends = study.ends.map((trial, index) => {
    const box = element("div", { class: `end ${ENDS[index]}`, title: study.pairs[pair][ENDS[index]] });
    if (sized !== "scores") box.style.backgroundImage = `url("${study.strip(pair, trial, SIDES[sized])}")`;
    return box;
  });
  const { source, target } = study.pairs[pair];
  return element(
    "div",
    { title: `${source}\n${target}`, "aria-label": `pair ${pair}, ${study.words(pair)}` },
    element("span", { class: "pair" }, element("small", {}, `${pair}`), study.words(pair)),
    ends,
  );
}

function name(row, column, score) {
  const said = score == null ? "no answer" : `${study.score.replaceAll("_", " ")} ${fixed(score)}`;
  return `${grid.columns[column].label} patched, pair ${grid.rows[row]}, ${study.words(grid.rows[row])}: ${said}`;
}

async function large(row, column) {
  const pair = grid.rows[row],
    patch = grid.columns[column];
  const { scores } = await ask("/api/study/cell", { run: study.run, trials: patch.row, pair });
  const measured = scores[study.rank];
  if (measured.patched == null) throw new Error("This patch was not measured on this pair.");
  const trials = { source: study.ends[0], patched: patch.row, target: study.ends[1] };
  const shown = Object.keys(trials).filter((one) => measured[one] != null);
  return {
    title: `${patch.label} patched · ${study.words(pair)}`,
    stops: shown.map((one) => ({ name: one, src: study.picture(trials[one], pair) })),
    main: shown.indexOf("patched"),
    facts: element("div", {}, described(patch, pair), scoreTable(Object.keys(trials), scores)),
  };
}

function described(patch, pair) {
  const [mean, low, high] = (study.effects[patch.label]?.way ?? []).map(percent);
  const { source, target, seed } = study.pairs[pair];
  const said = { source, target, seed: `${seed}`, patched: patch.path };
  if (mean) said["way to the target"] = `${mean} [${low}, ${high}] over ${study.effects[patch.label].pairs} pairs`;
  const list = element(
    "dl",
    {},
    Object.entries(said).flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]),
  );
  if (!study.scene || !patch.scene) return [list];
  const scene = new URLSearchParams({ ...study.scene, source, target, seed, ...patch.scene });
  return [list, element("p", {}, element("a", { href: `/explore#${scene}` }, "Change it in the explorer"))];
}

function open(row, column, mode) {
  stage.open(row, column, mode).catch((error) => announce(error.message));
}

function moved(row, column) {
  setPlace({ pair: grid.rows[row], trial: grid.columns[column]?.label });
}

function arrange() {
  for (const button of document.querySelectorAll("[data-size]"))
    button.setAttribute("aria-pressed", button.dataset.size === sized);
  grid.show(study.matching(find("pairs").value), study.ordered(find("order").value), {
    side: SIDES[sized],
    pictures: sized !== "scores",
  });
}

function start() {
  find("score").replaceChildren(
    ...study.scores.map((name) => element("option", { value: name }, name.replaceAll("_", " "))),
  );
  grid = new Grid(find("grid"), {
    label: "pictures by pair and patch",
    sources: [study.source(() => SIDES[sized])],
    corner: ["pair", ...ENDS.slice(0, study.ends.length)],
    head: (column) => study.head(column),
    lead,
    name,
    open,
    moved,
  });
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
  for (const button of document.querySelectorAll("[data-size]"))
    button.addEventListener("click", () => ((sized = button.dataset.size), arrange()));
  addEventListener("hashchange", visit);
  find("tools").hidden = false;
  arrange();
}

// go to the cell that the address names, or else show the first layer of the answer
function visit() {
  const wanted = place();
  const column = grid.columns.findIndex((one) => one.label === wanted.get("trial"));
  const row = grid.rows.indexOf(Number(wanted.get("pair") ?? NaN));
  if (row >= 0 && column >= 0) {
    grid.move(row, column);
    if (wanted.has("open")) open(row, column, wanted.get("mode") ?? undefined);
  } else {
    const found = grid.columns.findIndex((one) => study.effects[one.label]?.overlap === "found");
    if (found > 0) grid.reveal(0, Math.min(found + 2, grid.columns.length - 1));
  }
}

// load what is new about the study, and show it without moving anything
export async function follow(run, started) {
  study ??= new Study(run);
  const version = study.version,
    first = !grid;
  study.made = started;
  await study.load();
  if (first) start();
  if (study.version !== version) {
    await study.loadEffects();
    grid.refresh(study.ordered(find("order").value));
    if (first) visit();
    else announce(`${whole(study.answers)} answers`);
  }
}
