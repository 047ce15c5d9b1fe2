// Operator: how the server does, read again every few seconds. Needs a key with the scope "admin".

import { rateLine } from "../charts.js";
import { openSettings } from "../dialogs.js";
import { h, show } from "../dom.js";
import { armName, attributeName, choiceReason, kindOfTaste, milliseconds, percent, plural, signed } from "../words.js";

const PERIOD_MS = 3000;
const NUM_KEPT = 60;
const WHETHER = {
  on: "personalized",
  explicit: "by pins or wishes",
  gate: "judged, not steered",
  no_feedback: "nothing known yet",
  no_user: "nobody named",
  off: "switched off",
  no_artifact: "nothing learned",
  degraded: "degraded: store away",
};

export function operatorView(app) {
  const body = h("div", { class: "operator" }, h("p", { class: "waiting" }, h("span", { class: "pulse" }), "Reading…"));
  const element = h("div", {}, h("header", { class: "view-head" }, h("h1", {}, "Operator"), h("p", {}, "Since the server started; rates are of the last few seconds.")), body);
  const kept = []; // {time, requests, tokens}
  const stop = new AbortController();
  let timer = 0;

  async function refresh() {
    try {
      const found = await app.api.call("v1/operator", { signal: stop.signal });
      remember(found);
      show(body, tiles(found), artifact(found), cohorts(found), shares(found));
    } catch (error) {
      if (stop.signal.aborted) return;
      if (error.status === 401 || error.status === 403) {
        show(body, locked(error.message));
        return;
      }
      show(body, h("p", { class: "hint" }, error.message));
    }
    timer = setTimeout(refresh, PERIOD_MS);
  }

  function locked(message) {
    return h("section", { class: "card" }, h("p", {}, message), h("div", { class: "stage-actions" }, h("button", { type: "button", class: "button", onclick: () => openSettings(app.session) }, "Enter a key")));
  }

  function remember(found) {
    const tokens = found.num_served_tokens + found.num_spent_tokens;
    kept.push({ time: found.time, requests: found.num_requests, tokens });
    if (kept.length > NUM_KEPT + 1) kept.shift();
  }

  function rates(name) {
    return kept.slice(1).map((now, index) => Math.max(0, now[name] - kept[index][name]) / Math.max(0.1, now.time - kept[index].time));
  }

  function tiles(found) {
    const seconds = (value) => (value === null ? "–" : milliseconds(1000 * value));
    const last = (values, digits) => (values.length ? values.at(-1).toFixed(digits) : "–");
    const ups = Object.values(found.thumbs).reduce((sum, one) => sum + one.up, 0);
    const thumbs = Object.values(found.thumbs).reduce((sum, one) => sum + one.up + one.down, 0);
    const requests = rates("requests");
    const tokens = rates("tokens");
    return h(
      "dl",
      { class: "tiles" },
      tile("Answers a second", last(requests, 1), `${found.num_requests} in all, ${found.num_running} running`, requests),
      tile("Candidate tokens a second", last(tokens, 0), `${plural(found.num_candidates, "candidate")} so far`, tokens),
      tile("First byte", seconds(found.first_byte_p50_s), `95 % within ${seconds(found.first_byte_p95_s)}`),
      tile("Gain over base", found.mean_gain === null ? "–" : signed(found.mean_gain), "expected, in logits of a choice"),
      tile("Thumbs up", thumbs ? percent(ups / thumbs) : "–", plural(thumbs, "thumb")),
      tile("Failed", String(found.num_failed), `${found.num_refused} refused`),
    );
  }

  function tile(name, value, note, line) {
    return h("div", { class: "card tile" }, h("dt", {}, name), h("dd", {}, h("strong", {}, value), line ? rateLine(line, NUM_KEPT) : null, h("small", {}, note)));
  }

  function artifact(found) {
    const known = found.artifact;
    const facts = known
      ? [
          ["Version", known.version],
          ["Kinds of taste", String(known.num_prototypes)],
          ["Directions", `${known.num_features}, ${known.attributes.length} of them named`],
          ["Attributes", known.attributes.map(attributeName).join(", ") || "none"],
          ["Questions", String(known.num_questions)],
        ]
      : [["Version", "none: every answer is the base model’s"]];
    const rows = [["Model", found.model], ["Engine", found.engine], ["Palate", found.version], ...facts, ["People", found.num_people === null ? "not indexed" : String(found.num_people)]];
    return card("In service", h("dl", { class: "facts" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
  }

  function cohorts(found) {
    if (!found.cohorts.length) return card("For whom", h("p", { class: "hint" }, "No personalized answer has been given yet."));
    const rows = found.cohorts.map((one) => {
      const tastes = Object.entries(one.attributes).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).filter(([, value]) => Math.abs(value) > 0.1);
      const told = tastes.slice(0, 2).map(([name, value]) => `${value > 0 ? "more" : "less"} ${attributeName(name)}`);
      const num = one.thumbs.up + one.thumbs.down;
      const isWorst = one.prototype === found.worst_prototype;
      return h(
        "tr",
        { class: isWorst ? "worst" : "" },
        h("th", { scope: "row" }, kindOfTaste(one.prototype), isWorst ? h("span", { class: "tag" }, "worst") : null, h("small", {}, told.join(", "))),
        h("td", {}, String(one.num_answers)),
        h("td", {}, one.mean_gain === null ? "–" : signed(one.mean_gain)),
        h("td", {}, num ? `${percent(one.thumbs.up / num)} of ${num}` : "–"),
      );
    });
    const head = ["Kind of taste", "Answers", "Gain", "Thumbs up"].map((name) => h("th", { scope: "col" }, name));
    return card("For whom", h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)));
  }

  function shares(found) {
    const arms = Object.entries(found.thumbs).map(([arm, one]) => [armName(arm), one.up + one.down ? `${percent(one.up / (one.up + one.down))} up of ${one.up + one.down}` : "–"]);
    const counted = (counts, name) => Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([key, value]) => [name(key), String(value)]);
    const spent = found.num_served_tokens + found.num_spent_tokens;
    return h(
      "div",
      { class: "operator-grid" },
      list("Thumbs by arm", arms, "No thumbs on answers yet."),
      list("Answers", counted(found.answers, (name) => WHETHER[name] ?? name), "No answers yet."),
      list("Why the winner won", counted(found.choices, choiceReason), "No choices yet."),
      list("Feedback", counted(found.feedback, (name) => name), "No feedback yet."),
      list("Candidate tokens", spent ? [["Served", String(found.num_served_tokens)], ["Spent on others", String(found.num_spent_tokens)], ["Tokens per served token", (spent / Math.max(1, found.num_served_tokens)).toFixed(2)]] : [], "No candidates yet."),
    );
  }

  function list(title, rows, empty) {
    return card(title, rows.length ? h("dl", { class: "facts wide-names" }, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])) : h("p", { class: "hint" }, empty));
  }

  function card(title, content) {
    return h("section", { class: "card" }, h("h2", {}, title), content);
  }

  refresh();
  return {
    title: "Operator",
    element,
    destroy() {
      stop.abort();
      clearTimeout(timer);
    },
  };
}
