/* Search, filter and page through all examples. Reads the JSON of #data; builds nodes and sets their
   text, never markup. The words are compared as in reports/marks.py. */
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { systems, kinds } = data;
  const word = new RegExp(data.word, "gu");
  const size = 10;
  const last = systems.length - 1;
  const examples = data.rows.map(([place, source, references, answers]) => ({
    place, source, references,
    answers: answers.map(([text, agreement, kind]) => ({ text, agreement, kind })),
  }));
  const gain = (one) => one.answers[last].agreement - one.answers[0].agreement;
  const right = (one, system) => one.answers[system].kind === data.right;

  /* Labels are right or wrong, whatever their words. */
  const better = (one, how) => (data.labels
    ? `${systems[one]} alone right` : `${systems[last]} ${how} than ${systems[0]}`);
  const filters = [["all", () => true]];
  if (last > 0) {
    const pair = `${systems[last]} and ${systems[0]}`;
    filters.push(
      [better(last, "nearer"), (one) => gain(one) > 0],
      [better(0, "further"), (one) => gain(one) < 0],
      [`${pair} differ`, (one) => one.answers[last].text !== one.answers[0].text],
      [`${pair} are equal`, (one) => one.answers[last].text === one.answers[0].text],
    );
  }
  for (let system = last; system >= 0; system -= 1) {
    filters.push([`${systems[system]}: not right`, (one) => !right(one, system)]);
    kinds.forEach((kind, index) => {
      filters.push([`${systems[system]}: ${kind}`, (one) => one.answers[system].kind === index]);
    });
  }
  const agreement = (one) => one.answers[last].agreement;
  const orders = [
    ["as in the file", (one) => one.place],
    ["worst first", agreement],
    ["best first", (one) => -agreement(one)],
    ["longest source first", (one) => -one.source.length],
    ["at random", (one) => one.chance],
  ];
  if (last > 0) {
    orders.splice(3, 0, ["largest gain first", (one) => -gain(one)], ["largest loss first", gain]);
  }

  /* The words of a text, each with the space before it. */
  function spaced(text) {
    const units = [];
    let end = 0;
    for (const match of text.matchAll(word)) {
      if (units.length === data.most) break;
      units.push([text.slice(end, match.index), match[0]]);
      end = match.index + match[0].length;
    }
    return units;
  }

  /* The places of common words in the longest common order, and how many words both have. */
  function common(mine, theirs) {
    const width = mine.length + 1;
    const table = new Uint16Array(width * (theirs.length + 1));
    for (let row = 1; row <= theirs.length; row += 1) {
      for (let place = 1; place < width; place += 1) {
        const at = row * width + place;
        table[at] = mine[place - 1][1] === theirs[row - 1][1]
          ? table[at - width - 1] + 1
          : Math.max(table[at - width], table[at - 1]);
      }
    }
    const pairs = [];
    let place = mine.length;
    let row = theirs.length;
    while (place && row) {
      const at = row * width + place;
      if (table[at] === table[at - 1]) place -= 1;
      else if (table[at - width] !== table[at - width - 1]) row -= 1;
      else {
        row -= 1;
        place -= 1;
        pairs.push([place, row]);
      }
    }
    return pairs.reverse();
  }

  /* Runs of equal, added and missing words: [kind, space, text]. */
  function marked(text, references) {
    if (data.labels) return [["same", "", text]];
    const mine = spaced(text);
    let best = { pairs: [], theirs: [], share: -1 };
    for (const reference of references) {
      const theirs = spaced(reference);
      const pairs = common(mine, theirs);
      const words = mine.length + theirs.length;
      const share = words ? 2 * pairs.length / words : 1;
      if (share > best.share) best = { pairs, theirs, share };
    }
    const units = [];
    const add = (kind, held) => held.forEach(([space, text]) => units.push([kind, space, text]));
    let [place, row] = [0, 0];
    if (!best.pairs.length) add("added", mine);
    else {
      for (const [nextPlace, nextRow] of [...best.pairs, [mine.length, best.theirs.length]]) {
        add("missing", best.theirs.slice(row, nextRow));
        add("added", mine.slice(place, nextPlace));
        add("same", mine.slice(nextPlace, nextPlace + 1));
        [place, row] = [nextPlace + 1, nextRow + 1];
      }
    }
    const runs = [];
    for (const [kind, space, text] of units) {
      const run = runs[runs.length - 1];
      if (run && run[0] === kind) run[2] += space + text;
      else runs.push([kind, space, text]);
    }
    return runs;
  }

  function node(name, style, ...children) {
    const made = document.createElement(name);
    if (style) made.className = style;
    made.append(...children);
    return made;
  }

  function described(name, content, style = "", kind = null) {
    const text = node("dd", "", ...[content].flat());
    text.dir = "auto";
    return node("div", style, node("dt", "", name, ...(kind ? [" ", kind] : [])), text);
  }

  const tags = { added: "ins", missing: "del" };

  function article(one) {
    const parts = [described("Source", one.source)];
    one.references.forEach((text, index) => {
      parts.push(described(index ? `Reference ${index + 1}` : "Reference", text));
    });
    one.answers.forEach((answer, system) => {
      const isRight = right(one, system);
      const share = isRight || data.labels ? "" : `, ${answer.agreement} %`;
      const kind = node("span", isRight ? "kind right" : "kind", kinds[answer.kind] + share);
      const content = marked(answer.text, one.references).flatMap(([name, space, text]) => (
        [space, tags[name] ? node(tags[name], "", text) : text]
      ));
      parts.push(described(systems[system], content, "answer", kind));
    });
    const title = node("h3", "place", `Example ${one.place.toLocaleString("en")}`);
    const made = node("article", "example", title, node("dl", "texts", ...parts));
    made.tabIndex = -1;
    return made;
  }

  let shown = [];
  let page = 0;
  let words = [];
  const pages = () => Math.max(1, Math.ceil(shown.length / size));
  const list = byId("list");

  function shuffle() {
    for (const one of examples) one.chance = Math.random();
  }

  function choose() {
    words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = filters[byId("filter").selectedIndex][1];
    const key = orders[byId("order").selectedIndex][1];
    shown = examples.filter((one) => {
      if (!wanted(one)) return false;
      if (!words.length) return true;
      one.lower ??= [one.source, ...one.references, ...one.answers.map((answer) => answer.text)]
        .join("\n").toLowerCase();
      return words.every((text) => one.lower.includes(text));
    });
    shown.sort((one, other) => key(one) - key(other) || one.place - other.place);
    show(0);
  }

  function show(number) {
    page = Math.min(Math.max(0, number), pages() - 1);
    const first = page * size;
    const some = shown.slice(first, first + size);
    list.replaceChildren(...some.map(article));
    const range = some.length ? `${first + 1} to ${first + some.length} of ` : "";
    const noun = shown.length === 1 ? "example" : "examples";
    byId("count").textContent = `${range}${shown.length.toLocaleString("en")} ${noun}`;
    byId("page").textContent = `page ${page + 1} of ${pages()}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages() - 1;
    highlight();
  }

  /* Marks what was searched for without changing the document, where the browser can. */
  function highlight() {
    if (!window.Highlight) return;
    const ranges = [];
    const walker = document.createTreeWalker(list, NodeFilter.SHOW_TEXT);
    while (words.length && walker.nextNode()) {
      const text = walker.currentNode.data.toLowerCase();
      for (const part of words) {
        for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) {
          if (at + part.length > walker.currentNode.length) break;
          const range = new Range();
          range.setStart(walker.currentNode, at);
          range.setEnd(walker.currentNode, at + part.length);
          ranges.push(range);
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  function turn(number, position) {
    const before = page;
    show(number);
    const items = list.children;
    if (items.length && page !== before) focus(items[position < 0 ? items.length - 1 : position]);
  }

  function focus(item) {
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }

  function step(by) {
    const items = [...list.children];
    const now = items.indexOf(document.activeElement);
    const next = now < 0 ? 0 : now + by;
    if (next >= items.length) turn(page + 1, 0);
    else if (next < 0) turn(page - 1, -1);
    else focus(items[next]);
  }

  const actions = {
    "/": () => byId("search").focus(),
    j: () => step(1),
    k: () => step(-1),
    n: () => turn(page + 1, 0),
    p: () => turn(page - 1, 0),
    f: () => byId("filter").focus(),
    o: () => byId("order").focus(),
    r: () => {
      byId("order").selectedIndex = orders.findIndex(([name]) => name === "at random");
      shuffle();
      choose();
    },
    "?": () => byId("help").showModal(),
  };

  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    if (key === "Escape" && target === byId("search")) {
      event.preventDefault();
      if (target.value) {
        target.value = "";
        choose();
      } else target.blur();
      return;
    }
    if (target.matches("input, select, textarea")) return;
    const arrows = { ArrowDown: 1, ArrowUp: -1 };
    if (arrows[key] && list.contains(target)) {
      event.preventDefault();
      step(arrows[key]);
    } else if (actions[key] && byId("shortcuts").checked) {
      event.preventDefault();
      actions[key]();
    }
  });

  const options = (id, entries) => {
    byId(id).append(...entries.map(([name]) => node("option", "", name)));
    byId(id).addEventListener("change", choose);
  };
  const used = filters.map(([name, wanted]) => [name, wanted, examples.filter(wanted).length])
    .filter(([, , count], index) => count || !index);
  filters.length = 0;
  filters.push(...used.map(([name, wanted, count]) => (
    [`${name} (${count.toLocaleString("en")})`, wanted]
  )));
  options("filter", filters);
  options("order", orders);
  byId("search").addEventListener("input", choose);
  byId("previous").addEventListener("click", () => turn(page - 1, 0));
  byId("next").addEventListener("click", () => turn(page + 1, 0));
  byId("keys").addEventListener("click", actions["?"]);
  byId("close").addEventListener("click", () => byId("help").close());
  shuffle();
  for (const part of document.querySelectorAll('#all, [href="#all"]')) part.hidden = false;
  choose();
})();
