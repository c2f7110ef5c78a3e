// The stored choice of light or dark, sheets, and parts of pages that follow the catalogue.
(() => {
  "use strict";
  const root = document.documentElement;
  const stored = localStorage.getItem("bascule-theme");
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const isDark = () =>
      (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      localStorage.setItem("bascule-theme", root.dataset.theme);
    });
    // Escape closes an opened sheet, and one sheet is open at a time.
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      for (const one of document.querySelectorAll("details.confirm[open]")) {
        one.open = false;
        one.querySelector("summary").focus();
      }
    });
    document.addEventListener("toggle", (event) => {
      if (!event.target.matches("details.confirm") || !event.target.open) return;
      for (const one of document.querySelectorAll("details.confirm[open]")) {
        if (one !== event.target) one.open = false;
      }
    }, true);
    followChanges();
    setInterval(ageTimes, 30_000);
  });

  // Times say how long ago they are on a page that stays open too; see `words.ago`.
  function ageTimes() {
    for (const one of document.querySelectorAll("time[datetime]")) {
      const seconds = (Date.now() - Date.parse(one.dateTime)) / 1000;
      const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
      const [unit, size] = units.find(([, each]) => Math.abs(seconds) >= 2 * each) ?? units[3];
      const said = `${Math.round(Math.abs(seconds) / size)} ${unit}`;
      if (Math.abs(seconds) < 10) one.textContent = "now";
      else one.textContent = seconds > 0 ? `${said} ago` : `in ${said}`;
    }
  }

  // Parts with data-live ask again after each change, unless a person is at work in them.
  function followChanges() {
    const parts = () => document.querySelectorAll("[data-live]");
    if (!parts().length) return;
    const refresh = () => {
      for (const one of parts()) {
        const isUsed = one.contains(document.activeElement) || one.querySelector("details[open]");
        if (!isUsed) htmx.trigger(one, "changed");
      }
    };
    let source = null;
    const follow = () => {
      if (document.hidden) {
        source?.close();
        source = null;
      } else if (source === null) {
        source = new EventSource("/changes");
        source.addEventListener("changed", refresh);
      }
    };
    document.addEventListener("visibilitychange", () => {
      follow();
      if (!document.hidden) refresh();
    });
    follow();
  }
})();
