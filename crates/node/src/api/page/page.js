// The page of the local node: a thin view of the local API. Everything shown comes from there.
"use strict";

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";
const at = (id) => document.getElementById(id);

async function api(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.message ?? `the node answered ${answer.status}`);
  return result;
}

/** Does something and shows what went wrong. */
async function attempt(work) {
  at("problem").hidden = true;
  try {
    await work();
  } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
  }
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(text, className, work) {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", () => attempt(work));
  return made;
}

const words = (value) => String(value ?? "–").replaceAll("_", " ");

async function showStatus() {
  const status = await api("GET", "/v1/status");
  at("who").textContent = status.user ?? "super node";
  at("state").textContent = status.detail;
  at("state").className = status.state;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function figures(of) {
  const delay = of.mouth_to_ear_ms == null ? "?" : Math.round(of.mouth_to_ear_ms);
  return `mouth to ear ${delay} ms · loss ${percent(of.loss)} · jitter ${of.jitter_ms.toFixed(1)} ms · `
    + `concealed ${percent(of.concealed)} · up ${(of.sent_bytes_per_s / 1000).toFixed(1)} `
    + `down ${(of.received_bytes_per_s / 1000).toFixed(1)} kB/s · ${of.path}`;
}

/** The last figures of each call that talks. */
const figuresOf = new Map();

function showFigures(event) {
  figuresOf.set(event.call, event);
  const line = document.querySelector(`[data-figures="${event.call}"]`);
  if (line) line.textContent = figures(event);
}

function pressKeys(call) {
  const digits = prompt("Keys to press (0 to 9, *, #, A to D)");
  return digits ? api("POST", `/v1/calls/${call}/dtmf`, { digits }) : undefined;
}

function transfer(call) {
  const to = prompt("User to send the other side to");
  return to ? api("POST", `/v1/calls/${call}/transfer`, { to }) : undefined;
}

async function showCalls() {
  const calls = await api("GET", "/v1/calls");
  const talks = calls.filter((call) => call.phase === "active");
  at("calls").replaceChildren(...calls.map((call) => {
    const box = element("div", undefined, "call");
    const act = (action) => () => api("POST", `/v1/calls/${call.call}/${action}`, {});
    box.append(element("strong", callWords(call)));
    if (call.phase === "ringing") {
      box.append(button("Answer", "good", act("answer")), button("Decline", "bad", act("decline")));
      return box;
    }
    if (call.phase === "active") {
      box.append(
        button(call.muted_locally ? "Unmute" : "Mute", "", act(call.muted_locally ? "unmute" : "mute")),
        button(call.held_locally ? "Resume" : "Hold", "", act(call.held_locally ? "resume" : "hold")),
        button("Keys", "", () => pressKeys(call.call)),
        button("Transfer", "", () => transfer(call.call)),
      );
      for (const other of talks.filter((other) => other.call !== call.call)) {
        const join = () => api("POST", `/v1/calls/${call.call}/transfer`, { with: other.call });
        box.append(button(`Join with ${other.user}`, "", join));
      }
    }
    box.append(button("Hang up", "bad", act("hang-up")));
    if (call.phase === "active") {
      const line = element("div", undefined, "quiet");
      const known = figuresOf.get(call.call) ?? call.statistics;
      line.dataset.figures = call.call;
      if (known) line.textContent = figures(known);
      box.append(line);
    }
    return box;
  }));
}

function callWords(call) {
  if (call.phase === "ringing") return `${call.user} is calling you`;
  if (call.phase !== "active") return `${call.user}: ${words(call.phase)}`;
  const state = [
    call.held_locally && "on hold", call.held_remotely && "you are on hold",
    call.muted_locally && "your microphone is off", call.muted_remotely && "their microphone is off",
  ].filter(Boolean);
  return `In a call with ${call.user}${state.length ? ` (${state.join(", ")})` : ""}`;
}

async function showBuddies() {
  const buddies = await api("GET", "/v1/buddies");
  at("buddies").replaceChildren(...buddies.map((buddy) => {
    const line = element("li");
    const path = `/v1/buddies/${buddy.user}`;
    const name = button(buddy.user, "name", async () => { at("name").value = buddy.user; });
    line.append(name, element("span", buddyWords(buddy), buddy.presence === "online" ? "online" : "quiet"));
    if (buddy.state === "asked") {
      line.append(
        button("Accept", "good", () => api("POST", `${path}/accept`, {})),
        button("Decline", "bad", () => api("DELETE", path)),
      );
    } else if (buddy.state === "mutual") {
      line.append(button("Call", "", () => api("POST", "/v1/calls", { to: buddy.user })));
    }
    return line;
  }));
  if (buddies.length === 0) at("buddies").append(element("li", "nobody yet", "quiet"));
}

function buddyWords(buddy) {
  if (buddy.state === "asked") return "wants to be a buddy";
  if (buddy.state === "requested") return "asked, no answer yet";
  if (buddy.state !== "mutual") return words(buddy.state);
  if (!buddy.last_seen_unix_ms) return words(buddy.presence);
  const when = new Date(buddy.last_seen_unix_ms).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  return `${words(buddy.presence)}, last seen ${when}`;
}

async function showMessages() {
  const messages = await api("GET", "/v1/messages");
  at("messages").replaceChildren(...messages.slice(-50).map((message) => {
    const line = element("li");
    const who = message.direction === "sent"
      ? `to ${message.user}, ${words(message.state)}` : `from ${message.user}`;
    const when = new Date(message.sent_unix_ms).toLocaleTimeString([], { timeStyle: "short" });
    line.append(element("span", message.text), element("span", `${who}, ${when}`, "quiet"));
    return line;
  }));
  if (messages.length === 0) at("messages").append(element("li", "none yet", "quiet"));
}

async function showRecords() {
  const records = await api("GET", "/v1/records");
  at("records").replaceChildren(...records.slice(-20).reverse().map((record) => {
    const row = element("tr");
    const lasted = record.answered_unix_ms
      ? `${Math.round((record.ended_unix_ms - record.answered_unix_ms) / 1000)} s` : "–";
    for (const cell of [record.user, new Date(record.started_unix_ms).toLocaleString(), lasted,
      words(record.media?.path), words(record.reason)]) {
      row.append(element("td", cell));
    }
    return row;
  }));
}

let showing = false;
let again = false;

/** Shows everything; what happens meanwhile is shown by one more round. */
async function showAll() {
  again = showing;
  if (showing) return;
  showing = true;
  try {
    do {
      again = false;
      await Promise.all([showStatus, showCalls, showBuddies, showMessages, showRecords]
        .map((show) => show()));
    } while (again);
  } finally {
    showing = false;
  }
}

function follow() {
  const socket = new WebSocket(`ws://${location.host}/v1/events?token=${encodeURIComponent(token)}`);
  socket.addEventListener("open", () => attempt(showAll));
  socket.addEventListener("message", (message) => {
    const event = JSON.parse(message.data);
    if (event.event === "statistics") {
      showFigures(event);
      return;
    }
    if (event.event === "recorded") figuresOf.delete(event.call);
    if (event.event === "key_changed") {
      at("warning").textContent = `${event.user} has a new device, or somebody sits between you: `
        + `compare the safety number ${event.safety_number}`;
      at("warning").hidden = false;
    }
    attempt(showAll);
  });
  socket.addEventListener("close", () => {
    at("state").textContent = "the node has ended, or the token is wrong; run `cooee page` again";
    at("state").className = "";
    setTimeout(follow, 3000);
  });
}

at("dial").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => api("POST", "/v1/calls", { to: at("name").value }));
});
at("write").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await api("POST", "/v1/messages", { to: at("name").value, text: at("text").value });
    at("text").value = "";
    await showMessages();
  });
});
at("add").addEventListener("click", () => attempt(async () => {
  if (at("name").reportValidity()) await api("POST", "/v1/buddies", { name: at("name").value });
}));
attempt(showAll);
follow();
