"use strict";
const gallery = JSON.parse(document.getElementById("gallery").textContent);
const columns = [...document.querySelectorAll("[data-trial]")];
const chosen = document.getElementById("chosen");

function choose(column) {
  const trial = column.dataset.trial;
  for (const other of columns) other.setAttribute("aria-pressed", String(other === column));
  if (!chosen) return;
  chosen.textContent = `Patched: ${column.getAttribute("aria-label")}`;
  for (const image of document.querySelectorAll(".patched")) {
    const source = (gallery[trial] || [])[Number(image.dataset.pair)] || "";
    image.hidden = !source;
    if (source) image.src = source;
    image.alt = `with ${trial} patched`;
  }
}

columns.forEach((column, index) => {
  column.addEventListener("click", () => choose(column));
  column.addEventListener("mouseenter", () => choose(column));
  column.addEventListener("focus", () => choose(column));
  column.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    columns[(index + step + columns.length) % columns.length].focus();
  });
});
const holding = (kind) => columns.find((column) => column.classList.contains(kind));
const first = holding("found") || holding("all") || columns[0];
if (first) choose(first);

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
