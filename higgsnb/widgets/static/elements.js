// What all widgets share: making elements, setting them only where something changed, writing numbers.
// Everything that comes from files or clusters goes through textContent or setAttribute, never through HTML.

const SVG = "http://www.w3.org/2000/svg"; // the name of the format, not an address that is fetched

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children);
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function set(element, name, value) {
  const text = value === null || value === undefined ? null : String(value);
  if (text === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A button that cannot be used now stays focusable, so that the keyboard does not lose its place.
function button(label, action) {
  const made = make("button", { type: "button", class: "hn-button" }, label);
  made.addEventListener("click", () => {
    if (made.getAttribute("aria-disabled") !== "true") action();
  });
  return made;
}

function enable(element, usable) {
  set(element, "aria-disabled", usable ? null : "true");
}

// Shows or hides without rebuilding what is inside.
function show(element, visible) {
  set(element, "hidden", visible ? null : "");
}

// Shortcuts of the notebook must not take the keys that are meant for the widget.
function frame(el, kind, label, ...children) {
  const root = make("section", { class: `hn ${kind}`, "aria-label": label, "data-lm-suppress-shortcuts": "true" });
  root.append(...children);
  el.classList.add("hn-frame");
  el.append(root);
  return root;
}

function problem(element, found) {
  show(element, Boolean(found));
  if (!found) return;
  write(element.firstChild, found.what);
  write(element.lastChild, found.remedy);
}

function problemBox() {
  const parts = [make("p", { class: "hn-what" }), make("p", { class: "hn-remedy" })];
  return make("div", { class: "hn-problem", role: "alert", hidden: "" }, ...parts);
}

const whole = new Intl.NumberFormat("en");

function events(number) {
  if (number >= 1 || number === 0) return whole.format(Math.round(number * 10) / 10);
  return String(Number(number.toPrecision(2)));
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
