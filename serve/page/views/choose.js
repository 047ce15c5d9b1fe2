// Choose: answers side by side, without saying which is which; the choice becomes a comparison.

import { newPersonForm } from "../dialogs.js";
import { h, icon, show } from "../dom.js";
import { glance, readPerson } from "../glance.js";
import { personPath } from "../api.js";
import { markdown } from "../markdown.js";
import { requestBody } from "../ask.js";
import { tasteCard } from "../card.js";
import { attributeName, plural, signed } from "../words.js";

const GOAL = 10;
const PLACES = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];
const OWN_PAIR = { temperature: 1 }; // two answers must differ to be compared
// Where an artifact has fewer questions than a round: two answers are made to these.
const PROMPTS = [
  "How do I start a conversation with a stranger?",
  "Explain how a rainbow forms.",
  "Give me an idea for dinner tonight.",
  "What makes a good friend?",
  "How do I keep plants alive?",
  "Tell me about the moon.",
  "Write an invitation to a small party.",
  "How can I sleep better?",
  "What is a budget, and do I need one?",
  "Describe a walk in the woods.",
];

export function chooseView(app) {
  const { session } = app;
  const person = session.person;
  if (!person) return { title: "Choose", element: stranger(session, "Choose", "A few answers, one choice. Say who is choosing.") };

  const stage = h("section", { class: "stage", "aria-live": "off" });
  const progress = h("ol", { class: "progress" });
  const moves = h("p", { class: "moves choose-moves" });
  const rail = glance(app);
  const own = h("textarea", { name: "prompt", rows: "2", "aria-label": "Your question", placeholder: "Ask anything; two answers come back" });
  const source = modeSwitch((value) => {
    mode = value;
    ownForm.hidden = mode !== "own";
    if (mode === "asked") next();
    else show(stage, h("p", { class: "hint" }, "Two answers will stand here, in an order drawn by lot."));
  });
  const ownForm = h(
    "form",
    {
      class: "own-question",
      hidden: true,
      onsubmit(event) {
        event.preventDefault();
        if (own.value.trim()) makePair(own.value.trim());
      },
    },
    own,
    h("button", { type: "submit", class: "button" }, "Get two answers"),
  );
  let mode = "asked";
  let shown = null; // {prompt, texts, order, feedback}
  let numAnswered = 0;
  let isDone = false;
  const skipped = new Set();
  const stop = new AbortController();

  function drawProgress() {
    const dots = Array.from({ length: GOAL }, (_, index) => h("li", { class: index < numAnswered ? "done" : "" }));
    show(progress, dots);
    progress.setAttribute("aria-label", `${Math.min(numAnswered, GOAL)} of ${GOAL} questions answered`);
  }

  function drawMoves(changes) {
    const parts = changes.slice(0, 3).flatMap(([name, change], index) => [index ? ", " : "", `${attributeName(name)} `, h("strong", {}, signed(change))]);
    show(moves, parts.length ? ["Taste moved: ", parts].flat() : []);
  }

  async function next() {
    shown = null;
    show(stage, h("p", { class: "waiting" }, h("span", { class: "pulse" }), "Finding the most useful question…"));
    const found = await app.attempt(() => app.api.call(personPath(person, "/questions?limit=20"), { signal: stop.signal }));
    if (stop.signal.aborted) return;
    if (!found) {
      show(stage, again(next));
      return;
    }
    const question = found.data.find((one) => !skipped.has(one.id));
    if (question) offer({ prompt: question.prompt, texts: question.candidates, information: question.information, id: question.id, feedback: (value) => ({ question_id: question.id, value }) });
    else await makePair(PROMPTS[(numAnswered + skipped.size) % PROMPTS.length]);
  }

  async function makePair(prompt) {
    shown = null;
    show(stage, h("p", { class: "waiting" }, h("span", { class: "pulse" }), "Two answers are being written…"));
    await app.connected;
    const { stream, stream_options: _, palate, ...body } = requestBody(session.model, [{ role: "user", content: prompt }], person, session.options);
    const asked = { ...OWN_PAIR, ...body, n: 2, palate: { ...palate, explore: 1, off: undefined } };
    const answer = await app.attempt(() => app.api.call("v1/chat/completions", { method: "POST", body: asked, signal: stop.signal }));
    if (stop.signal.aborted) return;
    const texts = answer?.choices.map((choice) => choice.message.content ?? "");
    if (!texts) show(stage, again(() => makePair(prompt)));
    else if (texts[0].trim() === texts[1].trim()) show(stage, h("p", { class: "hint" }, "Both answers came out the same."), again(() => makePair(prompt)));
    else offer({ prompt, texts, id: answer.id, feedback: (value) => ({ completion_id: answer.id, value }) });
  }

  function again(work) {
    return h("button", { type: "button", class: "button quiet", onclick: work }, icon("retry"), "Try again");
  }

  function offer(found) {
    shown = { ...found, order: shuffled(found.texts.length) };
    const asked = h("h2", { class: "question", tabindex: "-1" }, shown.prompt);
    show(
      stage,
      asked,
      h("div", { class: "shown" }, shown.order.map((which, place) => option(place, shown.texts[which]))),
      h(
        "div",
        { class: "stage-actions" },
        h("button", { type: "button", class: "text-button", onclick: skip }, "None of these, ask another"),
        h("small", { class: "keys" }, "Keys: ", h("kbd", {}, "1"), shown.order.length > 2 ? " to " : " or ", h("kbd", {}, String(shown.order.length)), ", ", h("kbd", {}, "S"), " skips"),
      ),
    );
    app.announce(`${shown.prompt} ${plural(shown.texts.length, "answer")} to choose from.`);
  }

  function option(place, text) {
    const name = PLACES[place];
    return h(
      "article",
      { class: "option card", "aria-label": `The ${name} answer` },
      h("div", { class: "markdown", tabindex: "0", role: "group", "aria-label": `Text of the ${name} answer` }, markdown(text)),
      h("button", { type: "button", class: "button", onclick: () => choose(place) }, h("kbd", { "data-key": place + 1 }), `Prefer the ${name}`),
    );
  }

  async function choose(place) {
    if (!shown) return;
    const chosen = shown;
    shown = null;
    const body = { kind: "comparison", user: person, ...chosen.feedback(chosen.order[place]) };
    const receipt = await app.attempt(() => app.api.call("v1/feedback", { method: "POST", body }));
    if (stop.signal.aborted) return;
    if (!receipt) {
      shown = chosen;
      return;
    }
    numAnswered += 1;
    drawProgress();
    app.announce(`Kept: ${Math.min(numAnswered, GOAL)} of ${GOAL}.`);
    rail.refresh().then(drawMoves);
    if (numAnswered >= GOAL && !isDone) await finish();
    else if (mode === "own") show(stage, h("p", { class: "hint" }, "Kept. Ask the next question, or two more answers to this one."));
    else await next();
  }

  function skip() {
    if (!shown) return;
    skipped.add(shown.id);
    if (mode === "own") show(stage);
    else next();
  }

  async function finish() {
    isDone = true;
    const known = await app.attempt(() => readPerson(app.api, person));
    if (!known || stop.signal.aborted) return;
    const card = tasteCard(known);
    show(
      stage,
      h("h2", { class: "question", tabindex: "-1" }, "Your taste card"),
      card,
      h(
        "div",
        { class: "stage-actions" },
        h("a", { class: "button", href: "#chat" }, "See it in chat"),
        h("a", { class: "button quiet", href: "#taste" }, "All of your taste"),
        h("button", { type: "button", class: "text-button", onclick: goOn }, "Ask me more"),
      ),
    );
    stage.firstElementChild.focus();
    app.announce("Ten questions are answered. This is your taste card.");
  }

  function goOn() {
    numAnswered = 0;
    isDone = false;
    drawProgress();
    next();
  }

  function onKey(event) {
    const isTyping = event.target.closest?.("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey;
    if (isTyping || !shown) return;
    const place = Number(event.key) - 1;
    if (place in shown.order) choose(place);
    else if (event.key.toLowerCase() === "s") skip();
  }

  document.addEventListener("keydown", onKey, { signal: stop.signal });
  drawProgress();
  rail.refresh();
  next();
  const element = h(
    "div",
    { class: "choose" },
    h(
      "div",
      { class: "choose-main" },
      h("header", { class: "view-head" }, h("h1", {}, "Which do you prefer?"), h("p", {}, `The order is drawn by lot, and nothing says how either was made. ${plural(GOAL, "choice")} make a taste card.`)),
      h("div", { class: "choose-bar" }, source, progress),
      moves,
      ownForm,
      stage,
    ),
    h("aside", { class: "rail" }, rail.element),
  );
  return { title: "Choose", element, destroy: () => stop.abort() };
}

/** Numbers below `size`, in an order drawn by lot. */
function shuffled(size) {
  const order = Array.from({ length: size }, (_, index) => index);
  for (let last = size - 1; last > 0; last -= 1) {
    const other = Math.floor(Math.random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

function modeSwitch(onChange) {
  const choice = (value, label, checked) =>
    h("label", { class: "segment" }, h("input", { type: "radio", name: "mode", value, checked, onchange: () => onChange(value) }), h("span", {}, label));
  return h("fieldset", { class: "segments" }, h("legend", { class: "visually-hidden" }, "Questions"), choice("asked", "Most useful question", true), choice("own", "My own question", false));
}

/** What a view shows that needs a person, to nobody. */
export function stranger(session, title, text) {
  return h("section", { class: "empty" }, h("h1", {}, title), h("p", {}, text), newPersonForm(session, () => {}, "Your name, or any name"));
}
