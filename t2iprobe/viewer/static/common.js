// What the pages share: requests, elements, announcements.

// the token is in a cookie by now; it should not stay in the address, which people copy
const address = new URL(location.href);
if (address.searchParams.has("token")) {
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

// JSON from the server; an error has the server's sentence as its message
export async function ask(path, query = {}, options = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(query)}`, options);
  const body = answer.headers.get("content-type")?.includes("json") ? await answer.json() : { error: await answer.text() };
  if (!answer.ok) throw new Error(body.error);
  return body;
}

export function post(path, body) {
  return ask(path, {}, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

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
  document.getElementById("status").textContent = text;
}
