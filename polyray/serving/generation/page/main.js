// The page of the generation service: its parts, put together.
//
//   form.js      what is asked          column.js + cards.js + card.js   candidates of one model, one or two columns
//   history.js   what was asked before  selections.js                    what was picked, until it is stored
//   api.js, sse.js   the service        problem.js, words.js             what the user is told
//
// Every script is served from here and nothing is fetched from elsewhere, so the page works without a network.

import { getInfo, getModels } from "./api.js";
import { Column } from "./column.js";
import { announce } from "./dom.js";
import { AskForm } from "./form.js";
import { History } from "./history.js";
import { installKeys } from "./keys.js";
import { Problem } from "./problem.js";
import { Selections } from "./selections.js";
import { describeDecision } from "./words.js";

const COMPARED_KEY = "polyray.compared";

const problem = new Problem(document.getElementById("problem"));
const cancelButton = document.getElementById("cancel");
const help = document.getElementById("help");
const selections = new Selections(onDecision);
const history = new History(selections, open);
const form = new AskForm(document.getElementById("ask"), { onAsk: ask, onCompare: showColumns });
const host = { onGenerated, onFailed: announceOutcome, onScored: (stored) => history.put(stored), onBusy };
const columns = [new Column(selections, host), new Column(selections, host)];
let active = columns[0];

document.getElementById("columns").append(...columns.map(({ element }) => element));
for (const column of columns) {
  for (const type of ["focusin", "pointerdown"]) column.element.addEventListener(type, () => activate(column));
}
cancelButton.addEventListener("click", cancel);
document.getElementById("help-button").addEventListener("click", () => help.showModal());
document.getElementById("help-close").addEventListener("click", () => help.close());
document.getElementById("older").addEventListener("click", ({ target }) => loadOlder(target.dataset.before));
document.addEventListener("visibilitychange", () => document.hidden || refreshModels());
window.addEventListener("beforeunload", (event) => selections.unsent.length > 0 && event.preventDefault());
installKeys({
  pick: (index) => active.pickAndFocus(index),
  edit: () => active.edit(),
  score: () => active.score(),
  compare: () => setComparing(!form.isComparing),
  prompt: () => form.focusPrompt(),
  help: () => help.showModal(),
  escape: cancel,
  move,
});
setComparing(false);
start();

async function start() {
  try {
    const [info, models] = await Promise.all([getInfo(), getModels()]);
    document.getElementById("service-name").textContent = info.name;
    document.title = `${info.name} · polyray`;
    form.setService(info);
    form.setModels(models);
    for (const column of columns) column.setScorable(info.has_reward);
    selections.resume();
    showNewest(await history.load());
    announce("Ready");
  } catch (error) {
    announce("Not connected");
    problem.show(error, start);
  }
}

/** Shows the newest answer, with the other one where it belongs to a comparison of this tab. */
function showNewest(page) {
  if (page.length === 0) return;
  const compared = JSON.parse(sessionStorage.getItem(COMPARED_KEY) ?? "[]");
  const both = compared.map((id) => page.find(({ answer }) => answer.id === id));
  const isPair = both.length === 2 && !both.includes(undefined) && both.includes(page[0]);
  setComparing(isPair);
  const shown = isPair ? both : [page[0]];
  shown.forEach((stored, index) => columns[index].show(stored));
  if (form.isUntouched) form.fill(shown[0].request);
  if (isPair) form.models = shown.map(({ request }) => request.model);
  markShown();
}

function ask() {
  const requests = form.readRequests();
  problem.clear();
  active = columns[0];
  active.focusTitle();
  requests.forEach((request, index) => columns[index].generate(request));
  markShown();
}

/** A column has its answer; the last one to finish brings the focus to the cards, unless the user went elsewhere. */
function onGenerated(column) {
  history.put(column.stored);
  markShown();
  const shown = shownColumns();
  if (form.isComparing) remember(shown);
  if (shown.some(({ isBusy }) => isBusy)) return;
  announceOutcome();
  const isElsewhere = document.activeElement?.closest("form, nav, dialog, .editor") != null;
  if (!isElsewhere && active.cards.focusedIndex < 0) active.cards.focus(0);
  refreshModels();
}

/** Says what has come of the requests, once none is under way. */
function announceOutcome() {
  const shown = shownColumns();
  if (shown.some(({ isBusy }) => isBusy)) return;
  const answered = shown.filter(({ stored }) => stored !== null);
  const failed = answered.length < shown.length ? "; the other request failed" : "";
  const counts = answered.map(({ cards }) => cards.length).join(" and ");
  announce(answered.length === 0 ? "Failed" : `${counts} candidates: pick one with its number${failed}`);
}

function remember(shown) {
  const ids = shown.map(({ stored }) => stored?.answer.id ?? null);
  sessionStorage.setItem(COMPARED_KEY, JSON.stringify(ids));
}

function onBusy() {
  cancelButton.disabled = !columns.some(({ isBusy }) => isBusy);
}

function cancel() {
  const busy = columns.filter(({ isBusy }) => isBusy);
  for (const column of busy) column.cancel();
  if (busy.length > 0 || problem.isCounting) announce("Cancelled");
  problem.clear();
}

function onDecision(candidatesId) {
  const decision = selections.of(candidatesId);
  for (const column of columns) if (column.stored?.answer.id === candidatesId) column.showDecision();
  history.showDecision(candidatesId);
  announce(describeDecision(decision));
  if (decision.error?.status === 401) problem.show(decision.error, () => selections.sendAgain());
}

/** Opens an entry of the history, alone. */
function open(stored) {
  setComparing(false);
  columns[0].show(stored);
  if (form.isUntouched) form.fill(stored.request);
  markShown();
  active.cards.focus(selections.of(stored.answer.id)?.body.selected_index ?? 0);
}

function setComparing(isComparing) {
  form.isComparing = isComparing;
  showColumns();
}

function showColumns() {
  columns[1].element.hidden = !form.isComparing;
  document.getElementById("columns").classList.toggle("comparing", form.isComparing);
  if (!form.isComparing) {
    columns[1].clear("");
    activate(columns[0]);
  } else if (columns[1].stored === null && !columns[1].isBusy) {
    columns[1].clear(form.models[1]);
  }
  markShown();
}

function shownColumns() {
  return form.isComparing ? columns : columns.slice(0, 1);
}

function activate(column) {
  active = column;
  for (const each of columns) each.element.classList.toggle("active", each === column);
}

/** Arrow keys: within a column, and across to the other one. */
function move(right, down) {
  if (form.isComparing && right !== 0) {
    const index = active.cards.reachableIndex;
    const other = columns[right > 0 ? 1 : 0];
    if (other !== active && other.cards.length > 0) other.cards.focus(index);
  } else if (right !== 0) active.cards.focus(active.cards.reachableIndex + right);
  else active.cards.focusAcross(down);
}

function markShown() {
  history.markShown(shownColumns().map(({ stored }) => stored?.answer.id));
}

async function loadOlder(before) {
  try {
    await history.load(before);
    markShown();
  } catch (error) {
    problem.show(error, () => loadOlder(before));
  }
}

/** Versions come and go while the page is open. */
async function refreshModels() {
  try {
    form.setModels(await getModels());
  } catch {
    // the next request says what is wrong
  }
}
