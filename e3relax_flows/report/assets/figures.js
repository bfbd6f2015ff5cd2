"use strict";
// Draws the figures when they come into view, in the colours of the page.
{
  const drawn = new Set();
  const isPlain = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  const paint = (value) => {
    if (typeof value === "string") return value.startsWith("@") ? e3.color(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map(paint);
    if (!isPlain(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, paint(item)]));
  };

  const paintTrace = (trace) => {
    const changed = { ...trace };
    for (const key of ["marker", "line", "error_x", "error_y", "textfont", "colorscale", "fillcolor"]) {
      if (key in changed) changed[key] = paint(changed[key]);
    }
    return changed;
  };

  const merge = (base, more) => {
    const merged = { ...base };
    for (const [key, value] of Object.entries(more)) {
      merged[key] = isPlain(value) && isPlain(merged[key]) ? merge(merged[key], value) : value;
    }
    return merged;
  };

  const layoutFor = (layout) => {
    const axis = {
      gridcolor: e3.color("line"), zerolinecolor: e3.color("line"), linecolor: e3.color("grey"), automargin: true,
      title: { standoff: 8 },
    };
    const base = {
      font: { family: "system-ui, sans-serif", size: 13, color: e3.color("ink") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 55, r: 12, t: 8, b: 45 },
      legend: { orientation: "h", y: -0.2, x: 0 },
      hoverlabel: { bgcolor: e3.color("raised"), bordercolor: e3.color("line"), font: { color: e3.color("ink") } },
      xaxis: axis, yaxis: axis, hovermode: "closest",
    };
    return merge(base, paint(layout));
  };

  const draw = async (place) => {
    const figure = e3.content.figures[place.dataset.figure];
    const Plotly = await e3.loadPlotly();
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    await Plotly.react(place, figure.data.map(paintTrace), layoutFor(figure.layout), options);
    if (drawn.has(place)) return;
    if (!drawn.size) performance.mark("first-figure");
    drawn.add(place);
    place.on("plotly_click", (event) => {
      const row = event.points[0].customdata;
      if (Number.isInteger(row) && e3.openCandidate) e3.openCandidate(row);
    });
  };

  if (!e3.isTooOld) {
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((one) => one.isIntersecting)) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }, { rootMargin: "200px" });
    // texts and the list are painted first; plotly takes its time
    addEventListener("load", () => setTimeout(() =>
      document.querySelectorAll("[data-figure]").forEach((place) => watcher.observe(place)), 50));
    e3.onTheme.push(() => drawn.forEach(draw));
    addEventListener("beforeprint", () => document.querySelectorAll("[data-figure]").forEach(draw));
  }
}
