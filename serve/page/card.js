// A taste card: what ten choices told, on one card.

import { intervalTrack, rangeOf, shareBar } from "./charts.js";
import { h } from "./dom.js";
import { attributeName, kindOfTaste, percent, plural } from "./words.js";

const NUM_SHOWN = 6;

/** Say a taste in a sentence. */
export function sentence(known) {
  const likes = known.attributes.filter((one) => one.decided && one.mean > 0).map((one) => attributeName(one.name));
  const dislikes = known.attributes.filter((one) => one.decided && one.mean < 0).map((one) => attributeName(one.name));
  const list = (names) => new Intl.ListFormat("en").format(names);
  if (!likes.length && !dislikes.length) {
    const [first] = known.attributes;
    if (!first || known.num_counting === 0) return "Nothing is known yet.";
    return `Nothing is certain yet; leaning towards ${first.mean > 0 ? "more" : "less"} ${attributeName(first.name)}.`;
  }
  const parts = [likes.length && `more ${list(likes)}`, dislikes.length && `less ${list(dislikes)}`].filter(Boolean);
  return `Prefers ${parts.join(", and ")}.`;
}

/** Draw the card of a person as the API tells of them. */
export function tasteCard(known) {
  const range = rangeOf(known.attributes);
  const weights = known.mixture_weights;
  const names = weights.map((_, index) => kindOfTaste(index));
  return h(
    "figure",
    { class: "taste-card" },
    h("p", { class: "taste-card-name" }, known.id),
    h("p", { class: "taste-card-sentence" }, sentence(known)),
    h(
      "ul",
      { class: "glance-list" },
      known.attributes.slice(0, NUM_SHOWN).map((belief) => h("li", {}, h("span", { class: "glance-name" }, attributeName(belief.name)), intervalTrack(belief, range))),
    ),
    weights.length > 1 ? h("div", {}, shareBar(weights, names), h("small", {}, weights.map((weight, index) => `${names[index]} ${percent(weight)}`).join(" · "))) : null,
    h("figcaption", {}, h("small", {}, `From ${plural(known.num_counting, "piece")} of feedback`)),
  );
}
