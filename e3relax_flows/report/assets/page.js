"use strict";
// What all pages share: the content, packed parts, the theme.
const e3 = { content: JSON.parse(document.getElementById("content").textContent), onTheme: [] };

// An element with attributes and children; texts never become markup.
e3.make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

e3.unpackText = async (id) => {
  const packed = await fetch(`data:application/octet-stream;base64,${document.getElementById(id).textContent}`);
  return new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).text();
};

e3.unpack = async (id) => JSON.parse(await e3.unpackText(id));

e3.isTooOld = typeof DecompressionStream === "undefined";
if (e3.isTooOld) {
  const words = "This browser is older than 2023: figures and structures cannot be shown.";
  document.getElementById("main").prepend(e3.make("p", { class: "notice" }, words));
}

e3.loadPlotly = () => {
  e3.plotly ??= e3.unpackText("plotly").then((source) => {
    document.head.append(e3.make("script", {}, source));
    return window.Plotly;
  });
  return e3.plotly;
};

e3.color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

{
  const order = ["auto", "light", "dark"];
  const button = document.getElementById("theme");
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    e3.onTheme.forEach((redraw) => redraw());
  };
  let kept = null;
  try {
    kept = localStorage.getItem("e3relax-theme");
  } catch {
    // pages from disk may have no storage
  }
  show(order.includes(kept) ? kept : "auto");
  button.addEventListener("click", () => {
    const theme = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    try {
      localStorage.setItem("e3relax-theme", theme);
    } catch {
      // as above
    }
    show(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => e3.onTheme.forEach((redraw) => redraw()));
}
