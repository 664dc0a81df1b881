// Adds to the page what rooms receive after it was drawn. The html of a message is made, and made safe, by the
// server; everything else is set as text.
"use strict";

const main = document.getElementById("rooms");
const list = document.getElementById("list");
const state = document.getElementById("state");
const filter = document.getElementById("filter");
const chosen = document.body.dataset.chosen;
const most = chosen ? 500 : 30;
const mostRooms = 60;

const find = (within, selector, room) =>
  [...within.querySelectorAll(selector)].find((element) => element.dataset.room === room);
const address = (room) => "/?room=" + encodeURIComponent(room);
const atEnd = (messages) => messages.scrollHeight - messages.scrollTop - messages.clientHeight < 40;
const toEnd = (messages) => { messages.scrollTop = messages.scrollHeight; };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Times are sent in UTC; people read them in their own.
function localTimes(within) {
  for (const time of within.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    time.textContent = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    time.title = at.toLocaleString();
  }
}

function listed(room, title) {
  let item = find(list, "li[data-room]", room);
  if (item) return item;
  item = element("li");
  item.dataset.room = room;
  const link = element("a");
  link.href = address(room);
  link.append(element("span", "room-name", title), element("span", "count", "0"));
  item.append(link);
  list.append(item);
  const rooms = list.querySelectorAll("li[data-room]").length;
  document.getElementById("summary").textContent = rooms === 1 ? "1 room" : rooms + " rooms";
  applyFilter();
  return item;
}

function column(room, title) {
  const existing = find(main, "section", room);
  if (existing) return existing;
  if (chosen ? chosen !== room : main.querySelectorAll("section").length >= mostRooms) return null;
  for (const notice of main.querySelectorAll(".notice")) notice.remove();
  const section = element("section", "room");
  section.dataset.room = room;
  section.setAttribute("aria-label", "Room " + title);
  const heading = element("h2");
  const link = element("a", "", title);
  link.href = address(room);
  heading.append(link, element("span", "count", "0"));
  const messages = element("ol", "messages");
  messages.tabIndex = 0;
  messages.setAttribute("role", "log");
  section.append(heading, messages);
  main.insertBefore(section, main.querySelector(".empty"));
  return section;
}

function add(event) {
  const { sequence, room, name, accepted, html } = JSON.parse(event.data);
  const title = name || room;
  const item = listed(room, title);
  item.querySelector(".count").textContent = accepted;
  const section = column(room, title);
  if (!section) {
    item.classList.add("fresh");
    return;
  }
  section.querySelector(".count").textContent = accepted;
  const messages = section.querySelector(".messages");
  if (messages.querySelector(`[data-sequence="${sequence}"]`)) return;
  const follow = atEnd(messages);
  messages.insertAdjacentHTML("beforeend", html);
  localTimes(messages.lastElementChild);
  while (messages.children.length > most) messages.firstElementChild.remove();
  if (follow) toEnd(messages);
}

function applyFilter() {
  const wanted = filter.value.trim().toLowerCase();
  for (const item of list.querySelectorAll("li[data-room]")) {
    item.hidden = wanted !== "" && !item.textContent.toLowerCase().includes(wanted);
  }
}

function tell(className, text) {
  state.className = className;
  state.textContent = text;
}

localTimes(document);
document.querySelectorAll(".messages").forEach(toEnd);
filter.hidden = false;
filter.addEventListener("input", applyFilter);

const source = new EventSource("/sandbox/events?after=" + document.body.dataset.after);
source.addEventListener("open", () => tell("live", "Live"));
source.addEventListener("error", () => tell("lost", "Connection lost, trying again"));
source.addEventListener("message", add);
source.addEventListener("reload", () => location.reload());
