// What went wrong, where it went wrong: in words, with a way on.

import { setToken } from "./api.js";
import { announce, fromTemplate } from "./dom.js";

const DEFAULT_RETRY_S = 1;

/** One place that shows one problem at a time. */
export class Problem {
  #place;
  #timer = null;

  /** Whether the status line says what is wrong. */
  isAnnounced = false;

  constructor(place) {
    this.#place = place;
  }

  /** Whether something is tried again soon. */
  get isCounting() {
    return this.#timer !== null;
  }

  /** Shows an error; `again` does what failed once more: after a 429 by itself, else when the user asks for it. */
  show(error, again) {
    this.clear();
    this.isAnnounced = error.status === 401 || error.status === 429;
    if (error.status === 401) {
      askForToken(error, again);
    } else if (error.status === 429) {
      this.#countDown(error, again);
    } else {
      const worthwhile = error.status === null || error.status === 0 || error.status >= 500;
      this.#box(error.message, worthwhile ? again : null);
    }
  }

  /** Removes what is shown, and stops a countdown. */
  clear() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#place.replaceChildren();
  }

  #countDown(error, again) {
    const due = Date.now() + 1000 * (error.retryAfterS ?? DEFAULT_RETRY_S);
    const left = () => Math.max(0, Math.ceil((due - Date.now()) / 1000));
    const retry = () => {
      this.clear();
      again();
    };
    const box = this.#box(error.message, retry);
    const clock = document.createElement("p");
    clock.className = "countdown";
    clock.setAttribute("aria-hidden", "true"); // read out once, not every second
    clock.textContent = `Again in ${left()} s; Esc stops it`;
    box.append(clock);
    announce(`The service is busy; again in ${left()} s`);
    this.#timer = setInterval(() => {
      clock.textContent = `Again in ${left()} s; Esc stops it`;
      if (Date.now() >= due) retry();
    }, 200);
  }

  #box(message, again) {
    const box = fromTemplate("problem-template");
    box.querySelector("p").textContent = message;
    const button = box.querySelector("button");
    button.hidden = again == null;
    button.addEventListener("click", () => {
      this.clear();
      again();
    });
    this.#place.replaceChildren(box);
    return box;
  }
}

const waiting = new Set();

/** Shows the field for the token; `again` is called once one is given. */
function askForToken(error, again) {
  waiting.add(again);
  const form = document.getElementById("token-form");
  const field = document.getElementById("token");
  announce(error.message);
  if (!form.hidden) return;
  form.hidden = false;
  field.value = "";
  field.focus();
  form.onsubmit = (event) => {
    event.preventDefault();
    const token = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(token)) {
      announce("A token is printable ASCII without spaces");
      return;
    }
    setToken(token);
    field.value = "";
    form.hidden = true;
    announce("Trying the token…");
    const calls = [...waiting];
    waiting.clear();
    for (const call of calls) call();
  };
}
