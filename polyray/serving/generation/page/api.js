// The service's routes. Paths are relative to the page, so that the service may be mounted below any prefix.
// Everything that goes wrong is an ApiError, but an abort, which stays the AbortError that fetch raises.

import { readEvents } from "./sse.js";

const TOKEN_KEY = "polyray.token";
const DEADLINE_S = 30;
const SCORING_DEADLINE_S = 180;

/** status is 0 where no answer came, null for an error within a stream; retryAfterS null where none was given. */
export class ApiError extends Error {
  constructor(message, { status = null, code = null, retryAfterS = null } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN_KEY, token);
}

export const getInfo = () => getJson("v1/info");
export const getModels = async () => (await getJson("v1/models")).data;
export const scoreCandidates = (id) =>
  postJson(`v1/candidates/${encodeURIComponent(id)}/scores`, {}, SCORING_DEADLINE_S);
export const storeSelection = (selection) => postJson("v1/selections", selection);

/** A CandidatesPage; those older than the one with the id `before`, where it is given. */
export function getCandidatesPage(limit, before = null) {
  const query = new URLSearchParams({ limit });
  if (before !== null) query.set("before", before);
  return getJson(`v1/candidates?${query}`);
}

/** The CandidatesAnswer; listener.delta(sample, text) and listener.finish(sample, reason) are called on the way. */
export async function streamCandidates(request, signal, listener) {
  const response = await call("v1/candidates", { body: { ...request, stream: true }, signal });
  try {
    for await (const { event, data } of readEvents(response.body)) {
      if (data === "[DONE]") break;
      const value = JSON.parse(data);
      if (event === "delta") listener.delta(value.sample, value.text);
      else if (event === "finish") listener.finish(value.sample, value.finish_reason);
      else if (event === "candidates") return value;
      else if (event === "error") throw new ApiError(value.error.message, { code: value.error.code });
    }
  } catch (error) {
    throw asApiError(error, signal);
  }
  throw new ApiError("The answer ended before the candidates were complete", { status: 0 });
}

async function getJson(path) {
  return (await call(path, { signal: AbortSignal.timeout(1000 * DEADLINE_S) })).json();
}

async function postJson(path, body, deadlineS = DEADLINE_S) {
  return (await call(path, { body, signal: AbortSignal.timeout(1000 * deadlineS) })).json();
}

/** POST where there is a body. */
async function call(path, { body, signal }) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const method = body === undefined ? "GET" : "POST";
    response = await fetch(path, { method, headers, signal, body: JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    throw asApiError(error, signal);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

/** From the common shape {"error": {...}}, or from plain text: Serve's proxy answers so before a replica does. */
async function errorOf(response) {
  const text = await response.text();
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    error = null;
  }
  const message = error?.message || text.slice(0, 300) || response.statusText;
  return new ApiError(message, {
    status: response.status,
    code: error?.code ?? null,
    retryAfterS: secondsOf(response.headers.get("Retry-After")),
  });
}

function secondsOf(header) {
  if (header === null) return null;
  const seconds = /^\d+(\.\d+)?$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null;
}

function asApiError(error, signal) {
  if (error instanceof ApiError) return error;
  if (error.name === "TimeoutError" || signal?.reason?.name === "TimeoutError") {
    return new ApiError("The service does not answer in time", { status: 0 });
  }
  if (error.name === "AbortError" || signal?.aborted) return new DOMException("cancelled", "AbortError");
  const why = navigator.onLine ? "it may be down, or restarting" : "this computer is offline";
  return new ApiError(`The service does not answer: ${why}`, { status: 0 });
}
