// What is said about requests, answers and decisions. Pure functions from the service's JSON to text.

/** The prompt of a CandidatesRequest; a conversation as "role: text" lines. */
export function askedText({ prompt, messages }) {
  if (typeof prompt === "string") return prompt;
  return messages.map(({ role, content }) => `${role}: ${content}`).join("\n");
}

/** What was typed for it: the prompt, or what the user said last. */
export function lastPrompt({ prompt, messages }) {
  return typeof prompt === "string" ? prompt : (messages.findLast(({ role }) => role === "user")?.content ?? "");
}

/** One line about a CandidatesAnswer. */
export function describeAnswer({ candidates, collapsed, diversity, policy, selector, timings }) {
  const duplicates = collapsed.length === 0 ? [] : [count(collapsed.length, "near-duplicate")];
  return [
    ...(policy.version === null ? [] : [`version ${policy.version}`]),
    count(candidates.length, "candidate"),
    ...duplicates,
    count(diversity.clusters, "kind"),
    `diversity ${diversity.mean_distance.toFixed(2)}`,
    `selector ${selector}`,
    `${timings.total_s.toFixed(2)} s`,
  ].join(" · ");
}

/** How far a decision of Selections has come. */
export function describeDecision(decision) {
  if (decision === undefined) return "";
  const { body, state, error } = decision;
  const edited = body.edited_text === null ? "" : body.selected_index === null ? ", but a text of yours" : ", edited";
  const what = (body.selected_index === null ? "none of them" : `candidate ${body.selected_index + 1}`) + edited;
  if (state === "stored") return `Stored: ${what}`;
  if (state === "sending") return `Storing: ${what}…`;
  const why = error === null ? "" : `: ${error.message}`;
  return `Not stored yet: ${what}${state === "refused" ? " was refused" : ", tried again soon"}${why}`;
}

/** The same in a word or two, for the list of what was asked before. */
export function shortDecision(decision) {
  if (decision === undefined) return "nothing picked";
  const { body, state } = decision;
  const what = body.selected_index === null ? "none" : `picked ${body.selected_index + 1}`;
  return `${what}${body.edited_text === null ? "" : ", edited"}${state === "stored" ? "" : " (not stored yet)"}`;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
