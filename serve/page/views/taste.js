// Taste: what is believed about a person and why, what they decide about it, and what becomes of their data.

import { listFeedback, personPath } from "../api.js";
import { sentence } from "../card.js";
import { beliefLine, intervalTrack, rangeOf, shareBar, tasteMap } from "../charts.js";
import { confirmed } from "../dialogs.js";
import { h, icon, show } from "../dom.js";
import { readPerson } from "../glance.js";
import { ago, attributeName, feedbackName, kindOfTaste, percent, plural, signed } from "../words.js";
import { stranger } from "./choose.js";

export function tasteView(app) {
  const { session, api } = app;
  const person = session.person;
  if (!person) return { title: "Taste", element: stranger(session, "Taste", "Everyone’s taste is their own. Say whose to show.") };

  const element = h("div", { class: "taste" }, h("p", { class: "waiting" }, h("span", { class: "pulse" }), "Reading…"));
  const opened = new Set(); // attributes whose details stand open
  let isGone = false;

  async function refresh() {
    const found = await app.attempt(() =>
      Promise.all([
        readPerson(api, person),
        api.call(personPath(person, "/history?limit=64")),
        api.call(personPath(person, "/map")),
        listFeedback(api, person),
      ]),
    );
    if (isGone) return;
    if (!found) show(element, h("p", { class: "hint" }, "The taste could not be read."), h("button", { type: "button", class: "button quiet", onclick: refresh }, "Try again"));
    else draw(...found);
  }

  function draw(known, history, map, events) {
    if (!known) {
      show(
        element,
        h(
          "section",
          { class: "empty" },
          h("h1", {}, `Nothing is known about ${person}`),
          h("p", {}, "A thumb in chat or one choice changes that."),
          h("div", { class: "stage-actions" }, h("a", { class: "button", href: "#choose" }, "Ten quick choices"), h("a", { class: "button quiet", href: "#chat" }, "Chat")),
        ),
      );
      return;
    }
    const byId = new Map(events.map((event) => [event.id, event]));
    show(
      element,
      head(known),
      h("div", { class: "taste-grid" }, attributes(known, history.data, byId), h("div", { class: "taste-side" }, kinds(known, map), mapCard(map))),
      feedback(events, history.data),
      ownership(known),
    );
  }

  function head(known) {
    const facts = [plural(known.num_events, "piece of feedback", "pieces of feedback"), known.num_counting === known.num_events ? null : `${known.num_counting} count`, known.updated_at ? `changed ${ago(known.updated_at)}` : null];
    return h(
      "header",
      { class: "view-head" },
      h("h1", {}, `${person}’s taste`),
      h("p", { class: "lead" }, sentence(known)),
      h("small", {}, facts.filter(Boolean).join(" · "), known.learning_paused ? h("span", { class: "tag" }, "Learning is paused") : null),
    );
  }

  function attributes(known, moments, byId) {
    const range = rangeOf(known.attributes);
    return h(
      "section",
      { class: "card", "aria-labelledby": "attributes-title" },
      h("h2", { id: "attributes-title" }, "What is believed"),
      h("p", { class: "hint" }, "Best guess and the interval that holds the truth with 95 %. Left of the line: less of it; right: more."),
      h("ul", { class: "attributes" }, known.attributes.map((belief) => attribute(known, belief, range, moments, byId))),
    );
  }

  function attribute(known, belief, range, moments, byId) {
    const { name } = belief;
    const isPinned = Object.hasOwn(known.pins, name);
    const isBarred = known.bars.includes(name);
    const state = isPinned ? `pinned at ${signed(known.pins[name], 1)}` : isBarred ? "barred" : belief.decided ? (belief.mean > 0 ? "likes more" : "likes less") : "undecided";
    const details = h(
      "details",
      {
        class: isBarred ? "attribute barred" : "attribute",
        open: opened.has(name),
        ontoggle: () => (details.open ? opened.add(name) : opened.delete(name)),
      },
      h(
        "summary",
        {},
        h("span", { class: "attribute-name" }, attributeName(name), h("span", { class: isPinned || isBarred ? "tag" : "tag quiet" }, state)),
        intervalTrack(belief, range),
        h("span", { class: "attribute-value" }, h("strong", {}, signed(belief.mean)), h("small", {}, ` ${signed(belief.low)} to ${signed(belief.high)}`)),
      ),
      h("div", { class: "attribute-more" }, over(name, moments), lessons(belief, byId), decisions(known, name, isPinned, isBarred)),
    );
    return h("li", {}, details);
  }

  function over(name, moments) {
    const beliefs = moments.map((moment) => moment.attributes[name]).filter(Boolean);
    if (beliefs.length < 2) return h("p", { class: "hint" }, "No history yet.");
    return h(
      "figure",
      { class: "history" },
      beliefLine(beliefs, rangeOf(beliefs)),
      h("figcaption", {}, h("small", {}, `From ${signed(beliefs[0].mean)} ${moments[0].feedback_id ? "" : "before"} to ${signed(beliefs.at(-1).mean)} after ${plural(beliefs.length - 1, "piece")} of feedback; the interval went from ±${half(beliefs[0])} to ±${half(beliefs.at(-1))}.`)),
    );
  }

  function half(belief) {
    return ((belief.high - belief.low) / 2).toFixed(2);
  }

  function lessons(belief, byId) {
    const taught = belief.taught_by.filter((lesson) => Math.abs(lesson.effect) >= 0.005);
    if (!taught.length) return null;
    return h(
      "div",
      {},
      h("h3", {}, "Taught most by"),
      h(
        "ul",
        { class: "lessons" },
        taught.map(({ feedback_id: id, effect }) => {
          const event = byId.get(id);
          return h("li", {}, h("span", {}, feedbackName(event), event?.reason ? h("q", {}, event.reason) : null, event ? h("small", {}, ago(event.created_at)) : null), h("strong", {}, signed(effect)));
        }),
      ),
      belief.decision_share ? h("small", {}, `It drove ${percent(belief.decision_share)} of past choices.`) : null,
    );
  }

  function decisions(known, name, isPinned, isBarred) {
    const label = attributeName(name);
    const now = h("output", {}, isPinned ? signed(known.pins[name], 1) : "not pinned");
    const level = h("input", {
      type: "range",
      min: "-2",
      max: "2",
      step: "0.1",
      value: String(known.pins[name] ?? 0),
      disabled: isBarred,
      "aria-label": `Pin ${label}`,
      oninput: () => show(now, signed(Number(level.value), 1)),
    });
    return h(
      "div",
      { class: "decisions" },
      h("div", { class: "field" }, h("span", {}, "Decide yourself ", now), level),
      h(
        "div",
        { class: "decision-buttons" },
        h("button", { type: "button", class: "button small quiet", disabled: isBarred, onclick: () => change({ pins: { [name]: Number(level.value) } }, `${label} is pinned.`) }, icon("pin"), "Pin"),
        isPinned ? h("button", { type: "button", class: "button small quiet", onclick: () => change({ pins: { [name]: null } }, `${label} is learned again.`) }, "Unpin") : null,
        h(
          "button",
          {
            type: "button",
            class: "button small quiet",
            "aria-pressed": String(isBarred),
            disabled: isPinned,
            onclick: () => change({ bars: isBarred ? known.bars.filter((one) => one !== name) : [...known.bars, name] }, isBarred ? `${label} may be used again.` : `${label} is not used.`),
          },
          icon("bar"),
          isBarred ? "Use it again" : "Never use it",
        ),
      ),
    );
  }

  async function change(body, told) {
    const done = await app.attempt(() => api.call(personPath(person), { method: "PATCH", body }));
    if (!done || isGone) return;
    const focused = focusMark();
    await refresh();
    focusMark(focused);
    app.toast(told[0].toUpperCase() + told.slice(1));
  }

  /** Find where the focus is by label, or bring it back there: every button is drawn anew. */
  function focusMark(mark) {
    if (!mark) {
      const active = document.activeElement;
      return { attribute: active.closest?.("details")?.querySelector(".attribute-name")?.firstChild?.textContent, index: [...element.querySelectorAll("button, input, summary")].indexOf(active) };
    }
    const details = [...element.querySelectorAll("details")].find((one) => one.querySelector(".attribute-name").firstChild.textContent === mark.attribute);
    (details?.querySelector("summary") ?? element.querySelectorAll("button, input, summary")[mark.index])?.focus();
    return mark;
  }

  function kinds(known, map) {
    const weights = known.mixture_weights;
    const rows = weights.map((weight, index) => {
      const tastes = Object.entries(map.prototypes[index]?.attributes ?? {}).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
      const told = tastes.filter(([, value]) => Math.abs(value) > 0.1).slice(0, 2).map(([name, value]) => `${value > 0 ? "more" : "less"} ${attributeName(name)}`);
      return h(
        "li",
        {},
        h("span", { class: `swatch tint-${index % 6}`, "aria-hidden": "true" }),
        h("span", {}, kindOfTaste(index), told.length ? h("small", {}, told.join(", ")) : null),
        h("strong", {}, percent(weight)),
      );
    });
    return h(
      "section",
      { class: "card", "aria-labelledby": "kinds-title" },
      h("h2", { id: "kinds-title" }, "Kinds of taste"),
      h("p", { class: "hint" }, weights.length > 1 ? "How much each kind found among everyone speaks for this person." : "Everyone is described around one centre."),
      shareBar(weights, weights.map((_, index) => kindOfTaste(index))),
      h("ul", { class: "kinds" }, rows),
    );
  }

  function mapCard(map) {
    const labels = map.prototypes.map((_, index) => kindOfTaste(index).at(-1));
    const axis = (loadings) => {
      const strongest = Object.entries(loadings).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).filter(([, value]) => Math.abs(value) > 0.15).slice(0, 2);
      return strongest.map(([name, value]) => `${value > 0 ? "more" : "less"} ${attributeName(name)}`).join(", ") || "tastes without a name";
    };
    const others = Math.max(0, map.num_people - (map.person ? 1 : 0));
    const people = others ? plural(others, "other person", "other people") : "nobody else yet";
    return h(
      "section",
      { class: "card", "aria-labelledby": "map-title" },
      h("h2", { id: "map-title" }, "Map of tastes"),
      h(
        "figure",
        {},
        tasteMap(map, labels),
        h(
          "figcaption",
          { class: "map-legend" },
          h("span", {}, h("span", { class: "key you", "aria-hidden": "true" }), person),
          h("span", {}, h("span", { class: "key other", "aria-hidden": "true" }), people),
          h("span", {}, h("span", { class: "key kind", "aria-hidden": "true" }), "kinds of taste"),
          h("small", {}, `To the right: ${axis(map.axes[0])}. Upwards: ${axis(map.axes[1])}.`, others && !map.others.length ? " Others are drawn once there are five of them." : ""),
        ),
      ),
    );
  }

  function feedback(events, moments) {
    const moved = new Map();
    moments.forEach((moment, index) => {
      if (index === 0 || !moment.feedback_id) return;
      const changes = Object.entries(moment.attributes).map(([name, belief]) => [name, belief.mean - moments[index - 1].attributes[name].mean]);
      changes.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
      moved.set(moment.feedback_id, changes[0]);
    });
    const rows = [...events].reverse().map((event) => {
      const change = moved.get(event.id);
      const effect = event.withdrawn ? "taken back" : event.pending ? "waiting" : change && Math.abs(change[1]) >= 0.005 ? `${attributeName(change[0])} ${signed(change[1])}` : "no change";
      return h(
        "li",
        { class: event.withdrawn ? "withdrawn" : "" },
        h("span", { class: "event-name" }, feedbackName(event), event.inferred ? h("span", { class: "tag quiet" }, "inferred") : null, event.reason ? h("q", {}, event.reason) : null),
        h("small", {}, ago(event.created_at)),
        h("span", { class: "event-effect" }, effect),
        event.withdrawn ? h("span", {}) : h("button", { type: "button", class: "icon-button", title: "Take back", "aria-label": `Take back: ${feedbackName(event)}, ${ago(event.created_at)}`, onclick: () => withdraw(event.id) }, icon("close")),
      );
    });
    return h(
      "section",
      { class: "card", "aria-labelledby": "events-title" },
      h("h2", { id: "events-title" }, "What taught what"),
      h("p", { class: "hint" }, "Every piece of feedback with what it moved most when it came. Taking one back makes the model forget it."),
      rows.length ? h("ul", { class: "events" }, rows) : h("p", { class: "hint" }, "No feedback yet."),
    );
  }

  async function withdraw(id) {
    const gone = await app.attempt(() => api.call(`v1/feedback/${encodeURIComponent(id)}`, { method: "DELETE" }));
    if (!gone || isGone) return;
    await refresh();
    app.toast("Taken back. The model has forgotten it.");
    element.querySelector("#events-title")?.scrollIntoView({ block: "nearest" });
  }

  function ownership(known) {
    return h(
      "section",
      { class: "card ownership", "aria-labelledby": "own-title" },
      h("h2", { id: "own-title" }, "It is yours"),
      h(
        "label",
        { class: "check" },
        h("input", { type: "checkbox", checked: known.learning_paused, onchange: (event) => change({ learning_paused: event.target.checked }, event.target.checked ? "Learning is paused." : "Learning goes on.") }),
        h("span", {}, "Pause learning", h("small", {}, "Feedback is kept meanwhile, but never counts.")),
      ),
      h(
        "div",
        { class: "stage-actions" },
        h("button", { type: "button", class: "button quiet", onclick: exportAll }, icon("download"), "Export everything"),
        h("button", { type: "button", class: "button danger", onclick: erase }, icon("trash"), "Delete everything"),
      ),
    );
  }

  async function exportAll() {
    const text = await app.attempt(() => api.call(personPath(person, "/export"), { asText: true }));
    if (text === undefined) return;
    const address = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
    const link = h("a", { href: address, download: `palate-${person.replace(/[^\w.-]+/g, "_")}.jsonl` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    app.toast("Exported as JSON lines.");
  }

  async function erase() {
    if (!(await confirmed(`Delete ${person}?`, "Everything the server knows about this person is erased for good: feedback, taste, decisions.", "Delete everything"))) return;
    const gone = await app.attempt(() => api.call(personPath(person), { method: "DELETE" }));
    if (!gone) return;
    app.toast(`Everything about ${person} is erased: ${plural(gone.num_events, "piece of feedback", "pieces of feedback")}, ${plural(gone.num_completions, "answer")}.`);
    session.clearThread();
    if (!isGone) await refresh();
  }

  refresh();
  return { title: "Taste", element, destroy: () => (isGone = true) };
}
