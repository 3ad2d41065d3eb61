"use strict";
const gallery = JSON.parse(document.getElementById("gallery").textContent);
const picks = [...document.querySelectorAll("[data-trial]")];
const chosen = document.getElementById("chosen");
const isPicked = (pick) => pick.getAttribute("aria-pressed") === "true";
const SAID = 3; // most patches that are described in words

function figure(name, source) {
  const made = document.createElement("figure");
  const image = document.createElement("img");
  const caption = document.createElement("figcaption");
  Object.assign(image, { src: source, alt: `with ${name} patched` });
  caption.textContent = name;
  made.className = "patched";
  made.append(image, caption);
  return made;
}

function show() {
  const shown = picks.filter(isPicked);
  if (!chosen) return;
  const said = shown.slice(0, SAID).map((pick) => pick.getAttribute("aria-label")).join("; ");
  chosen.textContent = shown.length ? `Patched: ${said}${shown.length > SAID ? `; and ${shown.length - SAID} more` : ""}` : "";
  for (const strip of document.querySelectorAll(".strip")) {
    for (const old of strip.querySelectorAll(".patched")) old.remove();
    for (const { dataset } of shown) {
      const source = (gallery[dataset.trial] || [])[Number(strip.dataset.pair)];
      if (source) strip.lastElementChild.before(figure(dataset.name, source));
    }
  }
}

function pickOnly(wanted) {
  for (const pick of picks) pick.setAttribute("aria-pressed", String(wanted(pick)));
  show();
}

const first = picks.find((pick) => pick.classList.contains("found")) || picks.find((pick) => pick.classList.contains("all")) || picks[0];
const isFound = (pick) => pick === first || pick.classList.contains("found");
pickOnly(isFound);
for (const button of document.querySelectorAll("[data-pick]"))
  button.addEventListener("click", () => pickOnly(button.dataset.pick === "found" ? isFound : () => true));
picks.forEach((pick, index) => {
  pick.addEventListener("click", () => {
    pick.setAttribute("aria-pressed", String(!isPicked(pick)));
    show();
  });
  pick.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    picks[(index + step + picks.length) % picks.length].focus();
  });
});

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, index) =>
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[index].dataset.value ?? row.cells[index].textContent;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        const both = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return both ? Number(x) - Number(y) : x.localeCompare(y);
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => (down ? -order(a, b) : order(a, b)));
      body.append(...rows);
    }),
  );
}
