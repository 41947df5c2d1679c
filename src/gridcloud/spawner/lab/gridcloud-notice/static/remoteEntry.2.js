// A module-federation container as JupyterLab 4 loads it, written by hand.
// Asks the hub once a minute when this session ends and what else it warns of, tells so in time, and once more a minute before.
(() => {
  "use strict";

  const EVERY = 60_000; // ms between two questions
  const LAST = 60; // s before the end, at the last word

  /** The configuration of the page that the server made. */
  const page = JSON.parse(document.getElementById("jupyter-config-data").textContent);

  /** Return what the hub says of this session, or null: it may be away, or have nothing to say. */
  async function ask() {
    try {
      const url = new URL(`${page.hubPrefix}gridcloud/notes`, window.location.href);
      const answer = await fetch(url, {
        credentials: "same-origin",
        redirect: "error",
        signal: AbortSignal.timeout(EVERY / 2),
      });
      if (!answer.ok) {
        return null;
      }
      const { sessions } = await answer.json();
      return sessions.find((session) => session.path === page.baseUrl) ?? null;
    } catch {
      return null;
    }
  }

  /** Return in words when the session ends: plain text, made of numbers only. */
  function words(left, end) {
    const minutes = Math.max(1, Math.round(left / 60));
    const time = end.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    return `Your session ends in ${minutes} minute${minutes > 1 ? "s" : ""}, at ${time}. Save your work.`;
  }

  function activate(app) {
    let told = ""; // the end that was told of already
    let noticed = ""; // the notice that was told of already
    let lastWord; // the timer of the last word

    function show(message) {
      const options = { autoClose: false };
      app.commands.execute("apputils:notify", { message, type: "warning", options }).catch(() => {}); // a JupyterLab without notifications
    }

    function tell(left, end) {
      show(words(left, end));
    }

    async function look() {
      const session = await ask();
      if (session === null) {
        return;
      }
      const notice = session.notice ?? "";
      if (notice && notice !== noticed) {
        show(notice);
      }
      noticed = notice;
      if (session.left === null) {
        return;
      }
      const end = new Date(Date.now() + session.left * 1000); // by this clock, which may be wrong
      clearTimeout(lastWord);
      if (session.left > LAST && session.left < LAST + (2 * EVERY) / 1000) {
        lastWord = setTimeout(tell, (session.left - LAST) * 1000, LAST, end);
      }
      if (session.warn && told !== session.ends) {
        told = session.ends;
        tell(session.left, end);
      }
    }

    app.restored.then(look);
    setInterval(look, EVERY);
  }

  const plugin = { id: "gridcloud-notice:plugin", autoStart: true, activate };
  const modules = { "./extension": { __esModule: true, default: plugin } };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["gridcloud-notice"] = {
    init() {},
    async get(name) {
      if (!(name in modules)) {
        throw new Error(`gridcloud-notice has no ${name}`);
      }
      return () => modules[name];
    },
  };
})();
