// The list of cards of one column, and which of them the tab key reaches.

import { Card } from "./card.js";
import { kindsOf } from "./kinds.js";

/** Cards are numbered by their sample while they are generated, by their index in the answer afterwards. */
export class CardList {
  #element;
  #onPick;
  #cards = [];
  #samples = new Map();
  #reachable = 0;

  /** `element` is the list; `onPick(index)` is called when the user picks on a card. */
  constructor(element, onPick) {
    this.#element = element;
    this.#onPick = onPick;
    element.addEventListener("focusin", () => this.#setReachable(this.focusedIndex));
  }

  get length() {
    return this.#cards.length;
  }

  /** Of the card that has the focus; -1 where none has. */
  get focusedIndex() {
    return this.#cards.findIndex(({ element }) => element.contains(document.activeElement));
  }

  /** Of the card that had it last. */
  get reachableIndex() {
    return this.#reachable;
  }

  /** Empty cards for so many samples. */
  begin(numSamples) {
    this.#cards = [];
    this.#samples = new Map();
    this.#reachable = 0;
    this.#element.replaceChildren();
    for (let sample = 0; sample < numSamples; sample++) this.ofSample(sample);
  }

  /** The card of a sample. */
  ofSample(sample) {
    let card = this.#samples.get(sample);
    if (card === undefined) {
      card = this.#newCard();
      this.#samples.set(sample, card);
      this.#cards.push(card);
      this.#element.append(card.element);
    }
    return card;
  }

  /** The request was given up. */
  abandon() {
    for (const card of this.#cards) card.abandon();
  }

  /** Shows the candidates of a CandidatesAnswer in their order; samples that are none of them go. */
  settle({ candidates, selected_index }) {
    const hadFocus = this.#element.contains(document.activeElement);
    const kinds = kindsOf(candidates);
    this.#cards = candidates.map((candidate) => {
      const card = this.#samples.get(candidate.sample) ?? this.#newCard();
      card.settle(candidate, kinds, candidate.index === selected_index);
      card.setReachable(false);
      return card;
    });
    this.#samples = new Map(candidates.map(({ sample }, index) => [sample, this.#cards[index]]));
    const elements = this.#cards.map(({ element }) => element);
    const shown = [...this.#element.children];
    // Scores of the same cards must not take the focus from an editor: its keys would then decide.
    const isSame = elements.length === shown.length && elements.every((element, at) => element === shown[at]);
    if (!isSame) this.#element.replaceChildren(...elements);
    this.#setReachable(Math.min(this.#reachable, this.#cards.length - 1));
    if (hadFocus && !isSame) this.focus(this.#reachable);
  }

  showDecision(decision) {
    for (const card of this.#cards) card.showDecision(decision);
  }

  /** Opens the editor of a card; `onStore(text)` is called if the user keeps the text. */
  edit(index, text, onStore) {
    this.#cards[index].edit(text, onStore);
  }

  focus(index) {
    this.#setReachable(Math.max(0, Math.min(index, this.#cards.length - 1)));
    this.#cards[this.#reachable]?.element.focus();
  }

  /** Focuses the nearest card above (-1) or below (1), as the cards lie on the screen. */
  focusAcross(direction) {
    if (this.#cards.length === 0) return;
    const boxes = this.#cards.map(({ element }) => element.getBoundingClientRect());
    const here = boxes[this.#reachable];
    const ahead = boxes.filter(({ top }) => direction * (top - here.top) > 1);
    if (ahead.length === 0) return;
    const row = direction * Math.min(...ahead.map(({ top }) => direction * top));
    const inRow = ahead.filter(({ top }) => Math.abs(top - row) <= 1);
    const distance = ({ left }) => Math.abs(left - here.left);
    this.focus(boxes.indexOf(inRow.reduce((best, box) => (distance(box) < distance(best) ? box : best))));
  }

  #newCard() {
    const card = new Card(() => this.#onPick(this.#cards.indexOf(card)));
    return card;
  }

  #setReachable(index) {
    this.#cards[this.#reachable]?.setReachable(false);
    this.#reachable = Math.max(0, index);
    this.#cards[this.#reachable]?.setReachable(true);
  }
}
