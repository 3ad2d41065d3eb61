// A study as what a grid shows: its patches, its pairs, their scores and thumbnails.
import { ask, at, element, fixed, percent } from "./common.js";

const MARKS = { found: "●", all: "◉", some: "◐", none: "" };

export class Study {
  constructor(run) {
    this.run = run;
    this.effects = {};
  }

  async load() {
    Object.assign(this, await ask("/api/study", { run: this.run }));
    this.score ??= this.rank;
    return this;
  }

  async loadEffects() {
    const { effects } = await ask("/api/study/effects", { run: this.run });
    this.effects = effects;
  }

  // one of the sources of a grid whose rows are numbers of pairs, and whose columns are patches
  source(side, pair = (row) => row, trial = (column) => column.row) {
    const rows = (columns) => columns.map(trial).join(",");
    return {
      values: async (pairs, columns) =>
        (
          await ask("/api/study/cells", {
            run: this.run,
            score: this.score,
            trials: rows(columns),
            pairs: pairs.map(pair).join(","),
          })
        ).cells,
      strip: (row, columns, mask) => this.strip(pair(row), rows(columns), side(), mask),
    };
  }

  // what has come since is another address, so that a browser may keep what it has
  strip(pair, trials, side, mask = "1") {
    return at("/api/study/strip", {
      run: this.run,
      pair,
      trials,
      side: Math.min(192, Math.round(side * devicePixelRatio)),
      v: `${this.made}-${mask}`,
    });
  }

  picture(trial, pair) {
    return at("/api/study/picture", { run: this.run, trials: trial, pair, v: this.made });
  }

  words(pair) {
    const { source_word, target_word } = this.pairs[pair];
    return `${source_word} → ${target_word}`;
  }

  // a column's head: how far the patch goes from source to target, with its interval
  head(column, note = "") {
    const found = this.effects[column.label];
    const [mean, low, high] = found?.way ?? [null, null, null];
    const level = (value) => `${100 * Math.min(1, Math.max(0, value ?? 0))}%`;
    const bar = element("div", { class: `bar ${found?.overlap ?? "none"}` }),
      whisker = element("div", { class: "whisker" });
    bar.hidden = mean == null;
    bar.style.height = level(mean);
    [whisker.style.bottom, whisker.style.height] = [level(low), `calc(${level(high)} - ${level(low)})`];
    const said = found
      ? `${column.label}: ${percent(mean)} of the way to the target, 95 % interval ${percent(low)} to ${percent(high)}, ${found.pairs} pairs, SSIM ${fixed(found.ssim)}${found.overlap === "found" ? ", found" : ""}${found.planted ? ", planted" : ""}`
      : `${column.label}: no answer yet`;
    const marks = found ? `${MARKS[found.overlap]}${found.planted ? "◆" : ""}` : "";
    return element(
      "div",
      { title: `${said}\n${column.path}`, "aria-label": said },
      element("div", { class: "chart" }, bar, low != null ? whisker : null),
      element("span", { class: "label" }, note, column.label, element("span", { class: "marks" }, marks)),
    );
  }

  ordered(by) {
    if (by !== "effect") return this.columns;
    const way = (column) => this.effects[column.label]?.way[0] ?? -Infinity;
    return [...this.columns].sort((one, other) => way(other) - way(one));
  }

  // numbers of the pairs whose words or prompts have all of these words
  matching(text) {
    const words = text.toLowerCase().split(/\s+/);
    return this.pairs.flatMap((pair, index) => {
      const has = `${index} ${pair.source} ${pair.target} ${pair.source_word} ${pair.target_word}`.toLowerCase();
      return words.every((word) => has.includes(word)) ? [index] : [];
    });
  }
}
