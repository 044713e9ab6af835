// A text field in place of a text, for an answer that is nearly right.

import { fromTemplate } from "./dom.js";

/** Opens it in `place`, once; calls onStore(text), then onClose(), which also follows on leaving. */
export function openEditor(place, text, onStore, onClose) {
  const open = place.querySelector("textarea");
  if (open !== null) {
    open.focus();
    return;
  }
  const editor = fromTemplate("editor-template");
  const field = editor.querySelector("textarea");
  const close = () => {
    editor.remove();
    onClose();
  };
  const store = () => {
    onStore(field.value);
    close();
  };
  field.value = text;
  editor.addEventListener("click", (event) => event.stopPropagation()); // on a card it would pick the card
  editor.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) store();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  editor.querySelector(".store").addEventListener("click", store);
  editor.querySelector(".leave").addEventListener("click", close);
  place.replaceChildren(editor);
  field.focus();
}
