// Compare: the same question, answered to two people and to nobody, from the same seed.

import { answerView } from "../answer.js";
import { ask, newAnswer, requestBody } from "../ask.js";
import { avatar } from "../dialogs.js";
import { h, icon, show } from "../dom.js";
import { openOptions, optionsSummary } from "../options.js";

export function compareView(app) {
  const { session } = app;
  const columns = h("div", { class: "columns" });
  const summary = h("small", { class: "options-summary" });
  const first = picker("First person", session.person || session.people[0] || "");
  const second = picker("Second person", session.people.find((name) => name !== first.value) ?? "");
  const prompt = h("textarea", {
    rows: "2",
    "aria-label": "The question for all of them",
    placeholder: "Ask all of them the same",
    onkeydown(event) {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    },
  });
  const button = h("button", { type: "submit", class: "button" });
  let running = null;

  function picker(label, value) {
    const options = ["", ...session.people].map((name) => h("option", { value: name }, name || "Nobody"));
    return h("select", { "aria-label": label, value }, options);
  }

  const form = h(
    "form",
    {
      class: "card compare-form",
      onsubmit(event) {
        event.preventDefault();
        if (running) running.abort();
        else if (prompt.value.trim()) run(prompt.value.trim());
      },
    },
    prompt,
    h(
      "div",
      { class: "compare-bar" },
      h("label", { class: "field" }, h("span", {}, "First"), first),
      h("label", { class: "field" }, h("span", {}, "Second"), second),
      h("button", { type: "button", class: "text-button", "aria-haspopup": "dialog", onclick: () => openOptions(session, drawOptions) }, icon("options"), "Options"),
      summary,
      button,
    ),
  );

  function drawOptions() {
    show(summary, optionsSummary(session.options));
  }

  function drawButton() {
    show(button, icon(running ? "stop" : "compare"), running ? "Stop" : "Compare");
  }

  async function run(text) {
    running = new AbortController();
    await app.connected;
    drawButton();
    const seed = session.options.seed === "" ? String(Math.floor(Math.random() * 2 ** 31)) : session.options.seed;
    const people = [...new Set([first.value, second.value, ""])];
    const answers = people.map((person) => column(person));
    show(columns, answers.map(({ element }) => element));
    columns.dataset.count = String(people.length);
    await Promise.all(answers.map(({ answer, view }) => answerOne(answer, view, text, { ...session.options, seed })));
    running = null;
    drawButton();
    app.announce("All answers are complete.");
  }

  function column(person) {
    const answer = newAnswer(person);
    const view = answerView(answer);
    view.update();
    const name = person || "Nobody";
    const element = h("article", { class: "column card", "aria-label": `Answer to ${name}` }, h("h2", {}, avatar(person), h("span", {}, name)), view.element);
    return { answer, view, element };
  }

  async function answerOne(answer, view, text, options) {
    try {
      const body = requestBody(session.model, [{ role: "user", content: text }], answer.person, options);
      await ask(app.api, body, answer, { signal: running.signal, onText: view.update });
      answer.state = "done";
    } catch (error) {
      answer.state = error.name === "AbortError" ? "stopped" : "error";
      answer.error = error.message;
      if (answer.state === "error") app.failed(error, { isShown: true });
    }
    view.update();
  }

  drawOptions();
  drawButton();
  show(columns, h("p", { class: "hint" }, session.people.length ? "The same seed is used for all, so what differs is the taste." : "Create people with the button at the top first; nobody’s answer is the base model’s."));
  const element = h(
    "div",
    { class: "compare" },
    h("header", { class: "view-head" }, h("h1", {}, "One question, several tastes"), h("p", {}, "The same question as two people, and as nobody.")),
    form,
    columns,
  );
  return { title: "Compare", element, destroy: () => running?.abort() };
}
