// Small charts. Their numbers always stand beside them as text, so the drawings are hidden from assistive technology.

import { h, styled, svg } from "./dom.js";

/** A symmetric range that holds all intervals; at least ±1. */
export function rangeOf(beliefs) {
  return Math.max(1, ...beliefs.flatMap((belief) => [Math.abs(belief.low), Math.abs(belief.high)])) * 1.04;
}

/** A credible interval with its mean on a line from −range to +range. */
export function intervalTrack({ mean, low, high }, range) {
  const place = (value) => `${(50 + (50 * Math.max(-range, Math.min(range, value))) / range).toFixed(2)}%`;
  const tone = low > 0 ? "likes" : high < 0 ? "dislikes" : "open";
  const band = styled(h("span", { class: "track-band" }), {
    left: place(low),
    width: `${((50 * (Math.min(range, high) - Math.max(-range, low))) / range).toFixed(2)}%`,
  });
  const dot = styled(h("span", { class: "track-dot" }), { left: place(mean) });
  return h("span", { class: `track ${tone}`, "aria-hidden": "true" }, h("span", { class: "track-zero" }), band, dot);
}

/** Shares of a whole as one bar. */
export function shareBar(shares, labels) {
  return h(
    "div",
    { class: "shares", "aria-hidden": "true" },
    shares.map((share, index) =>
      styled(h("span", { class: `share tint-${index % 6}`, title: labels[index] }), { "flex-grow": share.toFixed(4) }),
    ),
  );
}

/** A belief over events: the mean as a line in its band. `beliefs` are {mean, low, high}, oldest first. */
export function beliefLine(beliefs, range) {
  const width = 320;
  const height = 88;
  const x = (index) => (width * index) / Math.max(1, beliefs.length - 1);
  const y = (value) => height / 2 - (height / 2) * Math.max(-1, Math.min(1, value / range));
  const points = (name) => beliefs.map((belief, index) => `${x(index).toFixed(1)},${y(belief[name]).toFixed(1)}`);
  const last = beliefs.at(-1);
  const tone = last.low > 0 ? "likes" : last.high < 0 ? "dislikes" : "open";
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: `belief-line ${tone}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, class: "line-zero" }),
    svg("polygon", { points: [...points("low"), ...points("high").reverse()].join(" "), class: "line-band" }),
    svg("polyline", { points: points("mean").join(" "), class: "line-mean" }),
  );
}

/** A map of tastes, drawn anew at every width. `map` as from the API. */
export function tasteMap(map, labels) {
  const holder = h("div", { class: "map", "aria-hidden": "true" });
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.round(entry.contentRect.width);
    if (width === drawn || width < 40) return;
    drawn = width;
    holder.replaceChildren(drawMap(map, labels, width, Math.round(Math.min(420, Math.max(260, width * 0.6)))));
  }).observe(holder);
  return holder;
}

function drawMap(map, labels, width, height) {
  const all = [...map.others, ...map.prototypes.map((one) => [one.x, one.y]), ...(map.person ? [map.person] : [])];
  const reach = (axis) => Math.max(0.5, ...all.map((point) => Math.abs(point[axis]))) * 1.15;
  const [reachX, reachY] = [reach(0), reach(1)];
  const at = ([x, y]) => [width / 2 + (x / reachX) * (width / 2 - 14), height / 2 - (y / reachY) * (height / 2 - 14)];
  const circle = (point, r, kind) => {
    const [cx, cy] = at(point);
    return svg("circle", { cx: cx.toFixed(1), cy: cy.toFixed(1), r, class: kind });
  };
  const prototypes = map.prototypes.flatMap((one, index) => {
    const [x, y] = at([one.x, one.y]);
    return [
      circle([one.x, one.y], 10 + 10 * one.weight, `map-prototype tint-${index % 6}`),
      svg("text", { x: x.toFixed(1), y: (y + 4.5).toFixed(1), class: "map-label" }, labels[index]),
    ];
  });
  return svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}` },
    svg("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, class: "line-zero" }),
    svg("line", { x1: width / 2, x2: width / 2, y1: 0, y2: height, class: "line-zero" }),
    map.others.map((point) => circle(point, 3.5, "map-other")),
    prototypes,
    map.person ? [circle(map.person, 15, "map-halo"), circle(map.person, 7, "map-person")] : [],
  );
}

/** A rate over time, newest at the right; `size` values fill the width. */
export function rateLine(values, size) {
  const most = Math.max(1e-9, ...values);
  const x = (index) => 100 - (100 * (values.length - 1 - index)) / (size - 1);
  const points = values.map((value, index) => `${x(index).toFixed(1)},${(23 - (22 * value) / most).toFixed(1)}`);
  return svg("svg", { viewBox: "0 0 100 24", class: "rate-line", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("polyline", { points: points.join(" ") }));
}
