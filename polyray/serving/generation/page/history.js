// What was asked before, newest first, as the service has stored it.

import { getCandidatesPage } from "./api.js";
import { askedText, shortDecision } from "./words.js";

const PAGE_SIZE = 20;
const PROMPT_CHARS = 120;

/** A list of buttons; onOpen(stored) is called when one is pressed. */
export class History {
  #list;
  #older;
  #empty;
  #selections;
  #onOpen;
  #items = new Map();

  constructor(selections, onOpen) {
    this.#list = document.getElementById("history");
    this.#older = document.getElementById("older");
    this.#empty = document.getElementById("history-empty");
    this.#selections = selections;
    this.#onOpen = onOpen;
  }

  /** Fetches the newest entries, or those before the id `before`; the StoredCandidates that came. */
  async load(before = null) {
    const page = await getCandidatesPage(PAGE_SIZE, before);
    for (const stored of page.data) {
      if (stored.selection !== null) this.#selections.remember(stored.selection);
      if (!this.#items.has(stored.answer.id)) this.#list.append(this.#itemOf(stored));
    }
    this.#older.hidden = !page.has_more;
    this.#older.dataset.before = page.data.at(-1)?.answer.id ?? "";
    this.#empty.hidden = this.#items.size > 0;
    return page.data;
  }

  /** What was just generated, or scored. */
  put(stored) {
    const item = this.#items.get(stored.answer.id);
    if (item !== undefined) item.stored = stored;
    else this.#list.prepend(this.#itemOf(stored));
    this.#empty.hidden = true;
  }

  /** Shows what is decided about an entry by now. */
  showDecision(candidatesId) {
    const item = this.#items.get(candidatesId);
    if (item !== undefined) item.decision.textContent = shortDecision(this.#selections.of(candidatesId));
  }

  /** Marks the entries that the columns show. */
  markShown(ids) {
    for (const [id, { button }] of this.#items) button.setAttribute("aria-current", String(ids.includes(id)));
  }

  #itemOf(stored) {
    const { request, answer } = stored;
    const button = document.createElement("button");
    const [prompt, about, decision] = ["prompt", "about", "decision"].map((name) => {
      const span = document.createElement("span");
      span.className = name;
      return span;
    });
    button.type = "button";
    button.append(prompt, about, decision);
    prompt.textContent = askedText(request).slice(0, PROMPT_CHARS);
    about.textContent = `${new Date(1000 * answer.created).toLocaleString()} · ${answer.policy.model}`;
    const item = { stored, button, decision };
    this.#items.set(answer.id, item);
    this.showDecision(answer.id);
    button.addEventListener("click", () => this.#onOpen(item.stored));
    const entry = document.createElement("li");
    entry.append(button);
    return entry;
  }
}
