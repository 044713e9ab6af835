// The few DOM operations that are needed everywhere. Text reaches the page as text only: what models write is not
// trusted, and the service's Content-Security-Policy refuses markup made from strings.

/** A copy of the only element in the template with this id. */
export function fromTemplate(id) {
  return document.getElementById(id).content.firstElementChild.cloneNode(true);
}

/** Shows a tag with this text, or hides it where there is none. */
export function setTag(element, text) {
  element.textContent = text ?? "";
  element.hidden = text == null || text === "";
}

/** Says something in the status line, which screen readers read out. */
export function announce(text) {
  document.getElementById("status").textContent = text;
}

/** Whether keys that are pressed in it are text. */
export function isTyping(element) {
  if (element instanceof HTMLInputElement) return !["checkbox", "button", "submit"].includes(element.type);
  return element instanceof HTMLTextAreaElement || element instanceof HTMLSelectElement;
}
