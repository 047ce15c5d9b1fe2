// Dialogs: a frame for all of them, the person picker, the settings, and asking whether something is really meant.

import { h, icon } from "./dom.js";

/** Open a modal dialog with a heading; returns it. `onClose` is called however it is closed. */
export function openDialog(title, content, onClose = () => {}) {
  const heading = h("h2", { id: "dialog-title" }, title);
  const close = h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"));
  const dialog = h(
    "dialog",
    {
      "aria-labelledby": "dialog-title",
      onclose() {
        dialog.remove();
        onClose(dialog.returnValue);
      },
      onclick(event) {
        if (event.target === dialog) dialog.close(); // the backdrop
      },
    },
    h("div", { class: "dialog-box" }, h("div", { class: "dialog-head" }, heading, close), content),
  );
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Ask; resolves to whether it was meant. */
export function confirmed(title, text, action) {
  return new Promise((resolve) => {
    const form = h(
      "form",
      { method: "dialog" },
      h("p", {}, text),
      h(
        "div",
        { class: "dialog-actions" },
        h("button", { type: "submit", class: "button quiet", value: "no", autofocus: true }, "Keep"),
        h("button", { type: "submit", class: "button danger", value: "yes" }, action),
      ),
    );
    openDialog(title, form, (answer) => resolve(answer === "yes"));
  });
}

/** A coloured initial. */
export function avatar(person) {
  const hash = [...person].reduce((sum, letter) => (31 * sum + letter.codePointAt(0)) % 6, 0);
  const initial = person ? [...person][0].toUpperCase() : "";
  return h("span", { class: person ? `avatar tint-${hash}` : "avatar nobody", "data-initial": initial, "aria-hidden": "true" }, person ? null : icon("person"));
}

/** The form that creates a person. */
export function newPersonForm(session, onDone, label = "New person") {
  const input = h("input", { name: "person", maxlength: "64", required: true, autocomplete: "off", placeholder: "A name" });
  return h(
    "form",
    {
      class: "new-person",
      onsubmit(event) {
        event.preventDefault();
        const name = input.value.trim();
        if (!name) return;
        onDone();
        session.become(name);
      },
    },
    h("label", {}, h("span", {}, label), input),
    h("button", { type: "submit", class: "button" }, icon("add"), "Start"),
  );
}

/** Pick, create or forget a person. */
export function openPeople(session) {
  const list = h("ul", { class: "people" });
  const draw = () => list.replaceChildren(...["", ...session.people].map(row));

  function row(person) {
    const isCurrent = session.person === person;
    const name = person || "Nobody";
    return h(
      "li",
      { class: isCurrent ? "current" : "" },
      h(
        "button",
        {
          type: "button",
          class: "person-row",
          "aria-current": isCurrent ? "true" : null,
          onclick() {
            dialog.close();
            session.become(person);
          },
        },
        avatar(person),
        h("span", {}, name, person ? null : h("small", {}, "The base model, without a taste")),
        isCurrent ? icon("check") : null,
      ),
      person
        ? h(
            "button",
            {
              type: "button",
              class: "icon-button",
              "aria-label": `Forget ${name} on this browser`,
              title: "Forget on this browser; the server keeps what it knows until you delete it under Taste",
              onclick() {
                session.forget(person);
                draw();
                list.querySelector("button")?.focus();
              },
            },
            icon("close"),
          )
        : null,
    );
  }

  draw();
  const dialog = openDialog("Who is asking?", h("div", {}, list, newPersonForm(session, () => dialog.close())));
}

/** The API key and the colours. */
export function openSettings(session) {
  const key = h("input", { type: "password", name: "key", autocomplete: "off", spellcheck: "false", value: session.key, placeholder: "pk-…" });
  const theme = localStorage.getItem("palate.theme") ?? "auto";
  const choice = (value, label) =>
    h("label", { class: "segment" }, h("input", { type: "radio", name: "theme", value, checked: theme === value, onchange: () => setTheme(value) }), h("span", {}, label));
  const form = h(
    "form",
    {
      class: "settings",
      onsubmit(event) {
        event.preventDefault();
        dialog.close();
        session.key = key.value.trim();
      },
    },
    h("label", { class: "field wide" }, h("span", {}, "API key"), key, h("small", {}, "Kept in this tab only, and forgotten when it closes. Servers without keys need none.")),
    h("fieldset", { class: "segments" }, h("legend", {}, "Colours"), choice("auto", "As the system"), choice("light", "Light"), choice("dark", "Dark")),
    h("p", { class: "hint" }, "For programs: ", h("a", { href: "docs" }, "the API reference"), "."),
    h("div", { class: "dialog-actions" }, h("button", { type: "submit", class: "button" }, "Save")),
  );
  const dialog = openDialog("Settings", form);
}

function setTheme(value) {
  if (value === "auto") {
    localStorage.removeItem("palate.theme");
    delete document.documentElement.dataset.theme;
  } else {
    localStorage.setItem("palate.theme", value);
    document.documentElement.dataset.theme = value;
  }
}
