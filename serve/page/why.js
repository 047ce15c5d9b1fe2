// How one answer came about: the candidates with their rewards, the arm that won, time and tokens by stage.

import { intervalTrack, rangeOf, shareBar } from "./charts.js";
import { h } from "./dom.js";
import { armName, attributeName, choiceReason, kindOfTaste, milliseconds, percent, plural, signed, whether } from "./words.js";

/** Explain a finished answer. */
export function whyPanel(answer) {
  const palate = answer.palate;
  return h(
    "section",
    { class: "why", "aria-label": "Why this answer" },
    h("p", { class: "why-lead" }, whether(palate), palate?.choice && palate.personalized ? ` ${winnerSentence(palate)}` : ""),
    palate?.candidates?.length > 1 ? candidates(palate) : null,
    h("div", { class: "why-grid" }, taste(palate), stages(answer), tokens(answer)),
  );
}

function winnerSentence(palate) {
  const arm = armName(palate.choice.kind).toLowerCase();
  return `Served: ${arm === "base model" ? "the base model" : `the ${arm} arm`}. ${choiceReason(palate.choice.reason)}`;
}

function candidates(palate) {
  const rows = [...palate.candidates].sort((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity));
  const beliefs = rows.filter((row) => row.reward !== null).map((row) => belief(row));
  const range = rangeOf(beliefs);
  const lines = rows.map((row) => {
    const isServed = row.arm === palate.choice.arm;
    const facts = [row.dose ? `dose ${row.dose.toFixed(2)}` : null, row.is_vetoed ? "vetoed" : null, `${row.num_tokens} tokens`];
    return h(
      "li",
      { class: isServed ? "candidate served" : "candidate" },
      h(
        "span",
        { class: "candidate-name" },
        h("strong", {}, armName(row.kind)),
        isServed ? h("span", { class: "tag" }, "served") : null,
        h("small", {}, facts.filter(Boolean).join(" · ")),
      ),
      row.reward === null ? h("span", { class: "track" }) : intervalTrack(belief(row), range),
      h("span", { class: "candidate-value" }, row.reward === null ? "not judged" : `${signed(row.reward)} ± ${(row.std ?? 0).toFixed(2)}`),
    );
  });
  return h(
    "div",
    {},
    h("h3", {}, plural(rows.length, "candidate")),
    h("p", { class: "hint" }, "Expected reward for this taste, with one standard deviation. The base answer is the zero."),
    h("ol", { class: "candidates" }, lines),
  );
}

function belief(row) {
  const spread = row.std ?? 0;
  return { mean: row.reward, low: row.reward - spread, high: row.reward + spread };
}

function facts(title, rows) {
  const shown = rows.filter(([, value]) => value !== null && value !== undefined);
  if (!shown.length) return null;
  return h("div", {}, h("h3", {}, title), h("dl", { class: "facts" }, shown.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]).flat()));
}

function taste(palate) {
  if (!palate?.mixture_weights) return null;
  const weights = palate.mixture_weights;
  const names = weights.map((_, index) => kindOfTaste(index));
  const wishes = Object.entries(palate.attributes ?? {});
  const told = facts("Taste that was used", [
    ["Kinds", weights.map((weight, index) => `${names[index].at(-1)} ${percent(weight)}`).join(", ")],
    ["Certainty", percent(palate.certainty)],
    ["Dose", palate.dose.toFixed(2)],
    ["Wishes", wishes.length ? wishes.map(([name, value]) => `${attributeName(name)} ${signed(value)}`).join(", ") : null],
  ]);
  told.children[0].after(shareBar(weights, names));
  return told;
}

function stages(answer) {
  const overhead = answer.palate?.overhead_ms ?? {};
  return facts("Time", [
    ["Deciding how", overhead.routing === undefined ? null : milliseconds(overhead.routing)],
    ["Choosing", overhead.choosing === undefined ? null : milliseconds(overhead.choosing)],
    ["First token here", answer.firstMs === undefined ? null : milliseconds(answer.firstMs)],
    ["Whole answer", milliseconds(answer.totalMs)],
  ]);
}

function tokens(answer) {
  const usage = answer.usage;
  const all = answer.palate?.candidate_tokens;
  const served = usage?.completion_tokens;
  return facts("Tokens", [
    ["Prompt", usage ? String(usage.prompt_tokens) : null],
    ["This answer", served === undefined ? null : String(served)],
    ["Other candidates", all && served !== undefined ? String(Math.max(0, all - served)) : null],
    ["Artifact", answer.palate?.artifact ?? null],
  ]);
}
