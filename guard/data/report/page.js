"use strict";
// Draws the report from the data in this page. Every text goes in as text (textContent), never as
// markup; nothing is loaded and nothing is sent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  // ── Elements ─────────────────────────────────────────────────────────────────────────────────

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    for (const child of children) element.append(child);
    return element;
  }
  const html = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  // What others wrote may run from right to left; it must not turn the words around it.
  const said = (text) => html("bdi", { dir: "auto" }, text);
  const paragraph = (text, kind) => html("p", kind ? { class: kind } : {}, said(text.replace(/(\d) %/g, "$1\u00a0%")));

  // As Python rounds: a half goes to the even digit.
  function percent(share) {
    if (share === null) return "–";
    const hundredfold = share * 100;
    const even = hundredfold % 1 === 0.25 ? hundredfold - 0.05 : hundredfold;
    return `${even.toFixed(1)}\u00a0%`;
  }
  // Not Math.max(...list): of a hundred thousand numbers that is an error.
  const most = (list) => list.reduce((high, each) => Math.max(high, each), 0);
  const count = (number) => number.toLocaleString("en-US");
  const queries = (number) => `${count(number)} ${number === 1 ? "query" : "queries"}`;
  // A threshold to three digits, unless that would hide what it is.
  const cut = (value) => (Number(value.toFixed(3)) === value ? value.toFixed(3) : String(value));
  const short = (value) => (value > 0.999 && value < 1 ? value.toFixed(5) : value.toFixed(3));

  function table({ caption, heads, rows }) {
    const head = html("tr", {}, ...heads.map((each) => html("th", { scope: "col" }, each)));
    const body = rows.map(([first, ...others]) =>
      html("tr", {}, html("th", { scope: "row" }, said(first)),
        ...others.map((each, at) => html("td", { "data-head": heads[at + 1] }, said(each)))));
    return html("table", { class: "wide" }, html("caption", {}, caption),
      html("thead", {}, head), html("tbody", {}, ...body));
  }
  const folded = (title, made) => html("details", {}, html("summary", {}, title), made);

  // ── Charts ───────────────────────────────────────────────────────────────────────────────────

  const drawn = [];
  let numbered = 0;

  // A chart that is drawn at the width it has, so that its letters are as large on a phone; `say`
  // gives its text alternative.
  function chart(place, title, height, say, draw) {
    const box = html("div", { class: "chart" });
    const name = `chart-${++numbered}`;
    place.append(box);
    const redraw = () => {
      const width = Math.max(240, Math.min(box.clientWidth || 640, 900));
      const words = svg("desc", { id: `${name}-desc` }, say());
      const picture = svg("svg", {
        viewBox: `0 0 ${width} ${height}`, role: "img",
        "aria-labelledby": `${name}-title ${name}-desc`,
      }, svg("title", { id: `${name}-title` }, title), words);
      draw(picture, width, height);
      box.replaceChildren(picture);
    };
    drawn.push(redraw);
    return redraw;
  }

  function frame(picture, width, height, { left = 46, right = 14, top = 14, bottom = 40, x, y }) {
    const area = { left, top, right: width - right, bottom: height - bottom };
    const at = {
      x: (share) => area.left + share * (area.right - area.left),
      y: (share) => area.bottom - share * (area.bottom - area.top),
      area,
    };
    const ticks = width < 420 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1];
    for (const tick of x ? ticks : []) {
      picture.append(
        svg("line", { class: "axis", x1: at.x(tick), x2: at.x(tick), y1: area.bottom, y2: area.bottom + 4 }),
        svg("text", { class: "soft", x: at.x(tick), y: area.bottom + 17, "text-anchor": "middle" }, x.tick(tick)));
    }
    for (const tick of y ? y.ticks : []) {
      const height = at.y(tick / y.most);
      picture.append(
        svg("line", { class: "grid", x1: area.left, x2: area.right, y1: height, y2: height }),
        svg("text", { class: "soft", x: area.left - 6, y: height + 4, "text-anchor": "end" }, y.tick(tick)));
    }
    picture.append(svg("line", { class: "axis", x1: area.left, x2: area.right, y1: area.bottom, y2: area.bottom }));
    if (x) picture.append(svg("text", { class: "soft", x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle" }, x.title));
    return at;
  }

  const whole = (share) => `${Math.round(share * 100)} %`;
  const plain = (share) => String(share);

  // Round steps from 0 on that reach `most`.
  function ticksTo(most) {
    const step = [1, 2, 2.5, 5, 10].map((each) => each * 10 ** Math.floor(Math.log10(most / 4)))
      .find((each) => each * 5 >= most);
    return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, at) => at * step);
  }

  // Once for all charts and keys: patterns go by their ids.
  function patterns() {
    const hatch = svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("line", { class: "hatch", x1: 0, y1: 0, x2: 0, y2: 6 }));
    const dots = svg("pattern", { id: "dots", width: 5, height: 5, patternUnits: "userSpaceOnUse" },
      svg("circle", { class: "dots", cx: 2, cy: 2, r: 1.2 }));
    document.body.append(svg("svg", { class: "patterns", width: 0, height: 0, "aria-hidden": "true" },
      svg("defs", {}, hatch, dots)));
  }

  function key(place, entries) {
    const items = entries.map(([kind, words]) => html("li", {},
      svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, symbol(kind)), words));
    place.append(html("ul", { class: "key" }, ...items));
  }
  function symbol(kind) {
    if (kind === "ring") return svg("circle", { class: "ring", cx: 8, cy: 8, r: 5 });
    if (kind === "mark") return diamond(8, 8, "mark");
    if (kind === "dot") return svg("circle", { class: "dot", cx: 8, cy: 8, r: 5 });
    if (kind === "line" || kind === "ideal") return svg("line", { class: kind, x1: 0, x2: 16, y1: 8, y2: 8 });
    return svg("rect", { class: kind, x: 1, y: 1, width: 14, height: 14 });
  }
  const diamond = (x, y, kind) =>
    svg("path", { class: kind, d: `M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z` });

  // ── The rows, and what two thresholds make of them ─────────────────

  const [MEASURED, PARTIAL] = [0, 1];
  const FIXED = ["answer", "clarify", "refuse", "undecided"];
  const [BAD, GOOD, UNLABELLED] = [0, 1, 2];
  const Z = 1.9599639845400536; // Of a normal distribution: 95 % lies within.

  function doubles(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float64Array.from({ length: bytes.length / 8 }, (_, at) => view.getFloat64(at * 8, true));
  }
  const low = doubles(data.rows.low);
  const high = doubles(data.rows.high);
  const letters = Array.from(data.rows.kinds, (letter) => letter.charCodeAt(0) - 97);

  // As guard.points has it.
  function route(row, kind, answerAt, refuseBelow) {
    if (kind > PARTIAL) return FIXED[kind - 2];
    if (low[row] >= answerAt) return "answer";
    return high[row] < refuseBelow && kind === MEASURED ? "refuse" : "clarify";
  }

  // Wilson's interval, as guard.rate has it.
  function share(events, n) {
    if (!n) return { value: null, low: null, high: null, events, n };
    const value = events / n;
    const spread = Z ** 2 / n;
    const middle = value + spread / 2;
    const half = Math.sqrt(value * (1 - value) * spread + spread ** 2 / 4);
    return {
      value, events, n,
      low: events ? (middle - half) / (1 + spread) : 0,
      high: events < n ? (middle + half) / (1 + spread) : 1,
    };
  }

  function shares(answerAt, refuseBelow) {
    const took = { answer: [0, 0, 0], clarify: [0, 0, 0], refuse: [0, 0, 0], undecided: [0, 0, 0] };
    const drawn = { all: 0, answered: [0, 0] }; // Measured and labelled: as the curve is drawn.
    letters.forEach((letter, row) => {
      const [kind, truth] = [Math.floor(letter / 3), letter % 3];
      const taken = route(row, kind, answerAt, refuseBelow);
      took[taken][truth] += 1;
      if (kind > PARTIAL || truth === UNLABELLED) return;
      drawn.all += 1;
      if (taken === "answer") drawn.answered[truth] += 1;
    });
    const sum = (counts) => counts[BAD] + counts[GOOD] + counts[UNLABELLED];
    const all = letters.length;
    const good = Object.values(took).reduce((total, counts) => total + counts[GOOD], 0);
    return {
      leak: share(took.answer[BAD], took.answer[BAD] + took.answer[GOOD]),
      false_refusal: share(took.refuse[GOOD], good),
      clarify_rate: share(sum(took.clarify), all),
      coverage: share(sum(took.answer), all),
      refuse_rate: share(sum(took.refuse), all),
      undecided: share(sum(took.undecided), all),
      onCurve: {
        coverage: share(drawn.answered[BAD] + drawn.answered[GOOD], drawn.all),
        risk: share(drawn.answered[BAD], drawn.answered[BAD] + drawn.answered[GOOD]),
      },
    };
  }

  // ── Threshold explorer ───────────────────────────────────────────────────────────────────────

  const FIGURES = [
    ["leak", "Leaks", "Would leak", "answered and labelled queries whose contexts were not enough"],
    ["false_refusal", "False refusals", "Would refuse falsely", "sufficient queries refused"],
    ["coverage", "Answered", "Would answer", "queries answered"],
    ["clarify_rate", "Asked back", "Would ask back", "queries asked back"],
    ["refuse_rate", "Refused", "Would refuse", "queries refused"],
    ["undecided", "Undecided", "Would raise", "queries raised as errors"],
  ].map(([name, is, would, what]) => [name, data.would ? would : is, what]);
  const start = data.thresholds;
  const certified = data.certified;
  const state = { ...start, figures: null };
  const atStart = shares(start.answer_at, start.refuse_below);
  const shown = FIGURES.filter(([name]) =>
    (data.labelled || (name !== "leak" && name !== "false_refusal")) &&
    (name !== "undecided" || atStart.undecided.events > 0));
  let redrawHistogram = () => {};
  let redrawCurve = () => {};

  function tile([name, title, what]) {
    const found = state.figures[name];
    const range = found.value === null ? "no such queries" : `95\u00a0%: ${percent(found.low).slice(0, -2)} to ${percent(found.high)}`;
    const box = html("div", {
      "data-figure": name, "data-value": String(found.value), "data-low": String(found.low),
      "data-high": String(found.high), "data-events": found.events, "data-n": found.n,
    });
    const counted = name === "leak" ? `${count(found.events)} of ${count(found.n)} ${data.would ? "to be answered" : "answered"}${data.all_labelled ? "" : " with a label"}`
      : name === "false_refusal" ? `${count(found.events)} of ${count(found.n)} sufficient`
        : `${count(found.events)} of ${queries(found.n)}`;
    box.append(html("dt", { title: what }, title), html("dd", { class: "value" }, percent(found.value)),
      html("dd", {}, counted));
    if (data.not_measured[name]) box.append(html("dd", { class: "not-measured" }, data.not_measured[name]));
    box.append(html("dd", {}, range));
    if (moved()) box.append(html("dd", {}, `before: ${percent(atStart[name].value)}`));
    return box;
  }
  const moved = () => state.answer_at !== start.answer_at || state.refuse_below !== start.refuse_below;

  // Where the two thresholds stand to the certified ones.
  function region() {
    if (!certified) return ["none", data.uncertified];
    const { answer_at: answer, refuse_below: refuse } = certified;
    if (state.answer_at < answer || state.refuse_below > refuse) {
      const why = [
        state.answer_at < answer ? `it answers below the certified ${cut(answer)}` : "",
        state.refuse_below > refuse ? `it refuses above the certified ${cut(refuse)}` : "",
      ].filter(Boolean).join(", and ");
      return ["outside", `Outside the certified region: ${why}. Nothing is promised of these thresholds.`];
    }
    const within = state.answer_at === answer ? "Within the certified region."
      : "Within the certified region, stricter than what was certified. The promise on false refusals " +
        `stands. That on leaks was tested at ${cut(answer)}; above it, it holds where a higher P(True) does ` +
        "not mean more leaks.";
    const more = [["leak", "leaks"], ["false_refusal", "false refusals"]].filter(([name]) =>
      state.figures[name].value !== null && state.figures[name].low > certified.most[name]);
    if (!more.length) return ["inside", within];
    const told = more.map(([name, words]) => `${words} of at least ${percent(state.figures[name].low)}, ` +
      `where ${percent(certified.most[name])} at most is promised`);
    return ["outside", `${within} But these queries show ${told.join(", and ")}: they were not drawn as the ` +
      "certified ones were, or things have changed since."];
  }

  const summary = () => {
    const told = shown.map(([name, title]) => `${title.toLowerCase()} ${percent(state.figures[name].value)}`);
    return `Answer at ${cut(state.answer_at)}, refuse below ${cut(state.refuse_below)}: ${told.join(", ")}. ${region()[1]}`;
  };

  let waiting = 0;
  // Once the hand rests: a screen reader is not told of every step on the way.
  function announce() {
    clearTimeout(waiting);
    waiting = setTimeout(() => { byId("status").textContent = summary(); }, 700);
  }

  const ENDS = [["answer_at", "answer-at"], ["refuse_below", "refuse-below"]];

  function show(typing) {
    state.figures = shares(state.answer_at, state.refuse_below);
    for (const [name, id] of ENDS) {
      byId(id).value = String(state[name]);
      byId(id).setAttribute("aria-valuetext", cut(state[name]));
      if (typing !== `${id}-number`) byId(`${id}-number`).value = cut(state[name]);
    }
    byId("figures").replaceChildren(...shown.map(tile));
    const [kind, words] = region();
    byId("region").className = kind;
    byId("region").textContent = words;
    redrawHistogram();
    redrawCurve();
  }

  // The one that is moved pushes the other along: refuse_below <= answer_at.
  function move(name, value, typing) {
    state[name] = value;
    if (state.refuse_below > state.answer_at) {
      state[name === "answer_at" ? "refuse_below" : "answer_at"] = value;
    }
    show(typing);
    announce();
  }

  function place(thresholds) {
    Object.assign(state, thresholds);
    show();
    announce();
  }

  // Where nothing was measured no threshold moves anything.
  function figuresOnly() {
    for (const id of ["controls", "region", "status", "histogram"]) byId(id).remove();
    byId("explorer-title").textContent = "What became of the queries";
    byId("explorer-title").dataset.short = "Routes";
    byId("explorer-words").textContent = "Nothing was measured, so there are no thresholds to move.";
    byId("interval-note").textContent = data.interval_note;
    byId("figures").replaceChildren(...shown.map(tile));
  }

  function explorer() {
    for (const [name, id] of ENDS) {
      byId(id).addEventListener("input", (event) => move(name, Number(event.target.value)));
      const number = byId(`${id}-number`);
      number.addEventListener("input", () => {
        if (number.value !== "" && number.validity.valid) move(name, Number(number.value), number.id);
      });
      number.addEventListener("change", () => show());
    }
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("reset").addEventListener("click", () => place(start));
    band("answer-at", certified && [certified.answer_at, 1]);
    band("refuse-below", certified && [0, certified.refuse_below]);
    if (certified) {
      byId("certified").hidden = false;
      byId("certified").addEventListener("click", () => place(certified));
    }
    byId("interval-note").textContent = data.interval_note;
    histogram(byId("histogram"));
    show();
  }

  function band(id, ends) {
    byId(`${id}-band`).hidden = !ends;
    byId(`${id}-hint`).hidden = !ends;
    if (!ends) return;
    const [from, to] = ends;
    const mark = byId(`${id}-band`).firstElementChild;
    mark.style.left = `${from * 100}%`;
    mark.style.right = `${(1 - to) * 100}%`;
    const words = from > 0 ? `${short(from)} and above` : `${short(to)} and below`;
    byId(`${id}-hint`).textContent = `Certified region (hatched): ${words}.`;
  }

  // ── Histogram of P(True) by label ────────────────────────────────────────────────────────────

  function histogram(place) {
    const bins = data.histogram;
    const labels = data.labelled
      ? [["sufficient", "bar-good", 1], ["insufficient", "bar-bad", 0]] : [];
    if (!data.all_labelled) labels.push(["without a label", "bar-none", 2]);
    place.append(html("h3", {}, "Queries by P(True)"));
    key(place, labels.map(([words, kind]) => [kind, words]));
    const title = "Histogram of P(True) by label, with both thresholds";
    const say = () => {
      const total = labels.map(([words, , at]) => `${count(bins.reduce((sum, bin) => sum + bin[at], 0))} ${words}`);
      return `Measured queries by tenth of P(True): ${total.join(", ")}. Refused below ` +
        `${cut(state.refuse_below)}, answered from ${cut(state.answer_at)} on. The table below has the counts.`;
    };
    redrawHistogram = chart(place, title, 260, say, (picture, width, height) => {
      const most = Math.max(1, ...bins.flat());
      const ticks = ticksTo(most);
      const at = frame(picture, width, height, {
        top: 44, left: 50,
        x: { tick: plain, title: "P(True)" },
        y: { ticks, most: ticks[ticks.length - 1], tick: count },
      });
      bins.forEach((bin, number) => {
        const cell = (at.area.right - at.area.left) / bins.length;
        const wide = (cell - 4) / labels.length;
        labels.forEach(([, kind, label], place) => {
          const top = at.y(bin[label] / ticks[ticks.length - 1]);
          if (bin[label]) {
            picture.append(svg("rect", { class: kind, x: at.x(number / bins.length) + 2 + place * wide, y: top, width: Math.max(1, wide - 1), height: at.area.bottom - top }));
          }
        });
      });
      cuts(picture, at);
    });
    place.append(folded("The histogram as a table", table({
      caption: "Measured queries by P(True)",
      heads: ["P(True)", ...labels.map(([words]) => words)],
      rows: bins.map((bin, at) => [`${at / 10} to ${(at + 1) / 10}`, ...labels.map(([, , label]) => count(bin[label]))]),
    })));
  }

  // Both thresholds as lines, with the names of the routes above.
  function cuts(picture, at) {
    const [from, to] = [at.x(state.refuse_below), at.x(state.answer_at)];
    for (const x of new Set([from, to])) {
      picture.append(svg("line", { class: "cut", x1: x, x2: x, y1: 30, y2: at.area.bottom }));
    }
    const zones = [["refuse", at.area.left, from], ["ask back", from, to], ["answer", to, at.area.right]];
    zones.forEach(([words, left, right], number) => {
      const narrow = right - left < 56;
      if (right - left < 1) return;
      const anchor = narrow && number !== 1 ? (number === 0 ? "start" : "end") : "middle";
      const x = anchor === "start" ? left : anchor === "end" ? right : (left + right) / 2;
      picture.append(svg("text", { class: "strong halo", x, y: number === 1 && narrow ? 12 : 25, "text-anchor": anchor }, words));
    });
  }

  // ── Risk and coverage ────────────────────────────────────────────────────────────────────────

  function curve(place) {
    const { points, words, overlap } = data.curve;
    place.append(...words.map((each) => paragraph(each)));
    if (!points.length) return;
    const entries = [["line", "this judge, at every threshold"], ["ring", "the thresholds chosen above"]];
    if (overlap) entries.push(["mark", "word overlap"]);
    key(place, entries);
    const say = () => `${words[0]} The chosen thresholds answer ${percent(state.figures.onCurve.coverage.value)} of ` +
      `these queries, with leaks in ${percent(state.figures.onCurve.risk.value)}.`;
    redrawCurve = chart(place, "Risk-coverage curve", 280, say, (picture, width, height) => {
      const { risk, coverage } = state.figures.onCurve;
      const highest = most([0.05, ...points.map(([, each]) => each), overlap ? overlap[1] : 0, risk.value ?? 0]);
      const ticks = ticksTo(highest);
      const top = ticks[ticks.length - 1];
      const at = frame(picture, width, height, {
        top: 26, left: 50,
        x: { tick: whole, title: "share of measured queries answered" },
        y: { ticks, most: top, tick: (tick) => `${Number((tick * 100).toFixed(2))} %` },
      });
      picture.append(svg("text", { class: "soft", x: 4, y: 12 }, "answered without enough evidence"));
      const path = points.map(([x, y], number) => `${number ? "L" : "M"}${at.x(x).toFixed(1)} ${at.y(y / top).toFixed(1)}`);
      picture.append(svg("path", { class: "line", d: path.join("") }));
      if (overlap) picture.append(diamond(at.x(overlap[0]), at.y(overlap[1] / top), "mark"));
      if (risk.value !== null) {
        picture.append(svg("circle", { class: "ring", cx: at.x(coverage.value), cy: at.y(risk.value / top), r: 6 }));
      }
    });
    const rows = thinned(points, 20).map(([x, y, cutoff]) => [short(cutoff), percent(x), percent(y)]);
    place.append(folded("The curve as a table", table({
      caption: "Measured queries answered from a threshold on, highest first",
      heads: ["P(True) from", "answered", "of them without enough evidence"], rows,
    })));
  }

  function thinned(list, most) {
    const step = Math.max(1, (list.length - 1) / (most - 1));
    const kept = new Set(Array.from({ length: Math.min(most, list.length) }, (_, at) => Math.round(at * step)));
    return list.filter((_, at) => kept.has(at));
  }

  // ── Reliability ──────────────────────────────────────────────────────────────────────────────

  function reliability(place) {
    const { bins, words } = data.reliability;
    place.append(...words.map((each) => paragraph(each)));
    if (!bins.length) return;
    key(place, [["dot", "queries of like P(True), with their number and a 95 % interval"], ["ideal", "a judge that means what it says"]]);
    const largest = most(bins.map((bin) => bin[0]));
    chart(place, "Reliability diagram", 320, () => words[0], (picture, width, height) => {
      const at = frame(picture, width, height, {
        top: 26, left: 50,
        x: { tick: plain, title: "P(True), as the judge says" },
        y: { ticks: [0, 0.25, 0.5, 0.75, 1], most: 1, tick: whole },
      });
      picture.append(svg("text", { class: "soft", x: 4, y: 12 }, "sufficient, as it turned out"));
      picture.append(svg("line", { class: "ideal", x1: at.x(0), y1: at.y(0), x2: at.x(1), y2: at.y(1) }));
      for (const [n, probability, sufficient, from, to] of bins) {
        const [x, y] = [at.x(probability), at.y(sufficient)];
        picture.append(
          svg("line", { class: "whisker", x1: x, x2: x, y1: at.y(from), y2: at.y(to) }),
          svg("circle", { class: "dot", cx: x, cy: y, r: (3 + 4 * Math.sqrt(n / largest)).toFixed(1) }));
      }
      numbers(picture, at, bins.map(([n, probability, sufficient]) => [count(n), at.x(probability), at.y(sufficient)]));
    });
    place.append(folded("The diagram as a table", table({
      caption: "Queries of like P(True)",
      heads: ["mean P(True)", "queries", "sufficient", "95 % interval (Wilson)"],
      rows: bins.map(([n, p, share, from, to]) => [short(p), count(n), percent(share), `${percent(from)} to ${percent(to)}`]),
    })));
  }

  // A number beside each dot, on whichever side there is room; the table has those that find none.
  function numbers(picture, at, dots) {
    const boxes = dots.map(([, x, y]) => [x - 9, y - 9, x + 9, y + 9]);
    for (const [words, x, y] of dots) {
      const wide = words.length * 7.5;
      const spots = [[x + 11, y + 4], [x - 11 - wide, y + 4], [x - wide / 2, y - 12], [x - wide / 2, y + 20]];
      for (const [left, base] of spots) {
        const box = [left, base - 10, left + wide, base + 1];
        const outside = box[0] < at.area.left || box[2] > at.area.right || box[3] > at.area.bottom;
        if (outside || boxes.some((other) => overlap(box, other))) continue;
        boxes.push(box);
        picture.append(svg("text", { class: "halo", x: left, y: base }, words));
        break;
      }
    }
  }
  const overlap = (one, two) =>
    one[0] < two[2] && two[0] < one[2] && one[1] < two[3] && two[1] < one[3];

  // ── Mistakes ─────────────────────────────────────────────────────────────────────────────────

  function mistake(one) {
    const facts = one.facts.flatMap((fact, at) => (at ? [" · ", said(fact)] : [said(fact)]));
    const item = html("li", {}, html("p", {}, html("strong", {}, said(one.name))), html("p", { class: "note" }, ...facts));
    if (one.question !== null) {
      // They scroll where they are long: by keyboard too.
      const box = (text, label) => html("p", {
        class: "said", dir: "auto", tabindex: "0", role: "group", "aria-label": label,
      }, text);
      item.append(box(one.question, "Question"));
      const passages = one.contexts.map((text, at) => box(text, `Passage ${at + 1}`));
      if (passages.length) item.append(folded(`${passages.length === 1 ? "1 passage" : `${passages.length} passages`} retrieved`, html("div", {}, ...passages)));
    }
    return item;
  }

  function mistakes(place) {
    place.append(...data.mistakes.words.map((each) => paragraph(each)));
    for (const { title, words, list } of data.mistakes.lists) {
      place.append(html("h3", {}, title), paragraph(words, "note"));
      const [first, more] = [list.slice(0, 5), list.slice(5)];
      if (first.length) place.append(html("ul", { class: "mistakes" }, ...first.map(mistake)));
      if (more.length) place.append(folded(`${more.length} more`, html("ul", { class: "mistakes" }, ...more.map(mistake))));
    }
  }

  // ── What was not measured ────────────────────────────────────────────────────────────────────

  function unmeasured(place) {
    const { words, kinds, days } = data.unmeasured;
    place.append(...words.map((each) => paragraph(each)));
    if (kinds.rows.length) place.append(table(kinds));
    if (!days) return;
    const { unit } = days;
    place.append(html("h3", {}, `By ${unit}`));
    const row = 46;
    const say = () => days.series.map(({ name, counts }) =>
      `${name}: ${count(counts.reduce((sum, each) => sum + each, 0))}, at most ${count(most(counts))} in a ${unit}`).join("; ") + ".";
    chart(place, `Queries by ${unit}: all, and those not measured by kind`, days.series.length * row + 24, say, (picture, width, height) => {
      const cell = (width - 16) / days.length;
      days.series.forEach(({ name, counts }, number) => {
        const bottom = (number + 1) * row;
        const largest = Math.max(1, most(counts));
        picture.append(
          svg("text", { class: "strong", x: 8, y: bottom - row + 15 }, name),
          svg("text", { class: "soft", x: width - 8, y: bottom - row + 15, "text-anchor": "end" }, `at most ${count(most(counts))}`),
          svg("line", { class: "axis", x1: 8, x2: width - 8, y1: bottom, y2: bottom }));
        counts.forEach((each, bin) => {
          const high = each / largest * (row - 22);
          if (each) picture.append(svg("rect", { class: number ? "bar-bad" : "bar-good", x: 8 + days.at[bin] * cell, y: bottom - high, width: Math.max(1, Math.min(cell - 1, 28)), height: high }));
        });
      });
      picture.append(svg("text", { class: "soft", x: 8, y: height - 6 }, days.dates[0]));
      if (days.dates.length > 1) {
        picture.append(svg("text", { class: "soft", x: width - 8, y: height - 6, "text-anchor": "end" }, days.dates[days.dates.length - 1]));
      }
    });
    place.append(folded(`The ${unit}s as a table`, table({
      caption: `Queries by ${unit} (UTC)${unit === "week" ? ", each from the Monday named" : ""}; ${unit}s without any are left out`,
      heads: [unit, ...days.series.map((each) => each.name)],
      rows: days.dates.map((date, at) => [date, ...days.series.map((each) => count(each.counts[at]))]),
    })));
  }

  // ── The page ─────────────────────────────────────────────────────────────────────────────────

  function contents() {
    for (const heading of document.querySelectorAll("main h2")) {
      const section = heading.closest("section");
      byId("contents").append(html("li", {}, html("a", { href: `#${section.id}` }, heading.dataset.short)));
    }
  }

  byId("report").hidden = false;
  patterns();
  byId("title").append(said(data.title));
  byId("subtitle").append(said(data.subtitle));
  byId("alerts").append(...data.alerts.map((each) => paragraph(each, "alert")));
  byId("headline").append(...data.headline.map((each, at) => paragraph(each, at ? "" : "headline")));
  if (data.asked_back) byId("asked-back").append(table(data.asked_back));
  byId("definitions").append(...data.definitions.flatMap(([term, meaning]) => [html("dt", {}, term), html("dd", {}, meaning)]));
  byId("next").append(html("strong", {}, "Next: "), said(data.next));
  byId("certificate").append(...data.certificate.map((each) => paragraph(each)));
  state.figures = atStart;
  if (data.labelled && data.measured) {
    curve(byId("curve"));
    reliability(byId("reliability"));
  } else {
    for (const id of ["curve", "reliability"]) byId(id).remove();
  }
  if (data.labelled) {
    mistakes(byId("mistakes"));
    byId("baselines").append(...data.baselines.words.map((each) => paragraph(each)), table(data.baselines.table));
  } else {
    for (const id of ["mistakes", "baselines"]) byId(id).remove();
  }
  if (data.measured) explorer();
  else figuresOnly();
  unmeasured(byId("unmeasured"));
  byId("about").append(html("dl", { class: "facts" },
    ...data.about.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, said(value))])));
  contents();
  let width = 0;
  new ResizeObserver(() => {
    if (width === document.documentElement.clientWidth) return;
    width = document.documentElement.clientWidth;
    for (const redraw of drawn) redraw();
  }).observe(document.documentElement);
  // On paper nothing can be opened.
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
})();
