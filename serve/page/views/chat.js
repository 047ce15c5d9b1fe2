// Chat: ask as a person, read the answer as it comes, judge it, and see the taste move.

import { answerView } from "../answer.js";
import { ask, newAnswer, requestBody } from "../ask.js";
import { newPersonForm } from "../dialogs.js";
import { h, icon, show } from "../dom.js";
import { glance } from "../glance.js";
import { openOptions, optionsSummary } from "../options.js";
import { thumbs } from "../thumbs.js";

const STARTERS = [
  "How do I make a good cup of tea?",
  "Explain why the sky is blue.",
  "Write a short note thanking a neighbour.",
  "What should I do on a rainy Sunday?",
];

export function chatView(app) {
  const { session } = app;
  const log = h("div", { class: "thread" });
  const rail = glance(app);
  const summary = h("small", { class: "options-summary" });
  const input = h("textarea", {
    id: "message",
    rows: "1",
    placeholder: session.person ? `Ask as ${session.person}` : "Ask as nobody",
    "aria-label": "Your message",
    onkeydown(event) {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    },
    oninput: grow,
  });
  const send = h("button", { type: "submit", class: "button send" });
  let running = null; // the AbortController of the answer on its way

  const form = h(
    "form",
    {
      class: "composer",
      onsubmit(event) {
        event.preventDefault();
        if (running) running.abort();
        else if (input.value.trim()) submit(input.value.trim());
      },
    },
    input,
    h(
      "div",
      { class: "composer-bar" },
      h("button", { type: "button", class: "text-button", "aria-haspopup": "dialog", onclick: () => openOptions(session, drawOptions) }, icon("options"), "Options"),
      summary,
      h("button", { type: "button", class: "text-button new-chat", onclick: startAnew }, icon("add"), "New chat"),
      send,
    ),
  );

  function grow() {
    input.style.setProperty("height", "auto");
    input.style.setProperty("height", `${Math.min(input.scrollHeight, 220)}px`);
  }

  function drawOptions() {
    show(summary, optionsSummary(session.options));
  }

  function drawSend() {
    show(send, icon(running ? "stop" : "send"), h("span", {}, running ? "Stop" : "Send"));
  }

  function startAnew() {
    running?.abort();
    session.clearThread();
    drawThread();
    input.focus();
  }

  function drawThread() {
    if (session.thread.length === 0) show(log, welcome());
    else show(log, h("h1", { class: "visually-hidden" }, session.person ? `Chat as ${session.person}` : "Chat"), session.thread.map(messageView));
    toEnd();
  }

  function toEnd() {
    const last = log.lastElementChild;
    if (last && session.thread.length) last.scrollIntoView({ block: "end" });
  }

  function welcome() {
    const isSomebody = Boolean(session.person);
    return h(
      "section",
      { class: "welcome" },
      h("h1", {}, isSomebody ? `Good to see you, ${session.person}` : "Answers in your own taste"),
      isSomebody
        ? h("p", {}, "Ask something, then say what you think of the answer. The next one will be closer to your taste.")
        : h("p", {}, "Palate learns what each person likes from a few thumbs and choices, and shapes the next answer with it. Say who you are to begin."),
      isSomebody ? null : newPersonForm(session, () => {}, "Your name, or any name"),
      h(
        "ul",
        { class: "starters", "aria-label": "Things to ask" },
        STARTERS.map((text) => h("li", {}, h("button", { type: "button", class: "starter", onclick: () => submit(text) }, text))),
      ),
      isSomebody ? h("p", {}, h("a", { href: "#choose" }, "Or answer ten quick questions"), " to be known at once.") : null,
    );
  }

  function messageView(message) {
    if (message.role === "user") return h("article", { class: "message mine", "aria-label": "You" }, h("p", {}, message.text));
    const judged = message.person ? thumbs(app, message, rail.refresh) : null;
    const view = answerView(message, () => actions(message, judged));
    if (judged) view.below.append(judged.panel);
    message.update = view.update;
    view.update();
    return h("article", { class: "message", "aria-label": message.person ? `Answer to ${message.person}` : "Answer to nobody" }, view.element);
  }

  function actions(message, judged) {
    const isLast = session.thread.at(-1) === message;
    return [
      judged && message.id && message.text && message.state !== "error" ? judged.buttons : [],
      iconButton("copy", "Copy", () => copy(message.text)),
      isLast ? iconButton("retry", "Try again", retry) : null,
    ].flat();
  }

  function iconButton(name, label, onclick) {
    return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick }, icon(name));
  }

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      app.toast("Copied.");
    } catch {
      app.toast("This browser does not allow copying.");
    }
  }

  function retry() {
    session.thread.pop();
    const question = session.thread.pop();
    drawThread();
    if (question) submit(question.text);
  }

  function submit(text) {
    if (running) return;
    input.value = "";
    grow();
    const answer = newAnswer(session.person);
    session.thread.push({ role: "user", text }, answer);
    drawThread();
    run(answer);
  }

  async function run(answer) {
    running = new AbortController();
    const controller = running;
    drawSend();
    const messages = session.thread
      .slice(0, -1)
      .filter((message) => message.text)
      .map(({ role, text }) => ({ role, content: text }));
    const isNear = () => document.documentElement.scrollHeight - innerHeight - scrollY < 160;
    try {
      await app.connected;
      await ask(app.api, requestBody(session.model, messages, answer.person, session.options), answer, {
        signal: controller.signal,
        onText() {
          const wasNear = isNear();
          answer.update?.();
          if (wasNear) requestAnimationFrame(toEnd);
        },
      });
      answer.state = "done";
      app.announce("The answer is complete.");
    } catch (error) {
      answer.state = error.name === "AbortError" ? "stopped" : "error";
      answer.error = error.message;
      if (answer.state === "error") app.failed(error, { isShown: true });
    } finally {
      running = null;
      drawSend();
      answer.update?.();
      requestAnimationFrame(() => requestAnimationFrame(toEnd));
    }
  }

  drawThread();
  drawOptions();
  drawSend();
  rail.refresh();
  const element = h("div", { class: "chat" }, h("div", { class: "chat-main" }, log, h("div", { class: "dock" }, form)), h("aside", { class: "rail" }, rail.element));
  return { title: "Chat", element, destroy: () => running?.abort() };
}
