// The candidates of one model: as they are generated, as they are stored, and what the user decides about them.

import { scoreCandidates, streamCandidates } from "./api.js";
import { CardList } from "./cards.js";
import { announce, fromTemplate } from "./dom.js";
import { openEditor } from "./editor.js";
import { Problem } from "./problem.js";
import { askedText, describeAnswer, describeDecision } from "./words.js";

const PARTS = ["title", "summary", "asked", "answer-actions", "none", "edit", "score", "own", "own-editor"];

/** One of the two columns. `stored` is the StoredCandidates that it shows, or null. */
export class Column {
  stored = null;
  #host;
  #selections;
  #controller = null;
  #parts = {};

  /** `host` has onGenerated(column), onFailed(), onScored(stored) and onBusy(), at which isBusy may have changed. */
  constructor(selections, host) {
    this.#host = host;
    this.#selections = selections;
    this.element = fromTemplate("column-template");
    for (const name of [...PARTS, "pick-state", "decided", "again"]) {
      this.#parts[name] = this.element.querySelector(`.${name}`);
    }
    this.cards = new CardList(this.element.querySelector(".cards"), (index) => this.pick(index));
    this.problem = new Problem(this.element.querySelector(".problem"));
    this.#parts.none.addEventListener("click", () => this.pick(null));
    this.#parts.edit.addEventListener("click", () => this.edit());
    this.#parts.score.addEventListener("click", () => this.score());
    this.#parts.again.addEventListener("click", () => selections.sendAgain(this.stored.answer.id));
  }

  get isGenerating() {
    return this.#controller !== null;
  }

  /** Generating, or about to, after a countdown. */
  get isBusy() {
    return this.isGenerating || this.problem.isCounting;
  }

