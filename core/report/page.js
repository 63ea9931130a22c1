// The report's page: tabs, charts drawn when they are first seen, and the sample browser.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const style = data.style;
  const narrow = () => window.innerWidth < 600;
  document.documentElement.classList.add("script");

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const look = (label) => {
    const at = Math.max(0, data.labels.indexOf(label));
    const pick = (list) => list[at % list.length];
    const round = Math.floor(at / style.colors.length);
    return {
      color: pick(style.colors),
      dash: style.dashes[(at + round) % style.dashes.length],
      marker: style.markers[(at + round) % style.markers.length],
    };
  };
  const figures = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "—";
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(3)));
  };

  // Charts.
  function layout(x, y) {
    const line = css("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true,
      exponentformat: "power" };
    return {
      margin: { l: 48, r: 12, t: 8, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: css("--fg"), size: 12, family: "system-ui, sans-serif" },
      showlegend: false,
      hovermode: "closest",
      dragmode: narrow() ? false : "zoom",
      xaxis: { ...axis, title: { text: x, standoff: 8 } },
      yaxis: { ...axis, title: { text: y, standoff: 8 } },
    };
  }
  const config = { responsive: true, displayModeBar: false, displaylogo: false };
  const drawn = new Map();
  const hidden = new Set();

  function draw(node, traces, frame) {
    const seen = () => traces().filter((trace) => !hidden.has(trace.name));
    drawn.set(node, () => Plotly.react(node, seen(), frame(), config));
    drawn.get(node)();
  }
  const shifted = (at, of, label) => at + (of > 1 ? (label / (of - 1) - 0.5) * 0.55 : 0);

  function pointsChart(node, chart) {
    const labels = [...new Set(chart.points.map((p) => p.label))];
    const traces = () =>
      labels.map((label, index) => {
        const mine = chart.points.filter((p) => p.label === label);
        const { color, marker } = look(label);
        return {
          type: "scatter", mode: "markers", name: label,
          x: mine.map((p) => shifted(chart.categories.indexOf(p.category), labels.length, index)),
          y: mine.map((p) => p.y),
          error_y: {
            type: "data", symmetric: false, color, thickness: 1.5, width: 3,
            array: mine.map((p) => p.high - p.y), arrayminus: mine.map((p) => p.y - p.low),
          },
          marker: { color, symbol: marker, size: 9 },
          text: mine.map((p) => `${label}, ${p.category}: ${figures(p.y)}`),
          hoverinfo: "text",
        };
      });
    draw(node, traces, () => {
      const frame = layout(chart.x, chart.y);
      frame.xaxis.tickvals = chart.categories.map((_, at) => at);
      frame.xaxis.ticktext = chart.categories;
      frame.xaxis.range = [-0.6, chart.categories.length - 0.4];
      frame.xaxis.showgrid = false;
      frame.xaxis.zeroline = false;
      frame.yaxis.rangemode = "tozero";
      return frame;
    });
  }

  function linesChart(node, chart) {
    const labels = [...new Set(chart.points.map((p) => p.label))];
    const traces = () =>
      labels.map((label) => {
        const mine = chart.points.filter((p) => p.label === label);
        const { color, dash, marker } = look(label);
        return {
          type: "scatter", mode: "lines+markers", name: label,
          x: mine.map((p) => p.category), y: mine.map((p) => p.y),
          error_y: {
            type: "data", symmetric: false, color, thickness: 1, width: 2,
            array: mine.map((p) => p.high - p.y), arrayminus: mine.map((p) => p.y - p.low),
          },
          line: { color, dash, width: 2 }, marker: { color, symbol: marker, size: 8 },
          text: mine.map((p) => `${label}, k = ${p.category}: ${figures(p.y)}`),
          hoverinfo: "text",
        };
      });
    draw(node, traces, () => {
      const frame = layout(chart.x, chart.y);
      frame.xaxis.type = "log";
      frame.xaxis.tickvals = chart.categories;
      frame.xaxis.ticktext = chart.categories.map(String);
      return frame;
    });
  }

  // Learning curves: the mean over the seeds that are there, at the steps that all of them have;
  // and, of evaluations, the mean of their ends where these are at different steps.
  function series(metric, axis) {
    const out = [];
    for (const label of data.labels) {
      const all = data.curves.runs
        .filter((run) => run.label === label)
        .map((run) => ({ run, part: metric in run.evaluation.y ? run.evaluation : run.train }))
        .filter(({ part }) => metric in part.y && part.x[axis] && part.x.steps)
        .map(({ run, part }) => ({
          seed: run.seed, finished: run.finished, steps: part.x.steps,
          x: part.x[axis], y: part.y[metric], evaluated: part === run.evaluation,
        }));
      if (!all.length) continue;
      const done = all.filter((one) => one.finished);
      const used = done.length ? done : all;
      const places = used.map((one) => new Map(one.steps.map((step, at) => [step, at])));
      const common = used[0].steps.filter((step) =>
        used.every((one, i) => {
          const at = places[i].get(step);
          return at !== undefined && one.y[at] !== null && one.x[at] !== null;
        }),
      );
      const over = (name, at) =>
        used.reduce((sum, one, i) => sum + one[name][at(one, i)], 0) / used.length;
      const end = (one) => one.steps.length - 1;
      const ends = used.every((one) =>
        one.evaluated && one.finished && one.steps.length > 0
          && one.y[end(one)] !== null && one.x[end(one)] !== null);
      const apart = new Set(used.map((one) => one.steps[end(one)])).size > 1;
      const mean = (name) => [
        ...common.map((step) => over(name, (_, i) => places[i].get(step))),
        ...(ends && apart ? [over(name, end)] : []),
      ];
      out.push({ label, all, seeds: used.length, x: mean("x"), y: mean("y") });
    }
    return out;
  }

  function curveTable(found, metric, axis) {
    const table = make("table", { class: "numbers" });
    table.append(make("caption", {}, `${metric} by ${axis}: mean over seeds (budget in brackets)`));
    for (const one of found) {
      const count = Math.min(6, one.x.length);
      const picks = [...Array(count).keys()].map((i) =>
        count > 1 ? Math.round((i * (one.x.length - 1)) / (count - 1)) : 0);
      const row = make("tr", {}, make("th", { scope: "row" }, one.label));
      for (const at of picks)
        row.append(make("td", {}, `${figures(one.y[at])} (${figures(one.x[at])})`));
      table.append(row);
    }
    return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": metric }, table);
  }

  function curveChart(figure, metric, axis, singles) {
    const node = figure.querySelector(".plot");
    const found = series(metric, axis);
    const ends = found
      .filter((one) => one.y.length)
      .map((one) => `${one.label} ends at ${figures(one.y[one.y.length - 1])}`);
    node.setAttribute("aria-label", `Chart of ${metric} over ${axis}. ${ends.join("; ")}.`);
    figure.querySelector("details").replaceChildren(
      make("summary", {}, "As a table"), curveTable(found, metric, axis));
    const traces = () =>
      found.flatMap((one) => {
        const { color, dash, marker } = look(one.label);
        const evaluated = one.all[0].evaluated;
        const thin = one.all
          .filter((run) => !run.finished || (singles && one.all.length > 1))
          .map((run) => ({
            type: "scatter", mode: "lines", name: one.label, x: run.x, y: run.y, opacity: 0.45,
            line: { color, width: 1, dash: run.finished ? "solid" : "dot" },
            text: run.x.map(() => `${one.label}, seed ${run.seed}${run.finished ? "" : ", not finished"}`),
            hoverinfo: "text+x+y",
          }));
        const mean = {
          type: "scatter", mode: evaluated ? "lines+markers" : "lines", name: one.label,
          x: one.x, y: one.y, line: { color, dash, width: 2 },
          marker: { color, symbol: marker, size: 7 },
          text: one.x.map(() => `${one.label}, mean of ${one.seeds}`), hoverinfo: "text+x+y",
        };
        return [...thin, mean];
      });
    draw(node, traces, () => layout(axis, ""));
  }

  function curvesPanel(panel) {
    const axis = panel.querySelector("#axis");
    const singles = panel.querySelector("#singles");
    const more = panel.querySelector("#more");
    const update = () => {
      for (const figure of panel.querySelectorAll("figure[data-metric]"))
        curveChart(figure, figure.dataset.metric, axis.value, singles.checked);
      const free = panel.querySelector("figure[data-free]");
      if (free && more.value) curveChart(free, more.value, axis.value, singles.checked);
    };
    for (const control of [axis, singles, more]) control.addEventListener("change", update);
    update();
  }

  // A click hides a method in all charts, or shows it again; a double click shows it alone.
  function hide(labels) {
    hidden.clear();
    for (const label of labels) hidden.add(label);
    for (const key of document.querySelectorAll(".legend button"))
      key.setAttribute("aria-pressed", !hidden.has(key.dataset.label));
    for (const again of drawn.values()) again();
  }
  const without = (label) => data.labels.filter((other) => other !== label);
  const toggle = (label) =>
    hide(data.labels.filter((other) => hidden.has(other) !== (other === label)));
  const isolate = (label) =>
    hide(!hidden.has(label) && hidden.size === data.labels.length - 1 ? [] : without(label));

  function legend(node) {
    for (const label of data.labels) {
      const { color, dash, marker } = look(label);
      const shapes = {
        circle: "M18 4a4 4 0 1 0 .01 0z", square: "M14 4h8v8h-8z", diamond: "M18 3l5 5-5 5-5-5z",
        "triangle-up": "M18 3l5 9h-10z", "triangle-down": "M18 13l5-9h-10z",
        star: "M18 2l1.8 4h4.2l-3.3 2.8 1.3 4.2-4-2.5-4 2.5 1.3-4.2-3.3-2.8h4.2z",
        hexagon: "M14 4.5l4-2 4 2v6l-4 2-4-2z",
      };
      const gaps = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4" };
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("width", "36");
      svg.setAttribute("height", "16");
      svg.setAttribute("aria-hidden", "true");
      for (const [d, fill] of [["M0 8h36", "none"], [shapes[marker], color]]) {
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", d);
        path.setAttribute("fill", fill);
        path.setAttribute("stroke", color);
        path.setAttribute("stroke-width", "2");
        if (fill === "none") path.setAttribute("stroke-dasharray", gaps[dash]);
        svg.append(path);
      }
      const said = label === data.baseline ? `${label} (baseline)` : label;
      const key = make("button", {
        type: "button", "data-label": label, "aria-pressed": String(!hidden.has(label)),
        title: "Hides or shows it; a double click shows it alone",
      }, svg, make("span", {}, said));
      key.addEventListener("click", () => toggle(label));
      key.addEventListener("dblclick", () => isolate(label));
      node.append(make("li", {}, key));
    }
  }

  // The sample browser. Texts of models are put in as text, never as markup.
  const right = (answer) => answer.success !== null && answer.success !== undefined && answer.success >= 0.5;
  const solved = (method) => method.answers.length > 0 && right(method.answers[0]);
  const filters = {
    all: () => true,
    disagree: (item) => new Set(item.methods.map(solved)).size > 1,
    none: (item) => item.methods.every((method) => !solved(method)),
    every: (item) => item.methods.every(solved),
    critique: (item) => item.methods.some((m) => m.answers.some((a) => a.critique && a.critique.length)),
  };

  function answerNode(answer) {
    const said = [answer.kind];
    if (answer.reward !== null && answer.reward !== undefined) said.push(`reward ${figures(answer.reward)}`);
    if (answer.tokens !== null && answer.tokens !== undefined) said.push(`${answer.tokens} tokens`);
    if (answer.truncated) said.push("truncated");
    const node = make("div", { class: "answer" });
    const tag = make("div", { class: "tag" });
    if (answer.success !== null && answer.success !== undefined)
      tag.append(make("span", { class: right(answer) ? "right" : "wrong" }, right(answer) ? "✓ right" : "✗ wrong"), " · ");
    tag.append(said.join(" · "));
    node.append(tag, make("pre", {}, answer.text || "(empty)"));
    for (const text of answer.critique || []) node.append(make("pre", { class: "critique" }, text));
    return node;
  }

  function browser(node) {
    const source = data.browsers[node.dataset.browser];
    const choice = node.querySelector("select.item");
    const filter = node.querySelector("select.filter");
    const search = node.querySelector("input");
    const place = node.querySelector(".place");
    let shown = [];
    const show = () => {
      const item = shown[choice.selectedIndex];
      place.replaceChildren();
      node.querySelector(".count").textContent = `${shown.length} of ${source.length}`;
      if (!item) return place.append(make("p", { class: "muted" }, "Nothing matches."));
      const facts = Object.entries(item.parts).map(([key, value]) => `${key} ${value}`);
      if (item.bin) facts.push(`base difficulty: ${item.bin}`);
      const question = make("div", { class: "question" }, make("div", { class: "tag" }, [item.id, ...facts].join(" · ")));
      question.append(make("pre", {}, item.question));
      if (item.answer !== null) question.append(make("div", { class: "tag" }, "reference answer"), make("pre", {}, item.answer));
      const cards = make("div", { class: "cards" });
      for (const method of item.methods) {
        const card = make("article", { class: "card" }, make("h3", {}, method.label, make("span", { class: "tag" }, ` seed ${method.seed}`)));
        const [first, ...others] = method.answers.map(answerNode);
        card.append(first);
        if (others.length) {
          const marks = method.answers.slice(1).map((a) => (right(a) ? "✓" : "✗")).join(" ");
          const rest = make("details", {}, make("summary", {}, `${others.length} more: ${marks}`), ...others);
          rest.open = node.dataset.open === "yes" && !narrow();
          card.append(rest);
        }
        cards.append(card);
      }
      place.append(question, cards);
    };
    const fill = () => {
      const words = search.value.toLowerCase();
      shown = source.filter((item) => filters[filter.value](item) &&
        (!words || JSON.stringify(item).toLowerCase().includes(words)));
      choice.replaceChildren(...shown.map((item) => {
        const text = `${item.id}: ${item.question}`.replace(/\s+/g, " ");
        return make("option", {}, text.length > 70 ? text.slice(0, 69) + "…" : text);
      }));
      show();
    };
    const move = (by) => {
      if (!shown.length) return;
      choice.selectedIndex = (choice.selectedIndex + by + shown.length) % shown.length;
      show();
    };
    node.querySelector(".before").addEventListener("click", () => move(-1));
    node.querySelector(".after").addEventListener("click", () => move(1));
    choice.addEventListener("change", show);
    filter.addEventListener("change", fill);
    search.addEventListener("input", fill);
    fill();
  }

  // Tabs: buttons in a list, arrow keys move, the address remembers; panels are drawn when opened.
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const opened = new Set();
  function open(tab, focus) {
    for (const other of tabs) {
      const mine = other === tab;
      other.setAttribute("aria-selected", mine);
      other.tabIndex = mine ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).classList.toggle("open", mine);
    }
    const panel = document.getElementById(tab.getAttribute("aria-controls"));
    if (focus) tab.focus();
    const bar = tab.parentElement;
    bar.scrollLeft = tab.offsetLeft - bar.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
    if (opened.has(panel)) {
      panel.querySelectorAll(".js-plotly-plot").forEach((node) => Plotly.Plots.resize(node));
      return;
    }
    opened.add(panel);
    panel.querySelectorAll(".legend").forEach(legend);
    for (const figure of panel.querySelectorAll("figure[data-chart]")) {
      const chart = data.charts[figure.dataset.chart];
      (chart.kind === "lines" ? linesChart : pointsChart)(figure.querySelector(".plot"), chart);
    }
    if (panel.querySelector("#axis")) curvesPanel(panel);
    panel.querySelectorAll("[data-browser]").forEach(browser);
  }
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => {
      open(tab);
      history.replaceState(null, "", "#" + tab.getAttribute("aria-controls"));
    });
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by) open(tabs[(at + by + tabs.length) % tabs.length], true);
    });
  });
  const named = tabs.find((tab) => "#" + tab.getAttribute("aria-controls") === location.hash);
  open(named || tabs[0]);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const again of drawn.values()) again();
  });
})();
