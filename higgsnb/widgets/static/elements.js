// Shared by the widgets: create elements, update them only where something changed, format numbers.
// Text from files or clusters is set with textContent or setAttribute, never as HTML.

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

// A disabled button stays focusable, so that the keyboard focus is not lost.
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

// Show or hide without rebuilding the content.
function show(element, visible) {
  set(element, "hidden", visible ? null : "");
}

// Keys meant for the widget must not trigger the notebook's shortcuts.
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
  write(element.lastChild, found.hint);
}

function problemBox() {
  const parts = [make("p", { class: "hn-what" }), make("p", { class: "hn-hint" })];
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
