// The form: what is asked, and of which models.

import { lastPrompt } from "./words.js";

const LATEST = /^(.*-)?latest$/;
const NUMBERS = ["oversample", "max_tokens", "seed"];

/** Builds CandidatesRequests; calls onAsk() when the user asks, and onCompare() when the comparison goes on or off. */
export class AskForm {
  #fields;
  #knownPrompt = "";

  constructor(form, { onAsk, onCompare }) {
    this.#fields = form.elements;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onAsk();
    });
    this.#fields.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing || event.shiftKey) return;
      const isOneLine = !event.target.value.includes("\n");
      if (!isOneLine && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      form.requestSubmit();
    });
    this.#fields.compare.addEventListener("change", () => {
      this.#showOther();
      onCompare();
    });
    for (const name of ["k", "oversample"]) this.#fields[name].addEventListener("input", () => this.#checkOversample());
    // The browser cannot point at a field within closed details.
    form.addEventListener("invalid", ({ target }) => target.closest("details")?.setAttribute("open", ""), true);
  }

  get isComparing() {
    return this.#fields.compare.checked;
  }

  set isComparing(isComparing) {
    this.#fields.compare.checked = isComparing;
    this.#showOther();
  }

  /** The models that are chosen: one, or two. */
  get models() {
    return [this.#fields.model.value, this.#fields.other_model.value].slice(0, this.isComparing ? 2 : 1);
  }

  set models(models) {
    [this.#fields.model.value, this.#fields.other_model.value] = models;
  }

  /** The limits and defaults of the service. */
  setService(info) {
    this.#fields.k.max = info.max_candidates;
    this.#fields.k.value = Math.min(this.#fields.k.value, info.max_candidates);
    this.#fields.oversample.max = info.max_n;
    this.#fields.max_tokens.max = this.#fields.max_tokens.placeholder = info.max_completion_tokens;
    this.#fields.selector.options[0].textContent = `${info.selector} (the service's own)`;
    for (const option of this.#fields.selector.options) {
      if (["reward", "noisy_user"].includes(option.value)) option.disabled = !info.has_reward;
    }
  }

  /** What /v1/models lists. Choices that are still there stay; else the latest version, and another one. */
  setModels(models) {
    const latest = models.find(({ id }) => LATEST.test(id)) ?? models[0];
    for (const select of [this.#fields.model, this.#fields.other_model]) {
      const chosen = models.find(({ id }) => id === select.value) ?? latest;
      select.replaceChildren(...models.map(optionOf));
      select.value = chosen.id;
    }
    if (this.#fields.model.value === this.#fields.other_model.value) {
      const hash = (id) => models.find((model) => model.id === id)?.polyray.sha256;
      const other = models.find(({ id }) => hash(id) !== hash(this.#fields.model.value));
      if (other !== undefined) this.#fields.other_model.value = other.id;
    }
  }

  /** One request per chosen model, of fields that the browser has found valid. */
  readRequests() {
    const { prompt, chat, k, selector, temperature, diversity_weight } = this.#fields;
    const asked = chat.checked ? { messages: [{ role: "user", content: prompt.value }] } : { prompt: prompt.value };
    const request = {
      ...asked,
      k: Number(k.value),
      selector: selector.value || null,
      temperature: Number(temperature.value),
      diversity_weight: Number(diversity_weight.value),
    };
    for (const name of NUMBERS) if (this.#fields[name].value !== "") request[name] = Number(this.#fields[name].value);
    if (this.isComparing) request.seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
    this.#knownPrompt = prompt.value;
    return this.models.map((model) => ({ ...request, model }));
  }

  /** Sets the fields as a stored request has them; its seed is not kept, so that asking again gives others. */
  fill(request) {
    const fields = this.#fields;
    fields.prompt.value = this.#knownPrompt = lastPrompt(request);
    fields.chat.checked = request.messages != null;
    for (const name of ["k", "temperature", "diversity_weight", "oversample", "max_tokens"]) {
      fields[name].value = request[name] ?? "";
    }
    fields.selector.value = request.selector ?? "";
    if ([...fields.model.options].some(({ value }) => value === request.model)) fields.model.value = request.model;
    this.#checkOversample();
  }

  /** Whether nothing was typed that filling the form would lose. */
  get isUntouched() {
    return ["", this.#knownPrompt].includes(this.#fields.prompt.value);
  }

  focusPrompt() {
    this.#fields.prompt.focus();
    this.#fields.prompt.select();
  }

  #showOther() {
    this.#fields.other_model.disabled = !this.isComparing;
    this.#fields.other_model.closest("label").hidden = !this.isComparing;
  }

  #checkOversample() {
    const { oversample, k } = this.#fields;
    const isTooSmall = oversample.value !== "" && Number(oversample.value) < Number(k.value);
    oversample.setCustomValidity(isTooSmall ? `at least k, which is ${k.value}; or empty` : "");
  }
}

function optionOf({ id, polyray: { alias_of } }) {
  const option = document.createElement("option");
  option.value = id;
  option.textContent = alias_of === null ? id : `${id} = ${alias_of}`;
  return option;
}
