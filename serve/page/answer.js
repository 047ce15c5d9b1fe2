// One answer on the page: its text as it grows, how it came about, and what is done with it.

import { h, icon, show } from "./dom.js";
import { markdown } from "./markdown.js";
import { byline } from "./words.js";
import { whyPanel } from "./why.js";

/** Show an answer; `actions` are further buttons. Returns {element, update}, to be called when the answer changed. */
export function answerView(answer, actions = () => []) {
  const text = h("div", { class: "markdown" });
  const note = h("p", { class: "answer-note" });
  const footer = h("div", { class: "answer-footer" });
  const below = h("div", { class: "answer-below" });
  const element = h("div", { class: "answer" }, text, note, footer, below);
  let isAsked = false;

  function draw() {
    isAsked = false;
    const isRunning = answer.state === "streaming";
    element.classList.toggle("streaming", isRunning);
    show(text, answer.text ? markdown(answer.text) : isRunning ? waiting(answer) : []);
    show(note, noteOf(answer));
    note.hidden = !note.textContent;
    if (isRunning) return;
    show(footer, h("div", { class: "actions" }, actions(answer), answer.palate ? whyButton(answer, below) : null), h("small", { class: "byline" }, byline(answer)));
  }

  return {
    element,
    below,
    /** Draw soon; many calls within a frame draw once. */
    update() {
      if (isAsked) return;
      isAsked = true;
      requestAnimationFrame(draw);
    },
  };
}

function waiting(answer) {
  const words = answer.person ? "Tasting…" : "Thinking…";
  return [h("p", { class: "waiting" }, h("span", { class: "pulse" }), words)];
}

function noteOf(answer) {
  if (answer.state === "error") return answer.error;
  if (answer.state === "stopped") return "Stopped.";
  if (answer.palate?.degraded) return "What is known of the person could not be read just now, so this is the base model’s answer.";
  return answer.finish === "length" ? "Cut off at the longest answer allowed; see Options." : "";
}

function whyButton(answer, below) {
  const panel = h("div", { class: "why-holder", hidden: true });
  below.querySelector(".why-holder")?.remove();
  below.append(panel);
  const button = h(
    "button",
    {
      type: "button",
      class: "text-button",
      "aria-expanded": "false",
      onclick() {
        panel.hidden = !panel.hidden;
        button.setAttribute("aria-expanded", String(!panel.hidden));
        if (panel.hidden) return;
        if (!panel.firstChild) panel.append(whyPanel(answer));
        panel.scrollIntoView({ block: "nearest" });
      },
    },
    icon("why"),
    "Why",
  );
  return button;
}
