// The table of runs: filters, sorting, and two chosen ones to compare.
import { announce, ask, at, cost, element, find, moment, place, repeat, setPlace, size, stateOf } from "./common.js";

const FILTERS = ["text", "kind", "state", "model"];
const COLUMNS = {
  name: (run) => run.name,
  state: (run) => run.state,
  kind: (run) => run.kind,
  model: (run) => run.model,
  cost: (run) => run.spent.seconds ?? 0,
  started: (run) => run.started,
  size: (run) => run.bytes,
};
let runs = [];
let before = "";
const chosen = new Set();

function fits(run) {
  const [text, ...exact] = FILTERS.map((name) => find(name).value);
  const words = `${run.name} ${run.sentence} ${run.error} ${run.kind} ${run.model}`.toLowerCase();
  return (
    text
      .toLowerCase()
      .split(/\s+/)
      .every((word) => words.includes(word)) &&
    exact.every((value, index) => !value || run[FILTERS[index + 1]] === value)
  );
}

function sorted(shown) {
  const [name, down] = (place().get("sort") ?? "started-").split(/(-)$/);
  const key = COLUMNS[name] ?? COLUMNS.started;
  const order = (one, other) => (key(one) > key(other)) - (key(one) < key(other));
  return [...shown].sort((one, other) => (down ? -order(one, other) : order(one, other)));
}

function choose(name, on) {
  on ? chosen.add(name) : chosen.delete(name);
  if (chosen.size > 2) chosen.delete(chosen.values().next().value); // the one that was chosen first
  draw();
  announce(`${chosen.size} of 2 runs chosen to compare`);
}

function row(run) {
  const box = element("input", {
    type: "checkbox",
    "aria-label": `compare ${run.name}`,
    "data-run": run.name,
    onchange: (event) => choose(run.name, event.target.checked),
  });
  box.checked = chosen.has(run.name);
  const said = element(
    "span",
    { class: run.error ? "reason" : "sentence" },
    run.error || run.sentence || "no answer yet",
  );
  const cells = [
    ["kind", run.kind],
    ["model", run.model],
    ["cost", cost(run.spent)],
    ["started", moment(run.started)],
    ["size", size(run.bytes)],
  ];
  return element(
    "tr",
    { class: chosen.has(run.name) ? "chosen" : null },
    element("td", { class: "pick" }, box),
    element("th", { scope: "row" }, element("a", { href: at("/run", { run: run.name }) }, run.name), said),
    element("td", { class: "progressing" }, stateOf(run)),
    cells.map(([name, text]) => element("td", { class: name }, text || "–")),
  );
}

function draw() {
  const shown = sorted(runs.filter(fits));
  const focused = document.activeElement?.dataset.run;
  find("runs").replaceChildren(...shown.map(row));
  if (focused)
    find("runs")
      .querySelector(`[data-run="${CSS.escape(focused)}"]`)
      ?.focus();
  find("none").hidden = shown.length > 0;
  find("none").textContent = runs.length
    ? "No run fits these filters."
    : "There are no runs in this folder yet. Try: t2iprobe patch --arch sd3";
  find("count").textContent = shown.length === runs.length ? `${runs.length}` : `${shown.length} of ${runs.length}`;
  const [one, other] = chosen;
  find("compare").disabled = !other;
  find("compare").textContent = other ? "Compare the two" : "Choose two to compare";
  find("compare").onclick = () => location.assign(at("/compare", { a: one, b: other }));
  const [sort, down] = (place().get("sort") ?? "started-").split(/(-)$/);
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.setAttribute("aria-sort", head.dataset.sort !== sort ? "none" : down ? "descending" : "ascending");
  }
}

// the choices of a filter are what occurs
function fill(name) {
  const box = find(name),
    values = [...new Set(runs.map((run) => run[name]).filter(Boolean))].sort();
  const wanted = box.value || place().get(name) || "";
  box.replaceChildren(
    element("option", { value: "" }, `any ${name}`),
    ...values.map((value) => element("option", {}, value)),
  );
  box.value = values.includes(wanted) ? wanted : "";
}

find("text").value = place().get("text") ?? "";
for (const name of FILTERS) {
  find(name).addEventListener("input", () => {
    setPlace({ [name]: find(name).value });
    draw();
    announce(`${find("count").textContent} runs`);
  });
}
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") === "descending";
    setPlace({ sort: `${head.dataset.sort}${up ? "" : "-"}` });
    draw();
  });
}

await repeat(async () => {
  try {
    const found = await ask("/api/runs");
    find("trouble").hidden = true;
    const now = JSON.stringify(found);
    if (now !== before) {
      before = now;
      runs = found.runs;
      FILTERS.slice(1).forEach(fill);
      draw();
    }
  } catch (error) {
    find("trouble").textContent = error.message;
    find("trouble").hidden = false;
  }
  return runs.some((run) => run.state === "running") ? 1500 : 3000;
});
