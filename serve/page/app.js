// The page's root: makes what the views share, and shows the view that the address names.

import { Api } from "./api.js";
import { avatar, openPeople, openSettings } from "./dialogs.js";
import { h, icon, show } from "./dom.js";
import { Session } from "./session.js";
import { chatView } from "./views/chat.js";
import { chooseView } from "./views/choose.js";
import { compareView } from "./views/compare.js";
import { operatorView } from "./views/operator.js";
import { tasteView } from "./views/taste.js";

const VIEWS = {
  chat: { label: "Chat", make: chatView },
  choose: { label: "Choose", make: chooseView },
  taste: { label: "Taste", make: tasteView },
  compare: { label: "Compare", make: compareView },
  operator: { label: "Operator", make: operatorView },
};
const TOAST_MS = 5000;

class App {
  constructor() {
    this.session = new Session();
    this.api = new Api(() => this.session.key);
    this.current = null;
    this.isOperator = false;
  }

  /** Show the view of the address, and read meanwhile what the server serves. */
  start() {
    document.getElementById("settings").append(icon("settings"));
    document.getElementById("settings").addEventListener("click", () => openSettings(this.session));
    document.getElementById("person").addEventListener("click", () => openPeople(this.session));
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    });
    addEventListener("hashchange", () => this.show({ isMoved: true }));
    this.session.addEventListener("person", () => this.show());
    this.session.addEventListener("key", () => this.connect().then(() => this.show()));
    this.connect();
    this.show();
  }

  /** Find the model's name, and whether this key may see the operator's view; `connected` waits for it. */
  connect() {
    this.connected = Promise.all([this.findModel(), this.findScope()]).then(() => this.drawTabs());
    return this.connected;
  }

  async findModel() {
    const models = await this.attempt(() => this.api.call("v1/models"));
    this.session.model = models?.data[0]?.id ?? "";
    if (models) show(document.getElementById("banner"));
  }

  async findScope() {
    this.isOperator = await this.api.call("v1/operator").then(
      () => true,
      () => false,
    );
  }

  /** Show the view of the address. */
  show({ isMoved = false } = {}) {
    const { name } = this;
    this.current?.destroy?.();
    this.drawTabs();
    this.drawPerson();
    const view = VIEWS[name].make(this);
    this.current = view;
    document.title = `${view.title} · Palate`;
    const main = document.getElementById("main");
    main.className = `view-${name}`;
    show(main, view.element);
    view.shown?.();
    if (isMoved) {
      scrollTo(0, 0);
      main.focus({ preventScroll: true });
      this.announce(view.title);
    }
  }

  /** The view that the address names. */
  get name() {
    const asked = location.hash.slice(1);
    return Object.hasOwn(VIEWS, asked) ? asked : "chat";
  }

  drawTabs() {
    const current = this.name;
    const shown = Object.entries(VIEWS).filter(([name]) => name !== "operator" || this.isOperator || current === name);
    show(
      document.getElementById("tabs"),
      shown.map(([name, { label }]) =>
        h("a", { href: `#${name}`, "aria-current": name === current ? "page" : null }, icon(name), h("span", {}, label)),
      ),
    );
  }

  drawPerson() {
    const { person } = this.session;
    const button = document.getElementById("person");
    button.setAttribute("aria-label", person ? `Asking as ${person}; change` : "Asking as nobody; choose a person");
    show(button, avatar(person), h("span", { class: "person-name" }, person || "Nobody"));
  }

  /** Do something that asks the server; on an error tell it and return undefined. */
  async attempt(work) {
    try {
      return await work();
    } catch (error) {
      this.failed(error);
      return undefined;
    }
  }

  /** Tell of an error; what is only a missing key has its own place. */
  failed(error, { isShown = false } = {}) {
    if (error.status === 401) {
      show(
        document.getElementById("banner"),
        h(
          "div",
          { class: "banner" },
          h("span", {}, this.session.key ? "This API key is not accepted." : "This server asks for an API key."),
          h("button", { type: "button", class: "button small", onclick: () => openSettings(this.session) }, "Enter a key"),
        ),
      );
    } else if (!isShown) this.toast(error.message);
  }

  /** Show a short message for a while, and read it out. */
  toast(text) {
    const note = h("div", { class: "toast" }, text);
    document.getElementById("toasts").append(note);
    setTimeout(() => note.remove(), TOAST_MS);
    this.announce(text);
  }

  /** Have a screen reader say something. */
  announce(text) {
    document.getElementById("announcer").textContent = text;
  }
}

new App().start();