  /** Streams the answer to a request, then shows it as it is stored. */
  async generate(request) {
    this.clear(request.model ?? "base");
    const controller = new AbortController();
    this.#controller = controller;
    this.#showAsked(request, "generating…");
    announce("Generating…");
    this.cards.begin(request.oversample ?? request.k);
    this.#busy();
    try {
      const answer = await streamCandidates(request, controller.signal, {
        delta: (sample, text) => this.cards.ofSample(sample).append(text),
        finish: (sample, reason) => this.cards.ofSample(sample).finish(reason),
      });
      if (this.#controller !== controller) return; // something else is shown by now
      this.show({ request, answer, selection: null });
      this.#host.onGenerated(this);
    } catch (error) {
      if (this.#controller !== controller) return;
      this.#controller = null;
      this.cards.abandon();
      const isCancelled = error.name === "AbortError";
      this.#parts.summary.textContent = isCancelled ? "cancelled" : "failed";
      if (!isCancelled) this.problem.show(error, () => this.generate(request));
      this.#busy();
      if (!isCancelled && !this.problem.isAnnounced) this.#host.onFailed();
    }
  }

  /** Ends the request, for which the service frees its engine, or the countdown to it. */
  cancel() {
    this.problem.clear();
    this.#controller?.abort();
    this.#busy();
  }

  /** Shows StoredCandidates: the cards in the order of the answer, and what was decided about them. */
  show(stored) {
    this.#leaveRequest();
    const isOther = this.stored?.answer.id !== stored.answer.id;
    this.stored = stored;
    const { answer, request, selection } = stored;
    if (selection !== null) this.#selections.remember(selection);
    this.cards.settle(answer);
    const isAlias = answer.model !== null && answer.model !== answer.policy.model;
    this.#parts.title.textContent = answer.policy.model + (isAlias ? ` (${answer.model})` : "");
    this.#showAsked(request, describeAnswer(answer));
    this.#parts["answer-actions"].hidden = false;
    if (isOther) this.#parts["own-editor"].replaceChildren();
    this.showDecision();
    this.#busy();
  }

  /** Empties the column. */
  clear(model) {
    this.#leaveRequest();
    this.stored = null;
    this.cards.begin(0);
    this.#parts.title.textContent = model;
    this.#parts.summary.textContent = this.#parts.decided.textContent = "";
    this.#parts["own-editor"].replaceChildren();
    for (const name of ["answer-actions", "asked", "own", "again"]) this.#parts[name].hidden = true;
    this.#busy();
  }

  /** Decides for a candidate, for none of them (null), or for a changed text; sent at once. */
  pick(index, editedText = null) {
    if (this.stored === null || (index !== null && index >= this.cards.length)) return;
    const { id } = this.stored.answer;
    const isSent = this.#selections.choose(id, index, editedText);
    if (!isSent) announce(describeDecision(this.#selections.of(id)));
  }

  /** As `pick`, and the focus goes there: what a key does. */
  pickAndFocus(index) {
    if (this.stored === null || (index !== null && index >= this.cards.length)) return;
    this.pick(index);
    if (index === null) this.#parts.none.focus();
    else this.cards.focus(index);
  }

  /** Opens the editor: of the focused card, else of the picked one; after "none of them" for a text of one's own. */
  edit() {
    if (this.stored === null) return;
    const decided = this.#selections.of(this.stored.answer.id)?.body;
    const focused = this.cards.focusedIndex;
    const index = focused >= 0 ? focused : decided === undefined ? this.cards.reachableIndex : decided.selected_index;
    const before = decided?.selected_index === index ? decided.edited_text : null;
    if (index === null) {
      const keep = (text) => this.pick(null, text === "" ? null : text);
      openEditor(this.#parts["own-editor"], before ?? "", keep, () => this.#parts.none.focus());
    } else {
      const original = this.stored.answer.candidates[index].text;
      this.cards.edit(index, before ?? original, (text) => this.pick(index, text === original ? null : text));
    }
  }

  /** Asks for scores, and shows them. */
  async score() {
    if (this.stored === null || this.#parts.score.disabled) return;
    const { id } = this.stored.answer;
    announce("Scoring…");
    try {
      const scored = await scoreCandidates(id);
      if (this.stored?.answer.id === id) this.show(scored);
      this.#host.onScored(scored);
      announce("Scored");
    } catch (error) {
      if (this.stored?.answer.id !== id) return;
      this.problem.show(error, () => this.score());
      if (!this.problem.isAnnounced) announce("Scoring failed");
    }
  }

  /** Scores need a reward model; without one the button says so. */
  setScorable(isScorable) {
    this.#parts.score.disabled = !isScorable;
    this.#parts.score.title = isScorable ? "" : "this service has no reward model";
  }

  /** Shows how far the decision about these candidates has come. */
  showDecision() {
    if (this.stored === null) return;
    const decision = this.#selections.of(this.stored.answer.id);
    this.cards.showDecision(decision);
    const isNone = decision !== undefined && decision.body.selected_index === null;
    this.#parts.none.setAttribute("aria-pressed", String(isNone));
    this.#parts.own.hidden = !isNone || decision.body.edited_text === null;
    this.#parts.own.querySelector("pre").textContent = decision?.body.edited_text ?? "";
    this.#parts["pick-state"].dataset.state = decision?.state ?? "";
    this.#parts.decided.textContent = describeDecision(decision);
    this.#parts.again.hidden = decision?.state !== "waiting";
  }

  focusTitle() {
    this.#parts.title.focus();
  }

  /** Whatever is still on its way for this column no longer concerns it. */
  #leaveRequest() {
    this.problem.clear();
    this.#controller?.abort();
    this.#controller = null;
  }

  #showAsked(request, summary) {
    this.#parts.asked.textContent = askedText(request);
    this.#parts.asked.hidden = false;
    this.#parts.summary.textContent = summary;
  }

  #busy() {
    this.element.setAttribute("aria-busy", String(this.isGenerating));
    this.#host.onBusy();
  }
}
