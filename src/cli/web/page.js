"use strict";
(() => {
  const live = document.getElementById("live");
  const wanted = new Map();
  const busy = new Set();
  let source = null;

  const isOld = (name) => {
    const part = document.getElementById(name);
    return part && Number(part.dataset.version) < wanted.get(name);
  };

  // A part is left alone while somebody selects text in it, as to copy a command.
  const isSelected = (name) => {
    const part = document.getElementById(name);
    const selection = getSelection();
    return !selection.isCollapsed && selection.containsNode(part, true);
  };

  const renew = async (name) => {
    if (busy.has(name)) return;
    busy.add(name);
    try {
      while (isOld(name) && !isSelected(name)) {
        const answer = await fetch("/part/" + name);
        const text = await answer.text();
        if (!answer.ok || isSelected(name)) return;
        const part = document.getElementById(name);
        const focus = part.contains(document.activeElement) ? document.activeElement.id : "";
        part.outerHTML = text;
        if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
      }
    } catch {
      // The server is gone: the source below finds that out too, and tells it.
    } finally {
      busy.delete(name);
    }
  };

  const listen = () => {
    source = new EventSource("/events");
    source.onopen = () => { live.textContent = "Live"; };
    source.onmessage = (event) => {
      const [name, version] = event.data.split(" ");
      wanted.set(name, Number(version));
      renew(name);
    };
    source.onerror = () => {
      live.textContent = "Not live: volattach web does not answer. Each host shows the time it is of";
      // A browser gives up after an answer that is no stream.
      if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
    };
  };

  document.addEventListener("selectionchange", () => {
    if (getSelection().isCollapsed) wanted.forEach((_, name) => renew(name));
  });
  // Tabs in the background listen to nothing: browsers have few connections to one server.
  document.addEventListener("visibilitychange", () => {
    source.close();
    if (!document.hidden) listen();
  });
  listen();
})();
