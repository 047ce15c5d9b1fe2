// What this browser knows: the people it speaks for, options, conversations, and, in this tab only, the API key.

const PEOPLE = "palate.people";
const PERSON = "palate.person";
const KEY = "palate.key";

export const DEFAULT_OPTIONS = Object.freeze({
  system: "",
  temperature: "",
  top_p: "",
  max_tokens: "256",
  seed: "",
  best_of: "",
  strength: 1,
  explore: "",
  halving: true,
  off: false,
});

/** Tells "person" and "key" as events when they change. */
export class Session extends EventTarget {
  #threads = new Map();

  constructor() {
    super();
    this.people = readList(PEOPLE);
    const last = localStorage.getItem(PERSON) ?? "";
    this.person = this.people.includes(last) ? last : "";
    this.options = { ...DEFAULT_OPTIONS };
    this.model = "";
  }

  /** The API key; kept in this tab alone, and gone with it. */
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  set key(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
    this.dispatchEvent(new Event("key"));
  }

  /** The conversation of the current person, or of nobody. */
  get thread() {
    if (!this.#threads.has(this.person)) this.#threads.set(this.person, []);
    return this.#threads.get(this.person);
  }

  /** Begin the current conversation anew. */
  clearThread() {
    this.#threads.delete(this.person);
  }

  /** Speak for somebody, known or new; an empty name is nobody. */
  become(person) {
    if (person && !this.people.includes(person)) this.people = [...this.people, person];
    this.person = person;
    this.#save();
    this.dispatchEvent(new Event("person"));
  }

  /** Take somebody off this browser's list; the server still knows them. */
  forget(person) {
    this.people = this.people.filter((name) => name !== person);
    this.#threads.delete(person);
    const isCurrent = this.person === person;
    if (isCurrent) this.person = "";
    this.#save();
    if (isCurrent) this.dispatchEvent(new Event("person"));
  }

  #save() {
    localStorage.setItem(PEOPLE, JSON.stringify(this.people));
    localStorage.setItem(PERSON, this.person);
  }
}

function readList(name) {
  try {
    const found = JSON.parse(localStorage.getItem(name) ?? "[]");
    return Array.isArray(found) ? found.filter((item) => typeof item === "string" && item) : [];
  } catch {
    return [];
  }
}
