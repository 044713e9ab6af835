// What the user picked, until the service has stored it.
//
// Every decision gets a client_key of its own, which stays with it through retries and reloads: a repeated send is the
// same selection. Going back to an earlier candidate is a new decision, because the last one counts. Of one answer
// only the newest decision is sent, one request at a time, so that an older one never arrives after it.

import { storeSelection } from "./api.js";

const UNSENT_KEY = "polyray.unsent";
const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 30;
const UNTIL_WOKEN_S = 3600;

/** Decisions by candidates id: {body, state: "sending" | "waiting" | "stored" | "refused", error}. */
export class Selections {
  #decisions = new Map();
  #wakers = new Map();
  #onChange;

  /** `onChange(candidatesId)` is called after every change. */
  constructor(onChange) {
    this.#onChange = onChange;
    window.addEventListener("online", () => this.sendAgain());
  }

  /** Goes on with what an earlier visit of this tab could not send. */
  resume() {
    for (const body of JSON.parse(sessionStorage.getItem(UNSENT_KEY) ?? "[]")) this.#decide(body);
  }

  /** Takes over what the service has stored; what was decided in this tab is newer. */
  remember(selection) {
    if (this.#decisions.has(selection.candidates_id)) return;
    const { candidates_id, selected_index, edited_text, client_key } = selection;
    const body = { candidates_id, selected_index, edited_text, client_key };
    this.#decisions.set(candidates_id, { body, state: "stored", error: null });
  }

  /** The decision about these candidates, or undefined. */
  of(candidatesId) {
    return this.#decisions.get(candidatesId);
  }

  /** Decisions that the service may still take. */
  get unsent() {
    return [...this.#decisions.values()].filter(({ state }) => state === "sending" || state === "waiting");
  }

  /** Stores a decision; false where it is the one that is stored already. The same one again is sent again. */
  choose(candidatesId, selectedIndex, editedText) {
    const known = this.#decisions.get(candidatesId);
    const same = known?.body.selected_index === selectedIndex && known.body.edited_text === editedText;
    if (same && known.state === "stored") return false;
    if (same && known.state !== "refused") this.sendAgain(candidatesId);
    else {
      this.#decide({
        candidates_id: candidatesId,
        selected_index: selectedIndex,
        edited_text: editedText,
        client_key: same ? known.body.client_key : newKey(),
      });
    }
    return true;
  }

  /** Ends the wait for the next attempt: of one, or of all. */
  sendAgain(candidatesId = null) {
    for (const [id, wake] of [...this.#wakers]) if (candidatesId === null || id === candidatesId) wake();
  }

  #decide(body) {
    const id = body.candidates_id;
    const previous = this.#decisions.get(id);
    this.#decisions.set(id, { body, state: "sending", error: null });
    this.#changed(id);
    // A loop that waits or sends for the previous decision goes on with this one.
    if (previous?.state === "sending" || previous?.state === "waiting") this.sendAgain(id);
    else this.#send(id);
  }

  async #send(id) {
    for (let waitS = FIRST_WAIT_S; ; ) {
      const decision = this.#decisions.get(id);
      this.#update(id, decision, "sending", null);
      let error = null;
      try {
        await storeSelection(decision.body);
      } catch (caught) {
        error = caught;
      }
      if (this.#decisions.get(id) !== decision) {
        waitS = FIRST_WAIT_S; // decided otherwise meanwhile
      } else if (error === null) {
        return this.#update(id, decision, "stored", null);
      } else if (!isPassing(error)) {
        return this.#update(id, decision, "refused", error);
      } else {
        const pauseS = error.status === 401 ? UNTIL_WOKEN_S : Math.max(waitS, error.retryAfterS ?? 0);
        this.#update(id, decision, "waiting", error);
        await this.#pause(id, pauseS);
        waitS = Math.min(LONGEST_WAIT_S, 2 * waitS) * (0.9 + 0.2 * Math.random());
      }
    }
  }

  #pause(id, seconds) {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#wakers.delete(id);
        resolve();
      };
      const timer = setTimeout(wake, 1000 * seconds);
      this.#wakers.set(id, wake);
    });
  }

  #update(id, decision, state, error) {
    decision.state = state;
    decision.error = error;
    this.#changed(id);
  }

  #changed(id) {
    sessionStorage.setItem(UNSENT_KEY, JSON.stringify(this.unsent.map(({ body }) => body)));
    this.#onChange(id);
  }
}

/** Whether the same request may succeed later. */
function isPassing({ status }) {
  return status === null || status === 0 || [401, 408, 429].includes(status) || status >= 500;
}

/** A random UUID; crypto.randomUUID itself is missing where the page came over plain HTTP from another machine. */
function newKey() {
  if (crypto.randomUUID !== undefined) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
