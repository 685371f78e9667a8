// Keeps a page up to date. The server announces changes (GET /api/events); the page then fetches
// itself again and applies the differences, so that focus, scroll position, selection, input and open
// details stay as they are.
//
// <main data-refresh-s>  seconds after which the page is fetched without an announcement, too
// <main data-job>        follow only this job
// <main data-say>        what screen readers announce when it changes

import { Idiomorph } from "./vendor/idiomorph-0.8.0.js";

/** The shortest time between two fetches; it is longer if a fetch takes long. */
const PAUSE_MS = 1000;
const TIMES_AS_LONG = 4;
/** The shortest time between two announcements for screen readers. */
const SAY_MS = 20000;
/** The time until the next try after a failure. */
const AGAIN_MS = 3000;
/** Statuses of failures that pass by themselves. */
const TRANSIENT = [429, 500, 502, 503, 504];

const connection = document.getElementById("connection");
const said = document.getElementById("said");

let events = null;
let streams = false;
let answers = true;
let timer = 0;
let dueAt = Infinity;
let mayFetchAt = 0;
let fetching = false;

const main = () => document.getElementById("main");

let heard = main().dataset.say;
let mayBeSaidAt = 0;
let sayTimer = 0;

function showConnection() {
  const state = streams && answers ? "live" : "lost";
  if (connection.className === state) return;
  connection.className = state;
  connection.textContent = connection.dataset[state];
}

function fetchIn(ms) {
  dueAt = Math.min(dueAt, performance.now() + ms);
  if (fetching || document.hidden) return;
  clearTimeout(timer);
  timer = setTimeout(update, Math.max(dueAt, mayFetchAt) - performance.now());
}

async function update() {
  fetching = true;
  // The response may not contain what happens from now on.
  dueAt = Infinity;
  const startedAt = performance.now();
  try {
    await fetchAndShow();
  } catch {
    answers = false;
  }
  const endedAt = performance.now();
  mayFetchAt = endedAt + Math.max(PAUSE_MS, TIMES_AS_LONG * (endedAt - startedAt));
  fetching = false;
  showConnection();
  fetchIn(answers ? 1000 * main().dataset.refreshS : AGAIN_MS);
}

async function fetchAndShow() {
  const answer = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } });
  answers = !TRANSIENT.includes(answer.status);
  if (!answers) return;
  if (answer.redirected || !answer.ok) {
    // The user was logged out, or the job was deleted.
    location.reload();
    return;
  }
  show(new DOMParser().parseFromString(await answer.text(), "text/html"));
}

function show(fresh) {
  Idiomorph.morph(main(), fresh.getElementById("main"), {
    callbacks: { beforeAttributeUpdated: (name, element) => !belongsToUser(name, element) },
  });
  document.title = fresh.title;
  sayTimer ||= setTimeout(say, mayBeSaidAt - performance.now());
}

/** Input of the user, and details that the user opened. */
function belongsToUser(name, element) {
  return (
    (name === "value" && element.matches("input:not([type=hidden])")) ||
    (name === "open" && element.matches("details"))
  );
}

function say() {
  sayTimer = 0;
  if (heard === main().dataset.say) return;
  heard = said.textContent = main().dataset.say;
  mayBeSaidAt = performance.now() + SAY_MS;
}

function listen() {
  const job = main().dataset.job;
  events = new EventSource(job ? `/api/events?job_id=${encodeURIComponent(job)}` : "/api/events");
  events.addEventListener("open", () => {
    streams = true;
    showConnection();
    // Get what happened before the stream was open.
    fetchIn(0);
  });
  events.addEventListener("error", () => {
    streams = false;
    showConnection();
    // The browser reconnects after a lost connection, but not after a refusal.
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_MS);
  });
  for (const name of ["transition", "reset"]) events.addEventListener(name, () => fetchIn(0));
}

/** Listen only while the page is visible: a browser has few connections. */
function follow() {
  events?.close();
  clearTimeout(timer);
  dueAt = Infinity;
  if (document.hidden || !main().dataset.refreshS) return;
  listen();
  fetchIn(1000 * main().dataset.refreshS);
}

document.addEventListener("visibilitychange", follow);
follow();
