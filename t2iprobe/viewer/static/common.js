// What the pages share: requests, elements, words, and what is said to screen readers.

// the token is in a cookie by now; it should not stay in the address, which people copy
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

// JSON from the server; an error has the server's sentence as its message
export async function ask(path, query = {}) {
  const answer = await fetch(Object.keys(query).length ? at(path, query) : path).catch(() => {
    throw new Error("The viewer does not answer; is `t2iprobe view` still running?");
  });
  const json = answer.headers.get("content-type")?.includes("json");
  const body = json ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw new Error(body.error);
  return body;
}

// an address with its parameters
export function at(path, query) {
  return `${path}?${new URLSearchParams(query)}`;
}

export const find = (id) => document.getElementById(id);

// an element with attributes and children; children that are texts are shown as they are, never as HTML
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

// says something to a screen reader
export function announce(text) {
  find("status").textContent = text;
}

// calls a function again and again, after the milliseconds that it returns; while the page is hidden, it waits
export async function repeat(work) {
  for (;;) {
    const pause = await work();
    if (!pause) return;
    await new Promise((resolve) => setTimeout(resolve, pause));
    while (document.hidden)
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }
}

// the address behind # as parameters, and back
export const place = () => new URLSearchParams(location.hash.slice(1));
export function setPlace(values) {
  const found = place();
  for (const [name, value] of Object.entries(values))
    value == null || value === "" ? found.delete(name) : found.set(name, value);
  history.replaceState(null, "", `#${found}`);
}

// words
export const percent = (share) => (share == null ? "–" : `${Math.round(100 * share)}\u202f%`);
export const fixed = (value) => (value == null ? "–" : value.toFixed(2));
export const whole = (value) => value.toLocaleString("en");
function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
export function size(bytes) {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(bytes || 1) / 3)));
  return `${(bytes / 1000 ** power).toPrecision(3).replace(/\.0+$/, "")} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}
export function cost({ images, seconds }) {
  return [images && `${whole(images)} pictures`, seconds && duration(seconds)].filter(Boolean).join(", ");
}
export function moment(started) {
  return started ? new Date(started).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }) : "";
}

// the state of a run, with how far it is
export function stateOf(run) {
  const badge = element("span", { class: `state ${run.state}` }, run.state);
  if (run.state === "finished" || run.done == null) return [badge];
  const counted = `${whole(run.done)}${run.total ? ` of ${whole(run.total)}` : ""} ${run.unit}${(run.total ?? run.done) === 1 ? "" : "s"}`;
  const bar = run.total
    ? element("progress", { max: run.total, value: run.done, "aria-label": "how far the run is" })
    : null;
  return [badge, bar, element("small", {}, counted)].filter(Boolean);
}
