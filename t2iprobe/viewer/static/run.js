// A run: its answer, the pictures of a study or of its folder, its report, and everything else that it says.
import { ask, at, cost, element, find, moment, place, repeat, setPlace, size, stateOf } from "./common.js";
import { follow } from "./pictures.js";

const TABS = ["pictures", "report", "details"];
const run = document.querySelector("header.run").dataset.run;
let facts;
let reported = false;

function header() {
  find("headline").textContent = facts.headline || (facts.error ? "This run cannot be read." : "No answer yet.");
  find("explanation").textContent = facts.explanation;
  find("explanation").hidden = !facts.explanation;
  const parts = [facts.kind, facts.model, cost(facts.spent), moment(facts.started), size(facts.bytes)];
  find("facts-line").replaceChildren(
    element("span", {}, stateOf(facts)),
    ...parts.filter(Boolean).map((part) => element("span", {}, part)),
  );
}

function tab(name) {
  for (const one of TABS) {
    find(one).hidden = one !== name;
    find(`tab-${one}`).setAttribute("aria-selected", one === name);
    find(`tab-${one}`).tabIndex = one === name ? 0 : -1;
  }
  if (name === "report" && !reported) {
    reported = true;
    find("report").replaceChildren(
      element("iframe", { src: at("/report", { run }), title: "report", sandbox: "allow-scripts" }),
    );
  }
  setPlace({ tab: name === "pictures" ? null : name });
}

function trouble(sentence) {
  find("trouble").textContent = sentence;
  find("trouble").hidden = !sentence;
}

function details() {
  const lists = Object.entries(facts.lists).filter(([, values]) => Object.keys(values).length);
  find("details").replaceChildren(
    ...lists.flatMap(([name, values]) => [
      element("h2", {}, name === "command" ? "Run it again" : name[0].toUpperCase() + name.slice(1)),
      name === "command"
        ? element("pre", {}, values.command)
        : element(
            "dl",
            {},
            Object.entries(values).flatMap(([key, value]) => [
              element("dt", {}, key.replaceAll("_", " ")),
              element("dd", {}, value),
            ]),
          ),
    ]),
  );
}

function files() {
  const list = facts.pictures.filter((name) => !facts.study || !name.startsWith("images/")); // those are in the grid
  find("files").replaceChildren(
    ...list.map((name) => {
      const image = element("img", {
        src: at("/file", { run, name, side: 512, v: facts.ended }),
        alt: name,
        loading: "lazy",
      });
      return element(
        "a",
        { href: at("/file", { run, name }), target: "_blank" },
        element("figure", {}, image, element("figcaption", {}, name)),
      );
    }),
  );
}

for (const one of TABS) find(`tab-${one}`).addEventListener("click", () => tab(one));
find("tabs").addEventListener("keydown", (event) => {
  const all = [...find("tabs").children].filter((one) => !one.hidden),
    here = all.indexOf(document.activeElement);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) (all[(here + step + all.length) % all.length].focus(), document.activeElement.click());
});

async function update() {
  const before = facts && JSON.stringify(facts);
  facts = await ask("/api/run", { run });
  if (JSON.stringify(facts) !== before) {
    header();
    details();
    files();
    reported = false;
  }
  const damaged = Boolean(facts.error),
    empty = !facts.study && !facts.pictures.length;
  for (const one of ["pictures", "details"]) find(`tab-${one}`).hidden = damaged;
  if (!before) tab(empty ? "report" : (place().get("tab") ?? "pictures"));
  if (facts.study) await follow(run, facts.started);
}

await repeat(async () => {
  await update().then(
    () => trouble(facts.error),
    (error) => trouble(error.message),
  );
  return { running: 1500, finished: 0 }[facts?.state] ?? 5000;
});
