"use strict";
// Makes the page live. Everything works without it; what it puts into the page the server has escaped, or is set as text.
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const body = document.body;
  const offset = Number(body.dataset.now) - Date.now();
  const now = () => Date.now() + offset;
  const LINES = 5000;

  for (const element of all(".script")) element.hidden = false;

  // --- time ----------------------------------------------------------------------------------------------------------
  const STEPS = [[120, 1, "s"], [7200, 60, "m"], [172800, 3600, "h"]];
  const age = (seconds) => {
    const whole = Math.max(Math.floor(seconds), 0);
    for (const [below, unit, name] of STEPS) if (whole < below) return Math.floor(whole / unit) + name;
    return Math.floor(whole / 86400) + "d";
  };
  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const tick = (within = document) => {
    const at = now();
    for (const e of all("[data-ago]", within)) say(e, age((at - e.dataset.ago) / 1000));
    for (const e of all("[data-until]", within)) say(e, e.dataset.until > at ? age((e.dataset.until - at) / 1000) + e.dataset.words : "");
    for (const e of all("[data-next]", within)) say(e, e.dataset.next > at ? "next in " + age((e.dataset.next - at + 999) / 1000) : "next is due");
  };
  tick();
  setInterval(tick, 1000);

  const fragment = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    tick(holder.content);
    return holder.content;
  };
  // Makes an element like a fresh one, and touches only what differs: focus, selection and a click that is under way stay.
  const morph = (old, fresh) => {
    if (old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
    if (old.nodeType !== Node.ELEMENT_NODE) { if (old.data !== fresh.data) old.data = fresh.data; return; }
    for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    children(old, fresh);
  };
  const children = (old, fresh) => {
    const before = [...old.childNodes], after = [...fresh.childNodes];
    after.forEach((child, at) => { if (before[at]) morph(before[at], child); else old.append(child); });
    for (const child of before.slice(after.length)) child.remove();
  };
  const replace = (element, html) => children(element, fragment(html));
  const plural = (count, word) => count + " " + word + (count === 1 ? "" : "s");

  // --- the list ------------------------------------------------------------------------------------------------------
  const rows = $("rows");
  const rowOf = (id) => rows && all("tr.row", rows).find((row) => JSON.parse(row.dataset.id) === id);
  const onRow = ({ id, html }) => {
    const row = rowOf(id);
    if (row) morph(row, fragment(html).firstElementChild);
  };
  let filling = 0;
  const onList = ({ ids }) => {
    const shown = new Set(rows ? all("tr.row", rows).map((row) => JSON.parse(row.dataset.id)) : []);
    const fresh = ids.filter((id) => !shown.has(id)).length;
    const news = $("news");
    if (!news) return;
    clearTimeout(filling); // what is told first may be older than the page, which would load itself again and again
    if (fresh && !rows && document.activeElement !== $("q")) { filling = setTimeout(() => location.reload(), 500); return; }
    say(news, fresh + " new");
    news.hidden = !fresh;
  };

  // --- the log -------------------------------------------------------------------------------------------------------
  const log = $("log"), form = $("log-filter"), order = ["debug", "info", "warn", "error"];
  let following = true, unseen = 0;
  const passes = (line) => {
    const level = order.indexOf(line.dataset.level);
    if (form.level.value && level >= 0 && level < order.indexOf(form.level.value)) return false;
    if (form.attempt.value && line.dataset.attempt !== form.attempt.value && line.dataset.attempt !== "0") return false;
    const text = form.text.value.trim().toLowerCase();
    return !text || line.querySelector(".tx").textContent.toLowerCase().includes(text);
  };
  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  const toEnd = () => { log.scrollTop = log.scrollHeight; };
  const follow = (on) => {
    following = on;
    $("follow").setAttribute("aria-pressed", on);
    if (on) { unseen = 0; toEnd(); }
    const waiting = $("waiting");
    waiting.hidden = !unseen;
    say(waiting, plural(unseen, "new line") + " ↓");
  };
  // What is not in the page cannot be found in it: from now on the server filters.
  const partial = () => {
    log.dataset.whole = "no";
    say($("earlier"), "Earlier lines are not shown here; the download has them all.");
    $("earlier").hidden = false;
  };
  let arriving = [], drawn = 0;
  const draw = () => {
    drawn = 0;
    for (const html of arriving.splice(0)) {
      const line = fragment(html).firstElementChild;
      line.hidden = !passes(line);
      if (!line.hidden && !following) unseen += 1;
      log.append(line);
    }
    if (log.childElementCount > LINES) partial();
    while (log.childElementCount > LINES) log.firstElementChild.remove();
    if ($("no-lines")) $("no-lines").hidden = all(".line:not([hidden])", log).length > 0;
    follow(following);
  };
  const arrives = (html) => { arriving.push(html); if (!drawn) drawn = setTimeout(draw, 30); };
  const onLine = ({ html }) => arrives(html);
  const onGap = ({ count }) => {
    const line = document.createElement("div");
    line.className = "line l-gap";
    line.dataset.level = "gap";
    line.dataset.attempt = "0";
    const text = document.createElement("span");
    text.className = "tx";
    text.textContent = plural(count, "line") + " left out: this connection is too slow. Load the page again to see them.";
    line.append(text);
    log.dataset.whole = "no";
    arrives(line.outerHTML);
  };
  if (log) {
    for (const button of all(".noscript")) button.hidden = true;
    $("follow").onclick = () => follow(!following);
    $("waiting").onclick = () => follow(true);
    $("wrap").onclick = (event) => {
      const on = log.classList.toggle("wrap");
      event.currentTarget.setAttribute("aria-pressed", on);
      if (following) toEnd();
    };
    log.onscroll = () => { if (atEnd() !== following) follow(atEnd()); };
    const filter = () => {
      if (log.dataset.whole !== "yes") { form.submit(); return; }
      for (const line of all(".line", log)) line.hidden = !passes(line);
      const url = new URL(location.href);
      for (const name of ["level", "attempt", "text"]) {
        if (form[name].value) url.searchParams.set(name, form[name].value); else url.searchParams.delete(name);
      }
      history.replaceState(null, "", url);
      const download = document.querySelector("a[download]");
      download.search = url.search;
      draw();
    };
    form.onsubmit = (event) => { event.preventDefault(); filter(); };
    form.level.onchange = form.attempt.onchange = filter;
    form.text.oninput = () => { if (log.dataset.whole === "yes") filter(); };
    toEnd();
  }

  // --- the stream ----------------------------------------------------------------------------------------------------
  const connection = $("connection");
  const state = (name, text) => { connection.dataset.state = name; say(connection, text); };
  const suffix = document.title.slice(document.title.lastIndexOf(" · "));
  const part = (id) => ({ html, title }) => { replace($(id), html); document.title = title + suffix; };
  const onHead = (data) => {
    part("head")(data);
    if (data.over) { ended = true; close(); state("none", ""); if ($("cancel")) $("cancel").hidden = true; }
  };
  const handlers = {
    row: onRow, list: onList, line: onLine, gap: onGap, head: onHead, attempts: part("attempts"), chips: part("chips"), fragment: part("live"),
    outage: ({ text }) => { $("outage").hidden = !text; say($("outage"), text || ""); if (source) state(text ? "away" : "live", text ? "waiting for Redis" : "live"); },
    gone: () => { ended = true; close(); $("outage").hidden = false; say($("outage"), "The record of this job has expired."); state("none", ""); },
  };
  let source = null, ended = !body.dataset.stream, last = "", failures = 0, retry = 0, hiding = 0;
  const close = () => { clearTimeout(retry); if (source) source.close(); source = null; };
  const open = () => {
    if (source || ended) return;
    const url = new URL(body.dataset.stream, location.href);
    if (last) url.searchParams.set("after", last);
    source = new EventSource(url);
    source.onopen = () => { failures = 0; state("live", "live"); };
    source.onerror = () => {
      state("away", "reconnecting");
      if (source && source.readyState === EventSource.CLOSED) { // refused: the browser does not try again by itself
        close();
        failures += 1;
        retry = setTimeout(open, Math.min(1000 * 2 ** failures, 30000));
      }
    };
    for (const [name, handle] of Object.entries(handlers)) {
      source.addEventListener(name, (event) => { if (event.lastEventId) last = event.lastEventId; handle(JSON.parse(event.data)); });
    }
  };
  open();
  // A browser has few connections to a server: a tab that nobody sees gives its own back after a while.
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(() => { close(); if (!ended) state("away", "paused"); }, 60000);
    else open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });

  // --- forms ---------------------------------------------------------------------------------------------------------
  // Sent by script, since only then a browser says where they come from on an address that is neither TLS nor loopback.
  document.addEventListener("submit", async (event) => {
    const sent = event.target;
    if (sent.method !== "post") return;
    event.preventDefault();
    for (const button of all("button", sent)) button.disabled = true;
    try {
      const answer = await fetch(sent.action, { method: "POST", body: new URLSearchParams(new FormData(sent)) });
      if (answer.redirected) { location.assign(answer.url); return; }
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      $("main").replaceChildren(...page.querySelector("main").childNodes);
    } catch {
      for (const button of all("button", sent)) button.disabled = false;
      $("outage").hidden = false;
      say($("outage"), "The board does not answer, so it is not known whether that was done. Look again before you repeat it.");
    }
  });

  // --- the keyboard --------------------------------------------------------------------------------------------------
  const move = (by) => {
    const links = all("main a.open");
    const at = links.indexOf(document.activeElement);
    const next = links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1)];
    if (next) next.focus();
  };
  const cancel = () => {
    const details = $("cancel");
    if (details && !details.hidden) { details.open = true; $("reason").focus(); return; }
    const link = document.activeElement.closest && document.activeElement.closest("a.open");
    if (link && $("bulk")) location.href = link.href + "#cancel";
  };
  const keys = {
    "/": () => { const field = $("q") || $("text"); if (field) { field.focus(); field.select(); } },
    j: () => move(1), k: () => move(-1), f: () => { if (log) follow(!following); }, c: cancel,
    "?": () => { const help = $("keys"); if (help.open) help.close(); else help.showModal(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const field = event.target.closest && event.target.closest("input, select, textarea");
    if (field) { if (event.key === "Escape") field.blur(); return; }
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
  if (location.hash === "#cancel") cancel();
})();
