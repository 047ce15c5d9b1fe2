// Makes elements. Text goes in as text only; nothing here parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element: `h("button", {class: "x", onclick: f, "aria-label": "y"}, ...children)`. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  const { value: initial, ...others } = attributes; // after the bounds that a range's value must lie within
  for (const [name, value] of Object.entries(others)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(isShown));
  if (initial !== undefined) element.value = initial;
  return element;
}

function isShown(child) {
  return child !== null && child !== undefined && child !== false;
}

/** Set CSS properties through the object model, which the content policy allows. */
export function styled(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
  return element;
}

/** Replace an element's children. */
export function show(element, ...children) {
  element.replaceChildren(...children.flat().filter(isShown));
  return element;
}

const PATHS = {
  chat: "M4 6.5A2.5 2.5 0 0 1 6.5 4h11A2.5 2.5 0 0 1 20 6.5v7a2.5 2.5 0 0 1-2.5 2.5H11l-4.5 4v-4A2.5 2.5 0 0 1 4 13.5z",
  choose: "M4 5h6v14H4zM14 5h6v14h-6z",
  taste: "M5 6h9M5 12h14M5 18h6",
  compare: "M4 5h4v14H4zM10 5h4v14h-4zM16 5h4v14h-4z",
  operator: "M5 18a8 8 0 1 1 14 0M12 14l3.5-4",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M13 7a2 2 0 1 0 4 0 2 2 0 1 0-4 0M7 17a2 2 0 1 0 4 0 2 2 0 1 0-4 0",
  up: "M7 11v9H4v-9zM7 11l4-7a2 2 0 0 1 2.4 2.4L12.5 10H18a2 2 0 0 1 2 2.4l-1.2 6A2 2 0 0 1 16.8 20H7",
  down: "M17 13V4h3v9zM17 13l-4 7a2 2 0 0 1-2.4-2.400L11.5 14H6a2 2 0 0 1-2-2.400l1.2-6A2 2 0 0 1 7.2 4H17",
  retry: "M20 12a8 8 0 1 1-2.5-5.800M20 4v4.500h-4.5",
  copy: "M9 9h10v11H9zM5 15V4h10",
  stop: "M7 7h10v10H7z",
  send: "M5 12h14M13 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
  why: "M9.5 9.500a2.5 2.5 0 1 1 3.5 2.300c-.7.3-1 .8-1 1.700M12 17v.1M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0z",
  pin: "M9 4h6l-1 6 3 3H7l3-3zM12 13v7",
  bar: "M21 12a9 9 0 1 1-18 0 9 9 0 0 1 18 0zM5.7 5.700l12.6 12.6",
  add: "M12 5v14M5 12h14",
  person: "M16 8a4 4 0 1 1-8 0 4 4 0 0 1 8 0zM5 20a7 7 0 0 1 14 0",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  options: "M4 8h10M18 8h2M4 16h2M10 16h10M14 8a2 2 0 1 0 4 0 2 2 0 1 0-4 0M6 16a2 2 0 1 0 4 0 2 2 0 1 0-4 0",
  check: "M5 12.500l4.5 4.500L19 7.5",
};

/** Draw an icon; decoration only, so name the button that holds it. */
export function icon(name) {
  return svg(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: PATHS[name] }),
  );
}
