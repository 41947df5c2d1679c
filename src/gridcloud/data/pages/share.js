"use strict";
// Files go up in parts; one that was cut off goes on where it was, also after the page was loaded anew.
(() => {
  const PART = 32 * 1024 * 1024;
  const drop = document.getElementById("drop");
  if (!drop) return;
  const list = document.getElementById("uploads");
  const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds));

  const token = async file => {
    // What nobody else knows is in it: who guesses a token could go on with a file of others.
    const fresh = () => [...crypto.getRandomValues(new Uint8Array(16))].map(one => one.toString(16).padStart(2, "0")).join("");
    const own = localStorage.getItem("gridcloud-own") || fresh();
    localStorage.setItem("gridcloud-own", own);
    if (!window.crypto.subtle) return fresh();
    const text = [own, file.name, file.size, file.lastModified, location.pathname].join("\n");
    const sum = await window.crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    return [...new Uint8Array(sum)].slice(0, 16).map(one => one.toString(16).padStart(2, "0")).join("");
  };

  const send = (url, file, first, progress) => new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    const last = Math.min(file.size, first + PART);
    request.open("PUT", url);
    if (file.size) request.setRequestHeader("Content-Range", `bytes ${first}-${last - 1}/${file.size}`);
    request.setRequestHeader("X-OC-MTime", String(Math.floor(file.lastModified / 1000)));
    request.upload.onprogress = event => { progress.value = first + event.loaded; };
    request.onload = () => done(request);
    request.onerror = () => failed(new Error("the connection was cut"));
    request.send(file.slice(first, last));
  });

  const upload = async file => {
    const line = document.createElement("li");
    const progress = document.createElement("progress");
    const said = document.createElement("span");
    progress.max = file.size || 1;
    line.append(file.name + " ", progress, " ", said);
    list.append(line);
    const url = location.pathname.replace(/\/?$/, "/") + encodeURIComponent(file.name) + "?upload=" + await token(file);
    let pause = 1;
    for (;;) {
      try {
        const before = await fetch(url, { method: "HEAD" });
        let first = Math.min(file.size, Number(before.headers.get("Upload-Offset") || 0));
        for (;;) {
          if (file.size && first >= file.size) first = Math.max(0, file.size - 1);
          const answer = await send(url, file, first, progress);
          if (answer.status === 202 || answer.status === 409) {
            first = Number(answer.getResponseHeader("Upload-Offset"));
            pause = 1;
          } else if (answer.status < 300) {
            progress.value = progress.max;
            said.textContent = "is there";
            return;
          } else if (answer.status >= 500 && answer.status !== 507) {
            throw new Error(answer.responseText);
          } else {
            said.className = "wrong";
            said.textContent = answer.responseText;
            return;
          }
        }
      } catch (error) {
        said.textContent = `${error.message}; trying again`;
        await wait(pause);
        pause = Math.min(60, 2 * pause);
        said.textContent = "";
      }
    }
  };

  const all = async files => {
    for (const file of files) await upload(file);
    if (!document.querySelector(".wrong") && document.querySelector("table")) location.reload();
  };
  document.getElementById("files").addEventListener("change", event => all([...event.target.files]));
  addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("over"); });
  addEventListener("dragleave", () => document.body.classList.remove("over"));
  addEventListener("drop", event => {
    event.preventDefault();
    document.body.classList.remove("over");
    all([...event.dataTransfer.files]);
  });
})();
