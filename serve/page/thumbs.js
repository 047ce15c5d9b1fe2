// Thumbs with a reason under an answer: given, explained, changed and taken back.

import { h, icon, show } from "./dom.js";
import { attributeName, signed } from "./words.js";

/** Return {buttons, panel}; `onChange` is told after the server kept or forgot something, and resolves to what moved. */
export function thumbs(app, answer, onChange) {
  const panel = h("div", { class: "reason-holder" });
  const up = thumbButton("up", "Good answer", 1);
  const down = thumbButton("down", "Bad answer", -1);

  function thumbButton(name, label, value) {
    return h(
      "button",
      { type: "button", class: "icon-button thumb", "aria-label": label, title: label, "aria-pressed": "false", onclick: () => give(value) },
      icon(name),
    );
  }

  function draw() {
    up.setAttribute("aria-pressed", String(answer.thumb?.value === 1));
    down.setAttribute("aria-pressed", String(answer.thumb?.value === -1));
    if (!answer.thumb) show(panel);
    else if (answer.thumb.reason) show(panel, h("p", { class: "reason-said" }, "Because: ", h("q", {}, answer.thumb.reason)));
    else show(panel, reasonForm());
  }

  async function give(value) {
    if (answer.thumb?.value === value) await withdraw();
    else await send(value, "");
  }

  async function send(value, reason) {
    const body = { kind: "thumb", value, completion_id: answer.id, user: answer.person, ...(reason && { reason }) };
    const receipt = await app.attempt(() => app.api.call("v1/feedback", { method: "POST", body }));
    if (!receipt) return;
    answer.thumb = { value, reason, id: receipt.id };
    draw();
    await tellMoves(reason ? "Reason kept." : value > 0 ? "Thumb up kept." : "Thumb down kept.");
  }

  async function withdraw() {
    const gone = await app.attempt(() => app.api.call(`v1/feedback/${answer.thumb.id}`, { method: "DELETE" }));
    if (!gone) return;
    answer.thumb = undefined;
    draw();
    await tellMoves("Thumb taken back.");
  }

  async function tellMoves(kept) {
    const moves = (await onChange()).slice(0, 3);
    const said = moves.map(([name, change]) => `${attributeName(name)} ${signed(change)}`).join(", ");
    app.announce(said ? `${kept} Taste moved: ${said}.` : kept);
    const parts = moves.flatMap(([name, change], index) => [index ? ", " : "", `${attributeName(name)} `, h("strong", {}, signed(change))]);
    panel.querySelector(".moves")?.remove();
    if (said) panel.append(h("p", { class: "moves" }, "Taste moved: ", parts));
  }

  function reasonForm() {
    const input = h("input", { name: "reason", maxlength: "500", autocomplete: "off", placeholder: "too long, just right, more formal…" });
    return h(
      "form",
      {
        class: "reason",
        onsubmit(event) {
          event.preventDefault();
          if (input.value.trim()) send(answer.thumb.value, input.value.trim());
        },
      },
      h("label", {}, h("span", {}, "Why? (optional)"), input),
      h("button", { type: "submit", class: "button small" }, "Add"),
    );
  }

  draw();
  return { buttons: [up, down], panel };
}
