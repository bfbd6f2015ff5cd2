"use strict";
// The list of candidates, searched and sorted, and the page of each, found by the address #candidate/ID.
{
  const { columns, rows, chunkSize, commands } = e3.content.candidates;
  const PER_PAGE = 50;
  const GOOD = ["accept", "successful"], BAD = ["error", "failed", "cancelled"];
  const at = Object.fromEntries(columns.map((column, index) => [column.id, index]));
  const byId = new Map(rows.map((row, index) => [row[at.id], index]));
  const haystack = rows.map((row) =>
    columns.map((column, index) => (column.digits === undefined ? row[index] ?? "" : "")).join("\u0000").toLowerCase());
  const find = (id) => document.getElementById(id);
  const dialog = find("candidate"), search = find("search"), state = find("state"), order = find("order");
  const view = { sort: null, down: false, page: 0, shown: rows.map((_, index) => index) };
  let current = null;

  const tone = (word) => (GOOD.includes(word) ? "good" : BAD.includes(word) ? "bad" : "warn");
  const format = (value, column) => {
    if (value === null || value === undefined) return "–";
    return column.digits === undefined ? value : value.toFixed(column.digits);
  };

  const compare = (a, b) => {
    const [x, y] = [rows[a][view.sort], rows[b][view.sort]];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY || a - b; // what has no value is always last
    const sign = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
    return (view.down ? -sign : sign) || a - b;
  };

  const select = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    view.shown = rows.map((_, index) => index).filter((index) =>
      (!state.value || rows[index][at.state] === state.value) && words.every((word) => haystack[index].includes(word)));
    if (view.sort !== null) view.shown.sort(compare);
    view.page = 0;
    show();
  };

  const makeCell = (row, column, index) => {
    if (column.id === "id") {
      const link = e3.make("a", { href: `#candidate/${encodeURIComponent(row[index])}` }, row[index]);
      return e3.make("td", { class: "name" }, link);
    }
    const text = format(row[index], column);
    if (column.words) return e3.make("td", {}, e3.make("span", { class: `word ${tone(row[index])}` }, text));
    // two lines of it: the whole text is in the candidate's own page
    if (column.long) return e3.make("td", { class: "text", title: text }, e3.make("div", {}, text));
    return e3.make("td", { class: column.digits === undefined ? null : "number" }, text);
  };

  const show = () => {
    const start = view.page * PER_PAGE;
    const part = view.shown.slice(start, start + PER_PAGE);
    const body = document.querySelector("#candidate-table tbody");
    body.replaceChildren(...part.map((index) =>
      e3.make("tr", {}, ...columns.map((column, place) => makeCell(rows[index], column, place)))));
    find("found").textContent = `${view.shown.length} of ${rows.length} candidates`;
    find("place").textContent = part.length ? `${start + 1} to ${start + part.length}` : "none";
    find("earlier").disabled = view.page === 0;
    find("later").disabled = start + PER_PAGE >= view.shown.length;
    document.querySelectorAll("#candidate-table th").forEach((cell, index) => {
      cell.setAttribute("aria-sort", index !== view.sort ? "none" : view.down ? "descending" : "ascending");
    });
    order.value = view.sort === null ? "" : `${view.sort}:${view.down ? 1 : 0}`;
  };

  const sortBy = (index, down) => {
    [view.sort, view.down] = [index, down];
    select();
  };

  const showFacts = (facts) =>
    e3.make("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [e3.make("dt", {}, name), e3.make("dd", {}, text)]));

  const showTable = (table) => {
    const head = e3.make("tr", {}, ...table.columns.map((name) => e3.make("th", { scope: "col" }, name)));
    const body = table.rows.map((row) => e3.make("tr", {}, ...row.map((text) => e3.make("td", {}, text))));
    return e3.make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": table.caption },
      e3.make("table", {}, e3.make("caption", {}, table.caption), e3.make("thead", {}, head), e3.make("tbody", {}, ...body)));
  };

  const showCommand = (detail) => {
    if (!detail.command) return [];
    const [template, id] = detail.command;
    const text = commands[template].replaceAll("PREDICTION_ID", id);
    const button = e3.make("button", { type: "button" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select and copy by hand";
      }
    });
    return [e3.make("h3", {}, "The same again"), e3.make("pre", { id: "command", tabindex: 0 }, text), button];
  };

  const showCandidate = async (index) => {
    current = index;
    const row = rows[index];
    find("candidate-title").textContent = row[at.id];
    const body = find("candidate-body");
    e3.clearViewers();
    body.replaceChildren(e3.make("p", {}, e3.isTooOld ? "This browser cannot unpack it." : "Unpacking …"));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    if (e3.isTooOld) return;
    const chunk = await e3.unpack(`chunk-${Math.floor(index / chunkSize)}`);
    if (current !== index) return; // another one was opened meanwhile
    const detail = chunk[index % chunkSize];
    const viewers = e3.make("div", { class: "viewers" });
    body.replaceChildren(
      ...(detail.message ? [e3.make("p", { class: "notice" }, detail.message)] : []),
      e3.make("div", { id: "legend", class: "legend" }), viewers,
      e3.make("div", { class: "columns" },
        e3.make("div", {}, e3.make("h3", {}, "Prediction"), showFacts(detail.facts)),
        e3.make("div", {}, e3.make("h3", {}, "Provenance"), showFacts(detail.provenance))),
      ...detail.tables.map(showTable), ...showCommand(detail));
    await e3.showStructures(viewers, find("legend"), detail.structures);
    dialog.dataset.ready = row[at.id];
  };

  const step = (by) => {
    const place = view.shown.indexOf(current);
    const next = view.shown[place + by];
    if (next !== undefined) e3.openCandidate(next);
  };

  e3.openCandidate = (index) => {
    location.hash = `#candidate/${encodeURIComponent(rows[index][at.id])}`;
  };

  const follow = () => {
    if (!location.hash.startsWith("#candidate/")) {
      if (dialog.open) dialog.close();
      return;
    }
    let name = "";
    try {
      name = decodeURIComponent(location.hash.slice("#candidate/".length));
    } catch {
      return; // an address that nobody has written
    }
    if (byId.has(name)) showCandidate(byId.get(name));
  };

  const head = columns.map((column, index) => {
    const button = e3.make("button", { type: "button", title: column.help ?? null }, column.name);
    button.addEventListener("click", () => sortBy(index, view.sort === index && !view.down));
    return e3.make("th", { scope: "col", class: column.digits === undefined ? null : "number" }, button);
  });
  document.querySelector("#candidate-table thead").replaceChildren(e3.make("tr", {}, ...head));
  [...new Set(rows.map((row) => row[at.state]))].sort().forEach((name) => state.append(e3.make("option", { value: name }, name)));
  order.append(e3.make("option", { value: "" }, "as ranked"));
  columns.forEach((column, index) => [0, 1].forEach((down) =>
    order.append(e3.make("option", { value: `${index}:${down}` }, `${column.name} ${down ? "↓" : "↑"}`))));
  order.addEventListener("change", () => {
    const [index, down] = order.value.split(":");
    sortBy(order.value ? Number(index) : null, down === "1");
  });
  search.addEventListener("input", select);
  state.addEventListener("change", select);
  const turn = (by) => () => {
    view.page += by;
    show();
  };
  find("earlier").addEventListener("click", turn(-1));
  find("later").addEventListener("click", turn(1));
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    e3.clearViewers();
    delete dialog.dataset.ready;
    if (location.hash.startsWith("#candidate/")) history.replaceState(null, "", "#candidates");
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });
  addEventListener("hashchange", follow);
  select();
  performance.mark("listed");
  follow();
}
