// Keeps a page up to date. The server says what is new (GET /api/events); the page then fetches
// itself again and takes over what has changed, so that focus, scrolling, selection and whatever
// somebody types or has opened stay as they are.
//
// <main data-refresh-s>  fetch again after so many seconds, even if nothing was said
// <main data-job>        only this job matters
// <main data-say>        what who listens to the page is to hear when it changes

import { Idiomorph } from "./vendor/idiomorph-0.8.0.js";

/** The page is fetched at most this often, and less often when that takes long. */
const PAUSE_MS = 1000;
const TIMES_AS_LONG = 4;
/** Something is said at most this often. */
const SAY_MS = 20000;
/** A server that did not answer is asked again after this. */
const AGAIN_MS = 3000;
/** Answers that pass by themselves. */
const PASSING = [429, 500, 502, 503, 504];

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
  // What happens from now on may not be in the answer.
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
  answers = !PASSING.includes(answer.status);
  if (!answers) return;
  if (answer.redirected || !answer.ok) {
    // Logged out, or the job was forgotten: another page.
    location.reload();
    return;
  }
  show(new DOMParser().parseFromString(await answer.text(), "text/html"));
}

function show(fresh) {
  Idiomorph.morph(main(), fresh.getElementById("main"), {
    callbacks: { beforeAttributeUpdated: (name, element) => !belongsToReader(name, element) },
  });
  document.title = fresh.title;
  sayTimer ||= setTimeout(say, mayBeSaidAt - performance.now());
}

/** What somebody types, and what they have opened. */
function belongsToReader(name, element) {
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
    // What has happened before somebody listened.
    fetchIn(0);
  });
  events.addEventListener("error", () => {
    streams = false;
    showConnection();
    // A lost connection the browser mends; a refusal it takes for the last word.
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_MS);
  });
  for (const name of ["transition", "reset"]) events.addEventListener(name, () => fetchIn(0));
}

/** Listen while somebody can see the page, and not otherwise: a browser has few connections. */
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
