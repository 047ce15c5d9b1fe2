// The request's parameters, as a dialog.

import { h } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { DEFAULT_OPTIONS } from "./session.js";
import { percent } from "./words.js";

/** Say the options that differ from the server's own. */
export function optionsSummary(options) {
  const parts = [];
  if (options.off) parts.push("personalization off");
  else {
    if (options.best_of !== "") parts.push(`best of ${options.best_of}`);
    if (Number(options.strength) !== 1) parts.push(`strength ${percent(options.strength)}`);
    if (!options.halving) parts.push("no halving");
    if (options.explore !== "") parts.push(`explore ${options.explore}`);
  }
  if (options.temperature !== "") parts.push(`temperature ${options.temperature}`);
  if (options.top_p !== "") parts.push(`top-p ${options.top_p}`);
  if (options.seed !== "") parts.push(`seed ${options.seed}`);
  if (options.system) parts.push("with instructions");
  return parts.join(" · ");
}

/** Open the dialog; `onChange` is called after it closed. */
export function openOptions(session, onChange) {
  const { options } = session;
  const number = (name, label, hint, bounds) =>
    h(
      "label",
      { class: "field" },
      h("span", {}, label),
      h("input", { type: "number", name, value: options[name], placeholder: "server’s own", inputmode: "decimal", ...bounds }),
      h("small", {}, hint),
    );
  const strengthNow = h("output", { for: "strength" }, percent(options.strength));
  const strength = h("input", {
    type: "range",
    id: "strength",
    name: "strength",
    min: "0",
    max: "1",
    step: "0.05",
    value: String(options.strength),
    oninput: () => strengthNow.replaceChildren(percent(strength.value)),
  });
  const check = (name, label, hint) =>
    h("label", { class: "check" }, h("input", { type: "checkbox", name, checked: options[name] }), h("span", {}, label, h("small", {}, hint)));
  const form = h(
    "form",
    { method: "dialog", class: "options" },
    h(
      "fieldset",
      {},
      h("legend", {}, "Taste"),
      number("best_of", "Best of", "Candidates to choose from; 1 only steers.", { min: "1", max: "32", step: "1" }),
      h("label", { class: "field", for: "strength" }, h("span", {}, "Strength ", strengthNow), strength, h("small", {}, "0 % answers as if nothing were known.")),
      number("explore", "Explore", "Share of candidates drawn to learn more.", { min: "0", max: "1", step: "0.05" }),
      check("halving", "Halving", "Stop losing candidates early."),
      check("off", "Personalization off", "Answer with the base model."),
    ),
    h(
      "fieldset",
      {},
      h("legend", {}, "Sampling"),
      number("temperature", "Temperature", "0 always takes the likeliest token.", { min: "0", max: "2", step: "0.05" }),
      number("top_p", "Top-p", "Share of probability to sample from.", { min: "0.01", max: "1", step: "0.01" }),
      number("max_tokens", "Longest answer", "In tokens.", { min: "1", max: "100000", step: "1" }),
      number("seed", "Seed", "Same seed, same candidates.", { min: "0", max: "2147483647", step: "1" }),
    ),
    h(
      "label",
      { class: "field wide" },
      h("span", {}, "Instructions to the model"),
      h("textarea", { name: "system", rows: "3", value: options.system, placeholder: "You are …" }),
    ),
    h(
      "div",
      { class: "dialog-actions" },
      h("button", { type: "button", class: "button quiet", onclick: reset }, "Reset"),
      h("button", { type: "submit", class: "button" }, "Done"),
    ),
  );

  function read() {
    const data = new FormData(form);
    for (const name of Object.keys(DEFAULT_OPTIONS)) {
      options[name] = typeof DEFAULT_OPTIONS[name] === "boolean" ? data.has(name) : data.get(name);
    }
  }

  function reset() {
    Object.assign(options, DEFAULT_OPTIONS);
    dialog.dataset.isReset = "yes";
    dialog.close();
  }

  const dialog = openDialog("Options", form, () => {
    if (!dialog.dataset.isReset) read();
    onChange();
  });
}
