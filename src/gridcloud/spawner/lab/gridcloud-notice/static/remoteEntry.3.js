// A module-federation container as JupyterLab 4 loads it, written by hand.
// Asks the hub once a minute when this session ends and what else it warns of; tells so in time, with a button to extend
// it, and once more a minute before; and saves what is not saved when the session is about to end.
(() => {
  "use strict";

  const EVERY = 60_000; // ms between two questions
  const LAST = 60; // s before the end, at the last word
  const EXTEND = "gridcloud-notice:extend"; // the button's command

  // How whoever ends the session asks us to save, and we answer: see gridcloud/sessions/saving.py.
  const EVENTS = "https://events.jupyter.org/jupyter_server/contents_service/v1";
  const SAVE = /^\.gridcloud\/save\/[0-9a-f]{16}$/;

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

  /** Ask for more time than until the end that was told of. Returns the new end, null for none, or throws the reason. */
  async function extend(after) {
    const user = `users/${encodeURIComponent(page.hubServerUser)}`;
    const server = page.hubServerName ? `servers/${encodeURIComponent(page.hubServerName)}` : "server";
    const url = new URL(`${page.hubPrefix}api/gridcloud/${user}/${server}/extend`, window.location.href);
    let answer;
    try {
      answer = await fetch(url, {
        method: "POST",
        credentials: "omit", // the token says who asks; a cookie could be sent by any page
        headers: { Authorization: `token ${page.token}`, "Content-Type": "application/json" },
        body: JSON.stringify({ after }),
        redirect: "error",
        signal: AbortSignal.timeout(EVERY),
      });
    } catch {
      throw new Error("The hub does not answer now. Try again in a moment, and save your work.");
    }
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      throw new Error(said.message || `The hub refused it (${answer.status}).`);
    }
    return said.ends;
  }

  function clock(end) {
    return end.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  }

  /** Return in words when the session ends: plain text, made of numbers only. */
  function words(left, end) {
    const minutes = Math.max(1, Math.round(left / 60));
    return `Your session ends in ${minutes} minute${minutes > 1 ? "s" : ""}, at ${clock(end)}. Save your work.`;
  }

  /** Show a reason of any length, as text: JupyterLab cuts what it shows in its corner. */
  function explain(title, reason) {
    const dialog = document.createElement("dialog");
    dialog.style.cssText =
      "max-width: 32em; padding: 1.5em; border: 1px solid var(--jp-border-color1); border-radius: 4px;" +
      "background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); font-family: var(--jp-ui-font-family)";
    const close = document.createElement("button");
    close.className = "jp-mod-accept jp-mod-styled";
    close.textContent = "OK";
    close.addEventListener("click", () => dialog.close());
    for (const [name, text] of [["h3", title], ["p", reason]]) {
      const part = document.createElement(name);
      part.textContent = text;
      dialog.append(part);
    }
    dialog.append(close);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  /** Save every open document that has changes; return how many were saved, and how many could not be. */
  async function save(app) {
    const saving = new Map(); // by document: it may be open twice
    for (const widget of app.shell.widgets("main")) {
      const context = widget.context;
      if (context?.model?.dirty && context.contentsModel?.writable !== false && !saving.has(context)) {
        saving.set(context, Promise.resolve(context.save()));
      }
    }
    const done = await Promise.allSettled(saving.values());
    const saved = [...saving.keys()].filter((context, at) => done[at].status === "fulfilled" && !context.model.dirty);
    return { saved: saved.length, failed: saving.size - saved.length };
  }

  /** Save when whoever ends the session asks, and say how that went. */
  function saveWhenAsked(app) {
    const events = app.serviceManager.events;
    if (!events?.stream) {
      return; // a JupyterLab without events
    }
    const name = Math.random().toString(36).slice(2, 14); // this page's
    const say = (path, word, count) => {
      const data = { action: "get", path: `${path}/${name}/${word}/${Math.min(count, 9999)}` };
      return events.emit({ schema_id: EVENTS, version: "1", data }).catch(() => {}); // nobody waits any more
    };
    events.stream.connect(async (_, event) => {
      const path = event.path;
      if (event.schema_id !== EVENTS || typeof path !== "string" || !SAVE.test(path)) {
        return;
      }
      await say(path, "begun", 0);
      const { saved, failed } = await save(app);
      await (failed ? say(path, "failed", failed) : say(path, "saved", saved));
    });
  }

  function activate(app) {
    let told = ""; // the end that was told of already
    let noticed = ""; // the notice that was told of already
    let shown = []; // the notifications of an end that are there
    let extending = false; // while the hub is being asked
    let lastWord; // the timer of the last word
    const others = new BroadcastChannel(`gridcloud-notice ${page.baseUrl}`); // other pages of this session

    /** Show a message in JupyterLab's corner; a JupyterLab without notifications shows none. */
    async function show(message, type = "warning", options = { autoClose: false }) {
      return app.commands.execute("apputils:notify", { message, type, options }).catch(() => undefined);
    }

    async function tell(left, end, session) {
      const button = { label: "Extend", commandId: EXTEND, args: { after: session.ends }, displayType: "accent" };
      const actions = session.extend && page.token ? [button] : [];
      const id = await show(words(left, end), "warning", { autoClose: false, actions });
      if (id !== undefined) {
        shown.push(id);
      }
    }

    /** Take away what was told of an end that is none any more. */
    function untell() {
      clearTimeout(lastWord);
      for (const id of shown) {
        app.commands.execute("apputils:dismiss-notification", { id }).catch(() => {});
      }
      shown = [];
      told = "";
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
      if (session.ends !== told) {
        untell();
      }
      if (session.left === null) {
        return;
      }
      const end = new Date(Date.now() + session.left * 1000); // by this clock, which may be wrong
      clearTimeout(lastWord);
      if (session.left > LAST && session.left < LAST + (2 * EVERY) / 1000) {
        lastWord = setTimeout(
          () => {
            tell(LAST, end, session);
            save(app); // the machine may be gone on the second
          },
          (session.left - LAST) * 1000,
        );
      }
      if (session.warn && told !== session.ends) {
        told = session.ends;
        tell(session.left, end, session);
      }
    }

    app.commands.addCommand(EXTEND, {
      label: "Extend this session",
      execute: async ({ after }) => {
        if (extending) {
          return; // a second click
        }
        extending = true;
        try {
          const ends = await extend(after ?? null);
          untell();
          others.postMessage("extended");
          const message = ends ? `Your session goes on until ${clock(new Date(ends))}.` : "Your session goes on.";
          show(message, "success", { autoClose: 10_000 });
        } catch (error) {
          untell();
          explain("Your session cannot be extended", error.message);
        } finally {
          extending = false;
        }
        await look();
      },
    });
    others.addEventListener("message", look);
    app.restored.then(look);
    setInterval(look, EVERY);
    saveWhenAsked(app);
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
