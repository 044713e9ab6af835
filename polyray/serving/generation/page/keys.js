// Keys that work wherever no text is typed. What each does is listed in the help of index.html.

import { isTyping } from "./dom.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Calls the actions pick(index | null), edit, score, compare, prompt, help, escape and move(right, down). */
export function installKeys(actions) {
  const letters = { e: actions.edit, s: actions.score, c: actions.compare, "/": actions.prompt, "?": actions.help };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]") !== null) return;
    if (event.key === "Escape") return actions.escape();
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (/^[0-9]$/.test(event.key)) actions.pick(event.key === "0" ? null : Number(event.key) - 1);
    else if (event.key in ARROWS && event.target.closest(".cards") !== null) actions.move(...ARROWS[event.key]);
    else if (Object.hasOwn(letters, event.key)) letters[event.key]();
    else return;
    event.preventDefault();
  });
}
