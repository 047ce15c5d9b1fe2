// Shows Markdown without ever making HTML out of text: the parser's tokens become elements, raw HTML stays text.

import { Marked } from "./vendor/marked.esm.js";
import { h } from "./dom.js";

const parser = new Marked({ gfm: true, breaks: true });
const SAFE_LINK = /^(https?:|mailto:)/i;
const MAX_DEPTH = 24;

/** Return nodes for a Markdown text. */
export function markdown(text) {
  let tokens;
  try {
    tokens = parser.lexer(text);
  } catch {
    return [h("p", {}, text)];
  }
  return blocks(tokens, 0);
}

function blocks(tokens, depth) {
  if (depth > MAX_DEPTH) return [h("p", {}, tokens.map((token) => token.raw).join(""))];
  return tokens.map((token) => block(token, depth + 1)).filter(Boolean);
}

function block(token, depth) {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading":
      return h(`h${Math.min(token.depth + 2, 6)}`, {}, inlines(token.tokens, depth));
    case "paragraph":
      return h("p", {}, inlines(token.tokens, depth));
    case "code":
      return h("pre", { tabindex: "0" }, h("code", {}, token.text));
    case "blockquote":
      return h("blockquote", {}, blocks(token.tokens, depth));
    case "list":
      return h(
        token.ordered ? "ol" : "ul",
        token.ordered && token.start !== 1 ? { start: String(token.start) } : {},
        token.items.map((item) => h("li", {}, taskMark(item), blocks(item.tokens, depth))),
      );
    case "table":
      return table(token, depth);
    case "hr":
      return h("hr");
    case "text":
      return token.tokens ? h("span", {}, inlines(token.tokens, depth)) : document.createTextNode(decoded(token.text));
    case "html":
      return h("p", {}, token.raw);
    default:
      return h("p", {}, token.raw ?? "");
  }
}

function taskMark(item) {
  return item.task ? h("span", { class: "task" }, item.checked ? "☑ " : "☐ ") : null;
}

function table(token, depth) {
  const cell = (tag) => (one, column) =>
    h(tag, { class: token.align[column] ? `align-${token.align[column]}` : null }, inlines(one.tokens, depth));
  return h(
    "div",
    { class: "table-scroll", tabindex: "0", role: "group", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, token.header.map(cell("th")))),
      h("tbody", {}, token.rows.map((row) => h("tr", {}, row.map(cell("td"))))),
    ),
  );
}

function inlines(tokens, depth) {
  if (depth > MAX_DEPTH) return tokens.map((token) => token.raw);
  return tokens.map((token) => inline(token, depth + 1));
}

function inline(token, depth) {
  switch (token.type) {
    case "strong":
      return h("strong", {}, inlines(token.tokens, depth));
    case "em":
      return h("em", {}, inlines(token.tokens, depth));
    case "del":
      return h("del", {}, inlines(token.tokens, depth));
    case "codespan":
      return h("code", {}, token.text);
    case "br":
      return h("br");
    case "link":
      return link(token.href, inlines(token.tokens, depth), token.raw);
    case "image": // never fetched: what it would have shown is named instead
      return link(token.href, [token.text || token.href], token.raw);
    case "text":
      return token.tokens ? h("span", {}, inlines(token.tokens, depth)) : decoded(token.text);
    case "escape":
      return decoded(token.text);
    default:
      return token.raw ?? "";
  }
}

function link(href, children, raw) {
  if (!SAFE_LINK.test(href)) return raw;
  return h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, children);
}

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", "#39": "'" };

/** Turn the few entities that models write into their characters; the result is only ever set as text. */
function decoded(text) {
  return text.replace(/&(amp|lt|gt|quot|apos|nbsp|#39);/g, (_, name) => ENTITIES[name]);
}
