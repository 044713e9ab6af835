// One candidate: first a sample whose text comes in pieces, then a candidate with what is known about it.

import { fromTemplate, setTag } from "./dom.js";
import { openEditor } from "./editor.js";
import { describeKind } from "./kinds.js";

const LABEL_CHARS = 300;
const FINISHES = { stop: "finished", length: "cut at the limit", error: "failed" };

/** An element of the list of cards. */
export class Card {
  #text = document.createTextNode("");
  #candidate = null;
  #parts = {};

  /** `onPick()` is called for a click on the card or its button, and for Enter on the card. */
  constructor(onPick) {
    this.element = fromTemplate("card-template");
    for (const name of ["number", "kind", "times", "selected", "text", "edited", "figures", "editor-place", "pick"]) {
      this.#parts[name] = this.element.querySelector(`.${name}`);
    }
    this.#parts.text.append(this.#text);
    this.element.classList.add("streaming");
    this.#parts.pick.hidden = true;
    this.element.addEventListener("click", () => {
      const isReading = getSelection().toString() !== "" && getSelection().containsNode(this.element, true);
      if (!isReading) onPick();
    });
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target !== this.element) return;
      event.preventDefault();
      onPick();
    });
  }

  /** The next piece of the text. */
  append(text) {
    this.#text.appendData(text);
  }

  /** No more text comes. */
  finish(reason) {
    this.element.classList.remove("streaming");
    this.#parts.figures.textContent = FINISHES[reason];
  }

  /** Nor does anything else: the request was given up. */
  abandon() {
    this.element.classList.remove("streaming");
    this.element.classList.add("abandoned");
  }

  /** Shows a Candidate in full; what was streamed is replaced by what is stored. */
  settle(candidate, kinds, isSelected) {
    this.#candidate = candidate;
    this.#text.data = candidate.text;
    const kind = describeKind(kinds, candidate.cluster);
    this.element.className = ["card", "settled", ...kind.classes].join(" ");
    this.#parts.number.textContent = String(candidate.index + 1);
    setTag(this.#parts.kind, kind.label);
    setTag(this.#parts.times, candidate.count > 1 ? `×${candidate.count}` : null);
    this.#parts.times.title = `${candidate.count} samples were nearly this`;
    this.#parts.selected.hidden = !isSelected;
    this.#parts.figures.textContent = figuresOf(candidate).map(unbroken).join(" · ");
    this.#parts.pick.hidden = false;
    this.showDecision(undefined);
  }

  /** Marks the card if it is the one that was decided for. */
  showDecision(decision) {
    const isPicked = decision !== undefined && decision.body.selected_index === this.#candidate.index;
    const edited = isPicked ? decision.body.edited_text : null;
    this.element.classList.toggle("picked", isPicked);
    this.#parts.pick.setAttribute("aria-pressed", String(isPicked));
    this.#parts.pick.textContent = isPicked ? "✓ Picked" : "Pick";
    this.#parts.pick.setAttribute("aria-label", `Pick candidate ${this.#candidate.index + 1}`);
    this.#parts.edited.hidden = edited === null;
    this.#parts.edited.querySelector("pre").textContent = edited ?? "";
    this.element.setAttribute("aria-label", this.#label(isPicked, edited));
  }

  /** Lets the user change `text`; `onStore(text)` is called if they keep it. */
  edit(text, onStore) {
    openEditor(this.#parts["editor-place"], text, onStore, () => this.element.focus());
  }

  /** Puts the card into the order of the tab key, or takes it out. */
  setReachable(isReachable) {
    this.element.tabIndex = this.#parts.pick.tabIndex = isReachable ? 0 : -1;
  }

  #label(isPicked, edited) {
    const { kind, times, selected, text } = this.#parts;
    const tags = [kind, times, selected].filter((part) => !part.hidden).map((part) => part.textContent);
    const name = [`Candidate ${this.#candidate.index + 1}`, ...tags, ...(isPicked ? ["picked"] : [])].join(", ");
    return `${name}: ${(edited ?? text.textContent).slice(0, LABEL_CHARS) || "empty"}`;
  }
}

function figuresOf({ score, score_error, components, logprob, num_tokens, finish_reason }) {
  const figures = [];
  if (score_error !== null) figures.push(`not scored: ${score_error}`);
  else if (score !== null) figures.push(`score ${score.toFixed(2)}`);
  for (const [name, value] of Object.entries(components)) figures.push(`${name} ${value.toFixed(2)}`);
  figures.push(`log p ${logprob.toFixed(2).replace("-", "−")}`);
  figures.push(`${num_tokens} ${num_tokens === 1 ? "token" : "tokens"}`, FINISHES[finish_reason]);
  return figures;
}

/** Lines break between figures, not within one; what a reward says about a failure may be long. */
function unbroken(figure) {
  return figure.startsWith("not scored") ? figure : figure.replaceAll(" ", "\u00a0");
}
