// Small helpers for elements. Text only ever becomes text: nothing here parses markup.

const SVG_TAGS = new Set(["svg", "path", "circle", "rect", "g", "title"]);

// An element. `attributes`: properties that begin with "on" take a listener, `class` may be a list,
// `data` and `style` objects (styles are set one by one, which a strict policy allows), false, null
// and undefined are left out, true is an empty attribute. Children: nodes, texts, numbers, lists.
export function h(tag, attributes, ...children) {
  const element = SVG_TAGS.has(tag) && tag !== "title"
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", classes(value));
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "style") {
      for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    } else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function classes(value) {
  return Array.isArray(value) ? value.filter(Boolean).join(" ") : String(value);
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : String(child));
  }
}

// Puts these children in place of what is there.
export function fill(element, ...children) {
  element.textContent = "";
  append(element, children);
  return element;
}

// Sets a text only where it is another one: screen readers and selections are left alone.
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

// Sets or removes an attribute, only where that changes something.
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

// Keeps the children of `parent` in step with `items`: those with a known key are updated where
// they stand (focus and selection stay), others made or removed, all in the items' order.
// `make(item) -> {element, update(item)}`. What `parent` holds is this list's alone.
export function keyedList(parent, keyOf, make) {
  const rows = new Map();
  return {
    update(items) {
      const seen = new Set();
      let next = parent.firstElementChild;
      for (const item of items) {
        const key = keyOf(item);
        if (seen.has(key)) continue;
        seen.add(key);
        let row = rows.get(key);
        if (!row) {
          row = make(item);
          rows.set(key, row);
        }
        row.update(item);
        if (row.element === next) next = next.nextElementSibling;
        else parent.insertBefore(row.element, next);
      }
      for (const [key, row] of rows) {
        if (seen.has(key)) continue;
        if (row.unmount) row.unmount();
        row.element.remove();
        rows.delete(key);
      }
    },
    rows,
  };
}

// Is what the user types meant for a field?
export function isTyping(target) {
  return target instanceof HTMLElement &&
    (target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName));
}
