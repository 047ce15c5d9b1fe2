// A taste at a glance: the strongest attributes with their intervals, and what the last feedback moved.

import { intervalTrack, rangeOf } from "./charts.js";
import { h, show } from "./dom.js";
import { ApiError, personPath } from "./api.js";
import { attributeName, plural, signed } from "./words.js";

const NUM_SHOWN = 8;

/** Read a person; null while nothing is known. Throws ApiError otherwise. */
export async function readPerson(api, person) {
  try {
    return await api.call(personPath(person));
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

/** Return {element, refresh}; `refresh` reads the person anew and resolves to what moved: [name, change] pairs. */
export function glance(app) {
  const body = h("div", {});
  const element = h("section", { class: "card glance", "aria-labelledby": "glance-title" }, h("h2", { id: "glance-title" }, "Taste"), body);
  let before; // undefined: not read yet; null: nothing was known

  async function refresh() {
    const person = app.session.person;
    if (!person) {
      show(body, h("p", { class: "hint" }, "Nobody has no taste. Pick a person to begin."));
      return [];
    }
    let known;
    try {
      known = await readPerson(app.api, person);
    } catch (error) {
      show(body, h("p", { class: "hint" }, error.message));
      return [];
    }
    if (person !== app.session.person) return [];
    const moves = movesSince(before, known);
    draw(known, moves);
    before = known;
    return [...moves].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  }

  /** Compare with what was read before; what is known first has moved from nothing. */
  function movesSince(old, known) {
    const was = (name) => old?.attributes.find((one) => one.name === name)?.mean ?? 0;
    if (!known || old === undefined) return new Map();
    const changes = known.attributes.map((belief) => [belief.name, belief.mean - was(belief.name)]);
    return new Map(changes.filter(([, change]) => Math.abs(change) >= 0.01));
  }

  function draw(known, moves) {
    if (!known || known.num_counting === 0) {
      show(body, h("p", { class: "hint" }, known?.learning_paused ? "Learning is paused." : "Nothing is known yet. The first thumb or choice changes that."));
      return;
    }
    const range = rangeOf(known.attributes);
    const shown = known.attributes.slice(0, NUM_SHOWN);
    show(
      body,
      h("p", { class: "hint" }, `From ${plural(known.num_counting, "piece")} of feedback`),
      h("ul", { class: "glance-list" }, shown.map((belief) => line(belief, range, moves.get(belief.name)))),
      h("p", { class: "scale", "aria-hidden": "true" }, h("span", {}, "less"), h("span", {}, "more")),
      h("a", { href: "#taste", class: "more" }, "All of it"),
    );
  }

  function line(belief, range, moved) {
    return h(
      "li",
      {},
      h("span", { class: "glance-name" }, attributeName(belief.name), moved ? h("span", { class: "moved" }, signed(moved)) : null),
      intervalTrack(belief, range),
      h("span", { class: "visually-hidden" }, `${signed(belief.mean)}, between ${signed(belief.low)} and ${signed(belief.high)}`),
    );
  }

  return { element, refresh };
}
