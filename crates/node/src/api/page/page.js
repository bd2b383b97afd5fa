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

async function showCalls() {
  const calls = await api("GET", "/v1/calls");
  at("calls").replaceChildren(...calls.map((call) => {
    const box = element("div", undefined, "call");
    const act = (action) => () => api("POST", `/v1/calls/${call.call}/${action}`, {});
    box.append(element("strong", `${call.user}: ${words(call.phase)}`));
    if (call.phase === "ringing") {
      box.append(button("Answer", "good", act("answer")), button("Decline", "bad", act("decline")));
      return box;
    }
    if (call.phase === "active") {
      box.append(
        button(call.muted_locally ? "Unmute" : "Mute", "", act(call.muted_locally ? "unmute" : "mute")),
        button(call.held_locally ? "Resume" : "Hold", "", act(call.held_locally ? "resume" : "hold")),
      );
    }
    box.append(button("Hang up", "bad", act("hang-up")));
    return box;
  }));
}

async function showBuddies() {
  const buddies = await api("GET", "/v1/buddies");
  if (buddies.length === 0) return;
  at("buddies").replaceChildren(...buddies.map((buddy) => {
    const line = element("li");
    line.append(element("span", buddy.user), element("span", words(buddy.presence), "quiet"));
    line.append(button("Call", "", () => api("POST", "/v1/calls", { to: buddy.user })));
    return line;
  }));
}

async function showMessages() {
  const messages = await api("GET", "/v1/messages");
  at("messages").replaceChildren(...messages.slice(-50).map((message) => {
    const line = element("li");
    line.append(element("span", message.text), element("span", words(message.user), "quiet"));
    return line;
  }));
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

async function showAll() {
  for (const show of [showStatus, showCalls, showBuddies, showMessages, showRecords]) await show();
}

function follow() {
  const socket = new WebSocket(`ws://${location.host}/v1/events?token=${encodeURIComponent(token)}`);
  socket.addEventListener("open", () => attempt(showAll));
  socket.addEventListener("message", () => attempt(showAll));
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
follow();
