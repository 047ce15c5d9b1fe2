// Numbers and codes said in words.

/** "long_words" → "long words". */
export function attributeName(name) {
  return name.replaceAll("_", " ");
}

/** A signed number. */
export function signed(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
}

export function percent(share) {
  return `${Math.round(100 * share)} %`;
}

export function milliseconds(value) {
  if (value === undefined || value === null) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

export function kindOfTaste(index) {
  return `Kind ${String.fromCharCode(65 + (index % 26))}`;
}

const ARMS = {
  base: "Base model",
  steered: "Steered",
  adapter: "Adapter",
  instruction: "Style instruction",
};

export function armName(kind) {
  return ARMS[kind] ?? kind;
}

const WHETHER = {
  on: "Steered towards what is known of the taste.",
  explicit: "Steered towards what was asked for or pinned.",
  gate: "The taste is not certain enough to steer; it only judges the candidates.",
  no_feedback: "Nothing is known of this taste yet, so this is exactly the base model's answer.",
  off: "Personalization was off: the base model's answer.",
  no_user: "Asked as nobody: the base model's answer.",
  no_artifact: "Nothing was learned for this model yet: the base model's answer.",
  degraded: "What is known of the person could not be read: the base model's answer.",
};

/** Say whether and why an answer was personalized. */
export function whether(palate) {
  return WHETHER[palate?.reason] ?? "The base model's answer.";
}

const CHOICES = {
  reward: "It is better for this taste with enough probability.",
  base_best: "No other candidate suits this taste better than the base answer.",
  gate: "Others score higher, but not surely enough to replace the base answer.",
  only: "There was one candidate.",
  no_taste: "Nothing is known that could choose.",
  base_vetoed: "The base answer was degenerate, this one was not.",
  all_vetoed: "Every candidate was degenerate; the base answer is served.",
};

export function choiceReason(reason) {
  return CHOICES[reason] ?? reason;
}

/** One line under an answer. */
export function byline(answer) {
  const palate = answer.palate;
  if (!palate || palate.reason === "no_user") return answer.person ? "" : "Base model, nobody’s taste";
  if (!palate.personalized) {
    return palate.reason === "no_feedback" ? "Base model: nothing is known yet" : `Base model: ${palate.reason.replaceAll("_", " ")}`;
  }
  const choice = palate.choice;
  const parts = [choice ? armName(choice.kind) : "Personal"];
  if (palate.num_candidates > 1) parts.push(`best of ${palate.num_candidates}`);
  if (choice && choice.kind !== "base") parts.push(`${percent(choice.prob_over_base)} sure it beats the base`);
  return parts.join(" · ");
}

const SAID = {
  rating: (event) => `Rated an answer ${event.value} of 5`,
  thumb: (event) => (event.value > 0 ? "Thumb up" : "Thumb down"),
  comparison: (event) => (event.question_id ? "Answered a question" : "Chose one of several answers"),
  ranking: () => "Ranked answers",
  comment: () => "Remark",
  demonstration: () => "Showed an answer",
  edit: () => "Edited an answer",
  implicit: (event) => (event.value > 0 ? "Seemed pleased" : "Seemed displeased"),
};

/** What a piece of feedback was. */
export function feedbackName(event) {
  return event ? SAID[event.kind]?.(event) ?? event.kind : "Earlier feedback";
}

/** "just now", "5 minutes ago", or a date. `at` is Unix time in seconds. */
export function ago(at) {
  const seconds = Date.now() / 1000 - at;
  if (seconds < 60) return "just now";
  const format = new Intl.RelativeTimeFormat("en");
  if (seconds < 3600) return format.format(-Math.round(seconds / 60), "minute");
  if (seconds < 86400) return format.format(-Math.round(seconds / 3600), "hour");
  return new Date(at * 1000).toLocaleDateString("en", { dateStyle: "medium" });
}
