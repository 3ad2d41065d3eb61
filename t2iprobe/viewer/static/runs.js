import { ask, element } from "./common.js";

const { runs } = await ask("/api/runs");
document.getElementById("runs").replaceChildren(
  ...runs.map((run) => element("tr", {}, element("th", { scope: "row" }, run.name), element("td", {}, run.state), element("td", {}, run.error || run.sentence))),
);
