// Two runs side by side: what differs, and their pictures in step.
import { announce, ask, at, cost, element, find, fixed, moment, stateOf } from "./common.js";
import { Grid } from "./grid.js";
import { Stage, scoreTable } from "./stage.js";
import { Study } from "./study.js";

const SIDE = 88;
const names = [find("both").dataset.a, find("both").dataset.b];

function card(run, letter) {
  return element(
    "article",
    {},
    element(
      "h2",
      {},
      element("span", { class: "letter" }, letter),
      element("a", { href: at("/run", { run: run.name }) }, run.name),
    ),
    element("p", { class: run.error ? "reason" : "sentence" }, run.error || run.sentence || "No answer yet."),
    element(
      "p",
      { class: "line" },
      element("span", {}, stateOf(run)),
      [run.kind, run.model, cost(run.spent), moment(run.started)]
        .filter(Boolean)
        .map((part) => element("span", {}, part)),
    ),
  );
}

function table(part, lines) {
  const head = element(
    "tr",
    {},
    [part, "A", "B"].map((name) => element("th", { scope: "col" }, name)),
  );
  const rows = lines.map(([name, one, other]) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name.replaceAll("_", " ")),
      element("td", {}, one || "–"),
      element("td", {}, other || "–"),
    ),
  );
  return element("table", { class: "differences" }, element("thead", {}, head), element("tbody", {}, rows));
}

// what both have is shown, what only one of them has on demand
function differences(part, lines) {
  const both = lines.filter(([, one, other]) => one && other),
    rest = lines.filter((line) => !both.includes(line));
  const more = rest.length
    ? element(
        "details",
        { open: !both.length && rest.length < 8 },
        element("summary", {}, `${part} of only one of them: ${rest.length}`),
        table(part, rest),
      )
    : null;
  return [both.length ? table(part, both) : null, more];
}

// the pairs and patches that both studies have; a pair is one with the same prompts and seed
function inCommon(one, other) {
  const key = (pair) => JSON.stringify([pair.source, pair.target, pair.seed]);
  const known = new Map(other.pairs.map((pair, index) => [key(pair), index]));
  const pairs = one.pairs.flatMap((pair, index) => (known.has(key(pair)) ? [[index, known.get(key(pair))]] : []));
  const rows = new Map(other.columns.map((column) => [column.label, column.row]));
  const columns = one.columns
    .filter((column) => rows.has(column.label))
    .map((column) => ({ ...column, rows: [column.row, rows.get(column.label)] }));
  return { pairs, columns };
}

function inStep(studies) {
  const { pairs, columns } = inCommon(...studies);
  find("common").textContent =
    pairs.length && columns.length
      ? `A on the left, B on the right: ${columns.length} patches and ${pairs.length} pairs that both have.`
      : "The two have no patch and pair in common.";
  find("pictures").hidden = false;
  if (!pairs.length || !columns.length) return;
  const sources = studies.map((study, index) =>
    study.source(
      () => SIDE,
      (row) => row[index],
      (column) => column.rows[index],
    ),
  );
  const grid = new Grid(find("grid"), {
    label: "pictures of both runs by pair and patch",
    sources,
    side: SIDE,
    corner: ["pair"],
    head: (column) =>
      element(
        "div",
        { class: "two" },
        studies.map((study, index) => study.head(column, "AB"[index] + " ")),
      ),
    lead: ([pair]) =>
      element("div", {}, element("span", { class: "pair" }, element("small", {}, `${pair}`), studies[0].words(pair))),
    name: (row, column, score) =>
      `${columns[column].label} patched, ${studies[0].words(pairs[row][0])}: ${fixed(score)}`,
    open: (row, column) => stage.open(row, column).catch((error) => announce(error.message)),
  });
  const stage = new Stage({
    show: (row, column) => large(studies, pairs[row], columns[column]),
    move: (down, right) => {
      grid.move(grid.at[0] + down, grid.at[1] + right);
      grid.open(...grid.at);
    },
    closed: () => grid.box.focus(),
  });
  grid.show(pairs, columns);
}

async function large(studies, pair, column) {
  const found = await Promise.all(
    studies.map((study, index) =>
      ask("/api/study/cell", { run: study.run, trials: column.rows[index], pair: pair[index] }),
    ),
  );
  const stops = studies.map((study, index) => ({
    name: `${"AB"[index]}: ${study.run}`,
    src: study.picture(column.rows[index], pair[index]),
  }));
  const scores = {};
  found.forEach((one, index) => {
    for (const [name, values] of Object.entries(one.scores)) (scores[name] ??= {})["AB"[index]] = values.patched;
  });
  return {
    title: `${column.label} patched · ${studies[0].words(pair[0])}`,
    stops,
    main: 1,
    facts: scoreTable(["A", "B"], scores),
  };
}

try {
  const { runs, ...parts } = await ask("/api/compare", { a: names[0], b: names[1] });
  find("both").replaceChildren(...runs.map((run, index) => card(run, "AB"[index])));
  const shown = Object.entries(parts)
    .flatMap(([part, lines]) => differences(part, lines))
    .filter(Boolean);
  find("differences").replaceChildren(...(shown.length ? shown : ["No setting and no part of the answers differs."]));
  const kinds = await Promise.all(names.map((run) => ask("/api/run", { run })));
  if (kinds.every((one) => one.study)) {
    const studies = await Promise.all(names.map((name) => new Study(name).load()));
    await Promise.all(studies.map((study, index) => ((study.made = runs[index].started), study.loadEffects())));
    inStep(studies);
  }
} catch (error) {
  find("trouble").textContent = error.message;
  find("trouble").hidden = false;
}
